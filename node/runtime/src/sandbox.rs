//! A pod's namespaces, `/dev/shm` and control group: made once, kept by bind mounts, found again by a
//! restarted daemon. A pause process exists only for a shared PID namespace.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use crate::cgroup::{self, Hierarchy};
use crate::paths::{self, read_json, write_atomic};
use crate::spec::SandboxSpec;
use crate::state::Sandbox;

const FILE: &str = "sandbox.json";
const SHM: u64 = 64 * 1024 * 1024;

fn named(what: impl std::fmt::Display) -> impl FnOnce(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{what}: {error}"))
}

pub fn load(dir: &Path) -> io::Result<Option<Sandbox>> {
    read_json(&dir.join(FILE))
}

pub fn save(dir: &Path, sandbox: &Sandbox) -> io::Result<()> {
    write_atomic(&dir.join(FILE), &serde_json::to_vec(sandbox)?)
}

/// All but the pause process. To be called on a thread of its own that then ends: it leaves the
/// machine's namespaces.
pub fn create(
    dir: &Path,
    spec: SandboxSpec,
    hierarchy: &Hierarchy,
    parent: &str,
) -> io::Result<Sandbox> {
    fs::create_dir_all(dir)?;
    let group = cgroup::pod_group(parent, spec.qos, &spec.pod_uid);
    hierarchy
        .create(&group)
        .map_err(named("pod control group"))?;
    hierarchy
        .limit(&group, &spec.resources)
        .map_err(named("pod control group"))?;
    let shm = (!spec.host_ipc).then(|| dir.join("shm"));
    if let Some(shm) = &shm {
        fs::create_dir_all(shm)?;
        let data = format!("mode=1777,size={}", spec.shm_size.unwrap_or(SHM));
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("shm"), shm, Some("tmpfs"), flags, Some(data.as_str()))
            .map_err(io::Error::from)
            .map_err(named("mounting /dev/shm"))?;
    }
    let net = !spec.host_network;
    let mut flags = CloneFlags::empty();
    if net {
        flags |= CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWUTS;
    }
    if !spec.host_ipc {
        flags |= CloneFlags::CLONE_NEWIPC;
    }
    unshare(flags)
        .map_err(io::Error::from)
        .map_err(named("new namespaces"))?;
    if net {
        nix::unistd::sethostname(&spec.hostname)
            .map_err(io::Error::from)
            .map_err(named("host name"))?;
        loopback_up().map_err(named("loopback"))?;
    }
    for (name, value) in &spec.sysctls {
        sysctl(name, value).map_err(named(format!("sysctl {name}")))?;
    }
    let keep = |name: &str, wanted: bool| -> io::Result<Option<PathBuf>> {
        if !wanted {
            return Ok(None);
        }
        let target = dir.join(name);
        File::create(&target)?;
        let source = format!("/proc/thread-self/ns/{name}");
        mount(
            Some(source.as_str()),
            &target,
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )
        .map_err(io::Error::from)
        .map_err(named(target.display()))?;
        Ok(Some(target))
    };
    Ok(Sandbox {
        netns: keep("net", net)?,
        uts: keep("uts", net)?,
        ipc: keep("ipc", !spec.host_ipc)?,
        pid: None,
        pause: None,
        shm,
        cgroup: group,
        created_at: jiff::Timestamp::now(),
        spec,
    })
}

/// Undoes everything, also what a failed or interrupted `create` left. Blocks.
pub fn remove(dir: &Path, hierarchy: &Hierarchy, parent: &str, pod_uid: &str) -> io::Result<()> {
    let sandbox = load(dir).unwrap_or(None);
    let pause = sandbox.as_ref().and_then(|sandbox| sandbox.pause);
    let pause = pause.or(read_json(&dir.join(paths::SHIM)).unwrap_or(None));
    if let Some(pause) = pause {
        pause.signal(libc::SIGKILL)?;
    }
    for name in ["net", "uts", "ipc", "pid", "shm"] {
        unmount(&dir.join(name))?;
    }
    match sandbox {
        Some(sandbox) => hierarchy.remove(&sandbox.cgroup)?,
        None => {
            use crate::spec::Qos;
            for qos in [Qos::Guaranteed, Qos::Burstable, Qos::BestEffort] {
                hierarchy.remove(&cgroup::pod_group(parent, qos, pod_uid))?;
            }
        }
    }
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(named(dir.display())(error)),
        _ => Ok(()),
    }
}

fn unmount(path: &Path) -> io::Result<()> {
    loop {
        match umount2(path, MntFlags::MNT_DETACH) {
            Ok(()) => {}
            // Not a mount point (any more), or nothing there.
            Err(Errno::EINVAL | Errno::ENOENT) => return Ok(()),
            Err(errno) => return Err(named(path.display())(errno.into())),
        }
    }
}

fn sysctl(name: &str, value: &str) -> io::Result<()> {
    // `net/ipv4/conf/eth0.1/x` is as valid as dots, and then dots belong to names.
    let path = if name.contains('/') {
        name.to_owned()
    } else {
        name.replace('.', "/")
    };
    if path.split('/').any(|part| part == ".." || part.is_empty()) {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    fs::OpenOptions::new()
        .write(true)
        .open(Path::new("/proc/sys").join(path))?
        .write_all(value.as_bytes())
}

fn loopback_up() -> io::Result<()> {
    crate::fds::link_up(b"lo")
}
