//! Tells which nodes are not heard of any more, and taints nodes by their conditions.
//!
//! Follows `pkg/controller/nodelifecycle`: a Lease older than 40 s makes every condition Unknown; the taints not-ready
//! and unreachable come and go with Ready. It never deletes a pod; `taint_eviction` does.

use caravel_api::{Kind, ObjectName, time};
use caravel_store::{Snapshot, Undecodable};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, Taint};

use crate::action::{Action, Plan, reference};
use crate::events::EventRecord;
use crate::row::{Changed, Row, Situation, itself, on};
use crate::workload::pods;

pub const CONTROLLER: Row = Row {
    name: "node-health",
    identity: IDENTITY,
    workers: 4,
    wakes: &[on::<Node>(itself), on::<Lease>(of_lease)],
    reconcile,
};

const IDENTITY: &str = "node-controller";
pub const LEASES: &str = "kube-node-lease";
pub const NOT_READY: &str = "node.kubernetes.io/not-ready";
pub const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// Conditions that the node itself reports, in upstream's order.
const CONDITIONS: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
/// (taint, condition and its status that bring it)
const BY_CONDITION: [(&str, &str, &str); 6] = [
    (NOT_READY, "Ready", "False"),
    (UNREACHABLE, "Ready", "Unknown"),
    (
        "node.kubernetes.io/memory-pressure",
        "MemoryPressure",
        "True",
    ),
    ("node.kubernetes.io/disk-pressure", "DiskPressure", "True"),
    ("node.kubernetes.io/pid-pressure", "PIDPressure", "True"),
    (
        "node.kubernetes.io/network-unavailable",
        "NetworkUnavailable",
        "True",
    ),
];
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

fn of_lease(changed: &Changed<'_>) -> Vec<ObjectName> {
    if changed.meta().namespace == LEASES {
        vec![ObjectName::cluster(changed.meta().name.clone())]
    } else {
        Vec::new()
    }
}

fn reconcile(
    cluster: &Snapshot,
    key: &ObjectName,
    situation: &Situation<'_>,
) -> Result<Plan, Undecodable> {
    let Some(node) = cluster.get::<Node>(key)? else {
        return Ok(Plan::nothing());
    };
    let lease = cluster.get::<Lease>(&ObjectName::new(LEASES, key.name.clone()))?;
    let dead_at = time::after(
        heard(&node, lease.as_deref(), situation.since),
        situation.settings.node_grace_seconds,
    );
    let mut plan = Plan::nothing();
    if dead_at < situation.now {
        if let Some(unknown) = unknown(&node, situation.now) {
            plan.push(Action::update_status(&unknown));
        }
    } else {
        // A second after it would be dead.
        plan.again(time::after(dead_at, 1));
    }
    if plan.actions.is_empty()
        && let Some(tainted) = tainted(&node, situation.now)
    {
        let went = has_taint(&tainted, NOT_READY, "NoExecute")
            || has_taint(&tainted, UNREACHABLE, "NoExecute");
        let was =
            has_taint(&node, NOT_READY, "NoExecute") || has_taint(&node, UNREACHABLE, "NoExecute");
        plan.push(Action::update(&tainted));
        if went && !was && was_ready(&node) {
            let message = format!("Node {} status is now: NodeNotReady", key.name);
            plan.push(Action::Emit(EventRecord::normal(
                reference(&*node),
                IDENTITY,
                "NodeNotReady",
                message,
            )));
        }
    }
    if condition(&node, "Ready").is_some_and(|ready| ready.status == "Unknown") {
        unready_pods(cluster, &key.name, situation.now, &mut plan)?;
    }
    Ok(plan)
}

/// A node that is new has not become unready: its condition is as old as itself.
fn was_ready(node: &Node) -> bool {
    let since = condition(node, "Ready").and_then(|ready| ready.last_transition_time.as_ref());
    match (since, &node.metadata.creation_timestamp) {
        (Some(since), Some(created)) => since.0 > time::after(created.0, 1),
        _ => true,
    }
}

fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a NodeCondition> {
    node.status
        .as_ref()?
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == kind)
}

/// When the node was last heard of: by its Lease, its status, or its registration; not before this server led.
fn heard(node: &Node, lease: Option<&Lease>, since: Timestamp) -> Timestamp {
    let renewed = lease
        .and_then(|lease| lease.spec.as_ref()?.renew_time.as_ref())
        .map(|time| time.0);
    let reported = condition(node, "Ready")
        .and_then(|ready| ready.last_heartbeat_time.as_ref())
        .map(|time| time.0);
    let created = node.metadata.creation_timestamp.as_ref().map(|time| time.0);
    renewed
        .max(reported)
        .max(created)
        .max(Some(since))
        .unwrap_or(since)
}

/// The node with every condition Unknown; nothing where that is known already.
fn unknown(node: &Node, now: Timestamp) -> Option<Node> {
    let mut node = node.clone();
    let created = node.metadata.creation_timestamp.clone();
    let conditions = node
        .status
        .get_or_insert_default()
        .conditions
        .get_or_insert_default();
    let mut changed = false;
    for kind in CONDITIONS {
        match conditions
            .iter_mut()
            .find(|condition| condition.type_ == kind)
        {
            Some(condition) if condition.status == "Unknown" => {}
            Some(condition) => {
                condition.status = "Unknown".to_owned();
                condition.reason = Some("NodeStatusUnknown".to_owned());
                condition.message = Some("Kubelet stopped posting node status.".to_owned());
                condition.last_transition_time = Some(time::time(now));
                changed = true;
            }
            None => {
                conditions.push(NodeCondition {
                    type_: kind.to_owned(),
                    status: "Unknown".to_owned(),
                    reason: Some("NodeStatusNeverUpdated".to_owned()),
                    message: Some("Kubelet never posted node status.".to_owned()),
                    last_heartbeat_time: created.clone(),
                    last_transition_time: Some(time::time(now)),
                });
                changed = true;
            }
        }
    }
    changed.then_some(node)
}

fn has_taint(node: &Node, key: &str, effect: &str) -> bool {
    node.spec
        .iter()
        .flat_map(|spec| spec.taints.iter().flatten())
        .any(|taint| taint.key == key && taint.effect == effect)
}

/// The node with the taints that its conditions ask for; nothing where it has them.
fn tainted(node: &Node, now: Timestamp) -> Option<Node> {
    let unschedulable = node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true);
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    for (taint, kind, status) in BY_CONDITION {
        if condition(node, kind).is_some_and(|condition| condition.status == status) {
            wanted.push((taint, "NoSchedule"));
            if kind == "Ready" {
                wanted.push((taint, "NoExecute"));
            }
        }
    }
    if unschedulable {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    // A node that has not said anything yet keeps the taint it was registered with.
    let silent = condition(node, "Ready").is_none();
    let ours = |taint: &Taint| {
        let by_condition =
            BY_CONDITION.iter().any(|(key, ..)| *key == taint.key) || taint.key == UNSCHEDULABLE;
        by_condition
            && matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute")
            && !(silent && taint.key == NOT_READY)
    };
    let old = node
        .spec
        .as_ref()
        .and_then(|spec| spec.taints.clone())
        .unwrap_or_default();
    let mut new: Vec<Taint> = old
        .iter()
        .filter(|taint| {
            !ours(taint) || wanted.contains(&(taint.key.as_str(), taint.effect.as_str()))
        })
        .cloned()
        .collect();
    for (key, effect) in wanted {
        if !new
            .iter()
            .any(|taint| taint.key == key && taint.effect == effect)
        {
            new.push(Taint {
                key: key.to_owned(),
                effect: effect.to_owned(),
                time_added: Some(time::time(now)),
                value: None,
            });
        }
    }
    if new == old {
        return None;
    }
    let mut node = node.clone();
    node.spec.get_or_insert_default().taints = Some(new).filter(|taints| !taints.is_empty());
    Some(node)
}

