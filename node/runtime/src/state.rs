//! What the runtime knows about what it runs.

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::spec::{ContainerSpec, SandboxSpec};

/// A process of this boot: the pid alone could have been reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pub pid: i32,
    /// Clock ticks since boot (`/proc/<pid>/stat` field 22).
    pub start_time: u64,
}

/// What `create_sandbox` made. Paths are bind mounts of namespaces; absent where the pod uses the
/// host's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sandbox {
    pub spec: SandboxSpec,
    pub netns: Option<PathBuf>,
    pub ipc: Option<PathBuf>,
    pub uts: Option<PathBuf>,
    pub pid: Option<PathBuf>,
    pub pause: Option<Process>,
    /// The tmpfs that all containers of the pod mount at `/dev/shm`.
    pub shm: Option<PathBuf>,
    /// Path of the pod's cgroup below each controller's mount point.
    pub cgroup: String,
    pub created_at: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    pub pid: i32,
    pub start_time: u64,
    pub started_at: Timestamp,
}

/// How a container ended. Written by the shim before it exits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// As a shell reports it: 128 + signal when killed.
    pub code: i32,
    pub signal: Option<i32>,
    /// A process of it was killed for exceeding the memory limit and it did not end with 0.
    pub oom: bool,
    pub started_at: Timestamp,
    pub finished_at: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContainerState {
    /// The shim has been started and has not yet reported.
    Creating,
    Running(Started),
    Exited(Exit),
    /// The shim died without writing a status (kill -9 of the shim); the container was killed with it.
    Lost,
}

impl ContainerState {
    pub fn is_running(&self) -> bool {
        matches!(self, ContainerState::Running(_) | ContainerState::Creating)
    }
}

/// One container as `list()` finds it on disk.
#[derive(Clone, Debug, PartialEq)]
pub struct Container {
    pub spec: ContainerSpec,
    pub state: ContainerState,
}

impl Container {
    pub fn id(&self) -> &str {
        &self.spec.id
    }
    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.spec.labels
    }
}

/// "Look again": this container has ended. Carries no other truth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerExit {
    pub id: String,
    pub pod_uid: String,
}

/// Counters of one cgroup, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Nanoseconds of CPU used since the cgroup was made.
    pub cpu_nanos: u64,
    pub memory_usage: u64,
    /// Usage without inactive file pages: what eviction and `kubectl top` look at.
    pub memory_working_set: u64,
    pub memory_rss: u64,
    pub memory_limit: Option<u64>,
    pub page_faults: u64,
    pub major_page_faults: u64,
    pub pids: u64,
    /// Bytes in the container's writable layer and inodes used there; zero for a pod.
    pub writable_bytes: u64,
    pub writable_inodes: u64,
}
