//! Labels and label selectors: what is wrong with them, and whether one selects a set.
//!
//! Follows `k8s.io/apimachinery/pkg/apis/meta/v1/validation`.

use std::collections::BTreeMap;

use caravel_api::{FieldError, FieldErrors, Path};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::names;

/// What is wrong with a set of labels.
pub fn validate(errors: &mut FieldErrors, set: &BTreeMap<String, String>, path: &Path) {
    for (key, value) in set {
        key_at(errors, key, path);
        for fault in names::label_value(value) {
            errors.push(FieldError::invalid(path, value.as_str(), fault));
        }
    }
}

/// What is wrong with a label's key.
pub fn key_at(errors: &mut FieldErrors, key: &str, path: &Path) {
    for fault in names::qualified_name(key) {
        errors.push(FieldError::invalid(path, key, fault));
    }
}

/// What is wrong with a selector.
pub fn validate_selector(errors: &mut FieldErrors, selector: &LabelSelector, path: &Path) {
    if let Some(set) = &selector.match_labels {
        validate(errors, set, &path.child("matchLabels"));
    }
    for (at, rule) in selector.match_expressions.iter().flatten().enumerate() {
        let path = path.child("matchExpressions").index(at);
        let values = rule.values.as_deref().unwrap_or_default();
        match rule.operator.as_str() {
            "In" | "NotIn" => {
                if values.is_empty() {
                    errors.push(FieldError::required(&path.child("values"), "must be specified when `operator` is 'In' or 'NotIn'"));
                }
            }
            "Exists" | "DoesNotExist" => {
                if !values.is_empty() {
                    errors.push(FieldError::forbidden(
                        &path.child("values"),
                        "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                    ));
                }
            }
            other => errors.push(FieldError::invalid(&path.child("operator"), other, "not a valid selector operator")),
        }
        key_at(errors, &rule.key, &path.child("key"));
        for (at, value) in values.iter().enumerate() {
            for fault in names::label_value(value) {
                errors.push(FieldError::invalid(&path.child("values").index(at), value.as_str(), fault));
            }
        }
    }
}

/// Does it ask for nothing?
pub fn is_empty(selector: &LabelSelector) -> bool {
    selector.match_labels.as_ref().is_none_or(BTreeMap::is_empty) && selector.match_expressions.as_ref().is_none_or(Vec::is_empty)
}

/// Does it select what carries these labels? An unknown operator selects nothing.
pub fn selects(selector: &LabelSelector, labels: Option<&BTreeMap<String, String>>) -> bool {
    let value = |key: &str| labels.and_then(|labels| labels.get(key));
    selector.match_labels.iter().flatten().all(|(key, wanted)| value(key) == Some(wanted))
        && selector.match_expressions.iter().flatten().all(|rule| {
            let found = value(&rule.key);
            let listed = found.is_some_and(|found| rule.values.iter().flatten().any(|value| value == found));
            match rule.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => found.is_some(),
                "DoesNotExist" => found.is_none(),
                _ => false,
            }
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn selection() {
        let labels = BTreeMap::from([("a".to_owned(), "1".to_owned())]);
        for (selector, want) in [
            (json!({}), true),
            (json!({"matchLabels": {"a": "1"}}), true),
            (json!({"matchLabels": {"a": "2"}}), false),
            (json!({"matchExpressions": [{"key": "a", "operator": "In", "values": ["1", "2"]}]}), true),
            (json!({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}), false),
            (json!({"matchExpressions": [{"key": "b", "operator": "NotIn", "values": ["1"]}]}), true),
            (json!({"matchExpressions": [{"key": "b", "operator": "Exists"}]}), false),
            (json!({"matchExpressions": [{"key": "b", "operator": "DoesNotExist"}]}), true),
        ] {
            let selector: LabelSelector = serde_json::from_value(selector).unwrap();
            assert_eq!(selects(&selector, Some(&labels)), want, "{selector:?}");
        }
    }
}
