//! The shell around one pod: looks, plans, begins steps, tells the API server, waits for something to happen.
//!
//! One task per pod; every step is a task of its set and ends with it. Level, not edge: whatever wakes it, it looks at
//! everything again. What came of its steps is in `outcomes`.

mod outcomes;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use caravel_runtime::{Container as Found, ContainerExit, ContainerState};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod, PodStatus};
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use super::backoff;
use super::observed::{ImageState, Observed, Probes, Stage, label};
use super::order;
use super::plan::{self, Step, plan};
use super::probe::Verdict;
use super::start;
use super::status::{self, SHOW_PULL_ERROR, status};
use super::steps;
use crate::admission::Refusal;
use crate::api::code;
use crate::events::Kind;
use crate::pods::{ContainerView, PodView};
use crate::tasks;
use crate::world::World;

/// A status goes out at most this often, after a short burst.
const WRITE_EVERY: Duration = Duration::from_millis(250);
const BURST: u32 = 6;
/// Before volumes that could not be brought up to date are tried again.
const REFRESH: Duration = Duration::from_secs(60);
/// The actor looks at everything this often even if nothing happens: a lost hint must not last.
const LOOK: Duration = Duration::from_secs(60);

/// What the API server last said of the pod.
#[derive(Clone, Debug)]
pub(crate) struct Handed {
    pub pod: Arc<Pod>,
    pub gone: bool,
}

/// What this machine makes of a pod that is handed to it.
pub(crate) struct Taken {
    /// Containers that the runtime already has of it, and whether it has its sandbox.
    pub found: Vec<Found>,
    pub sandboxed: bool,
    pub refused: Option<Refusal>,
}

/// What became of a step.
enum Done {
    Sandbox(Result<steps::Made, String>),
    Volumes(Result<BTreeMap<String, PathBuf>, String>),
    Image(String, Result<(), steps::NoImage>),
    Started(Box<start::Start>, Result<start::Running, start::StartError>),
    Hooked(String, String, Result<(), String>),
    Stopped(String, Result<(), String>),
    CleanedUp,
    Deleted,
    Wrote(Box<PodStatus>, Result<(), kube::Error>),
    Refreshed(Result<(), String>),
    Probed,
    Removed,
}

pub(crate) struct Actor {
    world: Arc<World>,
    pod: Arc<Pod>,
    seen: Observed,
    netns: Option<PathBuf>,
    volumes: BTreeMap<String, PathBuf>,
    last: Option<PodStatus>,
    written: Option<PodStatus>,
    writing: bool,
    tokens: u32,
    token_at: Instant,
    jobs: JoinSet<Done>,
    deadlines: BTreeMap<String, watch::Sender<Instant>>,
    probes: BTreeMap<String, (watch::Sender<bool>, Vec<AbortHandle>)>,
    verdicts: (mpsc::Sender<Verdict>, mpsc::Receiver<Verdict>),
    told: BTreeSet<String>,
    image_failures: BTreeMap<String, u32>,
    /// Failures in a row of the sandbox and of the volumes.
    setbacks: u32,
    /// Stop signals of the images, by container name.
    stop_signals: BTreeMap<String, String>,
    relabelled: bool,
    /// After a refresh that failed: when the next one is due.
    refresh_at: Option<Instant>,
    refreshing: bool,
}