/// Nobody vouches for the pods of a node that is not heard of: they leave their Services.
fn unready_pods(
    cluster: &Snapshot,
    node: &str,
    now: Timestamp,
    plan: &mut Plan,
) -> Result<(), Undecodable> {
    let prefix = Pod::row().prefix(None).start;
    for entry in cluster
        .on_node(node)
        .filter(|entry| entry.key.kind_prefix() == prefix.as_str())
    {
        let pod = entry.decode::<Pod>()?;
        if !pods::is_ready(&pod) {
            continue;
        }
        let mut pod = (*pod).clone();
        for condition in pod
            .status
            .iter_mut()
            .flat_map(|status| status.conditions.iter_mut().flatten())
            .filter(|condition| condition.type_ == "Ready")
        {
            condition.status = "False".to_owned();
            condition.last_transition_time = Some(time::time(now));
        }
        plan.push(Action::Emit(EventRecord::warning(
            reference(&pod),
            IDENTITY,
            "NodeNotReady",
            "Node is not ready",
        )));
        plan.push(Action::update_status(&pod));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::testing::plan;

    fn node(ready: &str, taints: &str) -> String {
        format!(
            "{{apiVersion: v1, kind: Node, metadata: {{name: n, uid: n}}, spec: {{taints: [{taints}]}}, status: {{conditions: [{{type: Ready, status: '{ready}'}}]}}}}"
        )
    }
    fn lease(at: &str) -> String {
        format!(
            "{{apiVersion: coordination.k8s.io/v1, kind: Lease, metadata: {{name: n, namespace: kube-node-lease}}, spec: {{renewTime: '2026-01-01T00:{at}.000000Z'}}}}"
        )
    }

    #[tokio::test]
    async fn a_node_is_dead_forty_seconds_after_its_lease() {
        let pod = "{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: a, uid: p}, spec: {nodeName: n, containers: []}, status: {conditions: [{type: Ready, status: 'True'}]}}".to_owned();
        let unreachable = "{key: node.kubernetes.io/unreachable, effect: NoSchedule}, {key: node.kubernetes.io/unreachable, effect: NoExecute}";
        for (story, objects, expected) in [
            (
                "alive",
                vec![node("True", ""), lease("00:50")],
                "again at 2026-01-01T00:01:31Z\n",
            ),
            (
                "silent for 41 s",
                vec![node("True", ""), lease("00:19")],
                "status node n\n",
            ),
            (
                "then tainted, its pods not ready",
                vec![node("Unknown", ""), lease("00:19"), pod.clone()],
                // MemoryPressure and others are not known yet.
                "status node n\nevent Warning NodeNotReady: Node is not ready\nstatus pod a/p\n",
            ),
            (
                "heard of again",
                vec![node("True", unreachable), lease("00:50")],
                "update node n\nagain at 2026-01-01T00:01:31Z\n",
            ),
            (
                "not ready, by its own word",
                vec![node("False", ""), lease("00:50"), pod],
                "update node n\nevent Normal NodeNotReady: Node n status is now: NodeNotReady\nagain at 2026-01-01T00:01:31Z\n",
            ),
            (
                "new, and not ready yet",
                vec![
                    node("False", "")
                        .replace(
                            "uid: n",
                            "uid: n, creationTimestamp: '2026-01-01T00:00:50Z'",
                        )
                        .replace(
                            "status: 'False'",
                            "status: 'False', lastTransitionTime: '2026-01-01T00:00:50Z'",
                        ),
                    lease("00:50"),
                ],
                "update node n\nagain at 2026-01-01T00:01:31Z\n",
            ),
            (
                "another's taint stays",
                vec![
                    node("True", "{key: mine, effect: NoExecute}"),
                    lease("00:50"),
                ],
                "again at 2026-01-01T00:01:31Z\n",
            ),
        ] {
            assert_eq!(
                plan(&super::CONTROLLER, "n", &objects).await,
                expected,
                "{story}"
            );
        }
    }
}
