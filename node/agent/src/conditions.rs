//! A pod's conditions as its node sees them. Pure; upstream: pkg/kubelet/status/generate.go.

use caravel_api::time;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodStatus};

use crate::pod::status::Phase;

pub(crate) struct Facts {
    pub phase: Phase,
    pub sandbox: bool,
    /// Init containers that have not done their part.
    pub incomplete: Vec<String>,
    pub unready: Vec<String>,
}

/// The types that the node writes; every other condition belongs to somebody else.
pub(crate) const OWN: [&str; 5] = [
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
    "PodScheduled",
];

struct Verdict {
    status: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

const YES: Verdict = Verdict {
    status: true,
    reason: None,
    message: None,
};

fn no(reason: &'static str, message: String) -> Verdict {
    Verdict {
        status: false,
        reason: Some(reason),
        message: (!message.is_empty()).then_some(message),
    }
}

pub(crate) fn conditions(
    pod: &Pod,
    facts: &Facts,
    previous: Option<&PodStatus>,
    now: Timestamp,
) -> Vec<PodCondition> {
    let containers = match facts.phase {
        Phase::Succeeded => no("PodCompleted", String::new()),
        Phase::Failed => no("PodFailed", String::new()),
        _ if facts.unready.is_empty() => YES,
        _ => no(
            "ContainersNotReady",
            format!(
                "containers with unready status: [{}]",
                facts.unready.join(" ")
            ),
        ),
    };
    let verdicts = [
        if facts.sandbox {
            YES
        } else {
            Verdict {
                status: false,
                ..YES
            }
        },
        match facts.phase {
            Phase::Succeeded => Verdict {
                reason: Some("PodCompleted"),
                ..YES
            },
            _ if facts.incomplete.is_empty() => YES,
            _ => no(
                "ContainersNotInitialized",
                format!(
                    "containers with incomplete status: [{}]",
                    facts.incomplete.join(" ")
                ),
            ),
        },
        ready(pod, &containers),
        containers,
        YES,
    ];
    OWN.into_iter()
        .zip(verdicts)
        .map(|(kind, verdict)| condition(pod, kind, verdict, previous, now))
        .collect()
}

/// Ready: its containers are, and every readiness gate is open.
fn ready(pod: &Pod, containers: &Verdict) -> Verdict {
    if !containers.status {
        return Verdict {
            status: false,
            reason: containers.reason,
            message: containers.message.clone(),
        };
    }
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    let mut closed = Vec::new();
    for gate in pod
        .spec
        .iter()
        .flat_map(|s| s.readiness_gates.iter().flatten())
    {
        match conditions
            .into_iter()
            .flatten()
            .find(|c| c.type_ == gate.condition_type)
        {
            None => closed.push(format!(
                "corresponding condition of pod readiness gate \"{}\" does not exist.",
                gate.condition_type
            )),
            Some(c) if c.status != "True" => closed.push(format!(
                "the status of pod readiness gate \"{}\" is not \"True\", but {}",
                gate.condition_type, c.status
            )),
            Some(_) => {}
        }
    }
    if closed.is_empty() {
        YES
    } else {
        no("ReadinessGatesNotReady", closed.join(", "))
    }
}

fn condition(
    pod: &Pod,
    kind: &str,
    verdict: Verdict,
    previous: Option<&PodStatus>,
    now: Timestamp,
) -> PodCondition {
    let status = if verdict.status { "True" } else { "False" };
    let known = |from: Option<&PodStatus>| {
        from.and_then(|s| s.conditions.as_ref())
            .and_then(|c| c.iter().find(|c| c.type_ == kind && c.status == status))
            .cloned()
    };
    let before = known(previous).or_else(|| known(pod.status.as_ref()));
    PodCondition {
        type_: kind.into(),
        status: status.into(),
        reason: verdict.reason.map(Into::into),
        message: verdict.message,
        last_transition_time: Some(
            before
                .and_then(|c| c.last_transition_time)
                .unwrap_or_else(|| time::time(now)),
        ),
        observed_generation: pod.metadata.generation,
        ..PodCondition::default()
    }
}
