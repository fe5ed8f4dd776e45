//! The real runtime: every container is a shim process and a directory, and the directories are the
//! only memory. Whatever this process forgets when it is killed, it finds again by scanning.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::sync::broadcast;

use crate::cgroup::{Hierarchy, stats};
use crate::paths::{self, Paths, read_json, safe_name, write_atomic};
use crate::runtime::{Runtime, RuntimeError, Session};
use crate::sandbox;
use crate::shim::{Order, Report};
use crate::spec::{ContainerSpec, ExecSpec, Resources, SandboxSpec};
use crate::state::{
    Container, ContainerExit, ContainerState, Exit, Process, Sandbox, Started, Stats,
};

mod attach;
mod exec;
mod tasks;
mod terminal;

/// A shim must report within this time; then it is killed.
const START: Duration = Duration::from_secs(60);
/// How long a killed container may take to be reaped before `remove` gives up (and is called again).
const REMOVE: Duration = Duration::from_secs(10);
/// Exit hints kept for a slow receiver.
const HINTS: usize = 1024;

#[derive(Clone, Debug)]
pub struct ShimsConfig {
    /// The program to re-execute: it must dispatch `shim` and `exec-helper`.
    pub program: PathBuf,
    /// `/run/caravel`: forgotten at reboot.
    pub run: PathBuf,
    /// `/var/lib/caravel/node`: writable layers.
    pub data: PathBuf,
    /// Cgroup below which all pods are, `/caravel`.
    pub cgroup_parent: String,
}

pub struct Shims {
    config: ShimsConfig,
    paths: Paths,
    hierarchy: Hierarchy,
    exits: broadcast::Sender<ContainerExit>,
    /// Containers whose end somebody is already waiting for.
    watched: Mutex<BTreeSet<String>>,
    /// Containers and sandboxes being made: their directories are incomplete.
    starting: Mutex<BTreeSet<String>>,
    /// One pause process is revived at a time.
    reviving: tokio::sync::Mutex<()>,
    exec_number: std::sync::atomic::AtomicU64,
}

impl Shims {
    /// Makes the directories, adopts what runs, and starts to wait for its end.
    pub async fn open(config: ShimsConfig) -> Result<Arc<Shims>, RuntimeError> {
        let paths = Paths::new(&config.run, &config.data);
        for dir in [paths.containers(), paths.sandboxes(), paths.layers()] {
            std::fs::create_dir_all(&dir)
                .map_err(RuntimeError::io(format!("creating {}", dir.display())))?;
        }
        let shims = Arc::new(Shims {
            hierarchy: Hierarchy::detect(),
            paths,
            config,
            exits: broadcast::channel(HINTS).0,
            watched: Mutex::default(),
            starting: Mutex::default(),
            reviving: tokio::sync::Mutex::default(),
            exec_number: std::sync::atomic::AtomicU64::new(0),
        });
        for group in [
            format!("{}/kubepods/burstable", shims.config.cgroup_parent),
            format!("{}/kubepods/besteffort", shims.config.cgroup_parent),
        ] {
            shims
                .hierarchy
                .create(&group)
                .map_err(RuntimeError::io("creating the pods' control groups"))?;
        }
        for container in shims.list().await? {
            shims.follow(&container.spec);
        }
        shims.remove_orphaned_layers();
        Ok(shims)
    }

