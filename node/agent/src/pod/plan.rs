//! What is to be done for a pod next. Pure: the Pod, what was seen of it, and the time, in; steps out.
//!
//! Follows computePodActions and syncPod of pkg/kubelet. A step that is under way shows in `Observed` and is not
//! planned again; calling this at any moment is right.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

use super::backoff;
use super::observed::{Attempt, ImageState, Observed, Stage};
use super::order::{self, Role};
use super::status::{self, Phase};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    CreateSandbox,
    SetUpVolumes,
    /// `pull` is false where the image only has to be looked up.
    GetImage {
        container: String,
        image: String,
        policy: PullPolicy,
    },
    Start {
        container: String,
        restart: u32,
        streak: u32,
    },
    /// `message` is what the Killing event says.
    Stop {
        container: String,
        id: String,
        grace: i64,
        message: String,
    },
    /// Forget an attempt that is older than the last two.
    Remove {
        container: String,
        id: String,
    },
    /// Say once that a container waits to be started again.
    BackingOff {
        container: String,
        message: String,
    },
    /// Give back everything the pod holds: containers, address, sandbox, volumes.
    CleanUp,
    /// The pod has ended here: take its object away.
    DeleteObject,
    /// Look again at this time, if nothing happens before.
    Again(Timestamp),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

pub(crate) fn plan(pod: &Pod, seen: &Observed, now: Timestamp) -> Vec<Step> {
    let Some(spec) = &pod.spec else {
        return Vec::new();
    };
    let phase = status::phase(pod, seen, now);
    let deleted = seen.gone || pod.metadata.deletion_timestamp.is_some();
    if deleted || phase.over() {
        return end(pod, spec, seen, deleted);
    }

    let mut steps = Vec::new();
    retry(&seen.sandbox, now, Step::CreateSandbox, &mut steps);
    retry(&seen.volumes, now, Step::SetUpVolumes, &mut steps);
    if let Some(deadline) = status::deadline(pod) {
        steps.push(Step::Again(deadline));
    }

    let initialized = order::initialized(pod, seen);
    let mut earlier_done = true;
    for (container, role) in order::containers(spec) {
        let waits_for_earlier = match role {
            Role::Main => !initialized,
            Role::Init | Role::Sidecar => !earlier_done,
        };
        if !waits_for_earlier {
            // An init container that is past (its record may be gone) is not run again.
            let past = role == Role::Init && (initialized || order::done(container, seen));
            if !past {
                one(pod, spec, container, role, seen, now, &mut steps);
            }
        }
        if role != Role::Main {
            earlier_done = earlier_done && (initialized || order::done(container, seen));
        }
        for old in seen
            .attempts
            .get(&container.name)
            .into_iter()
            .flat_map(|a| a.iter().rev().skip(2))
            .filter(|a| !a.running())
        {
            steps.push(Step::Remove {
                container: container.name.clone(),
                id: old.id.clone(),
            });
        }
    }
    steps
}

/// One container whose turn it is.
fn one(
    pod: &Pod,
    spec: &PodSpec,
    container: &Container,
    role: Role,
    seen: &Observed,
    now: Timestamp,
    steps: &mut Vec<Step>,
) {
    let name = &container.name;
    let attempts = seen.attempts.get(name).map_or(&[][..], Vec::as_slice);
    let last = attempts.last();
    if let Some(last) = last.filter(|a| a.running()) {
        if seen.stopping.contains_key(&last.id) {
            return;
        }
        let stop = |grace, message| Step::Stop {
            container: name.clone(),
            id: last.id.clone(),
            grace,
            message,
        };
        if let Some(condemned) = seen.condemned.get(&last.id) {
            steps.push(stop(
                condemned.grace.unwrap_or_else(|| grace(pod)),
                condemned.message.clone(),
            ));
        } else if role != Role::Init && last.asked != image(container) {
            steps.push(stop(
                grace(pod),
                format!("Container {name} definition changed, will be restarted"),
            ));
        }
        return;
    }
    if seen.starting.contains(name) {
        return;
    }
    let (restart, streak) = match last {
        None => (known_restarts(pod, name), 0),
        Some(last) => {
            if !restarts(spec, role, last) {
                return;
            }
            let next = last
                .exit()
                .map(|exit| backoff::next(last.streak, exit.started_at, exit.finished_at));
            match next {
                Some(next) if next.at > now => {
                    let message = format!(
                        "Back-off restarting failed container {name} in pod {}",
                        status::pod_format(pod)
                    );
                    steps.push(Step::BackingOff {
                        container: name.clone(),
                        message,
                    });
                    steps.push(Step::Again(next.at));
                    return;
                }
                Some(next) => (last.restart + 1, next.streak),
                None => return,
            }
        }
    };
    if let Some(failure) = seen.failures.get(name)
        && failure.again > now
    {
        steps.push(Step::Again(failure.again));
        return;
    }
    match seen.images.get(name).unwrap_or(&ImageState::Unknown) {
        ImageState::Unknown => steps.push(get_image(container)),
        ImageState::Pulling => {}
        ImageState::Failed { again, .. } if *again > now => steps.push(Step::Again(*again)),
        ImageState::Failed { .. } => steps.push(get_image(container)),
        ImageState::Present => {
            if seen.sandbox.is_ready() && seen.volumes.is_ready() {
                steps.push(Step::Start {
                    container: name.clone(),
                    restart,
                    streak,
                });
            }
        }
    }
}

