//! Labels and label selectors: what is wrong with them, and whether one selects a set.
//!
//! Follows `k8s.io/apimachinery/pkg/apis/meta/v1/validation`.

use std::collections::BTreeMap;

use caravel_api::selector::Selector;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::found::{At, Found};
use crate::names;

/// What is wrong with a set of labels.
pub fn validate(found: &mut Found, set: &BTreeMap<String, String>, at: &At) {
    for (key, value) in set {
        validate_key(found, key, at);
        found.faults(at, value, names::label_value(value));
    }
}

/// What is wrong with a label's key.
pub fn validate_key(found: &mut Found, key: &str, at: &At) {
    found.faults(at, key, names::qualified_name(key));
}

/// What is wrong with a selector.
pub fn validate_selector(found: &mut Found, selector: &LabelSelector, at: &At) {
    if let Some(set) = &selector.match_labels {
        validate(found, set, &at.child("matchLabels"));
    }
    for (index, rule) in selector.match_expressions.iter().flatten().enumerate() {
        let (list, values) = (
            at.child("matchExpressions"),
            rule.values.as_deref().unwrap_or_default(),
        );
        let at = list.index(index);
        let values_at = at.child("values");
        match rule.operator.as_str() {
            "In" | "NotIn" => {
                if values.is_empty() {
                    found.required(
                        &values_at,
                        "must be specified when `operator` is 'In' or 'NotIn'",
                    );
                }
            }
            "Exists" | "DoesNotExist" => {
                if !values.is_empty() {
                    found.forbidden(
                        &values_at,
                        "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                    );
                }
            }
            other => found.invalid(
                &at.child("operator"),
                other,
                "not a valid selector operator",
            ),
        }
        validate_key(found, &rule.key, &at.child("key"));
        for (index, value) in values.iter().enumerate() {
            found.faults(&values_at.index(index), value, names::label_value(value));
        }
    }
}

/// Does it ask for nothing?
pub fn is_empty(selector: &LabelSelector) -> bool {
    selector
        .match_labels
        .as_ref()
        .is_none_or(BTreeMap::is_empty)
        && selector
            .match_expressions
            .as_ref()
            .is_none_or(Vec::is_empty)
}

/// Does it select what carries these labels? A selector that is not valid selects nothing.
pub fn selects(selector: &LabelSelector, labels: Option<&BTreeMap<String, String>>) -> bool {
    static NONE: BTreeMap<String, String> = BTreeMap::new();
    Selector::from_label_selector(Some(selector))
        .is_ok_and(|selector| selector.matches(labels.unwrap_or(&NONE)))
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
            (
                json!({"matchExpressions": [{"key": "a", "operator": "In", "values": ["1", "2"]}]}),
                true,
            ),
            (
                json!({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}),
                false,
            ),
            (
                json!({"matchExpressions": [{"key": "b", "operator": "NotIn", "values": ["1"]}]}),
                true,
            ),
            (
                json!({"matchExpressions": [{"key": "b", "operator": "Exists"}]}),
                false,
            ),
            (
                json!({"matchExpressions": [{"key": "b", "operator": "DoesNotExist"}]}),
                true,
            ),
        ] {
            let selector: LabelSelector = serde_json::from_value(selector).unwrap();
            assert_eq!(selects(&selector, Some(&labels)), want, "{selector:?}");
        }
    }
}
