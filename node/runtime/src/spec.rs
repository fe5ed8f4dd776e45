//! What the caller asks for: sandboxes, containers, exec sessions. Plain values, stored as JSON in
//! the state directory so that a later version of the daemon can read what an earlier one started:
//! fields are only ever added, with a default.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::runtime::Size;

/// Quality of service of a pod: which cgroup parent it gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Qos {
    Guaranteed,
    Burstable,
    #[default]
    BestEffort,
}

/// A pod's shared namespaces, `/dev/shm` and cgroup parent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SandboxSpec {
    pub pod_uid: String,
    /// Opaque to the runtime; handed back by `sandboxes()`.
    pub labels: BTreeMap<String, String>,
    pub hostname: String,
    pub host_network: bool,
    pub host_ipc: bool,
    pub host_pid: bool,
    /// One PID namespace for all containers (`shareProcessNamespace`), kept by a pause process.
    pub share_pid: bool,
    pub sysctls: BTreeMap<String, String>,
    pub qos: Qos,
    /// Limits of the pod's cgroup (sum over its containers); zero/None fields are left alone.
    pub resources: Resources,
    /// Bytes of `/dev/shm`; 64 MiB when absent.
    pub shm_size: Option<u64>,
}

/// Limits as the cgroup wants them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// cgroup v1 `cpu.shares` (2..=262144); converted to `cpu.weight` on v2.
    pub cpu_shares: Option<u64>,
    /// Microseconds per `cpu_period`; None or <= 0 means no limit.
    pub cpu_quota: Option<i64>,
    /// Microseconds; 100000 when absent.
    pub cpu_period: Option<u64>,
    pub cpuset: Option<String>,
    /// Bytes.
    pub memory_limit: Option<i64>,
    pub pids: Option<i64>,
    /// Page size as the kernel names it (`2MB`) -> bytes.
    pub hugepages: BTreeMap<String, u64>,
}

/// Who the process runs as: the image's `USER` and the pod's overrides. Names are resolved in the
/// container's own `/etc/passwd` and `/etc/group`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UserSpec {
    /// The image configuration's `User`: `""`, `name`, `uid`, `name:group`, `uid:gid`.
    pub image: String,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    /// `supplementalGroups` and `fsGroup`.
    pub supplemental: Vec<u32>,
    /// `supplementalGroupsPolicy: Strict`: groups of the image's /etc/group are not added.
    pub strict_groups: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    #[default]
    Private,
    HostToContainer,
    Bidirectional,
}

/// A bind mount from the host into the container. `target` is an absolute path in the container;
/// it is created when missing (a file when `source` is a file).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Mount {
    pub source: PathBuf,
    pub target: PathBuf,
    pub read_only: bool,
    /// Also submounts are read-only (`recursiveReadOnly`).
    pub recursive_read_only: bool,
    pub propagation: Propagation,
}

impl Mount {
    /// A private bind mount.
    pub fn bind(source: impl Into<PathBuf>, target: impl Into<PathBuf>, read_only: bool) -> Self {
        Mount {
            source: source.into(),
            target: target.into(),
            read_only,
            ..Mount::default()
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Seccomp {
    #[default]
    Unconfined,
    RuntimeDefault,
    /// An OCI seccomp profile (JSON) on this machine.
    Localhost(PathBuf),
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Security {
    pub privileged: bool,
    /// With or without `CAP_`; `ALL` is allowed.
    pub add_capabilities: Vec<String>,
    pub drop_capabilities: Vec<String>,
    /// `allowPrivilegeEscalation: false`.
    pub no_new_privileges: bool,
    pub read_only_root: bool,
    pub seccomp: Seccomp,
    /// `procMount: Unmasked`.
    pub unmasked_proc: bool,
}

/// Which PID namespace the container's first process is in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PidMode {
    /// As the sandbox says: host, shared or a new one.
    #[default]
    Sandbox,
    /// That of another running container (`targetContainerName` of an ephemeral container).
    Container(String),
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Device {
    pub source: PathBuf,
    pub target: PathBuf,
    /// Of `r`, `w`, `m`.
    pub permissions: String,
}

/// Where the CRI log goes. The shim rotates: `path`, `path.<timestamp>`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogSpec {
    /// Absent: output is discarded (still seen by attach).
    pub path: Option<PathBuf>,
    /// Bytes after which the file is rotated.
    pub max_size: u64,
    /// Files kept, the current one included; at least 2.
    pub max_files: u32,
}

impl Default for LogSpec {
    fn default() -> Self {
        LogSpec {
            path: None,
            max_size: 10 * 1024 * 1024,
            max_files: 5,
        }
    }
}

/// One container in an existing sandbox.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerSpec {
    /// Unique on the node, `[a-z0-9-]`, at most 48 characters: socket paths are short.
    pub id: String,
    pub pod_uid: String,
    /// Opaque to the runtime; handed back by `list()`.
    pub labels: BTreeMap<String, String>,
    /// Unpacked image layers, topmost first; never written to.
    pub lower: Vec<PathBuf>,
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    /// `/` when absent. Created when the image lacks it.
    pub cwd: Option<PathBuf>,
    pub user: UserSpec,
    pub mounts: Vec<Mount>,
    pub resources: Resources,
    /// Clamped to what this machine lets the daemon set.
    pub oom_score_adj: Option<i32>,
    pub security: Security,
    pub pid: PidMode,
    pub devices: Vec<Device>,
    pub tty: bool,
    pub stdin: bool,
    /// The container's stdin closes when the first attached client goes.
    pub stdin_once: bool,
    pub log: LogSpec,
}

/// A process to run in a running container, with the container's own user, environment and limits.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExecSpec {
    pub args: Vec<String>,
    pub tty: bool,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    /// Added to the container's environment.
    pub env: Vec<(String, String)>,
    pub size: Option<Size>,
}
