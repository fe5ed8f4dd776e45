//! READY, STATUS and RESTARTS of a Pod: the one word that tells people what is going on.
//!
//! Follows `printPod` in `pkg/printers/internalversion/printers.go`.

use jiff::Timestamp;
use serde_json::Value;

use crate::table::{AGE, Column, NAME, Printer, age, at, list, name, number, or_none, text};
use crate::time;

pub(crate) const POD: Printer = Printer {
    columns: &[
        NAME,
        Column::text("Ready", "The aggregate readiness state of this pod for accepting traffic."),
        Column::text("Status", "The aggregate status of the containers in this pod."),
        Column::text("Restarts", "The number of times the containers in this pod have been restarted and when the last container in this pod has restarted."),
        AGE,
        Column::text("IP", "podIP address allocated to the pod. Routable at least within the cluster. Empty if not yet allocated.").wide(),
        Column::text("Node", "NodeName indicates in which node this pod is scheduled.").wide(),
        Column::text("Nominated Node", "nominatedNodeName is set only when this pod preempts other pods on the node, but it cannot be scheduled right away.").wide(),
        Column::text("Readiness Gates", "If specified, all readiness gates will be evaluated for pod readiness.").wide(),
    ],
    cells,
};

fn cells(pod: &Value, now: Timestamp) -> Vec<Value> {
    let summary = summary(pod);
    let restarts = match summary.last_restart.filter(|_| summary.restarts != 0) {
        Some(at) => format!("{} ({} ago)", summary.restarts, time::since(at, now)),
        None => summary.restarts.to_string(),
    };
    let first_ip = list(pod, "status.podIPs")
        .first()
        .map_or_else(|| text(pod, "status.podIP"), |ip| text(ip, "ip"));
    let gates = list(pod, "spec.readinessGates");
    let gates_true = gates
        .iter()
        .filter(|gate| condition(pod, text(gate, "conditionType")) == Some("True"))
        .count();
    vec![
        name(pod),
        format!("{}/{}", summary.ready, summary.total).into(),
        summary.reason.into(),
        restarts.into(),
        age(pod, now),
        or_none(first_ip),
        or_none(text(pod, "spec.nodeName")),
        or_none(text(pod, "status.nominatedNodeName")),
        if gates.is_empty() {
            "<none>".into()
        } else {
            format!("{gates_true}/{}", gates.len()).into()
        },
    ]
}

struct Summary {
    ready: usize,
    total: usize,
    reason: String,
    restarts: i64,
    last_restart: Option<Timestamp>,
}

fn condition<'a>(pod: &'a Value, kind: &str) -> Option<&'a str> {
    list(pod, "status.conditions")
        .iter()
        .find(|condition| text(condition, "type") == kind)
        .map(|condition| text(condition, "status"))
}

fn is_sidecar(pod: &Value, name: &str) -> bool {
    list(pod, "spec.initContainers").iter().any(|container| {
        text(container, "name") == name && text(container, "restartPolicy") == "Always"
    })
}

fn last_finished(status: &Value) -> Option<Timestamp> {
    text(status, "lastState.terminated.finishedAt").parse().ok()
}

