//! Removes pods that no node will ever report on: of nodes that are gone, and deleted before they were bound.
//!
//! Follows `pkg/controller/podgc`: 40 s of quarantine, in which a node may come back.

use caravel_api::{Kind, ObjectName, time};
use caravel_store::{Snapshot, Undecodable};
use k8s_openapi::api::core::v1::{Node, Pod};

use crate::action::{Action, Deletion, Plan, name_of};
use crate::node::taint_eviction::disrupted;
use crate::row::{Changed, Row, Situation, itself, on};
use crate::workload::pods;

pub const CONTROLLER: Row = Row {
    name: "pod-gc",
    identity: "pod-garbage-collector",
    workers: 2,
    wakes: &[on::<Pod>(candidate), on::<Node>(of_gone)],
    reconcile,
};

const QUARANTINE: i64 = 40;

fn candidate(changed: &Changed<'_>) -> Vec<ObjectName> {
    let meta = changed.meta();
    let orphaned = match &meta.node {
        Some(node) => changed.cluster.entry(&Node::row().key("", node)).is_none(),
        None => meta.is_terminating(),
    };
    if orphaned && !changed.deleted {
        itself(changed)
    } else {
        Vec::new()
    }
}

fn of_gone(changed: &Changed<'_>) -> Vec<ObjectName> {
    if !changed.deleted {
        return Vec::new();
    }
    let prefix = Pod::row().prefix(None).start;
    let pods = changed
        .cluster
        .on_node(&changed.meta().name)
        .filter(|entry| entry.key.kind_prefix() == prefix.as_str());
    pods.map(|entry| ObjectName::new(entry.meta.namespace.clone(), entry.meta.name.clone()))
        .collect()
}

fn reconcile(
    cluster: &Snapshot,
    key: &ObjectName,
    situation: &Situation<'_>,
) -> Result<Plan, Undecodable> {
    let Some(pod) = cluster.get::<Pod>(key)? else {
        return Ok(Plan::nothing());
    };
    let node = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.node_name.as_deref())
        .filter(|node| !node.is_empty());
    let mut plan = Plan::nothing();
    match node {
        None if pod.metadata.deletion_timestamp.is_some() => plan.push(force(&pod)),
        Some(node) if cluster.entry(&Node::row().key("", node)).is_none() => {
            let created = pod
                .metadata
                .creation_timestamp
                .as_ref()
                .map_or(situation.since, |time| time.0);
            let until = time::after(created.max(situation.since), QUARANTINE);
            if until > situation.now {
                plan.again(until);
                return Ok(plan);
            }
            if !pods::is_terminal(&pod) {
                let mut failed = disrupted(
                    &pod,
                    "DeletionByPodGC",
                    "PodGC: node no longer exists",
                    situation.now,
                );
                failed.status.get_or_insert_default().phase = Some("Failed".to_owned());
                plan.push(Action::update_status(&failed));
            }
            plan.push(force(&pod));
        }
        _ => {}
    }
    Ok(plan)
}

/// Nobody is there to end it gently.
fn force(pod: &Pod) -> Action {
    let uid = caravel_api::Uid::from(pod.metadata.uid.as_deref().unwrap_or_default());
    Action::Delete {
        row: Pod::row(),
        name: name_of(pod),
        how: Deletion {
            uid,
            grace_seconds: Some(0),
            ..Deletion::default()
        },
        note: None,
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::plan;

    #[tokio::test]
    async fn pods_that_nobody_keeps_are_removed() {
        let node = "{apiVersion: v1, kind: Node, metadata: {name: n, uid: n}}".to_owned();
        let pod = |spec: &str, meta: &str| {
            format!(
                "{{apiVersion: v1, kind: Pod, metadata: {{name: p, namespace: a, uid: p{meta}}}, spec: {{containers: []{spec}}}, status: {{phase: Running}}}}"
            )
        };
        let deleted = ", deletionTimestamp: 2026-01-01T00:00:00Z";
        for (objects, expected) in [
            (vec![node.clone(), pod(", nodeName: n", "")], ""),
            (vec![node, pod(", nodeName: n", deleted)], ""),
            (
                vec![pod(", nodeName: n", "")],
                "status pod a/p\ndelete pod a/p\n",
            ),
            (
                vec![pod(
                    ", nodeName: n",
                    ", creationTimestamp: 2026-01-01T00:00:55Z",
                )],
                "again at 2026-01-01T00:01:35Z\n",
            ),
            (vec![pod("", "")], ""),
            (vec![pod("", deleted)], "delete pod a/p\n"),
        ] {
            assert_eq!(plan(&super::CONTROLLER, "a/p", &objects).await, expected);
        }
    }
}
