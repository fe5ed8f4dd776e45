//! Whether a pod may be on this node by the node's labels, name and taints. Pure.
//!
//! Upstream: k8s.io/component-helpers/scheduling/corev1/nodeaffinity and helpers.

use caravel_api::selector::{Operator, Requirement};
use k8s_openapi::api::core::v1::{
    Node, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Taint, Toleration,
};

/// Its nodeSelector and required node affinity.
pub(super) fn allowed(spec: &PodSpec, node: &Node) -> bool {
    let labels = node.metadata.labels.clone().unwrap_or_default();
    let selected = spec
        .node_selector
        .iter()
        .flatten()
        .all(|(name, value)| labels.get(name) == Some(value));
    let required = spec
        .affinity
        .as_ref()
        .and_then(|a| a.node_affinity.as_ref())
        .and_then(|a| {
            a.required_during_scheduling_ignored_during_execution
                .as_ref()
        });
    selected && required.is_none_or(|r| r.node_selector_terms.iter().any(|t| matches(t, node)))
}

/// A term without any requirement, or with one that means nothing, matches nothing.
fn matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let labels = node.metadata.labels.clone().unwrap_or_default();
    let name = node.metadata.name.clone().unwrap_or_default();
    let expressions = term.match_expressions.iter().flatten();
    let fields = term.match_fields.iter().flatten();
    let empty = expressions.clone().chain(fields.clone()).next().is_none();
    let mut by_labels =
        expressions.map(|e| requirement(e).is_some_and(|requirement| requirement.matches(&labels)));
    let mut by_name = fields.map(|f| {
        let named = f.values.iter().flatten().any(|value| *value == name);
        match f.operator.as_str() {
            _ if f.key != "metadata.name" => false,
            "In" => named,
            "NotIn" => !named,
            _ => false,
        }
    });
    !empty && by_labels.all(|yes| yes) && by_name.all(|yes| yes)
}

fn requirement(written: &NodeSelectorRequirement) -> Option<Requirement> {
    let operator = match written.operator.as_str() {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        "Gt" => Operator::GreaterThan,
        "Lt" => Operator::LessThan,
        _ => return None,
    };
    Some(Requirement {
        key: written.key.clone(),
        operator,
        values: written.values.iter().flatten().cloned().collect(),
    })
}

/// The taints that would put it out at once; those that only keep new pods away have been the scheduler's matter.
pub(super) fn tolerated(spec: &PodSpec, node: &Node) -> bool {
    let taints = node.spec.iter().flat_map(|s| s.taints.iter().flatten());
    taints
        .filter(|taint| taint.effect == "NoExecute")
        .all(|taint| {
            spec.tolerations
                .iter()
                .flatten()
                .any(|t| tolerates(t, taint))
        })
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let set = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    if set(&toleration.effect).is_some_and(|effect| effect != taint.effect)
        || set(&toleration.key).is_some_and(|key| key != taint.key)
    {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or("Equal") {
        "Exists" => true,
        "Equal" | "" => {
            set(&toleration.key).is_some() && set(&toleration.value) == set(&taint.value)
        }
        _ => false,
    }
}