impl Actor {
    pub fn new(world: Arc<World>, handed: &Handed, taken: Taken) -> Self {
        let Taken {
            found,
            sandboxed,
            refused,
        } = taken;
        let pod = handed.pod.clone();
        let mut seen = Observed {
            host_ip: Some(world.config.node_ip),
            gone: handed.gone,
            refused,
            ..Observed::default()
        };
        let status = pod.status.as_ref();
        if sandboxed && !found.is_empty() {
            seen.sandbox = Stage::Ready(());
            seen.ip = status
                .and_then(|s| s.pod_ip.as_deref())
                .and_then(|ip| ip.parse().ok());
            if seen.ip.is_none() {
                seen.sandbox = Stage::Absent;
            }
        }
        let mut stop_signals = BTreeMap::new();
        for container in found {
            if let Some(signal) = container
                .labels()
                .get(label::STOP_SIGNAL)
                .filter(|s| !s.is_empty())
            {
                stop_signals.insert(
                    container
                        .labels()
                        .get(label::CONTAINER)
                        .cloned()
                        .unwrap_or_default(),
                    signal.clone(),
                );
            }
            let attempt = outcomes::adopt(&container);
            if let Some(attempt) = attempt {
                let name = container
                    .labels()
                    .get(label::CONTAINER)
                    .cloned()
                    .unwrap_or_default();
                let known = status.into_iter().flat_map(|s| {
                    s.container_statuses
                        .iter()
                        .flatten()
                        .chain(s.init_container_statuses.iter().flatten())
                });
                let known = known.into_iter().find(|s| {
                    s.container_id.as_deref() == Some(&format!("caravel://{}", attempt.id))
                });
                let probes = Probes {
                    hooked: true,
                    started: known.and_then(|k| k.started).unwrap_or(false),
                    ready: known.is_some_and(|k| k.ready),
                };
                seen.probes.insert(attempt.id.clone(), probes);
                seen.attempts.entry(name).or_default().push(attempt);
            }
        }
        for attempts in seen.attempts.values_mut() {
            attempts.sort_by_key(|a| a.restart);
        }
        let now = Instant::now();
        Self {
            written: pod.status.clone(),
            world,
            pod,
            seen,
            netns: None,
            volumes: BTreeMap::new(),
            last: None,
            writing: false,
            tokens: BURST,
            token_at: now,
            jobs: JoinSet::new(),
            deadlines: BTreeMap::new(),
            probes: BTreeMap::new(),
            verdicts: mpsc::channel(64),
            told: BTreeSet::new(),
            image_failures: BTreeMap::new(),
            setbacks: 0,
            stop_signals,
            relabelled: false,
            refresh_at: None,
            refreshing: false,
        }
    }

    /// Until the pod has ended and is gone, or the daemon ends.
    pub async fn run(mut self, mut handed: watch::Receiver<Handed>) {
        let mut exits = self.world.runtime.exits();
        let shutdown = self.world.shutdown.clone();
        let uid = self.uid().to_owned();
        let outdated = self.world.objects.waker(&uid);
        self.adopt_probes();
        loop {
            self.look().await;
            let now = caravel_api::time::now_micro();
            let mut again = self.tell(now);
            self.publish();
            if self.seen.gone && self.seen.cleaned {
                break;
            }
            for step in plan(&self.pod, &self.seen, now) {
                if let Step::Again(at) = step {
                    again = Some(again.map_or(at, |known: Timestamp| known.min(at)));
                } else {
                    self.begin(step);
                }
            }
            self.keep_volumes_fresh();
            let wake = self.wake(again, now);
            tokio::select! {
                () = shutdown.cancelled() => return,
                changed = handed.changed() => {
                    if changed.is_err() { return }
                    let new = handed.borrow_and_update().clone();
                    self.handed(new);
                }
                Some(done) = self.jobs.join_next() => {
                    match done {
                        Ok(done) => self.done(done),
                        Err(error) if error.is_panic() => tracing::error!(pod = %status::pod_format(&self.pod), "a step of this pod panicked"),
                        Err(_) => {}
                    }
                }
                Some(verdict) = self.verdicts.1.recv() => self.judged(&verdict),
                () = own_exit(&mut exits, &uid) => {}
                () = outdated.notified() => {}
                () = tokio::time::sleep_until(wake) => {}
            }
        }
        // Logs go with the pod, as upstream's do.
        let logs = start::log_directory(&self.world, &self.pod);
        tasks::blocking(move || {
            let _ = std::fs::remove_dir_all(logs);
        })
        .await;
        self.world.pods.remove(self.uid());
    }

    fn uid(&self) -> &str {
        self.pod.metadata.uid.as_deref().unwrap_or_default()
    }

    fn wake(&self, again: Option<Timestamp>, now: Timestamp) -> Instant {
        let base = Instant::now();
        let mut wake = base + LOOK;
        if let Some(at) = again {
            let wait = Duration::try_from(at.duration_since(now)).unwrap_or_default();
            wake = wake.min(base + wait + Duration::from_millis(5));
        }
        if let Some(at) = self.refresh_at.filter(|at| *at > base) {
            wake = wake.min(at);
        }
        if self.written != self.last && !self.writing {
            wake = wake.min(self.token_at + WRITE_EVERY);
        }
        wake.max(base + Duration::from_millis(1))
    }

