//! What is told of a decision: conditions in the pod's status, and events. Pure.
//!
//! Upstream: `schedule_one.go` (`handleSchedulingFailure`), `framework/preemption` (`prepareCandidate`).

use caravel_api::time;
use caravel_controllers::EventRecord;
use caravel_controllers::action::reference;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition};

use crate::pod::SCHEDULER;

pub fn scheduled(pod: &Pod, node: &str) -> EventRecord {
    let name = |text: &Option<String>| text.clone().unwrap_or_default();
    let message = format!(
        "Successfully assigned {}/{} to {node}",
        name(&pod.metadata.namespace),
        name(&pod.metadata.name)
    );
    EventRecord::normal(reference(pod), SCHEDULER, "Scheduled", message)
}

pub fn failed(pod: &Pod, message: &str) -> EventRecord {
    EventRecord::warning(reference(pod), SCHEDULER, "FailedScheduling", message)
}

pub fn preempted(victim: &Pod, by: &str, node: &str) -> EventRecord {
    EventRecord::normal(
        reference(victim),
        SCHEDULER,
        "Preempted",
        format!("Preempted by pod {by} on node {node}"),
    )
}

/// The pod as one for which there is no node; `None` where it says so already.
pub fn unschedulable(
    pod: &Pod,
    message: &str,
    nominated: Option<&str>,
    now: Timestamp,
) -> Option<Pod> {
    let mut told = pod.clone();
    set(
        &mut told,
        "PodScheduled",
        "False",
        "Unschedulable",
        message,
        now,
    );
    if let Some(node) = nominated {
        told.status.get_or_insert_default().nominated_node_name = Some(node.to_owned());
    }
    (told != *pod).then_some(told)
}

/// The pod as one that has to go.
pub fn disrupted(pod: &Pod, now: Timestamp) -> Pod {
    let mut told = pod.clone();
    let message = "default-scheduler: preempting to accommodate a higher priority pod";
    set(
        &mut told,
        "DisruptionTarget",
        "True",
        "PreemptionByScheduler",
        message,
        now,
    );
    told
}

fn set(pod: &mut Pod, type_: &str, status: &str, reason: &str, message: &str, now: Timestamp) {
    let generation = pod.metadata.generation;
    let conditions = pod
        .status
        .get_or_insert_default()
        .conditions
        .get_or_insert_default();
    let index = conditions
        .iter()
        .position(|condition| condition.type_ == type_)
        .unwrap_or_else(|| {
            conditions.push(PodCondition {
                type_: type_.to_owned(),
                ..PodCondition::default()
            });
            conditions.len() - 1
        });
    let condition = &mut conditions[index];
    let same = condition.status == status
        && condition.reason.as_deref() == Some(reason)
        && condition.message.as_deref() == Some(message);
    if same {
        return;
    }
    if condition.status != status {
        condition.status = status.to_owned();
        condition.last_transition_time = Some(time::time(now));
    }
    condition.reason = Some(reason.to_owned());
    condition.message = Some(message.to_owned());
    condition.observed_generation = generation;
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_condition_is_told_once() {
        let pod: Pod = serde_json::from_value(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "ns"}})).unwrap();
        let at = |second| Timestamp::from_second(second).unwrap();
        let told = unschedulable(&pod, "why", None, at(1)).unwrap();
        assert_eq!(unschedulable(&told, "why", None, at(2)), None);
        let again = unschedulable(&told, "another why", None, at(2)).unwrap();
        let condition = &again.status.as_ref().unwrap().conditions.as_ref().unwrap()[0];
        assert_eq!(
            condition.last_transition_time,
            Some(time::time(at(1))),
            "it was False before"
        );
        assert_eq!(
            (condition.reason.as_deref(), condition.message.as_deref()),
            (Some("Unschedulable"), Some("another why"))
        );
        assert_eq!(
            scheduled(&pod, "n").to_string(),
            "Normal Scheduled: Successfully assigned ns/p to n"
        );
    }
}
