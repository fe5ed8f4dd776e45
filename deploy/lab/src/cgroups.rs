//! A lab's cgroups: one subtree per host in every hierarchy. They are also how its processes are found and ended.
//!
//! A host's daemons begin in `<host>/system`, whatever they start stays below `<host>`, and nothing leaves.

use anyhow::Context as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Where daemons start, below their host's cgroup.
pub const SYSTEM: &str = "system";

/// The mount points of all cgroup hierarchies of this machine.
pub fn hierarchies() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut found: Vec<PathBuf> = mounts
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            let (point, kind) = (words.nth(1)?, words.next()?);
            matches!(kind, "cgroup" | "cgroup2").then(|| PathBuf::from(point))
        })
        .collect();
    found.dedup();
    found
}

/// Makes `path` in every hierarchy, ready for processes.
pub fn create(path: &str) -> anyhow::Result<()> {
    for root in hierarchies() {
        let mut at = root.clone();
        for part in path.split('/').filter(|p| !p.is_empty()) {
            delegate(&at);
            let parent = at.clone();
            at.push(part);
            match fs::create_dir(&at) {
                Ok(()) => inherit_cpuset(&parent, &at),
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(e) => {
                    return Err(e).with_context(|| format!("make the cgroup {}", at.display()));
                }
            }
        }
    }
    Ok(())
}

/// cgroup v2: children get the controllers. Not possible in the root of a machine that has given them to v1.
fn delegate(cgroup: &Path) {
    if let Ok(available) = fs::read_to_string(cgroup.join("cgroup.controllers")) {
        for controller in available.split_whitespace() {
            let _ = fs::write(
                cgroup.join("cgroup.subtree_control"),
                format!("+{controller}"),
            );
        }
    }
}

/// cgroup v1: a new cpuset is empty, and takes no process before it has CPUs and memory nodes.
fn inherit_cpuset(parent: &Path, child: &Path) {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if let Ok(value) = fs::read(parent.join(file)) {
            let _ = fs::write(child.join(file), value);
        }
    }
}

/// The files to which a process writes "0" to be in `path` everywhere.
pub fn entrances(path: &str) -> Vec<PathBuf> {
    hierarchies()
        .into_iter()
        .map(|root| root.join(path.trim_start_matches('/')).join("cgroup.procs"))
        .filter(|p| p.exists())
        .collect()
}

/// All processes in `path` and below, in any hierarchy.
pub fn processes(path: &str) -> BTreeSet<i32> {
    let mut pids = BTreeSet::new();
    for root in hierarchies() {
        visit(&root.join(path.trim_start_matches('/')), &mut |dir| {
            pids.extend(
                fs::read_to_string(dir.join("cgroup.procs"))
                    .unwrap_or_default()
                    .lines()
                    .filter_map(|l| l.parse::<i32>().ok()),
            );
        });
    }
    pids
}

/// SIGKILL until nothing is left in `path`.
pub fn kill_all(path: &str, patience: Duration) -> anyhow::Result<()> {
    let end = Instant::now() + patience;
    loop {
        let pids = processes(path);
        if pids.is_empty() {
            return Ok(());
        }
        anyhow::ensure!(
            Instant::now() < end,
            "processes of the lab do not end: {pids:?}"
        );
        for pid in pids {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        thaw(path);
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A frozen process does not hear SIGKILL (v1).
fn thaw(path: &str) {
    for root in hierarchies() {
        visit(&root.join(path.trim_start_matches('/')), &mut |dir| {
            let state = dir.join("freezer.state");
            if state.exists() {
                let _ = fs::write(state, "THAWED");
            }
        });
    }
}

/// Removes `path` and everything below it, in all hierarchies. Nothing may run there.
pub fn remove(path: &str) -> anyhow::Result<()> {
    let end = Instant::now() + Duration::from_secs(5);
    for root in hierarchies() {
        let top = root.join(path.trim_start_matches('/'));
        loop {
            let mut dirs = Vec::new();
            visit(&top, &mut |dir| dirs.push(dir.to_owned()));
            // Deepest first; the kernel may need a moment after the last process.
            let refused = dirs
                .iter()
                .rev()
                .filter_map(|dir| fs::remove_dir(dir).err())
                .find(|e| e.kind() != std::io::ErrorKind::NotFound);
            match refused {
                None => break,
                Some(error) if Instant::now() >= end => {
                    return Err(error)
                        .with_context(|| format!("remove the cgroup {}", top.display()));
                }
                Some(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }
    Ok(())
}

/// Parents before children.
fn visit(dir: &Path, see: &mut dyn FnMut(&Path)) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    see(dir);
    for entry in entries
        .flatten()
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
    {
        visit(&entry.path(), see);
    }
}
