//! What a container needs to know of an image: its defaults and the directories of its layers.
//!
//! Plain data; reads nothing.

use std::path::PathBuf;

/// An image that is complete on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Digest of the image's configuration, `sha256:...`: the image's identity, as `status.imageID` shows it.
    pub id: String,
    /// Every name and digest reference under which it is known, normalised.
    pub references: Vec<String>,
    /// Bytes of its blobs as stored.
    pub size: u64,
    pub config: ImageConfig,
    /// Unpacked layers, topmost first: the `lowerdir` list of an overlay.
    pub layers: Vec<PathBuf>,
}

/// The part of an image's configuration that containers inherit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageConfig {
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    /// `NAME=value`, in the image's order.
    pub env: Vec<String>,
    /// As written: empty, `uid`, `user`, `uid:gid`, `user:group`.
    pub user: String,
    pub working_dir: String,
    pub stop_signal: Option<String>,
}
