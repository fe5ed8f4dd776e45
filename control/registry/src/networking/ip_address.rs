//! IPAddresses: which object holds an address of a ServiceCIDR.
//!
//! Follows `ValidateIPAddress` of `pkg/apis/networking/validation`.

use caravel_api::FieldErrors;
use k8s_openapi::api::networking::v1::IPAddress;

use crate::found::{At, Found, text};
use crate::meta::NameRule;
use crate::names;
use crate::strategy::Strategy;

impl Strategy for IPAddress {
    const NAME: NameRule = NameRule::Ip;
    const GENERATION: bool = true;
    const FIELDS: &'static [&'static str] = &[];

    fn desired_changed(&self, old: &Self) -> bool {
        self.spec != old.spec
    }

    fn validate(&self) -> FieldErrors {
        let mut found = Found::new();
        let parent = &self.spec.parent_ref;
        let at = At::Root.child("spec");
        let at = at.child("parentRef");
        if *parent == Default::default() {
            found.required(&at, "");
            return found.into_errors();
        }
        if let Some(group) = text(&parent.group) {
            found.faults(&at.child("group"), group, names::dns_subdomain(group));
        }
        for (name, value) in [("resource", &parent.resource), ("name", &parent.name)] {
            if value.is_empty() {
                found.required(&at.child(name), "");
            } else {
                found.faults(&at.child(name), value, names::path_segment(value));
            }
        }
        if let Some(namespace) = text(&parent.namespace) {
            found.faults(
                &at.child("namespace"),
                namespace,
                names::path_segment(namespace),
            );
        }
        found.into_errors()
    }

    fn validate_update(&self, old: &Self) -> FieldErrors {
        let mut errors = self.validate();
        let mut found = Found::new();
        found.immutable(
            &At::Root.child("spec").child("parentRef"),
            &self.spec.parent_ref,
            &old.spec.parent_ref,
        );
        errors.extend(found.into_errors());
        errors
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Resource, Typed};
    use serde_json::json;

    #[test]
    fn addresses() {
        let addresses = Typed::<IPAddress>::NEW;
        for (name, parent, want) in [
            (
                "10.0.0.1",
                json!({"resource": "services", "namespace": "n", "name": "s"}),
                "[]",
            ),
            (
                "010.0.0.1",
                json!({"resource": "services", "name": "s"}),
                "metadata.name: Invalid value",
            ),
            ("10.0.0.1", json!({}), "spec.parentRef: Required value"),
            (
                "10.0.0.1",
                json!({"resource": "services", "name": ""}),
                "spec.parentRef.name: Required value",
            ),
        ] {
            let object = addresses
                .from_value(json!({"metadata": {"name": name}, "spec": {"parentRef": parent}}))
                .unwrap();
            let message = addresses.validate(&*object).message();
            assert!(message.contains(want), "{name}: {message}");
        }
    }
}
