//! Which pods go first when there are too many.
//!
//! Follows `ActivePodsWithRanks` in `pkg/controller/controller_utils.go`: unassigned, pending, not ready, cheap,
//! doubled up on a node, ready or created lately (on a logarithmic scale), often restarted.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use crate::workload::pods;

const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// Sorts pods so that those to be deleted first come first. `related` are the pods of all sets of the same owner.
pub fn sort(pods: &mut [Arc<Pod>], related: &[Arc<Pod>], now: Timestamp) {
    let mut on_node: BTreeMap<&str, usize> = BTreeMap::new();
    for pod in related.iter().filter(|pod| pods::is_active(pod)) {
        *on_node.entry(node(pod)).or_default() += 1;
    }
    pods.sort_by_cached_key(|pod| {
        key(
            pod,
            on_node.get(node(pod)).copied().unwrap_or_default(),
            now,
        )
    });
}

fn node(pod: &Pod) -> &str {
    pod.spec
        .as_ref()
        .and_then(|spec| spec.node_name.as_deref())
        .unwrap_or_default()
}

type Key = (
    bool,
    u8,
    bool,
    i32,
    Reverse<usize>,
    u32,
    Reverse<i32>,
    u32,
    String,
);

fn key(pod: &Pod, on_its_node: usize, now: Timestamp) -> Key {
    let phase = match pods::phase(pod) {
        "Pending" => 0,
        "Unknown" => 1,
        _ => 2,
    };
    let cost = pod
        .metadata
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get(DELETION_COST)?.parse().ok())
        .unwrap_or(0);
    let restarts = pod
        .status
        .iter()
        .flat_map(|status| status.container_statuses.iter().flatten())
        .map(|status| status.restart_count)
        .max()
        .unwrap_or(0);
    (
        !node(pod).is_empty(),
        phase,
        pods::is_ready(pod),
        cost,
        Reverse(on_its_node),
        pods::ready_since(pod).map_or(0, |since| magnitude(since, now)),
        Reverse(restarts),
        pod.metadata
            .creation_timestamp
            .as_ref()
            .map_or(0, |created| magnitude(created.0, now)),
        pod.metadata.uid.clone().unwrap_or_default(),
    )
}

/// log2 of the seconds since: pods of about the same age are alike.
fn magnitude(since: Timestamp, now: Timestamp) -> u32 {
    u64::try_from(now.as_second() - since.as_second())
        .ok()
        .and_then(u64::checked_ilog2)
        .map_or(0, |log| log + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(
        name: &str,
        node: &str,
        phase: &str,
        ready_at: i64,
        cost: i32,
        restarts: i32,
    ) -> Arc<Pod> {
        let time = |second| caravel_api::time::rfc3339(Timestamp::from_second(second).unwrap());
        let mut object = json!({"metadata": {"name": name, "uid": name, "creationTimestamp": time(1000)}, "spec": {"containers": []},
            "status": {"phase": phase, "containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": restarts}]}});
        if !node.is_empty() {
            object["spec"]["nodeName"] = node.into();
        }
        if ready_at > 0 {
            object["status"]["conditions"] =
                json!([{"type": "Ready", "status": "True", "lastTransitionTime": time(ready_at)}]);
        }
        if cost != 0 {
            object["metadata"]["annotations"] = json!({DELETION_COST: cost.to_string()});
        }
        Arc::new(serde_json::from_value(object).unwrap())
    }

    #[test]
    fn the_least_useful_pod_goes_first() {
        let pods = [
            pod("old", "n1", "Running", 1000, 0, 0),
            pod("recent", "n1", "Running", 99_000, 0, 0),
            pod("cheap", "n1", "Running", 1000, -5, 0),
            pod("unready", "n1", "Running", 0, 0, 0),
            pod("pending", "n1", "Pending", 0, 0, 0),
            pod("unassigned", "", "Pending", 0, 0, 0),
            pod("restarted", "n1", "Running", 1000, 0, 9),
            pod("alone", "n2", "Running", 99_000, 0, 0),
        ];
        let mut sorted = pods.to_vec();
        sort(&mut sorted, &pods, Timestamp::from_second(100_000).unwrap());
        let names: Vec<&str> = sorted
            .iter()
            .map(|pod| pod.metadata.name.as_deref().unwrap())
            .collect();
        assert_eq!(
            names,
            [
                "unassigned",
                "pending",
                "unready",
                "cheap",
                "recent",
                "restarted",
                "old",
                "alone"
            ]
        );
    }
}
