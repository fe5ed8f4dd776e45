//! Why a volume is not there, in the words of upstream's `FailedMount` event.

use std::path::{Path, PathBuf};

/// What went wrong with one volume. All of them are worth another try later.
#[derive(Debug, thiserror::Error)]
#[error("MountVolume.SetUp failed for volume \"{volume}\" : {cause}")]
pub struct VolumeError {
    /// The volume's name in the Pod.
    pub volume: String,
    /// What went wrong.
    pub cause: Cause,
}

/// What can go wrong with a volume.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// An object that the volume is made from is not there.
    #[error("{kind} \"{name}\" not found")]
    NotFound {
        /// `configmap` or `secret`.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// The ConfigMap has no such key.
    #[error("configmap references non-existent config key: {0}")]
    NoConfigKey(String),
    /// The Secret has no such key.
    #[error("references non-existent secret key: {0}")]
    NoSecretKey(String),
    /// The path on the machine is not what the Pod says it is.
    #[error("hostPath type check failed: {path} is not {expected}")]
    HostPathType {
        /// On the machine.
        path: String,
        /// `a directory`, `a file`, ...
        expected: &'static str,
    },
    /// A kind of volume that this version cannot make.
    #[error("volumes of kind {0} are not supported by this version of Caravel")]
    Unsupported(&'static str),
    /// A field that cannot be told.
    #[error("{0}")]
    Field(String),
    /// A token that could not be had.
    #[error("failed to fetch token: {0}")]
    Token(String),
    /// A path inside the volume that leads out of it.
    #[error("invalid path {0:?}: must be relative and must not contain '..'")]
    BadPath(String),
    /// The system refused.
    #[error("{doing} {path}: {source}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl Cause {
    /// Names the volume that it happened to.
    pub fn of(self, volume: &str) -> VolumeError {
        VolumeError {
            volume: volume.to_owned(),
            cause: self,
        }
    }
}

/// Names the operation and the path of an I/O error.
pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Cause {
    let path = path.to_owned();
    move |source| Cause::Io {
        doing,
        path,
        source,
    }
}
