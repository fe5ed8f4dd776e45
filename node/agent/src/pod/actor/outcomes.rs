//! The other half of the actor: beginning the longer steps, and what became of them.
//!
//! Changes `Observed` and nothing else of the pod's life; `plan` decides what follows.

use std::sync::Arc;
use std::time::Duration;

use caravel_runtime::{Container as Found, ContainerState, Exit};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Actor, Done, REFRESH};
use crate::api::code;
use crate::events::Kind;
use crate::handler;
use crate::pod::backoff;
use crate::pod::observed::{Attempt, Condemned, ImageState, Probes, Stage, StartFailure, label};
use crate::pod::patch::patch;
use crate::pod::probe::{self, Verdict, Watched, Which};
use crate::pod::start::{self, Start, StartError};
use crate::pod::status;
use crate::pod::steps;
use crate::pod::stop::{self, signal_number};
use crate::tasks;
use crate::world::World;

/// Seconds before a sandbox or a volume is tried again: doubled from the first to the last.
const AGAIN: (i64, i64) = (1, 16);
/// Container ids are random: a new daemon must not meet one of its predecessor's.
const ID_BYTES: usize = 16;

impl Actor {
    pub(super) fn start(&mut self, name: &str, restart: u32, streak: u32) {
        let Some(container) = self.container(name).cloned() else {
            return;
        };
        self.seen.starting.insert(name.to_owned());
        let id: String = rand::random::<[u8; ID_BYTES]>()
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        let start = Box::new(Start {
            pod: self.pod.clone(),
            container,
            id,
            restart,
            streak,
            ip: self.seen.ip,
            volumes: self.volumes.clone(),
        });
        let world = self.world.clone();
        tasks::step(&mut self.jobs, async move {
            let result = start::start(&world, &start).await;
            Done::Started(start, result)
        });
    }

    pub(super) fn stop(&mut self, name: &str, id: String, grace: i64, message: String) {
        let deadline = Instant::now() + Duration::from_secs(grace.unsigned_abs());
        let until = caravel_api::time::now()
            .saturating_add(SignedDuration::from_secs(grace))
            .unwrap_or(Timestamp::MAX);
        let (sender, receiver) = watch::channel(deadline);
        self.deadlines.insert(id.clone(), sender);
        self.seen.stopping.insert(id.clone(), until);
        self.stop_probes(&id);
        self.world
            .events
            .container(&self.pod, name, Kind::Normal, "Killing", message);
        let signal = self.stop_signal(name);
        let order = stop::Order {
            pod: self.pod.clone(),
            container: self.container(name).cloned(),
            id: id.clone(),
            signal,
            ip: self.seen.ip,
        };
        let world = self.world.clone();
        tasks::step(&mut self.jobs, async move {
            let result = stop::stop(&world, order, receiver)
                .await
                .map_err(|e| e.to_string());
            if result.is_err() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            Done::Stopped(id, result)
        });
    }

    fn stop_signal(&self, name: &str) -> i32 {
        let of_pod = self
            .container(name)
            .and_then(|c| c.lifecycle.as_ref())
            .and_then(|l| l.stop_signal.clone());
        signal_number(
            of_pod
                .or_else(|| self.stop_signals.get(name).cloned())
                .as_deref()
                .unwrap_or_default(),
        )
    }