/// The pod's way out: stop what runs, give everything back, and, if it is being deleted, take the object away.
fn end(pod: &Pod, spec: &PodSpec, seen: &Observed, deleted: bool) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut running = false;
    for (container, attempt) in seen
        .attempts
        .iter()
        .flat_map(|(name, list)| list.iter().map(move |a| (name, a)))
    {
        if attempt.running() {
            running = true;
            if !seen.stopping.contains_key(&attempt.id) {
                steps.push(Step::Stop {
                    container: container.clone(),
                    id: attempt.id.clone(),
                    grace: grace(pod),
                    message: format!("Stopping container {container}"),
                });
            }
        }
    }
    if running
        || !seen.starting.is_empty()
        || seen.sandbox == Stage::Making
        || seen.volumes == Stage::Making
    {
        return steps;
    }
    let _ = spec;
    if !seen.cleaned {
        // The last word on the containers goes out while they are still known.
        if !seen.cleaning && (seen.written || seen.gone) {
            steps.push(Step::CleanUp);
        }
        return steps;
    }
    if deleted && !seen.gone && !seen.deleting && seen.written {
        steps.push(Step::DeleteObject);
    }
    steps
}

fn retry(what: &Stage<()>, now: Timestamp, step: Step, steps: &mut Vec<Step>) {
    match what {
        Stage::Absent => steps.push(step),
        Stage::Failed { again, .. } if *again > now => steps.push(Step::Again(*again)),
        Stage::Failed { .. } => steps.push(step),
        Stage::Making | Stage::Ready(()) => {}
    }
}

fn get_image(container: &Container) -> Step {
    Step::GetImage {
        container: container.name.clone(),
        image: image(container).to_owned(),
        policy: pull_policy(container),
    }
}

pub(crate) fn image(container: &Container) -> &str {
    container.image.as_deref().unwrap_or_default()
}

fn pull_policy(container: &Container) -> PullPolicy {
    match container.image_pull_policy.as_deref() {
        Some("Always") => PullPolicy::Always,
        Some("Never") => PullPolicy::Never,
        _ => PullPolicy::IfNotPresent,
    }
}

/// Whether an attempt that has ended is followed by another.
pub(crate) fn restarts(spec: &PodSpec, role: Role, last: &Attempt) -> bool {
    let failed = last.exit().is_some_and(|exit| exit.code != 0);
    let policy = spec.restart_policy.as_deref().unwrap_or("Always");
    match role {
        Role::Sidecar => true,
        Role::Init => failed && policy != "Never",
        Role::Main => match policy {
            "Never" => false,
            "OnFailure" => failed,
            _ => true,
        },
    }
}

/// Seconds between SIGTERM and SIGKILL.
pub(crate) fn grace(pod: &Pod) -> i64 {
    let spec = pod
        .spec
        .as_ref()
        .and_then(|s| s.termination_grace_period_seconds);
    pod.metadata
        .deletion_grace_period_seconds
        .or(spec)
        .unwrap_or(30)
        .max(0)
}

/// The restart count to begin with where the runtime knows of no attempt: after a reboot the API server remembers.
fn known_restarts(pod: &Pod, container: &str) -> u32 {
    let status = pod.status.as_ref();
    let all = status.into_iter().flat_map(|s| {
        s.container_statuses
            .iter()
            .flatten()
            .chain(s.init_container_statuses.iter().flatten())
    });
    let known = all.into_iter().find(|s| {
        s.name == container && s.container_id.as_deref().is_some_and(|id| !id.is_empty())
    });
    known.map_or(0, |s| u32::try_from(s.restart_count).unwrap_or(0) + 1)
}

/// When a pod with this start time is over its `activeDeadlineSeconds`.
pub(crate) fn deadline_of(start: Timestamp, seconds: i64) -> Timestamp {
    start
        .saturating_add(SignedDuration::from_secs(seconds))
        .unwrap_or(Timestamp::MAX)
}

impl Phase {
    pub(crate) fn over(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }
}