    /// Asks the runtime about every attempt that may have ended.
    async fn look(&mut self) {
        let now = caravel_api::time::now_micro();
        let mut ended = Vec::new();
        for (name, attempts) in &mut self.seen.attempts {
            for attempt in attempts.iter_mut().filter(|a| a.running()) {
                let state = match self.world.runtime.state(&attempt.id).await {
                    Ok(state) => state,
                    Err(caravel_runtime::RuntimeError::NoContainer(_)) => ContainerState::Lost,
                    Err(error) => {
                        tracing::warn!(container = attempt.id, %error, "container's state not read");
                        continue;
                    }
                };
                if !state.is_running() {
                    attempt.seen = now;
                    ended.push((
                        name.clone(),
                        attempt.id.clone(),
                        attempt.restart,
                        matches!(&state, ContainerState::Exited(e) if e.code == 0),
                    ));
                }
                attempt.state = state;
            }
        }
        // With a shared PID namespace its first process may have died too: the sandbox is looked after before anything starts in it.
        let shared = self
            .pod
            .spec
            .as_ref()
            .and_then(|s| s.share_process_namespace)
            == Some(true);
        if shared && !ended.is_empty() && self.seen.sandbox.is_ready() && !self.seen.cleaning {
            self.seen.sandbox = Stage::Absent;
        }
        for (name, id, restart, well) in ended {
            self.stop_probes(&id);
            let file = steps::pod_directory(&self.world, &self.pod)
                .join("containers")
                .join(&name)
                .join(format!("termination-{restart}"));
            let log = start::log_path(&self.world, &self.pod, &name, restart);
            let falls_back = self.container(&name).is_some_and(|c| {
                c.termination_message_policy.as_deref() == Some("FallbackToLogsOnError")
            });
            let message = start::termination_message(&file, &log, falls_back && !well);
            if let Some(attempt) = self
                .seen
                .attempts
                .get_mut(&name)
                .and_then(|a| a.iter_mut().find(|a| a.id == id))
            {
                attempt.message = message;
            }
            // The next start says again whether the image is there.
            self.seen.images.remove(&name);
            self.told.remove(&name);
        }
    }

    fn container(&self, name: &str) -> Option<&Container> {
        order::containers(self.pod.spec.as_ref()?)
            .map(|(c, _)| c)
            .find(|c| c.name == name)
    }