    pub(super) fn done(&mut self, done: Done) {
        let now = caravel_api::time::now_micro();
        let wait = (AGAIN.0 << self.setbacks.min(10)).min(AGAIN.1);
        let later = now
            .saturating_add(SignedDuration::from_secs(wait))
            .unwrap_or(now);
        match done {
            Done::Sandbox(Ok(made)) => {
                self.seen.sandbox = Stage::Ready(());
                self.seen.ip = made.ip;
                self.netns = made.netns;
                self.world.rules_changed.notify_one();
            }
            Done::Sandbox(Err(message)) => {
                self.setbacks += 1;
                self.world.events.pod(
                    &self.pod,
                    Kind::Warning,
                    "FailedCreatePodSandBox",
                    format!("Failed to create pod sandbox: {message}"),
                );
                self.seen.sandbox = Stage::Failed {
                    message,
                    again: later,
                };
            }
            Done::Volumes(Ok(paths)) => {
                self.setbacks = 0;
                self.volumes = paths;
                self.seen.volumes = Stage::Ready(());
            }
            Done::Volumes(Err(message)) => {
                self.setbacks += 1;
                self.world
                    .events
                    .pod(&self.pod, Kind::Warning, "FailedMount", message.clone());
                self.seen.volumes = Stage::Failed {
                    message,
                    again: later,
                };
            }
            Done::Image(container, Ok(())) => {
                self.image_failures.remove(&container);
                self.seen.images.insert(container, ImageState::Present);
            }
            Done::Image(container, Err(error)) => {
                let failures = self.image_failures.entry(container.clone()).or_default();
                *failures += 1;
                let again = now
                    .saturating_add(SignedDuration::from_secs(backoff::after_failures(
                        *failures,
                    )))
                    .unwrap_or(now);
                self.seen.images.insert(
                    container,
                    ImageState::Failed {
                        reason: error.reason,
                        message: error.message,
                        failures: *failures,
                        again,
                    },
                );
            }
            Done::Started(start, result) => self.started(*start, result, now),
            Done::Hooked(name, id, result) => self.hooked(&name, &id, result),
            Done::Stopped(id, result) => {
                if let Err(error) = result {
                    tracing::warn!(container = id, error, "container not stopped yet");
                }
                self.deadlines.remove(&id);
                // Where it still runs, the next plan stops it again.
                self.seen.stopping.remove(&id);
            }
            Done::CleanedUp => self.seen.cleaned = true,
            Done::Deleted => self.seen.gone = true,
            Done::Wrote(status, result) => {
                self.writing = false;
                match result {
                    Ok(()) => self.written = Some(*status),
                    // Another pod of this name, or none: the watch says so too.
                    Err(error) if matches!(code(&error), Some(404)) => self.seen.gone = true,
                    Err(error) => {
                        tracing::warn!(pod = %status::pod_format(&self.pod), %error, "status not written")
                    }
                }
            }
            Done::Refreshed(result) => {
                self.refreshing = false;
                if let Err(message) = result {
                    self.refresh_at = Some(Instant::now() + REFRESH);
                    self.world
                        .events
                        .pod(&self.pod, Kind::Warning, "FailedMount", message);
                }
            }
            Done::Probed | Done::Removed => {}
        }
    }

    fn started(
        &mut self,
        start: Start,
        result: Result<start::Running, StartError>,
        now: Timestamp,
    ) {
        let name = start.container.name.clone();
        self.seen.starting.remove(&name);
        self.seen.images.remove(&name);
        let mut attempt = Attempt {
            id: start.id.clone(),
            restart: start.restart,
            streak: start.streak,
            image: start.container.image.clone().unwrap_or_default(),
            image_id: String::new(),
            asked: start.container.image.clone().unwrap_or_default(),
            state: ContainerState::Creating,
            message: None,
            seen: now,
            start_failed: false,
        };
        match result {
            Ok(running) => {
                self.seen.failures.remove(&name);
                self.told.remove(&name);
                attempt.image = running.image;
                attempt.image_id = running.image_id;
                self.stop_signals.insert(name.clone(), running.stop_signal);
                attempt.state = ContainerState::Running(running.started);
                let hook = start
                    .container
                    .lifecycle
                    .as_ref()
                    .and_then(|l| l.post_start.clone());
                let probes = Probes {
                    hooked: hook.is_none(),
                    started: start.container.startup_probe.is_none(),
                    ready: start.container.readiness_probe.is_none(),
                };
                self.seen.probes.insert(start.id.clone(), probes);
                self.seen
                    .attempts
                    .entry(name.clone())
                    .or_default()
                    .push(attempt);
                match hook {
                    None => self.begin_probes(&name, &start.id),
                    Some(hook) => {
                        let (world, ip, id) = (self.world.clone(), self.seen.ip, start.id);
                        tasks::step(&mut self.jobs, async move {
                            let result =
                                handler::run(&world, &id, &start.container, ip, &hook).await;
                            Done::Hooked(name, id, result)
                        });
                    }
                }
            }
            Err(StartError::Spec(error)) => {
                self.world.events.container(
                    &self.pod,
                    &name,
                    Kind::Warning,
                    "Failed",
                    format!("Error: {}", error.message),
                );
                let failures = self.seen.failures.get(&name).map_or(0, |f| f.failures) + 1;
                let again = now
                    .saturating_add(SignedDuration::from_secs(
                        backoff::after_failures(failures).min(30),
                    ))
                    .unwrap_or(now);
                self.seen.failures.insert(
                    name,
                    StartFailure {
                        reason: error.reason,
                        message: error.message,
                        failures,
                        again,
                    },
                );
            }
            Err(StartError::Run(message)) => {
                self.seen.failures.remove(&name);
                attempt.state = ContainerState::Exited(Exit {
                    code: 128,
                    signal: None,
                    oom: false,
                    started_at: now,
                    finished_at: now,
                });
                attempt.message = Some(message);
                attempt.start_failed = true;
                self.seen.attempts.entry(name).or_default().push(attempt);
            }
        }
    }

