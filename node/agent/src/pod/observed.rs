//! What an actor has seen of its pod: containers, images, volumes, probes, and what is under way.
//!
//! Plain values; the only input of `plan` and `status` beside the Pod.

use std::collections::BTreeMap;
use std::net::IpAddr;

use caravel_runtime::{ContainerState, Exit};
use jiff::Timestamp;

use crate::admission::Refusal;

/// Labels on the runtime's containers, by which a new daemon knows them again.
pub(crate) mod label {
    pub const CONTAINER: &str = "io.kubernetes.container.name";
    pub const RESTART: &str = "io.kubernetes.container.restartCount";
    pub const STREAK: &str = "caravel.io/restart-streak";
    pub const IMAGE: &str = "caravel.io/image";
    pub const IMAGE_ID: &str = "caravel.io/image-id";
    /// The image as the Pod asked for it: another one is another container.
    pub const ASKED: &str = "caravel.io/image-asked";
    pub const STOP_SIGNAL: &str = "caravel.io/stop-signal";
    pub const TERMINATION: &str = "caravel.io/termination-message";
    pub const NAMESPACE: &str = "io.kubernetes.pod.namespace";
    pub const POD: &str = "io.kubernetes.pod.name";
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Observed {
    /// This node does not take the pod.
    pub refused: Option<Refusal>,
    pub sandbox: Stage<()>,
    /// The pod's address: its own, or the machine's on the host network.
    pub ip: Option<IpAddr>,
    pub host_ip: Option<IpAddr>,
    pub volumes: Stage<()>,
    /// By container name, oldest attempt first. At most two are kept.
    pub attempts: BTreeMap<String, Vec<Attempt>>,
    pub images: BTreeMap<String, ImageState>,
    /// Why a container could not be made, until it can.
    pub failures: BTreeMap<String, StartFailure>,
    /// By container id.
    pub probes: BTreeMap<String, Probes>,
    /// Containers being stopped, by id: when at the latest they get SIGKILL.
    pub stopping: BTreeMap<String, Timestamp>,
    /// Running containers that must not go on, by id.
    pub condemned: BTreeMap<String, Condemned>,
    /// Container names whose start is under way.
    pub starting: std::collections::BTreeSet<String>,
    /// Steps of the pod's end that are under way or done.
    pub cleaning: bool,
    pub cleaned: bool,
    pub deleting: bool,
    /// A status write that must come before the pod may be deleted.
    pub written: bool,
    /// The object is gone from the API server (or never was: an orphan).
    pub gone: bool,
}

/// Something that must be made once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Stage<T> {
    #[default]
    Absent,
    Making,
    Ready(T),
    /// Tried again at this time.
    Failed {
        message: String,
        again: Timestamp,
    },
}

impl<T> Stage<T> {
    pub fn is_ready(&self) -> bool {
        matches!(self, Self::Ready(_))
    }
}

/// One start of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attempt {
    pub id: String,
    pub restart: u32,
    /// Restarts in a row that led to this one.
    pub streak: u32,
    pub image: String,
    pub image_id: String,
    pub asked: String,
    pub state: ContainerState,
    /// From its termination message file, once it has ended.
    pub message: Option<String>,
    /// When it was first seen as lost, which has no exit time of its own.
    pub seen: Timestamp,
    /// It was created and could not run; its message says why.
    pub start_failed: bool,
}

/// Why a container must not go on, and how long it may take to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Condemned {
    pub message: String,
    pub grace: Option<i64>,
}

impl Attempt {
    pub fn running(&self) -> bool {
        self.state.is_running()
    }

    /// How it ended. A lost container counts as killed.
    pub fn exit(&self) -> Option<Exit> {
        match &self.state {
            ContainerState::Exited(exit) => Some(exit.clone()),
            ContainerState::Lost => Some(Exit {
                code: 137,
                signal: Some(9),
                oom: false,
                started_at: self.seen,
                finished_at: self.seen,
            }),
            ContainerState::Creating | ContainerState::Running(_) => None,
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum ImageState {
    #[default]
    Unknown,
    Pulling,
    Present,
    /// `reason` is ErrImagePull, InvalidImageName or ErrImageNeverPull.
    Failed {
        reason: &'static str,
        message: String,
        failures: u32,
        again: Timestamp,
    },
}

/// A container that could not be created or started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StartFailure {
    pub reason: &'static str,
    pub message: String,
    pub failures: u32,
    pub again: Timestamp,
}

/// What the probes of one container say. Without a probe the answer is the favourable one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Probes {
    /// The postStart hook has ended well, or there is none.
    pub hooked: bool,
    pub started: bool,
    pub ready: bool,
}
