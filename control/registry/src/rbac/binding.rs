//! RoleBindings and ClusterRoleBindings. What a binding refers to never changes.
//!
//! Follows `pkg/apis/rbac/{v1,validation}`.

use caravel_api::FieldErrors;
use k8s_openapi::api::rbac::v1::{ClusterRoleBinding, RoleBinding, RoleRef, Subject};
use serde_json::json;

use crate::found::{At, Found, text};
use crate::meta::NameRule;
use crate::names;
use crate::strategy::Strategy;

const GROUP: &str = "rbac.authorization.k8s.io";

impl Strategy for RoleBinding {
    const NAME: NameRule = NameRule::PathSegment;

    fn apply_defaults(&mut self) {
        defaults(&mut self.role_ref, self.subjects.as_deref_mut());
    }

    fn validate(&self) -> FieldErrors {
        validate(
            &self.role_ref,
            self.subjects.as_deref(),
            &["ClusterRole", "Role"],
            true,
        )
    }

    fn validate_update(&self, old: &Self) -> FieldErrors {
        changed(&self.role_ref, &old.role_ref, self.validate())
    }
}

impl Strategy for ClusterRoleBinding {
    const NAME: NameRule = NameRule::PathSegment;

    fn apply_defaults(&mut self) {
        defaults(&mut self.role_ref, self.subjects.as_deref_mut());
    }

    fn validate(&self) -> FieldErrors {
        validate(
            &self.role_ref,
            self.subjects.as_deref(),
            &["ClusterRole"],
            false,
        )
    }

    fn validate_update(&self, old: &Self) -> FieldErrors {
        changed(&self.role_ref, &old.role_ref, self.validate())
    }
}

fn defaults(role: &mut RoleRef, subjects: Option<&mut [Subject]>) {
    if text(&role.api_group).is_none() {
        role.api_group = Some(GROUP.to_owned());
    }
    for subject in subjects.unwrap_or_default() {
        match subject.kind.as_str() {
            "User" | "Group" if text(&subject.api_group).is_none() => {
                subject.api_group = Some(GROUP.to_owned())
            }
            "ServiceAccount" if subject.api_group.as_deref() == Some("") => {
                subject.api_group = None
            }
            _ => {}
        }
    }
}

fn changed(new: &RoleRef, old: &RoleRef, mut errors: FieldErrors) -> FieldErrors {
    let mut found = Found::new();
    if new != old {
        found.invalid(
            &At::Root.child("roleRef"),
            json!(new),
            "cannot change roleRef",
        );
    }
    errors.extend(found.into_errors());
    errors
}

fn validate(
    role: &RoleRef,
    subjects: Option<&[Subject]>,
    kinds: &[&str],
    namespaced: bool,
) -> FieldErrors {
    let mut found = Found::new();
    let at = At::Root.child("roleRef");
    if role.api_group.as_deref() != Some(GROUP) {
        found.not_supported(
            &at.child("apiGroup"),
            role.api_group.as_deref().unwrap_or_default(),
            &[GROUP],
        );
    }
    if !kinds.contains(&role.kind.as_str()) {
        found.not_supported(&at.child("kind"), role.kind.as_str(), kinds);
    }
    if role.name.is_empty() {
        found.required(&at.child("name"), "");
    } else {
        found.faults(
            &at.child("name"),
            &role.name,
            names::path_segment(&role.name),
        );
    }
    let at = At::Root.child("subjects");
    for (index, subject) in subjects.unwrap_or_default().iter().enumerate() {
        validate_subject(&mut found, subject, namespaced, &at.index(index));
    }
    found.into_errors()
}

fn validate_subject(found: &mut Found, subject: &Subject, namespaced: bool, at: &At) {
    if subject.name.is_empty() {
        found.required(&at.child("name"), "");
    }
    let group = subject.api_group.as_deref().unwrap_or_default();
    match subject.kind.as_str() {
        "ServiceAccount" => {
            if !subject.name.is_empty() {
                found.faults(
                    &at.child("name"),
                    &subject.name,
                    names::dns_subdomain(&subject.name),
                );
            }
            if !group.is_empty() {
                found.not_supported(&at.child("apiGroup"), group, &[""]);
            }
            if !namespaced && text(&subject.namespace).is_none() {
                found.required(&at.child("namespace"), "");
            }
        }
        "User" | "Group" => {
            if group != GROUP {
                found.not_supported(&at.child("apiGroup"), group, &[GROUP]);
            }
        }
        other => found.not_supported(
            &at.child("kind"),
            other,
            &["Group", "ServiceAccount", "User"],
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bindings() {
        for (role, subject, want) in [
            (
                json!({"kind": "Role", "name": "r"}),
                json!({"kind": "User", "name": "jane"}),
                "[]",
            ),
            (
                json!({"kind": "Role", "name": "r"}),
                json!({"kind": "ServiceAccount", "name": "sa", "namespace": "n"}),
                "[]",
            ),
            (
                json!({"kind": "Rule", "name": "r"}),
                json!({"kind": "User", "name": "jane"}),
                "roleRef.kind: Unsupported value: \"Rule\": supported values: \"ClusterRole\", \"Role\"",
            ),
            (
                json!({"kind": "Role", "name": ""}),
                json!({"kind": "User", "name": "jane"}),
                "roleRef.name: Required value",
            ),
            (
                json!({"kind": "Role", "name": "r"}),
                json!({"kind": "Robot", "name": "x"}),
                "subjects[0].kind: Unsupported value: \"Robot\"",
            ),
            (
                json!({"kind": "Role", "name": "r"}),
                json!({"kind": "User", "name": ""}),
                "subjects[0].name: Required value",
            ),
        ] {
            let mut binding: RoleBinding =
                serde_json::from_value(json!({"roleRef": role, "subjects": [subject]})).unwrap();
            binding.apply_defaults();
            let message = binding.validate().message();
            assert!(message.contains(want), "{message}");
        }
        let bind = |name: &str| {
            let mut binding: ClusterRoleBinding =
                serde_json::from_value(json!({"roleRef": {"kind": "ClusterRole", "name": name}}))
                    .unwrap();
            binding.apply_defaults();
            binding
        };
        assert!(
            bind("a")
                .validate_update(&bind("b"))
                .message()
                .contains("cannot change roleRef")
        );
    }
}