    fn hooked(&mut self, name: &str, id: &str, result: Result<(), String>) {
        match result {
            Ok(()) => {
                if let Some(probes) = self.seen.probes.get_mut(id) {
                    probes.hooked = true;
                }
                self.begin_probes(name, id);
            }
            Err(message) => {
                self.world.events.container(
                    &self.pod,
                    name,
                    Kind::Warning,
                    "FailedPostStartHook",
                    format!("PostStartHook failed: {message}"),
                );
                self.seen.condemned.insert(
                    id.to_owned(),
                    Condemned {
                        message: "FailedPostStartHook".into(),
                        grace: None,
                    },
                );
            }
        }
    }

    /// Probes of containers that already ran when this daemon began.
    pub(super) fn adopt_probes(&mut self) {
        let running: Vec<(String, String)> = self
            .seen
            .attempts
            .iter()
            .flat_map(|(name, list)| {
                list.iter()
                    .filter(|a| a.running())
                    .map(move |a| (name.clone(), a.id.clone()))
            })
            .collect();
        for (name, id) in running {
            let Some(container) = self.container(&name) else {
                continue;
            };
            let (startup, readiness) = (
                container.startup_probe.is_some(),
                container.readiness_probe.is_some(),
            );
            if let Some(probes) = self.seen.probes.get_mut(&id) {
                probes.started |= !startup;
                probes.ready |= !readiness;
            }
            self.begin_probes(&name, &id);
        }
    }

    fn begin_probes(&mut self, name: &str, id: &str) {
        let Some(container) = self.container(name).cloned() else {
            return;
        };
        let started = self.seen.probes.get(id).is_none_or(|p| p.started);
        let (sender, receiver) = watch::channel(started);
        let mut handles = Vec::new();
        for which in [Which::Startup, Which::Readiness, Which::Liveness] {
            if which.of(&container).is_none() || (which == Which::Startup && started) {
                continue;
            }
            let watched = Watched {
                world: self.world.clone(),
                pod: self.pod.clone(),
                container: container.clone(),
                id: id.to_owned(),
                ip: self.seen.ip,
                which,
                started: receiver.clone(),
                verdicts: self.verdicts.0.clone(),
            };
            handles.push(tasks::step(&mut self.jobs, async move {
                probe::watch(watched).await;
                Done::Probed
            }));
        }
        self.probes.insert(id.to_owned(), (sender, handles));
    }

    pub(super) fn stop_probes(&mut self, id: &str) {
        // What they last said stays true until the container has ended.
        for handle in self
            .probes
            .remove(id)
            .into_iter()
            .flat_map(|(_, handles)| handles)
        {
            handle.abort();
        }
    }

