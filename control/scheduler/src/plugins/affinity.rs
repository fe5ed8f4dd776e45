//! A pod goes only to nodes that its nodeSelector and its required node affinity match, and rather to those that
//! it prefers.

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm};

use super::{Filter, Score, Verdict};
use crate::cluster::{Cluster, NodeView};
use crate::pod::PodView;

pub fn filter<'a>(pod: &'a PodView, _: &'a Cluster) -> Option<Filter<'a>> {
    let spec = pod.pod.spec.as_ref()?;
    let selector = spec.node_selector.as_ref().filter(|s| !s.is_empty());
    let affinity = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    if selector.is_none() && required.is_none() {
        return None;
    }
    Some(Box::new(move |node: &NodeView| {
        let selected = selector.is_none_or(|s| s.iter().all(|(key, value)| node.labels.get(key) == Some(value)));
        let fits = selected && required.is_none_or(|r| r.node_selector_terms.iter().any(|term| matches(term, node)));
        Verdict::check(fits, "node(s) didn't match Pod's node affinity/selector")
    }))
}

pub fn score<'a>(pod: &'a PodView, _: &'a Cluster) -> Option<Score<'a>> {
    let affinity = pod.pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
    let preferred = affinity.preferred_during_scheduling_ignored_during_execution.as_ref().filter(|p| !p.is_empty())?;
    Some(Box::new(move |node: &NodeView| {
        preferred.iter().filter(|p| matches(&p.preference, node)).map(|p| i64::from(p.weight)).sum()
    }))
}

/// All of a term's requirements must hold; a term without any matches nothing.
pub fn matches(term: &NodeSelectorTerm, node: &NodeView) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    (!expressions.is_empty() || !fields.is_empty())
        && expressions.iter().all(|r| holds(r, node.labels.get(&r.key).map(String::as_str)))
        && fields.iter().all(|r| r.key == "metadata.name" && holds(r, Some(&node.name)))
}

fn holds(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let listed = || requirement.values.iter().flatten().any(|v| Some(v.as_str()) == value);
    let compare = |ok: fn(i64, i64) -> bool| {
        let bound = requirement.values.as_ref().and_then(|v| v.first()).and_then(|v| v.parse::<i64>().ok());
        value.and_then(|v| v.parse::<i64>().ok()).zip(bound).is_some_and(|(v, bound)| ok(v, bound))
    };
    match requirement.operator.as_str() {
        "In" => listed(),
        "NotIn" => !listed(),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare(|v, bound| v > bound),
        "Lt" => compare(|v, bound| v < bound),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn operators() {
        for (operator, values, five, absent) in [
            ("In", json!(["4", "5"]), true, false),
            ("In", json!(["6"]), false, false),
            ("NotIn", json!(["6"]), true, true),
            ("NotIn", json!(["5"]), false, true),
            ("Exists", json!([]), true, false),
            ("DoesNotExist", json!([]), false, true),
            ("Gt", json!(["4"]), true, false),
            ("Gt", json!(["5"]), false, false),
            ("Lt", json!(["6"]), true, false),
            ("Lt", json!(["5"]), false, false),
        ] {
            let requirement = serde_json::from_value(json!({"key": "k", "operator": operator, "values": values})).unwrap();
            assert_eq!((holds(&requirement, Some("5")), holds(&requirement, None)), (five, absent), "{operator} {values}");
        }
    }
}
