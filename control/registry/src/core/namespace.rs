//! Namespaces. Their own finalizers (`spec.finalizers`) hold them until they are empty.
//!
//! Follows `pkg/registry/core/namespace` and `ValidateNamespace*` of `pkg/apis/core/validation`.

use caravel_api::FieldErrors;
use k8s_openapi::api::core::v1::{Namespace, NamespaceStatus};

use crate::found::{At, Found};
use crate::meta::{self, NameRule};
use crate::strategy::{Grace, Strategy};

const NAME_LABEL: &str = "kubernetes.io/metadata.name";
const FINALIZER: &str = "kubernetes";

impl Strategy for Namespace {
    const NAME: NameRule = NameRule::DnsLabel;
    const FIELDS: &'static [&'static str] = &["status.phase"];

    fn apply_defaults(&mut self) {
        if let Some(name) = self.metadata.name.clone().filter(|name| !name.is_empty()) {
            self.metadata
                .labels
                .get_or_insert_default()
                .insert(NAME_LABEL.to_owned(), name);
        }
        let status = self.status.get_or_insert_with(NamespaceStatus::default);
        status.phase.get_or_insert_with(|| "Active".to_owned());
    }

    fn prepare_create(&mut self) {
        // A generated name came after the defaults.
        self.status = None;
        self.apply_defaults();
        let finalizers = self
            .spec
            .get_or_insert_default()
            .finalizers
            .get_or_insert_default();
        if !finalizers.iter().any(|name| name == FINALIZER) {
            finalizers.push(FINALIZER.to_owned());
        }
    }

    /// The finalizers have a subresource of their own.
    fn prepare_update(&mut self, old: &Self) {
        self.spec.clone_from(&old.spec);
        self.status.clone_from(&old.status);
    }

    fn prepare_status(&mut self, old: &Self) {
        self.spec.clone_from(&old.spec);
    }

    fn validate(&self) -> FieldErrors {
        let mut found = Found::new();
        finalizers(&mut found, self);
        found.into_errors()
    }

    fn validate_update(&self, _: &Self) -> FieldErrors {
        FieldErrors::new()
    }

    fn validate_status(&self, _: &Self) -> FieldErrors {
        let mut found = Found::new();
        let phase = self
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref())
            .unwrap_or_default();
        let at = At::Root.child("status");
        let at = at.child("Phase");
        match self.metadata.deletion_timestamp {
            None if phase != "Active" => found.invalid(
                &at,
                phase,
                "may only be 'Active' if `deletionTimestamp` is empty",
            ),
            Some(_) if phase != "Terminating" => {
                found.invalid(
                    &at,
                    phase,
                    "may only be 'Terminating' if `deletionTimestamp` is not empty",
                );
            }
            _ => {}
        }
        found.into_errors()
    }

    fn grace(&self, _: Option<i64>) -> Grace {
        Grace::Immediate
    }

    fn begin_deletion(&mut self) {
        self.status.get_or_insert_default().phase = Some("Terminating".to_owned());
    }

    fn held(&self) -> bool {
        self.spec
            .as_ref()
            .and_then(|spec| spec.finalizers.as_ref())
            .is_some_and(|finalizers| !finalizers.is_empty())
    }

    fn field(&self, path: &str) -> Option<String> {
        let phase = || {
            self.status
                .as_ref()
                .and_then(|status| status.phase.clone())
                .unwrap_or_default()
        };
        (path == "status.phase").then(phase)
    }
}

fn finalizers(found: &mut Found, namespace: &Namespace) {
    let at = At::Root.child("spec");
    let at = at.child("finalizers");
    let names = namespace
        .spec
        .as_ref()
        .and_then(|spec| spec.finalizers.as_ref());
    for name in names.into_iter().flatten() {
        meta::namespace_finalizer(found, name, &at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Resource, Typed};
    use serde_json::json;

    #[test]
    fn a_namespace_is_born_active_and_held() {
        let namespaces = Typed::<Namespace>::NEW;
        let mut object = namespaces
            .from_value(json!({"metadata": {"name": "a"}, "status": {"phase": "Terminating"}}))
            .unwrap();
        namespaces.apply_defaults(&mut *object);
        namespaces.prepare_create(&mut *object);
        assert_eq!(namespaces.validate(&*object).message(), "[]");
        let value = object.to_value();
        assert_eq!(value["spec"], json!({"finalizers": ["kubernetes"]}));
        assert_eq!(value["status"], json!({"phase": "Active"}));
        assert_eq!(
            value["metadata"]["labels"],
            json!({"kubernetes.io/metadata.name": "a"})
        );
        assert!(namespaces.held(&*object));
        namespaces.begin_deletion(&mut *object);
        assert_eq!(
            namespaces.field(&*object, "status.phase").as_deref(),
            Some("Terminating")
        );
        let dotted = namespaces
            .from_value(json!({"metadata": {"name": "a.b"}}))
            .unwrap();
        assert!(
            namespaces
                .validate(&*dotted)
                .message()
                .contains("metadata.name: Invalid value: \"a.b\"")
        );
    }
}
