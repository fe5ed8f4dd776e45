//! Where the runtime keeps things. `run` (`/run/caravel`) forgets at reboot, together with the
//! processes it describes; `data` (`/var/lib/caravel/node`) holds writable layers.

use std::path::{Path, PathBuf};

/// File names inside a container's directory; the shim and the daemon agree on them.
pub const SPEC: &str = "spec.json";
pub const SANDBOX: &str = "sandbox.json";
/// Written by the shim first: its own pid and start time.
pub const SHIM: &str = "shim.json";
/// Written once the container's process runs.
pub const STARTED: &str = "started.json";
/// Written last.
pub const EXIT: &str = "exit.json";
pub const SOCKET: &str = "shim.sock";
pub const ROOTFS: &str = "rootfs";
/// libcontainer's own state lies in `<dir>/<LIBCONTAINER_ID>`: short, for the socket paths in it.
pub const LIBCONTAINER_ID: &str = "c";

#[derive(Clone, Debug)]
pub struct Paths {
    run: PathBuf,
    data: PathBuf,
}

impl Paths {
    pub fn new(run: impl Into<PathBuf>, data: impl Into<PathBuf>) -> Self {
        Paths {
            run: run.into(),
            data: data.into(),
        }
    }
    pub fn containers(&self) -> PathBuf {
        self.run.join("containers")
    }
    pub fn container(&self, id: &str) -> PathBuf {
        self.containers().join(id)
    }
    pub fn sandboxes(&self) -> PathBuf {
        self.run.join("sandboxes")
    }
    pub fn sandbox(&self, pod_uid: &str) -> PathBuf {
        self.sandboxes().join(pod_uid)
    }
    pub fn layers(&self) -> PathBuf {
        self.data.join("containers")
    }
    /// Holds `upper` and `work` of the container's overlay.
    pub fn layer(&self, id: &str) -> PathBuf {
        self.layers().join(id)
    }
}

/// Whether a string may become a file name here: ids and pod uids come from outside.
pub fn safe_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 64
        && !name.starts_with('.')
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.' || b == b'_')
}

/// Writes a file so that a reader sees the old or the new content, never a part.
pub fn write_atomic(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    std::fs::write(&temporary, content)?;
    std::fs::rename(&temporary, path)
}

/// A JSON file's value; None when there is no such file.
pub fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> std::io::Result<Option<T>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn names() {
        for (name, safe) in [
            ("abc-1", true),
            ("", false),
            ("..", false),
            ("a/b", false),
            (".x", false),
        ] {
            assert_eq!(super::safe_name(name), safe, "{name}");
        }
    }
}
