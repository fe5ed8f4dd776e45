//! A pod goes only to nodes whose NoSchedule and NoExecute taints it tolerates, and rather to those with few
//! PreferNoSchedule taints that it does not.

use k8s_openapi::api::core::v1::{Taint, Toleration};

use super::{Filter, Score, Verdict};
use crate::cluster::{Cluster, NodeView};
use crate::pod::PodView;

pub fn filter<'a>(pod: &'a PodView, _: &'a Cluster) -> Option<Filter<'a>> {
    Some(Box::new(|node| {
        let repels = |taint: &&Taint| taint.effect == "NoSchedule" || taint.effect == "NoExecute";
        match node
            .taints
            .iter()
            .filter(repels)
            .find(|taint| !is_tolerated(taint, &pod.tolerations))
        {
            None => Verdict::Fits,
            Some(_) => Verdict::never("node(s) had untolerated taint(s)"),
        }
    }))
}

pub fn score<'a>(pod: &'a PodView, _: &'a Cluster, _: &[&'a NodeView]) -> Option<Score<'a>> {
    Some(Box::new(|node| {
        let disliked = |taint: &&Taint| {
            taint.effect == "PreferNoSchedule" && !is_tolerated(taint, &pod.tolerations)
        };
        node.taints.iter().filter(disliked).count() as i64
    }))
}

/// Upstream: `k8s.io/api/core/v1/toleration.go` (`ToleratesTaint`).
pub fn is_tolerated(taint: &Taint, tolerations: &[Toleration]) -> bool {
    tolerations.iter().any(|toleration| {
        let key = toleration.key.as_deref().unwrap_or("");
        let effect = toleration.effect.as_deref().unwrap_or("");
        let value = toleration.value.as_deref().unwrap_or("");
        let taint_value = taint.value.as_deref().unwrap_or("");
        let compare = |holds: fn(i64, i64) -> bool| {
            matches!((taint_value.parse(), value.parse()), (Ok(taint), Ok(limit)) if holds(taint, limit))
        };
        (effect.is_empty() || effect == taint.effect)
            && (key.is_empty() || key == taint.key)
            && match toleration.operator.as_deref().unwrap_or("") {
                "" | "Equal" => value == taint_value,
                "Exists" => true,
                "Lt" => compare(|taint, limit| taint < limit),
                "Gt" => compare(|taint, limit| taint > limit),
                _ => false,
            }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn tolerations() {
        let taint: Taint =
            serde_json::from_value(json!({"key": "k", "value": "v", "effect": "NoSchedule"}))
                .unwrap();
        let cases = [
            (
                json!({"key": "k", "operator": "Equal", "value": "v", "effect": "NoSchedule"}),
                true,
            ),
            (json!({"key": "k", "value": "v"}), true),
            (
                json!({"key": "k", "operator": "Equal", "value": "w", "effect": "NoSchedule"}),
                false,
            ),
            (json!({"key": "k", "operator": "Exists"}), true),
            (
                json!({"key": "k", "operator": "Exists", "effect": "NoExecute"}),
                false,
            ),
            (json!({"operator": "Exists"}), true),
            (json!({"key": "other", "operator": "Exists"}), false),
        ];
        for (toleration, expected) in cases {
            let read: Toleration = serde_json::from_value(toleration.clone()).unwrap();
            assert_eq!(is_tolerated(&taint, &[read]), expected, "{toleration}");
        }
    }
}
