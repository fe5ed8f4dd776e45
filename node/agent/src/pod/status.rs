//! The status of a pod, from what was seen of it. Pure.
//!
//! Phases, reasons and messages follow pkg/kubelet (getPhase, convertToAPIContainerStatuses) and
//! pkg/kubelet/status/generate.go. Conditions that others own (readiness gates) are never touched.

use caravel_api::time;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{
    Container, ContainerState as ApiState, ContainerStateRunning, ContainerStateTerminated,
    ContainerStateWaiting, ContainerStatus, HostIP, Pod, PodIP, PodStatus, ResourceRequirements,
    VolumeMount, VolumeMountStatus,
};

use super::backoff;
use super::observed::{Attempt, ImageState, Observed};
use super::order::{self, Role};
use super::plan::{self, image};
use crate::conditions::{self, Facts};
use crate::qos;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Pending,
    Running,
    Succeeded,
    Failed,
}

impl Phase {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
        }
    }
}

/// How long a failed pull is shown as such before it is shown as waiting for the next.
pub(crate) const SHOW_PULL_ERROR: SignedDuration = SignedDuration::from_secs(3);

/// `name_namespace(uid)`, as the kubelet's messages name a pod.
pub(crate) fn pod_format(pod: &Pod) -> String {
    let meta = &pod.metadata;
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    format!(
        "{}_{}({})",
        text(&meta.name),
        text(&meta.namespace),
        text(&meta.uid)
    )
}

/// When the pod is over its `activeDeadlineSeconds`, if it has started.
pub(crate) fn deadline(pod: &Pod) -> Option<Timestamp> {
    let seconds = pod.spec.as_ref()?.active_deadline_seconds?;
    let start = pod.status.as_ref()?.start_time.as_ref()?.0;
    Some(plan::deadline_of(start, seconds))
}

pub(crate) fn phase(pod: &Pod, seen: &Observed, now: Timestamp) -> Phase {
    match pod.status.as_ref().and_then(|s| s.phase.as_deref()) {
        // What has ended stays ended.
        Some("Succeeded") => return Phase::Succeeded,
        Some("Failed") => return Phase::Failed,
        _ => {}
    }
    if seen.refused.is_some() || deadline(pod).is_some_and(|deadline| deadline <= now) {
        return Phase::Failed;
    }
    let Some(spec) = &pod.spec else {
        return Phase::Pending;
    };
    let policy = spec.restart_policy.as_deref().unwrap_or("Always");
    let deleted = pod.metadata.deletion_timestamp.is_some();
    if !order::initialized(pod, seen) {
        let failed = spec
            .init_containers
            .iter()
            .flatten()
            .filter(|c| !order::is_sidecar(c))
            .any(|c| {
                let exit = seen
                    .attempts
                    .get(&c.name)
                    .and_then(|a| a.last())
                    .and_then(Attempt::exit);
                exit.is_some_and(|e| e.code != 0)
            });
        return if failed && policy == "Never" {
            Phase::Failed
        } else {
            Phase::Pending
        };
    }
    let (mut waiting, mut running, mut stopped, mut succeeded) = (0, 0, 0, 0);
    for container in &spec.containers {
        match seen.attempts.get(&container.name).and_then(|a| a.last()) {
            None => waiting += 1,
            Some(last) => match last.exit() {
                None => running += 1,
                Some(exit) => {
                    stopped += 1;
                    succeeded += usize::from(exit.code == 0);
                }
            },
        }
    }
    if waiting > 0 {
        return Phase::Pending;
    }
    if running > 0 {
        return Phase::Running;
    }
    match policy {
        // A pod that is being deleted does not start its containers again: it has ended one way or the other.
        _ if deleted && stopped == succeeded => Phase::Succeeded,
        _ if deleted => Phase::Failed,
        "Always" => Phase::Running,
        _ if stopped == succeeded => Phase::Succeeded,
        "Never" => Phase::Failed,
        _ => Phase::Running,
    }
}