    pub(super) fn judged(&mut self, verdict: &Verdict) {
        let Some((name, _)) = self
            .seen
            .attempts
            .iter()
            .find(|(_, list)| list.iter().any(|a| a.id == verdict.id && a.running()))
        else {
            return;
        };
        let name = name.clone();
        let Some(probes) = self.seen.probes.get_mut(&verdict.id) else {
            return;
        };
        match (verdict.which, verdict.healthy) {
            (Which::Readiness, healthy) => probes.ready = healthy,
            (Which::Startup, true) => {
                probes.started = true;
                if let Some((sender, _)) = self.probes.get(&verdict.id) {
                    sender.send_replace(true);
                }
            }
            (Which::Liveness, true) => {}
            (which @ (Which::Startup | Which::Liveness), false) => {
                let kind = if which == Which::Startup {
                    "startup"
                } else {
                    "liveness"
                };
                let grace = self
                    .container(&name)
                    .and_then(|c| which.of(c))
                    .and_then(|p| p.termination_grace_period_seconds);
                let message = format!("Container {name} failed {kind} probe, will be restarted");
                self.seen
                    .condemned
                    .insert(verdict.id.clone(), Condemned { message, grace });
            }
        }
    }

    /// Where a ConfigMap, a Secret, a label or the age of a token asks for it.
    pub(super) fn keep_volumes_fresh(&mut self) {
        let over = self.seen.cleaning || self.seen.gone || self.refreshing;
        if over || !self.seen.volumes.is_ready() {
            return;
        }
        let failed = match self.refresh_at {
            Some(at) if Instant::now() < at => return,
            at => at.is_some(),
        };
        self.refresh_at = None;
        let renewal = self.world.objects.renewal(self.uid());
        let downward = self
            .pod
            .spec
            .iter()
            .flat_map(|s| s.volumes.iter().flatten())
            .any(|v| v.downward_api.is_some() || v.projected.is_some());
        let relabelled = std::mem::take(&mut self.relabelled) && downward;
        let due = failed
            || relabelled
            || renewal.is_some_and(|at| at <= caravel_api::time::now())
            || self.world.objects.stale(self.uid());
        if !due {
            return;
        }
        self.refreshing = true;
        let (world, pod, ip) = (self.world.clone(), self.pod.clone(), self.seen.ip);
        tasks::step(&mut self.jobs, async move {
            Done::Refreshed(steps::refresh(&world, &pod, ip).await)
        });
    }
}

/// A container of the runtime as an attempt; `None` if it is none of ours.
pub(super) fn adopt(found: &Found) -> Option<Attempt> {
    let text = |name: &str| found.labels().get(name).cloned().unwrap_or_default();
    found.labels().get(label::CONTAINER)?;
    Some(Attempt {
        id: found.id().to_owned(),
        restart: text(label::RESTART).parse().unwrap_or(0),
        streak: text(label::STREAK).parse().unwrap_or(0),
        image: text(label::IMAGE),
        image_id: text(label::IMAGE_ID),
        asked: text(label::ASKED),
        // Looked at anew at once, so that an end in the daemon's absence is handled as any other.
        state: if found.state.is_running() {
            found.state.clone()
        } else {
            ContainerState::Creating
        },
        message: None,
        seen: caravel_api::time::now(),
        start_failed: false,
    })
}

pub(super) async fn write(world: &Arc<World>, pod: &Pod, status: &PodStatus) -> kube::Result<()> {
    let body = patch(pod, status).map_err(kube::Error::SerdeError)?;
    let meta = &pod.metadata;
    world
        .api
        .patch_status::<Pod>(
            meta.namespace.as_deref().unwrap_or_default(),
            meta.name.as_deref().unwrap_or_default(),
            &body,
        )
        .await
        .map(drop)
}

/// Whether a written status says what this one does; what others own in it does not count.
pub(super) fn same(written: &PodStatus, new: &PodStatus) -> bool {
    let own = |status: &PodStatus| {
        let mut status = status.clone();
        if let Some(conditions) = &mut status.conditions {
            conditions.retain(|c| crate::conditions::OWN.contains(&c.type_.as_str()));
            conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
            for condition in conditions {
                condition.last_probe_time = None;
                condition.reason = condition.reason.take().filter(|r| !r.is_empty());
                condition.message = condition.message.take().filter(|m| !m.is_empty());
            }
        }
        status
    };
    own(written) == own(new)
}
