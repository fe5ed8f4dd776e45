//! Roles and ClusterRoles.
//!
//! Follows `pkg/apis/rbac/validation`. Whether the writer may grant what a role grants is the API server's to check.

use caravel_api::FieldErrors;
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule, Role};
use serde_json::json;

use crate::found::{At, Found};
use crate::labels;
use crate::meta::NameRule;
use crate::strategy::Strategy;

impl Strategy for Role {
    const NAME: NameRule = NameRule::PathSegment;

    fn validate(&self) -> FieldErrors {
        let mut found = Found::new();
        rules(&mut found, self.rules.as_deref(), true);
        found.into_errors()
    }
}

impl Strategy for ClusterRole {
    const NAME: NameRule = NameRule::PathSegment;

    fn validate(&self) -> FieldErrors {
        let mut found = Found::new();
        rules(&mut found, self.rules.as_deref(), false);
        if let Some(aggregation) = &self.aggregation_rule {
            let at = At::Root.child("aggregationRule");
            let at = at.child("clusterRoleSelectors");
            let selectors = aggregation
                .cluster_role_selectors
                .as_deref()
                .unwrap_or_default();
            if selectors.is_empty() {
                found.required(
                    &at,
                    "at least one clusterRoleSelector required if aggregationRule is non-nil",
                );
            }
            for (index, selector) in selectors.iter().enumerate() {
                labels::validate_selector(&mut found, selector, &at.index(index));
            }
        }
        found.into_errors()
    }
}

fn rules(found: &mut Found, rules: Option<&[PolicyRule]>, namespaced: bool) {
    let at = At::Root.child("rules");
    for (index, rule) in rules.unwrap_or_default().iter().enumerate() {
        validate_rule(found, rule, namespaced, &at.index(index));
    }
}

fn validate_rule(found: &mut Found, rule: &PolicyRule, namespaced: bool, at: &At) {
    let empty = |list: &Option<Vec<String>>| list.as_ref().is_none_or(Vec::is_empty);
    if rule.verbs.is_empty() {
        found.required(&at.child("verbs"), "verbs must contain at least one value");
    }
    if !empty(&rule.non_resource_urls) {
        let urls_at = at.child("nonResourceURLs");
        if namespaced {
            found.invalid(
                &urls_at,
                json!(rule.non_resource_urls),
                "namespaced rules cannot apply to non-resource URLs",
            );
        }
        if !(empty(&rule.api_groups) && empty(&rule.resources) && empty(&rule.resource_names)) {
            found.invalid(
                &urls_at,
                json!(rule.non_resource_urls),
                "rules cannot apply to both regular resources and non-resource URLs",
            );
        }
        return;
    }
    if empty(&rule.api_groups) {
        found.required(
            &at.child("apiGroups"),
            "resource rules must supply at least one api group",
        );
    }
    if empty(&rule.resources) {
        found.required(
            &at.child("resources"),
            "resource rules must supply at least one resource",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles() {
        for (rule, want) in [
            (
                json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}),
                "[]",
            ),
            (
                json!({"verbs": [], "apiGroups": [""], "resources": ["pods"]}),
                "rules[0].verbs: Required value: verbs must contain at least one value",
            ),
            (
                json!({"verbs": ["get"], "resources": ["pods"]}),
                "rules[0].apiGroups: Required value: resource rules must supply at least one api group",
            ),
            (
                json!({"verbs": ["get"], "apiGroups": [""]}),
                "rules[0].resources: Required value: resource rules must supply at least one resource",
            ),
            (
                json!({"verbs": ["get"], "nonResourceURLs": ["/healthz"]}),
                "namespaced rules cannot apply to non-resource URLs",
            ),
        ] {
            let role: Role = serde_json::from_value(json!({"rules": [rule.clone()]})).unwrap();
            let message = role.validate().message();
            assert!(message.contains(want), "{rule}: {message}");
        }
        let cluster: ClusterRole = serde_json::from_value(json!({"aggregationRule": {}})).unwrap();
        assert!(
            cluster
                .validate()
                .message()
                .contains("at least one clusterRoleSelector required")
        );
    }
}