/// The whole status. `previous` is what was said last, for the times of transitions.
pub(crate) fn status(
    pod: &Pod,
    seen: &Observed,
    previous: Option<&PodStatus>,
    now: Timestamp,
) -> PodStatus {
    let previous = previous.or(pod.status.as_ref());
    let Some(spec) = &pod.spec else {
        return PodStatus::default();
    };
    let phase = phase(pod, seen, now);
    let deadline_exceeded = phase == Phase::Failed && deadline(pod).is_some_and(|d| d <= now);
    let (reason, message) = match &seen.refused {
        Some(refusal) => (
            Some(refusal.reason.clone()),
            Some(format!("Pod was rejected: {}", refusal.message)),
        ),
        None if deadline_exceeded => (
            Some("DeadlineExceeded".into()),
            Some("Pod was active on the node longer than the specified deadline".into()),
        ),
        None => (None, None),
    };
    // A pod that was refused never had containers to tell of.
    let never = phase.over()
        && seen.attempts.is_empty()
        && previous
            .is_none_or(|p| p.container_statuses.is_none() && p.init_container_statuses.is_none());
    let of = |list: &mut dyn Iterator<Item = (&Container, Role)>,
              before: Option<&Vec<ContainerStatus>>|
     -> Option<Vec<ContainerStatus>> {
        let statuses: Vec<_> = list
            .map(|(c, role)| {
                container(
                    pod,
                    c,
                    role,
                    seen,
                    before.and_then(|b| b.iter().find(|s| s.name == c.name)),
                    phase,
                    now,
                )
            })
            .collect();
        (!statuses.is_empty() && !never).then_some(statuses)
    };
    let init = of(
        &mut order::containers(spec).filter(|(_, role)| *role != Role::Main),
        previous.and_then(|p| p.init_container_statuses.as_ref()),
    );
    let main = of(
        &mut order::containers(spec).filter(|(_, role)| *role == Role::Main),
        previous.and_then(|p| p.container_statuses.as_ref()),
    );
    let unready = main
        .iter()
        .flatten()
        .chain(init.iter().flatten().filter(|s| {
            spec.init_containers
                .iter()
                .flatten()
                .any(|c| c.name == s.name && order::is_sidecar(c))
        }));
    let facts = Facts {
        phase,
        sandbox: seen.sandbox.is_ready() && !seen.cleaned,
        incomplete: order::incomplete(pod, seen),
        unready: unready
            .filter(|s| !s.ready)
            .map(|s| s.name.clone())
            .collect(),
    };
    let ip = seen
        .ip
        .map(|ip| ip.to_string())
        .or_else(|| previous.and_then(|p| p.pod_ip.clone()));
    let host = seen
        .host_ip
        .map(|ip| ip.to_string())
        .or_else(|| previous.and_then(|p| p.host_ip.clone()));
    PodStatus {
        phase: Some(phase.as_str().into()),
        conditions: Some(conditions::conditions(pod, &facts, previous, now)),
        message: message.or_else(|| previous.and_then(|p| p.message.clone())),
        reason: reason.or_else(|| previous.and_then(|p| p.reason.clone())),
        host_ips: host.clone().map(|ip| vec![HostIP { ip }]),
        host_ip: host,
        pod_ips: ip.clone().map(|ip| vec![PodIP { ip }]),
        pod_ip: ip,
        start_time: Some(
            previous
                .and_then(|p| p.start_time.clone())
                .unwrap_or_else(|| time::time(now)),
        ),
        qos_class: Some(
            pod.status
                .as_ref()
                .and_then(|s| s.qos_class.clone())
                .unwrap_or_else(|| qos::class(spec).to_owned()),
        ),
        observed_generation: pod.metadata.generation,
        init_container_statuses: init,
        container_statuses: main,
        ..PodStatus::default()
    }
}

