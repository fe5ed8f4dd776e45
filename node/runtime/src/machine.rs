//! What this machine lets a container have: observed once by the process that starts it, so that the
//! specification can be built by a pure function.

use std::collections::BTreeSet;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::capabilities;
use crate::cgroup::{self, Hierarchy};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceNode {
    pub path: PathBuf,
    pub block: bool,
    pub major: i64,
    pub minor: i64,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

impl DeviceNode {
    /// None when `path` is not a device.
    pub fn read(path: &Path) -> std::io::Result<Option<DeviceNode>> {
        let meta = std::fs::metadata(path)?;
        let block = meta.file_type().is_block_device();
        if !block && !meta.file_type().is_char_device() {
            return Ok(None);
        }
        Ok(Some(DeviceNode {
            path: path.to_owned(),
            block,
            major: libc::major(meta.rdev()) as i64,
            minor: libc::minor(meta.rdev()) as i64,
            mode: meta.mode() & 0o7777,
            uid: meta.uid(),
            gid: meta.gid(),
        }))
    }
}

#[derive(Clone, Debug)]
pub struct Machine {
    pub hierarchy: Hierarchy,
    pub bounding: BTreeSet<&'static str>,
    /// Soft and hard RLIMIT_NOFILE of this process: what may be given on.
    pub open_files: (u64, u64),
    /// All device nodes below `/dev`, for privileged containers.
    pub devices: Vec<DeviceNode>,
}

impl Machine {
    pub fn observe(with_devices: bool) -> std::io::Result<Machine> {
        let status = std::fs::read_to_string("/proc/self/status")?;
        let open_files =
            nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)?;
        let mut devices = Vec::new();
        if with_devices {
            collect(Path::new("/dev"), 0, &mut devices);
        }
        Ok(Machine {
            hierarchy: cgroup::Hierarchy::detect(),
            bounding: capabilities::bounding(&status),
            open_files,
            devices,
        })
    }
}

/// Upstream skips the same folders: they belong to the container's own `/dev`.
const OWN: &[&str] = &[
    "pts",
    "shm",
    "fd",
    "mqueue",
    "console",
    "ptmx",
    ".lxc",
    ".lxd-mounts",
];

fn collect(directory: &Path, depth: u32, into: &mut Vec<DeviceNode>) {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten() {
        if OWN.iter().any(|own| entry.file_name() == *own) {
            continue;
        }
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        if kind.is_dir() && depth < 4 {
            collect(&entry.path(), depth + 1, into);
        } else if (kind.is_block_device() || kind.is_char_device())
            && let Ok(Some(node)) = DeviceNode::read(&entry.path())
        {
            into.push(node);
        }
    }
    into.sort_by(|a, b| a.path.cmp(&b.path));
}