    /// Writable layers whose container is gone (a reboot forgets `/run`).
    fn remove_orphaned_layers(&self) {
        for entry in std::fs::read_dir(self.paths.layers())
            .into_iter()
            .flatten()
            .flatten()
        {
            let name = entry.file_name();
            if !self.paths.containers().join(&name).exists() {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
    }

    fn directory(&self, id: &str) -> Result<PathBuf, RuntimeError> {
        if !safe_name(id) {
            return Err(RuntimeError::Refused(format!(
                "{id:?} is not a container id"
            )));
        }
        Ok(self.paths.container(id))
    }

    fn sandbox_directory(&self, pod_uid: &str) -> Result<PathBuf, RuntimeError> {
        if !safe_name(pod_uid) {
            return Err(RuntimeError::Refused(format!(
                "{pod_uid:?} is not a pod uid"
            )));
        }
        Ok(self.paths.sandbox(pod_uid))
    }

    fn sandbox(&self, pod_uid: &str) -> Result<Sandbox, RuntimeError> {
        sandbox::load(&self.sandbox_directory(pod_uid)?)
            .map_err(RuntimeError::io(format!(
                "reading sandbox of pod {pod_uid}"
            )))?
            .ok_or_else(|| RuntimeError::NoSandbox(pod_uid.to_owned()))
    }

    fn group(sandbox: &Sandbox, id: &str) -> String {
        format!("{}/{id}", sandbox.cgroup)
    }

    fn read_state(&self, id: &str) -> Result<ContainerState, RuntimeError> {
        let dir = self.directory(id)?;
        let read = |what: &str| RuntimeError::io(format!("reading {what} of container {id}"));
        // The shim before the exit file: a shim that ends in between has written it by then.
        let shim: Option<Process> = read_json(&dir.join(paths::SHIM)).map_err(read(paths::SHIM))?;
        let alive = shim.is_some_and(|shim| shim.is_alive());
        if let Some(exit) = read_json::<Exit>(&dir.join(paths::EXIT)).map_err(read(paths::EXIT))? {
            return Ok(ContainerState::Exited(exit));
        }
        if !dir.join(paths::SPEC).exists() {
            return Err(RuntimeError::NoContainer(id.to_owned()));
        }
        let started: Option<Started> =
            read_json(&dir.join(paths::STARTED)).map_err(read(paths::STARTED))?;
        Ok(match started {
            Some(started) if alive => ContainerState::Running(started),
            None if alive || self.starting.lock().contains(id) => ContainerState::Creating,
            _ => ContainerState::Lost,
        })
    }

    /// Runs `caravel shim <verb> <dir>` up to its report.
    async fn shim(&self, verb: &str, dir: &Path) -> Result<Report, RuntimeError> {
        let spawn = RuntimeError::io(format!("running {}", self.config.program.display()));
        let mut child = Command::new(&self.config.program)
            .args([OsStr::new("shim"), OsStr::new(verb), dir.as_os_str()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .current_dir("/")
            .spawn()
            .map_err(spawn)?;
        let mut report = Vec::new();
        let read = async {
            if let Some(stdout) = child.stdout.take() {
                stdout.take(64 * 1024).read_to_end(&mut report).await?;
            }
            child.wait().await
        };
        match tokio::time::timeout(START, read).await {
            Ok(result) => result
                .map(drop)
                .map_err(RuntimeError::io("waiting for the shim"))?,
            Err(_) => {
                if let Ok(Some(shim)) = read_json::<Process>(&dir.join(paths::SHIM)) {
                    let _ = shim.signal(libc::SIGKILL);
                }
                return Err(RuntimeError::Timeout(START));
            }
        }
        serde_json::from_slice(&report).map_err(|_| {
            let log = std::fs::read_to_string(dir.join("shim.log")).unwrap_or_default();
            let last: String = log.chars().take(500).collect();
            RuntimeError::Refused(format!("the shim ended without a report: {last}"))
        })
    }

    /// Starts the pause process of a shared PID namespace.
    async fn pause(&self, dir: &Path, sandbox: &mut Sandbox) -> Result<(), RuntimeError> {
        match self.shim("pause", dir).await? {
            Report::Paused(pause) => {
                let group = format!("{}/pause", sandbox.cgroup);
                self.hierarchy
                    .create(&group)
                    .map_err(RuntimeError::io("creating the pause process's group"))?;
                for directory in self.hierarchy.directories(&group) {
                    let _ = std::fs::write(directory.join("cgroup.procs"), pause.pid.to_string());
                }
                sandbox.pause = Some(pause);
                sandbox.pid = Some(dir.join("pid"));
                Ok(())
            }
            Report::Failed(message) => Err(RuntimeError::Refused(message)),
            Report::Started(_) => Err(RuntimeError::Refused("unexpected report of pause".into())),
        }
    }

    /// A pause process that was killed took every process of its namespace with it: the next container
    /// gets a new one, and the pod keeps its address.
    async fn revive(&self, pod_uid: &str) -> Result<(), RuntimeError> {
        let _one = self.reviving.lock().await;
        let mut sandbox = self.sandbox(pod_uid)?;
        if sandbox.pause.is_none_or(|pause| pause.is_alive()) {
            return Ok(());
        }
        let dir = self.sandbox_directory(pod_uid)?;
        unmount_all(&dir.join("pid")).map_err(RuntimeError::io("replacing the pause process"))?;
        self.pause(&dir, &mut sandbox).await?;
        sandbox::save(&dir, &sandbox).map_err(RuntimeError::io(format!(
            "writing sandbox of pod {pod_uid}"
        )))
    }

    fn prepare(&self, dir: &Path, spec: &ContainerSpec) -> Result<(), RuntimeError> {
        let sandbox = self.sandbox(&spec.pod_uid)?;
        let order = Order {
            group: Self::group(&sandbox, &spec.id),
            layer: self.paths.layer(&spec.id),
            sandbox,
        };
        let write = || -> io::Result<()> {
            std::fs::create_dir(dir)?;
            write_atomic(&dir.join(paths::SANDBOX), &serde_json::to_vec(&order)?)?;
            write_atomic(&dir.join(paths::SPEC), &serde_json::to_vec(spec)?)
        };
        match write() {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(RuntimeError::Exists(spec.id.clone()))
            }
            result => result.map_err(RuntimeError::io(format!("writing {}", dir.display()))),
        }
    }

    /// Hints at the container's end when it comes, once per container and daemon.
    fn follow(&self, spec: &ContainerSpec) {
        let Ok(dir) = self.directory(&spec.id) else {
            return;
        };
        let Ok(Some(shim)) = read_json::<Process>(&dir.join(paths::SHIM)) else {
            return;
        };
        if self.watched.lock().insert(spec.id.clone()) {
            let hint = ContainerExit {
                id: spec.id.clone(),
                pod_uid: spec.pod_uid.clone(),
            };
            let (exit, order) = (dir.join(paths::EXIT), dir.join(paths::SANDBOX));
            let hierarchy = self.hierarchy.clone();
            let check = move || {
                // A shim that was killed leaves its container behind: it must not run beside its successor.
                if !exit.exists()
                    && let Ok(Some(order)) = read_json::<Order>(&order)
                {
                    hierarchy.kill(&order.group);
                }
            };
            tasks::hint_at_end(shim, check, hint, self.exits.clone());
        }
    }
}

/// What a removal needs on a thread of its own.
struct Cleaner {
    paths: Paths,
    hierarchy: Hierarchy,
}

impl Cleaner {
    /// Everything that a container left: processes, mounts, control group, files. Blocks.
    fn clear(&self, id: &str) -> io::Result<()> {
        let dir = self.paths.container(id);
        let order: Option<Order> = read_json(&dir.join(paths::SANDBOX)).unwrap_or(None);
        let shim: Option<Process> = read_json(&dir.join(paths::SHIM)).unwrap_or(None);
        if let Some(shim) = shim {
            shim.signal(libc::SIGKILL)?;
        }
        if let Some(order) = order {
            self.hierarchy.remove(&order.group)?;
        }
        unmount_all(&dir.join(paths::ROOTFS))?;
        for path in [self.paths.layer(id), dir] {
            match std::fs::remove_dir_all(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(io::Error::new(
                        error.kind(),
                        format!("{}: {error}", path.display()),
                    ));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn unmount_all(path: &Path) -> io::Result<()> {
    use nix::errno::Errno;
    loop {
        match nix::mount::umount2(path, nix::mount::MntFlags::MNT_DETACH) {
            Ok(()) => {}
            Err(Errno::EINVAL | Errno::ENOENT) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Takes a name out of the set of those being made, however the making ends.
struct Starting<'a>(&'a Shims, String);

impl<'a> Starting<'a> {
    fn begin(shims: &'a Shims, name: &str) -> Option<Self> {
        shims
            .starting
            .lock()
            .insert(name.to_owned())
            .then(|| Starting(shims, name.to_owned()))
    }
}

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        self.0.starting.lock().remove(&self.1);
    }
}

#[async_trait]
impl Runtime for Shims {
    async fn create_sandbox(&self, spec: SandboxSpec) -> Result<Sandbox, RuntimeError> {
        let dir = self.sandbox_directory(&spec.pod_uid)?;
        let pod_uid = spec.pod_uid.clone();
        let what = format!("creating sandbox of pod {pod_uid}");
        let Some(_making) = Starting::begin(self, &format!("sandbox {pod_uid}")) else {
            return Err(RuntimeError::Exists(format!("sandbox {pod_uid}")));
        };
        match self.sandbox(&pod_uid) {
            Ok(_) => {
                self.revive(&pod_uid).await?;
                return self.sandbox(&pod_uid);
            }
            Err(_) if dir.exists() => self.remove_sandbox(&pod_uid).await?,
            Err(_) => {}
        }
        let (share, hierarchy, parent) = (
            spec.share_pid,
            self.hierarchy.clone(),
            self.config.cgroup_parent.clone(),
        );
        let target = dir.clone();
        let made =
            tasks::on_own_thread(move || sandbox::create(&target, spec, &hierarchy, &parent)).await;
        let mut sandbox = match made {
            Ok(sandbox) => sandbox,
            Err(error) => {
                self.remove_sandbox(&pod_uid).await?;
                return Err(RuntimeError::io(what)(error));
            }
        };
        if share
            && !sandbox.spec.host_pid
            && let Err(error) = self.pause(&dir, &mut sandbox).await
        {
            self.remove_sandbox(&pod_uid).await?;
            return Err(error);
        }
        sandbox::save(&dir, &sandbox).map_err(RuntimeError::io(what))?;
        Ok(sandbox)
    }

    async fn remove_sandbox(&self, pod_uid: &str) -> Result<(), RuntimeError> {
        let dir = self.sandbox_directory(pod_uid)?;
        if !dir.exists() {
            return Ok(());
        }
        let (hierarchy, parent, uid) = (
            self.hierarchy.clone(),
            self.config.cgroup_parent.clone(),
            pod_uid.to_owned(),
        );
        tasks::on_own_thread(move || sandbox::remove(&dir, &hierarchy, &parent, &uid))
            .await
            .map_err(RuntimeError::io(format!(
                "removing sandbox of pod {pod_uid}"
            )))
    }

    async fn sandboxes(&self) -> Result<Vec<Sandbox>, RuntimeError> {
        let mut list = Vec::new();
        for name in names(&self.paths.sandboxes())? {
            match self.sandbox(&name) {
                Ok(sandbox) => list.push(sandbox),
                // Half made: to be removed by whoever asks for that pod next.
                Err(RuntimeError::NoSandbox(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(list)
    }

    async fn start(&self, spec: ContainerSpec) -> Result<Started, RuntimeError> {
        let id = spec.id.clone();
        let dir = self.directory(&id)?;
        let Some(_starting) = Starting::begin(self, &id) else {
            return Err(RuntimeError::Exists(id));
        };
        self.revive(&spec.pod_uid).await?;
        self.prepare(&dir, &spec)?;
        let failed = |message| RuntimeError::Start {
            id: id.clone(),
            message,
        };
        let result = match self.shim("run", &dir).await {
            Ok(Report::Started(started)) => {
                self.follow(&spec);
                return Ok(started);
            }
            Ok(Report::Failed(message)) => Err(failed(message)),
            Ok(Report::Paused(_)) => Err(failed("unexpected report of the shim".into())),
            Err(error) => Err(error),
        };
        self.remove(&id).await?;
        result
    }

    async fn state(&self, id: &str) -> Result<ContainerState, RuntimeError> {
        self.read_state(id)
    }

    async fn list(&self) -> Result<Vec<Container>, RuntimeError> {
        let mut list = Vec::new();
        for id in names(&self.paths.containers())? {
            let path = self.paths.container(&id).join(paths::SPEC);
            let spec: Option<ContainerSpec> = read_json(&path)
                .map_err(RuntimeError::io(format!("reading {}", path.display())))?;
            match (spec, self.read_state(&id)) {
                (Some(spec), Ok(state)) => list.push(Container { spec, state }),
                // Removed while we looked, or its making was interrupted before anything ran.
                (None, _) | (_, Err(RuntimeError::NoContainer(_))) => {}
                (_, Err(error)) => return Err(error),
            }
        }
        Ok(list)
    }

    async fn signal(&self, id: &str, signal: i32) -> Result<(), RuntimeError> {
        match self.read_state(id)? {
            ContainerState::Running(started) => {
                let process = Process {
                    pid: started.pid,
                    start_time: started.start_time,
                };
                process
                    .signal(signal)
                    .map(drop)
                    .map_err(RuntimeError::io(format!("signalling container {id}")))
            }
            ContainerState::Creating => Err(RuntimeError::NotRunning(id.to_owned())),
            ContainerState::Exited(_) => Ok(()),
            ContainerState::Lost => {
                if let Ok(Some(order)) =
                    read_json::<Order>(&self.paths.container(id).join(paths::SANDBOX))
                {
                    self.hierarchy.kill(&order.group);
                }
                Ok(())
            }
        }
    }

    async fn remove(&self, id: &str) -> Result<(), RuntimeError> {
        let dir = self.directory(id)?;
        if !dir.exists() {
            return Ok(());
        }
        // Killed first, and its shim left to write the last of the log.
        if let Ok(ContainerState::Running(_)) = self.read_state(id) {
            self.signal(id, libc::SIGKILL).await?;
            let shim: Option<Process> = read_json(&dir.join(paths::SHIM)).unwrap_or(None);
            if let Some(shim) = shim {
                let _ = tokio::time::timeout(REMOVE, tasks::end_of(shim)).await;
            }
        }
        let cleaner = Cleaner {
            paths: self.paths.clone(),
            hierarchy: self.hierarchy.clone(),
        };
        let name = id.to_owned();
        let result = tasks::on_own_thread(move || cleaner.clear(&name)).await;
        self.watched.lock().remove(id);
        result.map_err(RuntimeError::io(format!("removing container {id}")))
    }

    async fn exec(&self, id: &str, spec: ExecSpec) -> Result<Session, RuntimeError> {
        self.exec_session(id, spec).await
    }

    async fn attach(&self, id: &str, stdin: bool) -> Result<Session, RuntimeError> {
        self.attach_session(id, stdin).await
    }

    async fn stats(&self, id: &str) -> Result<Stats, RuntimeError> {
        let order: Option<Order> = read_json(&self.directory(id)?.join(paths::SANDBOX))
            .map_err(RuntimeError::io(format!("reading container {id}")))?;
        let order = order.ok_or_else(|| RuntimeError::NoContainer(id.to_owned()))?;
        let mut counters = stats::read(&self.hierarchy, &order.group);
        let upper = order.layer.join("upper");
        let (bytes, inodes) = tasks::on_own_thread(move || Ok(stats::disk(&upper)))
            .await
            .map_err(RuntimeError::io(format!("measuring container {id}")))?;
        (counters.writable_bytes, counters.writable_inodes) = (bytes, inodes);
        Ok(counters)
    }

    async fn pod_stats(&self, pod_uid: &str) -> Result<Stats, RuntimeError> {
        Ok(stats::read(&self.hierarchy, &self.sandbox(pod_uid)?.cgroup))
    }

    async fn update(&self, id: &str, resources: Resources) -> Result<(), RuntimeError> {
        let order: Option<Order> = read_json(&self.directory(id)?.join(paths::SANDBOX))
            .map_err(RuntimeError::io(format!("reading container {id}")))?;
        let order = order.ok_or_else(|| RuntimeError::NoContainer(id.to_owned()))?;
        self.hierarchy
            .limit(&order.group, &resources)
            .map_err(RuntimeError::io(format!("resizing container {id}")))
    }

    fn exits(&self) -> broadcast::Receiver<ContainerExit> {
        self.exits.subscribe()
    }
}

fn names(dir: &Path) -> Result<Vec<String>, RuntimeError> {
    let entries =
        std::fs::read_dir(dir).map_err(RuntimeError::io(format!("reading {}", dir.display())))?;
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| safe_name(name))
        .collect();
    names.sort();
    Ok(names)
}