    /// Computes the status and sends it if it changed. When to look again for its sake.
    fn tell(&mut self, now: Timestamp) -> Option<Timestamp> {
        let new = status(&self.pod, &self.seen, self.last.as_ref(), now);
        let elapsed = self.token_at.elapsed();
        let earned =
            u32::try_from(elapsed.as_millis() / WRITE_EVERY.as_millis()).unwrap_or(u32::MAX);
        if earned > 0 {
            self.tokens = self.tokens.saturating_add(earned).min(BURST);
            self.token_at = Instant::now();
        }
        self.seen.written = self
            .written
            .as_ref()
            .is_some_and(|written| outcomes::same(written, &new));
        if !self.seen.written && !self.writing && !self.seen.gone && self.tokens > 0 {
            self.tokens -= 1;
            self.writing = true;
            let (world, pod, status) =
                (self.world.clone(), self.pod.clone(), Box::new(new.clone()));
            tasks::step(&mut self.jobs, async move {
                let result = outcomes::write(&world, &pod, &status).await;
                // What was refused is not asked for again at once; a pod that is not there any more is another matter.
                if matches!(&result, Err(error) if code(error) != Some(404)) {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                Done::Wrote(status, result)
            });
        }
        self.last = Some(new);
        // A failed pull changes its name after a while.
        let mut next = None;
        for (container, state) in &self.seen.images {
            let ImageState::Failed {
                again,
                failures,
                reason: "ErrImagePull",
                ..
            } = state
            else {
                continue;
            };
            let shown = again
                .saturating_sub(SignedDuration::from_secs(backoff::after_failures(
                    *failures,
                )))
                .and_then(|at| at.saturating_add(SHOW_PULL_ERROR));
            let Ok(shown) = shown else { continue };
            if shown > now {
                next = Some(next.map_or(shown, |known: Timestamp| known.min(shown)));
            } else if self.told.insert(format!("pull {container} {failures}")) {
                let image = self
                    .container(container)
                    .map(plan::image)
                    .unwrap_or_default();
                self.world.events.container(
                    &self.pod,
                    container,
                    Kind::Normal,
                    "BackOff",
                    format!("Back-off pulling image \"{image}\""),
                );
                self.world.events.container(
                    &self.pod,
                    container,
                    Kind::Warning,
                    "Failed",
                    "Error: ImagePullBackOff",
                );
            }
        }
        next
    }

    fn publish(&self) {
        let mut pod = (*self.pod).clone();
        pod.status.clone_from(&self.last);
        let log = |name: &str, restart: u32| start::log_path(&self.world, &self.pod, name, restart);
        let mut containers = BTreeMap::new();
        for (name, attempts) in &self.seen.attempts {
            if let Some(attempt) = attempts.last() {
                let view = ContainerView {
                    id: (!self.seen.cleaned).then(|| attempt.id.clone()),
                    running: attempt.running(),
                    log: Some(log(name, attempt.restart)),
                    previous_log: attempt
                        .restart
                        .checked_sub(1)
                        .map(|restart| log(name, restart)),
                };
                containers.insert(name.clone(), view);
            }
        }
        // A pod that ended before this daemon began: its logs may still be there.
        let statuses = self.last.iter().flat_map(|s| {
            s.container_statuses
                .iter()
                .flatten()
                .chain(s.init_container_statuses.iter().flatten())
        });
        for known in statuses.filter(|s| s.container_id.is_some()) {
            let restart = u32::try_from(known.restart_count).unwrap_or(0);
            containers
                .entry(known.name.clone())
                .or_insert_with(|| ContainerView {
                    id: None,
                    running: false,
                    log: Some(log(&known.name, restart)),
                    previous_log: restart
                        .checked_sub(1)
                        .map(|restart| log(&known.name, restart)),
                });
        }
        self.world.pods.put(PodView {
            uid: self.uid().to_owned(),
            pod: Arc::new(pod),
            netns: self.netns.clone(),
            ip: self.seen.ip,
            containers,
        });
    }

    fn handed(&mut self, new: Handed) {
        self.seen.gone |= new.gone;
        let downward = self.pod.metadata.labels != new.pod.metadata.labels
            || self.pod.metadata.annotations != new.pod.metadata.annotations;
        if downward {
            self.relabelled = true;
        }
        self.pod = new.pod;
        // A harsher delete brings the deadlines nearer.
        if self.pod.metadata.deletion_timestamp.is_some() {
            let nearer =
                Instant::now() + Duration::from_secs(plan::grace(&self.pod).unsigned_abs());
            for deadline in self.deadlines.values() {
                deadline.send_if_modified(|at| std::mem::replace(at, nearer.min(*at)) > nearer);
            }
        }
    }

    fn begin(&mut self, step: Step) {
        let (world, pod) = (self.world.clone(), self.pod.clone());
        match step {
            Step::CreateSandbox => {
                self.seen.sandbox = Stage::Making;
                tasks::step(&mut self.jobs, async move {
                    Done::Sandbox(steps::sandbox(&world, &pod).await)
                });
            }
            Step::SetUpVolumes => {
                self.seen.volumes = Stage::Making;
                tasks::step(&mut self.jobs, async move {
                    Done::Volumes(steps::volumes(&world, &pod).await)
                });
            }
            Step::GetImage {
                container,
                image,
                policy,
            } => {
                self.seen
                    .images
                    .insert(container.clone(), ImageState::Pulling);
                tasks::step(&mut self.jobs, async move {
                    let result = steps::image(&world, &pod, &container, &image, policy).await;
                    Done::Image(container, result)
                });
            }
            Step::Start {
                container,
                restart,
                streak,
            } => self.start(&container, restart, streak),
            Step::Stop {
                container,
                id,
                grace,
                message,
            } => self.stop(&container, id, grace, message),
            Step::Remove { container, id } => {
                if let Some(attempts) = self.seen.attempts.get_mut(&container) {
                    attempts.retain(|a| a.id != id);
                }
                self.seen.probes.remove(&id);
                tasks::step(&mut self.jobs, async move {
                    if let Err(error) = world.runtime.remove(&id).await {
                        tracing::warn!(container = id, %error, "old container not removed");
                    }
                    Done::Removed
                });
            }
            Step::BackingOff { container, message } => {
                if self.told.insert(container.clone()) {
                    self.world.events.container(
                        &self.pod,
                        &container,
                        Kind::Warning,
                        "BackOff",
                        message,
                    );
                }
            }
            Step::CleanUp => {
                self.seen.cleaning = true;
                let ids = self
                    .seen
                    .attempts
                    .values()
                    .flatten()
                    .map(|a| a.id.clone())
                    .collect();
                tasks::step(&mut self.jobs, async move {
                    steps::clean_up(&world, &pod, ids).await;
                    Done::CleanedUp
                });
            }
            Step::DeleteObject => {
                self.seen.deleting = true;
                tasks::step(&mut self.jobs, async move {
                    steps::delete(&world, &pod).await;
                    Done::Deleted
                });
            }
            Step::Again(_) => {}
        }
    }
}

/// A container of this pod has ended, or hints were missed.
async fn own_exit(exits: &mut broadcast::Receiver<ContainerExit>, uid: &str) {
    loop {
        match exits.recv().await {
            Ok(exit) if exit.pod_uid != uid => {}
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => return,
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}