fn container(
    pod: &Pod,
    spec: &Container,
    role: Role,
    seen: &Observed,
    before: Option<&ContainerStatus>,
    phase: Phase,
    now: Timestamp,
) -> ContainerStatus {
    let attempts = seen.attempts.get(&spec.name).map_or(&[][..], Vec::as_slice);
    let last = attempts.last();
    // Records may be gone (a reboot, a finished pod cleaned up) while the API server still knows.
    if last.is_none()
        && let Some(before) = before
        && (before
            .state
            .as_ref()
            .is_some_and(|s| s.terminated.is_some())
            || phase.over())
    {
        let mut kept = before.clone();
        if phase.over() || role == Role::Init {
            return kept;
        }
        kept.last_state = kept.state.take();
        kept.state = Some(waiting(pod, spec, seen, None, now));
        kept.ready = false;
        kept.started = Some(false);
        return kept;
    }
    let previous = attempts.iter().rev().nth(1).and_then(terminated);
    let running = last.is_some_and(Attempt::running);
    let policy_restarts = !phase.over()
        && pod.metadata.deletion_timestamp.is_none()
        && pod
            .spec
            .as_ref()
            .zip(last)
            .is_some_and(|(s, last)| plan::restarts(s, role, last));
    let (state, last_state) = match last {
        None => (waiting(pod, spec, seen, None, now), previous),
        Some(attempt) => match &attempt.state {
            caravel_runtime::ContainerState::Creating => {
                (waiting(pod, spec, seen, None, now), previous)
            }
            caravel_runtime::ContainerState::Running(started) => {
                let running = ContainerStateRunning {
                    started_at: Some(time::time(started.started_at)),
                };
                (
                    ApiState {
                        running: Some(running),
                        ..ApiState::default()
                    },
                    previous,
                )
            }
            _ if policy_restarts && is_held(spec, attempt, seen, now) => (
                waiting(pod, spec, seen, Some(attempt), now),
                terminated(attempt),
            ),
            _ => (terminated(attempt).unwrap_or_default(), previous),
        },
    };
    let probes = last
        .filter(|_| running)
        .and_then(|a| seen.probes.get(&a.id));
    let started = running && probes.is_some_and(|p| p.started && p.hooked);
    let ready = match role {
        Role::Init => last
            .and_then(Attempt::exit)
            .is_some_and(|exit| exit.code == 0),
        Role::Sidecar | Role::Main => started && probes.is_some_and(|p| p.ready),
    };
    ContainerStatus {
        name: spec.name.clone(),
        image: last.map_or_else(|| image(spec).to_owned(), |a| a.image.clone()),
        image_id: last.map(|a| a.image_id.clone()).unwrap_or_default(),
        container_id: last.map(|a| id(&a.id)),
        restart_count: i32::try_from(last.map_or_else(
            || before.map_or(0, |b| b.restart_count.unsigned_abs()),
            |a| a.restart,
        ))
        .unwrap_or(i32::MAX),
        ready,
        started: Some(started),
        state: Some(state),
        last_state,
        // Nothing is resized in place: what was asked for is what it has.
        allocated_resources: spec.resources.as_ref().and_then(|r| r.requests.clone()),
        resources: Some(ResourceRequirements {
            claims: None,
            ..spec.resources.clone().unwrap_or_default()
        }),
        volume_mounts: mounts(spec),
        ..ContainerStatus::default()
    }
}

fn mounts(spec: &Container) -> Option<Vec<VolumeMountStatus>> {
    let mounts = spec.volume_mounts.as_ref().filter(|m| !m.is_empty())?;
    let one = |mount: &VolumeMount| VolumeMountStatus {
        name: mount.name.clone(),
        mount_path: mount.mount_path.clone(),
        read_only: mount.read_only.filter(|only| *only),
        recursive_read_only: (mount.read_only == Some(true)).then(|| {
            match mount.recursive_read_only.as_deref() {
                Some("IfPossible" | "Enabled") => "Enabled",
                _ => "Disabled",
            }
            .into()
        }),
        volume_status: None,
    };
    Some(mounts.iter().map(one).collect())
}

/// Whether a container that ended and is to be started again waits for something, rather than starting right now.
fn is_held(spec: &Container, last: &Attempt, seen: &Observed, now: Timestamp) -> bool {
    let backing_off = last
        .exit()
        .is_some_and(|e| backoff::next(last.streak, e.started_at, e.finished_at).at > now);
    backing_off
        || seen.failures.contains_key(&spec.name)
        || matches!(seen.images.get(&spec.name), Some(ImageState::Failed { .. }))
}

fn waiting(
    pod: &Pod,
    spec: &Container,
    seen: &Observed,
    last: Option<&Attempt>,
    now: Timestamp,
) -> ApiState {
    let (reason, message) = why_waiting(pod, spec, seen, last, now);
    ApiState {
        waiting: Some(ContainerStateWaiting {
            reason: Some(reason),
            message,
        }),
        ..ApiState::default()
    }
}

