//! Deletes pods that do not tolerate their node's NoExecute taints, at once or when their patience ends.
//!
//! Follows `pkg/controller/tainteviction`: the shortest `tolerationSeconds` of those that match counts, from the time the
//! taint was added.

use caravel_api::{Kind, ObjectName, time};
use caravel_store::{Snapshot, Undecodable};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, PodCondition, Taint, Toleration};

use crate::action::{Action, Note, Plan, reference};
use crate::row::{Changed, Row, Situation, itself, on};
use crate::workload::pods;

pub const CONTROLLER: Row = Row {
    name: "taint-eviction",
    identity: "taint-eviction-controller",
    workers: 8,
    wakes: &[on::<Pod>(bound), on::<Node>(of_tainted)],
    reconcile,
};

fn bound(changed: &Changed<'_>) -> Vec<ObjectName> {
    if changed.deleted || changed.meta().node.is_none() {
        Vec::new()
    } else {
        itself(changed)
    }
}

/// The pods of a node that has or had such taints.
fn of_tainted(changed: &Changed<'_>) -> Vec<ObjectName> {
    let executes = |json: &[u8]| {
        json.windows(b"NoExecute".len())
            .any(|window| window == b"NoExecute")
    };
    if !executes(&changed.entry.json)
        && !changed.previous.is_some_and(|entry| executes(&entry.json))
    {
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
    let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) else {
        return Ok(Plan::nothing());
    };
    let Some(node) = cluster.get::<Node>(&ObjectName::cluster(node))? else {
        return Ok(Plan::nothing());
    };
    let tolerations: Vec<&Toleration> = pod
        .spec
        .iter()
        .flat_map(|spec| spec.tolerations.iter().flatten())
        .collect();
    let taints = node
        .spec
        .iter()
        .flat_map(|spec| spec.taints.iter().flatten())
        .filter(|taint| taint.effect == "NoExecute");
    let leave_at = taints
        .filter_map(|taint| patience(taint, &tolerations, situation.now))
        .min();
    let Some(at) = leave_at.filter(|_| pods::is_active(&pod)) else {
        return Ok(Plan::nothing());
    };
    let mut plan = Plan::nothing();
    if at > situation.now {
        plan.again(at);
        return Ok(plan);
    }
    if pods::condition(&pod, "DisruptionTarget").is_none_or(|condition| condition.status != "True")
    {
        plan.push(Action::update_status(&disrupted(
            &pod,
            "DeletionByTaintManager",
            "Taint manager: deleting due to NoExecute taint",
            situation.now,
        )));
    }
    plan.push(Action::delete(&*pod).noted(Note {
        about: reference(&*pod),
        done: (
            "TaintManagerEviction",
            format!("Marking for deletion Pod {key}"),
        ),
        failed: ("", String::new()),
    }));
    Ok(plan)
}

/// The pod with the condition that tells why it is deleted.
pub fn disrupted(pod: &Pod, reason: &str, message: &str, now: Timestamp) -> Pod {
    let mut pod = pod.clone();
    let conditions = pod
        .status
        .get_or_insert_default()
        .conditions
        .get_or_insert_default();
    conditions.retain(|condition| condition.type_ != "DisruptionTarget");
    conditions.push(PodCondition {
        type_: "DisruptionTarget".to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_transition_time: Some(time::time(now)),
        ..PodCondition::default()
    });
    pod
}

/// When the taint drives the pod away; `None` is never.
fn patience(taint: &Taint, tolerations: &[&Toleration], now: Timestamp) -> Option<Timestamp> {
    let matching: Vec<&&Toleration> = tolerations
        .iter()
        .filter(|toleration| tolerates(toleration, taint))
        .collect();
    if matching.is_empty() {
        return Some(now);
    }
    let seconds = matching
        .iter()
        .filter_map(|toleration| toleration.toleration_seconds)
        .min()?;
    let since = taint.time_added.as_ref().map_or(now, |time| time.0);
    Some(time::after(since, seconds.max(0)))
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let filled = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    if filled(&toleration.effect).is_some_and(|effect| effect != taint.effect)
        || filled(&toleration.key).is_some_and(|key| key != taint.key)
    {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or("Equal") {
        "Exists" => true,
        "Equal" | "" => {
            filled(&toleration.key).is_some() && filled(&toleration.value) == filled(&taint.value)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::plan;

    #[tokio::test]
    async fn pods_leave_when_their_patience_ends() {
        let node = |taints: &str| {
            format!(
                "{{apiVersion: v1, kind: Node, metadata: {{name: n, uid: n}}, spec: {{taints: [{taints}]}}}}"
            )
        };
        let pod = |tolerations: &str| {
            format!(
                "{{apiVersion: v1, kind: Pod, metadata: {{name: p, namespace: a, uid: p}}, spec: {{nodeName: n, containers: [], tolerations: [{tolerations}]}}}}"
            )
        };
        let taint = "{key: k, value: v, effect: NoExecute, timeAdded: 2026-01-01T00:00:30Z}";
        let gone = "status pod a/p\ndelete pod a/p\n";
        for (taints, tolerations, expected) in [
            ("", "", ""),
            (taint, "", gone),
            ("{key: k, effect: NoSchedule}", "", ""),
            (taint, "{operator: Exists}", ""),
            (taint, "{key: k, value: v, effect: NoExecute}", ""),
            (taint, "{key: k, value: w}", gone),
            (
                taint,
                "{key: k, operator: Exists, tolerationSeconds: 300}",
                "again at 2026-01-01T00:05:30Z\n",
            ),
            (
                taint,
                "{key: k, operator: Exists, tolerationSeconds: 300}, {operator: Exists, tolerationSeconds: 20}",
                gone,
            ),
        ] {
            assert_eq!(
                plan(&super::CONTROLLER, "a/p", &[node(taints), pod(tolerations)]).await,
                expected,
                "{taints} / {tolerations}"
            );
        }
    }
}
