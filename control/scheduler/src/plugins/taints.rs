//! A pod goes only to nodes whose NoSchedule and NoExecute taints it tolerates, and rather to those with few
//! PreferNoSchedule ones that it does not.

use k8s_openapi::api::core::v1::{Taint, Toleration};

use super::{Filter, Score, Verdict};
use crate::cluster::{Cluster, NodeView};
use crate::pod::PodView;

pub fn filter<'a>(pod: &'a PodView, _: &'a Cluster) -> Option<Filter<'a>> {
    Some(Box::new(move |node: &NodeView| {
        let repels = |taint: &Taint| taint.effect != "PreferNoSchedule" && !tolerated(taint, pod);
        Verdict::check(!node.taints.iter().any(repels), "node(s) had untolerated taint(s)")
    }))
}

pub fn score<'a>(pod: &'a PodView, _: &'a Cluster) -> Option<Score<'a>> {
    Some(Box::new(move |node: &NodeView| {
        let puts_off = |taint: &&Taint| taint.effect == "PreferNoSchedule" && !tolerated(taint, pod);
        i64::try_from(node.taints.iter().filter(puts_off).count()).unwrap_or(i64::MAX)
    }))
}

/// Whether one of the pod's tolerations matches the taint.
pub fn tolerated(taint: &Taint, pod: &PodView) -> bool {
    let tolerations = pod.pod.spec.as_ref().and_then(|s| s.tolerations.as_ref());
    tolerations.into_iter().flatten().any(|t| tolerates(t, taint))
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let given = |text: &Option<String>| text.clone().unwrap_or_default();
    let (key, effect) = (given(&toleration.key), given(&toleration.effect));
    if !effect.is_empty() && effect != taint.effect {
        return false;
    }
    if !key.is_empty() && key != taint.key {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or("Equal") {
        "Exists" => true,
        "" | "Equal" => !key.is_empty() && given(&toleration.value) == given(&taint.value),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tolerations() {
        let taint: Taint = serde_json::from_value(json!({"key": "k", "value": "v", "effect": "NoSchedule"})).unwrap();
        for (toleration, expected) in [
            (json!({"key": "k", "operator": "Equal", "value": "v", "effect": "NoSchedule"}), true),
            (json!({"key": "k", "value": "v"}), true),
            (json!({"key": "k", "value": "other"}), false),
            (json!({"key": "k", "operator": "Exists"}), true),
            (json!({"key": "other", "operator": "Exists"}), false),
            (json!({"operator": "Exists"}), true),
            (json!({"operator": "Exists", "effect": "NoExecute"}), false),
            (json!({"key": "k", "operator": "Exists", "effect": "NoSchedule"}), true),
        ] {
            let parsed = serde_json::from_value(toleration.clone()).unwrap();
            assert_eq!(tolerates(&parsed, &taint), expected, "{toleration}");
        }
    }
}