fn why_waiting(
    pod: &Pod,
    spec: &Container,
    seen: &Observed,
    last: Option<&Attempt>,
    now: Timestamp,
) -> (String, Option<String>) {
    if let Some(last) = last
        && let Some(exit) = last.exit()
    {
        let next = backoff::next(last.streak, exit.started_at, exit.finished_at);
        if next.at > now {
            let delay = backoff::shown(next.delay);
            return (
                "CrashLoopBackOff".into(),
                Some(format!(
                    "back-off {delay} restarting failed container={} pod={}",
                    spec.name,
                    pod_format(pod)
                )),
            );
        }
    }
    if let Some(failure) = seen.failures.get(&spec.name) {
        return (failure.reason.into(), Some(failure.message.clone()));
    }
    if let Some(ImageState::Failed {
        reason,
        message,
        failures,
        again,
    }) = seen.images.get(&spec.name)
    {
        let failed = again
            .saturating_sub(SignedDuration::from_secs(backoff::after_failures(
                *failures,
            )))
            .unwrap_or(*again);
        if *reason == "ErrImagePull" && now.duration_since(failed) >= SHOW_PULL_ERROR {
            return (
                "ImagePullBackOff".into(),
                Some(format!(
                    "Back-off pulling image \"{}\": ErrImagePull: {message}",
                    image(spec)
                )),
            );
        }
        return ((*reason).into(), Some(message.clone()));
    }
    let has_init = pod
        .spec
        .as_ref()
        .is_some_and(|s| s.init_containers.as_ref().is_some_and(|i| !i.is_empty()));
    (
        if has_init {
            "PodInitializing"
        } else {
            "ContainerCreating"
        }
        .into(),
        None,
    )
}

fn terminated(attempt: &Attempt) -> Option<ApiState> {
    let exit = attempt.exit()?;
    let reason = match exit.code {
        _ if attempt.start_failed => "StartError",
        _ if exit.oom => "OOMKilled",
        0 => "Completed",
        _ => "Error",
    };
    let terminated = ContainerStateTerminated {
        container_id: Some(id(&attempt.id)),
        exit_code: exit.code,
        signal: None,
        reason: Some(reason.into()),
        message: attempt.message.clone().filter(|m| !m.is_empty()),
        started_at: Some(time::time(exit.started_at)),
        finished_at: Some(time::time(exit.finished_at)),
    };
    Some(ApiState {
        terminated: Some(terminated),
        ..ApiState::default()
    })
}

fn id(id: &str) -> String {
    format!("caravel://{id}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::Refusal;
    use serde_json::json;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn pod() -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": {"containers": [{
            "name": "main", "image": "a:1",
            "resources": {"requests": {"cpu": "1"}, "limits": {"memory": "1Gi"}},
            "volumeMounts": [
                {"name": "a", "mountPath": "/a"},
                {"name": "b", "mountPath": "/b", "readOnly": true},
                {"name": "c", "mountPath": "/c", "readOnly": true, "recursiveReadOnly": "IfPossible"},
            ],
        }]}}))
        .unwrap()
    }

    #[test]
    fn what_a_container_has_been_given() {
        let status = status(&pod(), &Observed::default(), None, at(0));
        let told = serde_json::to_value(&status.container_statuses.unwrap()[0]).unwrap();
        assert_eq!(
            told["resources"],
            json!({"requests": {"cpu": "1"}, "limits": {"memory": "1Gi"}})
        );
        assert_eq!(told["allocatedResources"], json!({"cpu": "1"}));
        assert_eq!(
            told["volumeMounts"],
            json!([
                {"name": "a", "mountPath": "/a"},
                {"name": "b", "mountPath": "/b", "readOnly": true, "recursiveReadOnly": "Disabled"},
                {"name": "c", "mountPath": "/c", "readOnly": true, "recursiveReadOnly": "Enabled"},
            ])
        );
    }

    #[test]
    fn a_refused_pod_has_failed_for_good() {
        let mut pod = pod();
        let seen = Observed {
            refused: Some(Refusal {
                reason: "OutOfcpu".into(),
                message: "too much".into(),
            }),
            ..Observed::default()
        };
        let first = status(&pod, &seen, None, at(0));
        let told = |s: &PodStatus| {
            (
                s.phase.clone(),
                s.reason.clone(),
                s.message.clone(),
                s.container_statuses.is_none(),
            )
        };
        let expected = (
            Some("Failed".into()),
            Some("OutOfcpu".into()),
            Some("Pod was rejected: too much".into()),
            true,
        );
        assert_eq!(told(&first), expected);
        assert_eq!(
            plan::plan(&pod, &seen, at(0)),
            [],
            "its failure is told first, and nothing is made for it"
        );
        // A daemon that starts later knows it from the API server alone.
        pod.status = Some(first);
        assert_eq!(
            told(&status(&pod, &Observed::default(), None, at(9))),
            expected
        );
    }
}