/// `reason`, or `Signal:9`, or `ExitCode:1`.
fn terminated(state: &Value) -> String {
    match (text(state, "reason"), number(state, "signal")) {
        ("", 0) => format!("ExitCode:{}", number(state, "exitCode")),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn summary(pod: &Value) -> Summary {
    let phase = text(pod, "status.phase");
    let own_reason = text(pod, "status.reason");
    let gated = list(pod, "status.conditions").iter().any(|condition| {
        text(condition, "type") == "PodScheduled" && text(condition, "reason") == "SchedulingGated"
    });
    let sidecars = list(pod, "spec.initContainers")
        .iter()
        .filter(|container| text(container, "restartPolicy") == "Always")
        .count();
    let mut summary = Summary {
        ready: 0,
        total: list(pod, "spec.containers").len() + sidecars,
        reason: match (gated, own_reason) {
            (true, _) => "SchedulingGated",
            (false, "") => phase,
            (false, reason) => reason,
        }
        .to_owned(),
        restarts: 0,
        last_restart: None,
    };
    let mut of_sidecars = (0, None);
    let mut initializing = false;
    for (index, status) in list(pod, "status.initContainerStatuses").iter().enumerate() {
        let sidecar = is_sidecar(pod, text(status, "name"));
        summary.restarts += number(status, "restartCount");
        summary.last_restart = summary.last_restart.max(last_finished(status));
        if sidecar {
            of_sidecars = (
                of_sidecars.0 + number(status, "restartCount"),
                of_sidecars.1.max(last_finished(status)),
            );
        }
        let (ended, waiting) = (
            at(status, "state.terminated"),
            text(status, "state.waiting.reason"),
        );
        if !ended.is_null() && number(ended, "exitCode") == 0 {
            continue;
        }
        if sidecar && status["started"] == true {
            summary.ready += usize::from(status["ready"] == true);
            continue;
        }
        summary.reason = if !ended.is_null() {
            format!("Init:{}", terminated(ended))
        } else if !waiting.is_empty() && waiting != "PodInitializing" {
            format!("Init:{waiting}")
        } else {
            format!("Init:{index}/{}", list(pod, "spec.initContainers").len())
        };
        initializing = true;
        break;
    }
    if !initializing || condition(pod, "Initialized") == Some("True") {
        (summary.restarts, summary.last_restart) = of_sidecars;
        let mut running = false;
        for status in list(pod, "status.containerStatuses").iter().rev() {
            summary.restarts += number(status, "restartCount");
            summary.last_restart = summary.last_restart.max(last_finished(status));
            let (ended, waiting) = (
                at(status, "state.terminated"),
                text(status, "state.waiting.reason"),
            );
            if !waiting.is_empty() {
                summary.reason = waiting.to_owned();
            } else if !ended.is_null() {
                summary.reason = terminated(ended);
            } else if status["ready"] == true && !at(status, "state.running").is_null() {
                running = true;
                summary.ready += 1;
            }
        }
        if summary.reason == "Completed" && running {
            summary.reason = if condition(pod, "Ready") == Some("True") {
                "Running"
            } else {
                "NotReady"
            }
            .to_owned();
        }
    }
    if !at(pod, "metadata.deletionTimestamp").is_null() {
        if own_reason == "NodeLost" {
            summary.reason = "Unknown".to_owned();
        } else if !matches!(phase, "Succeeded" | "Failed") {
            summary.reason = "Terminating".to_owned();
        }
    }
    summary
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn shown(status: Value, deleted: bool) -> String {
        let mut pod = json!({"metadata": {"name": "p", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}, {"name": "j"}]}, "status": status});
        if deleted {
            pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:09Z".into();
        }
        let cells = cells(&pod, "2026-01-01T00:01:00Z".parse().unwrap());
        cells[1..4]
            .iter()
            .map(|cell| cell.as_str().unwrap())
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn status_tells_what_is_going_on() {
        let running = |name: &str| json!({"name": name, "ready": true, "state": {"running": {}}, "restartCount": 0});
        let ended = |name: &str, code: i32, reason: &str| json!({"name": name, "state": {"terminated": {"exitCode": code, "reason": reason}}, "restartCount": 0});
        let waiting = |name: &str, reason: &str| {
            json!({"name": name, "state": {"waiting": {"reason": reason}}, "restartCount": 3,
            "lastState": {"terminated": {"finishedAt": "2026-01-01T00:00:30Z"}}})
        };
        for (status, deleted, expected) in [
            (json!({"phase": "Pending"}), false, "0/2 Pending 0"),
            (
                json!({"phase": "Running", "containerStatuses": [running("a"), running("b")]}),
                false,
                "2/2 Running 0",
            ),
            (
                json!({"phase": "Running", "containerStatuses": [running("a"), running("b")]}),
                true,
                "2/2 Terminating 0",
            ),
            (
                json!({"phase": "Running", "containerStatuses": [running("a"), waiting("b", "CrashLoopBackOff")]}),
                false,
                "1/2 CrashLoopBackOff 3 (30s ago)",
            ),
            (
                json!({"phase": "Succeeded", "containerStatuses": [ended("a", 0, "Completed"), ended("b", 0, "Completed")]}),
                false,
                "0/2 Completed 0",
            ),
            (
                json!({"phase": "Running", "containerStatuses": [ended("a", 0, "Completed"), running("b")], "conditions": [{"type": "Ready", "status": "False"}]}),
                false,
                "1/2 NotReady 0",
            ),
            (
                json!({"phase": "Failed", "containerStatuses": [ended("a", 1, "Error"), ended("b", 137, "")]}),
                false,
                "0/2 Error 0",
            ),
            (
                json!({"phase": "Failed", "reason": "Evicted"}),
                false,
                "0/2 Evicted 0",
            ),
            (
                json!({"phase": "Pending", "initContainerStatuses": [running("i"), waiting("j", "PodInitializing")], "containerStatuses": [waiting("a", "PodInitializing")]}),
                false,
                "0/2 Init:0/2 0",
            ),
            (
                json!({"phase": "Pending", "initContainerStatuses": [ended("i", 0, "Completed"), running("j")]}),
                false,
                "0/2 Init:1/2 0",
            ),
            (
                json!({"phase": "Pending", "initContainerStatuses": [waiting("i", "CrashLoopBackOff")]}),
                false,
                "0/2 Init:CrashLoopBackOff 3 (30s ago)",
            ),
            (
                json!({"phase": "Pending", "initContainerStatuses": [ended("i", 2, "")]}),
                false,
                "0/2 Init:ExitCode:2 0",
            ),
            (
                json!({"phase": "Pending", "initContainerStatuses": [ended("i", 0, "Completed"), ended("j", 0, "Completed")],
                "containerStatuses": [waiting("a", "PodInitializing"), waiting("b", "PodInitializing")]}),
                false,
                "0/2 PodInitializing 6 (30s ago)",
            ),
            (
                json!({"phase": "Running", "reason": "NodeLost"}),
                true,
                "0/2 Unknown 0",
            ),
        ] {
            assert_eq!(shown(status.clone(), deleted), expected, "{status}");
        }
    }
}
