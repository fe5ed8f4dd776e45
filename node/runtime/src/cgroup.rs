//! Control groups, versions 1 and 2: the pods' tree, limits, statistics, out-of-memory kills.
//! libcontainer makes and fills the containers' own groups; everything above them is ours.
//! Layout as the kubelet's: `<parent>/kubepods[/burstable|/besteffort]/pod<uid>/<container id>`.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::spec::{Qos, Resources};

pub mod stats;

pub const ROOT: &str = "/sys/fs/cgroup";

/// Which version governs this machine and where its controllers are mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hierarchy {
    /// Folder name below `/sys/fs/cgroup` -> mount point, one per controller.
    V1 {
        controllers: BTreeMap<String, PathBuf>,
    },
    V2 {
        root: PathBuf,
    },
}

impl Hierarchy {
    pub fn detect() -> Hierarchy {
        let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        Hierarchy::parse(&mountinfo)
    }

    fn parse(mountinfo: &str) -> Hierarchy {
        let mut controllers = BTreeMap::new();
        let mut unified = None;
        for line in mountinfo.lines() {
            let Some((left, right)) = line.split_once(" - ") else {
                continue;
            };
            let Some(point) = left.split(' ').nth(4) else {
                continue;
            };
            let point = PathBuf::from(point);
            if !point.starts_with(ROOT) {
                continue;
            }
            match right.split(' ').next() {
                // Named hierarchies control nothing.
                Some("cgroup") if !right.contains("name=") => {
                    if let Some(name) = point.file_name().and_then(|name| name.to_str()) {
                        controllers.insert(name.to_owned(), point.clone());
                    }
                }
                Some("cgroup2") if point == Path::new(ROOT) => unified = Some(point),
                _ => {}
            }
        }
        match unified {
            Some(root) if controllers.is_empty() => Hierarchy::V2 { root },
            _ => Hierarchy::V1 { controllers },
        }
    }

    /// The directories of one group, one per hierarchy.
    pub fn directories(&self, group: &str) -> Vec<PathBuf> {
        let below = |mount: &Path| mount.join(group.trim_start_matches('/'));
        match self {
            Hierarchy::V1 { controllers } => {
                controllers.values().map(|mount| below(mount)).collect()
            }
            Hierarchy::V2 { root } => vec![below(root)],
        }
    }

    /// Where a version 1 controller (`memory`, `cpu`, ...) or version 2 keeps this group's files.
    pub fn directory(&self, controller: &str, group: &str) -> Option<PathBuf> {
        match self {
            Hierarchy::V2 { root } => Some(root.join(group.trim_start_matches('/'))),
            Hierarchy::V1 { controllers } => controllers
                .iter()
                .find(|(name, _)| name.split(',').any(|part| part == controller))
                .map(|(_, mount)| mount.join(group.trim_start_matches('/'))),
        }
    }

    /// Makes a group and its ancestors, with all controllers available in it.
    pub fn create(&self, group: &str) -> io::Result<()> {
        let parts: Vec<&str> = group.split('/').filter(|part| !part.is_empty()).collect();
        for depth in 1..=parts.len() {
            let group = parts[..depth].join("/");
            for directory in self.directories(&group) {
                match fs::create_dir(&directory) {
                    Ok(()) => self.prepare(&directory)?,
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                    Err(error) => return Err(named(&directory, error)),
                }
                if matches!(self, Hierarchy::V2 { .. })
                    && let Some(parent) = directory.parent()
                {
                    delegate(parent)?;
                }
            }
        }
        if let Hierarchy::V2 { root } = self {
            delegate(&root.join(parts.join("/")))?;
        }
        Ok(())
    }

    /// A new version 1 cpuset is empty and refuses processes until it has CPUs and memory nodes.
    fn prepare(&self, directory: &Path) -> io::Result<()> {
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let (own, above) = (directory.join(file), directory.join("..").join(file));
            if matches!(self, Hierarchy::V1 { .. }) && own.exists() {
                let value = fs::read_to_string(&above).map_err(|e| named(&above, e))?;
                fs::write(&own, value.trim()).map_err(|e| named(&own, e))?;
            }
        }
        Ok(())
    }

    pub fn limit(&self, group: &str, limits: &Resources) -> io::Result<()> {
        for (controller, file, value) in assignments(matches!(self, Hierarchy::V2 { .. }), limits) {
            let Some(directory) = self.directory(controller, group) else {
                continue;
            };
            let path = directory.join(file);
            fs::write(&path, value).map_err(|error| named(&path, error))?;
        }
        Ok(())
    }

    /// All processes in the group and below it.
    pub fn processes(&self, group: &str) -> Vec<i32> {
        let mut pids = Vec::new();
        // In version 1 every hierarchy holds the same processes; the first existing one is enough.
        if let Some(directory) = self
            .directories(group)
            .into_iter()
            .find(|directory| directory.exists())
        {
            gather(&directory, &mut pids);
        }
        pids
    }

    /// SIGKILL to all processes in the group and below.
    pub fn kill(&self, group: &str) {
        if let Hierarchy::V2 { root } = self
            && fs::write(
                root.join(group.trim_start_matches('/')).join("cgroup.kill"),
                "1",
            )
            .is_ok()
        {
            return;
        }
        for pid in self.processes(group) {
            let _ = nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(pid),
                nix::sys::signal::Signal::SIGKILL,
            );
        }
    }

    /// Removes the group and everything below, killing what is left in it. Blocks up to two seconds.
    pub fn remove(&self, group: &str) -> io::Result<()> {
        if group.trim_matches('/').is_empty() {
            return Err(io::Error::other(
                "refusing to remove the root control group",
            ));
        }
        let mut last = Ok(());
        for attempt in 0..40 {
            if attempt > 0 {
                self.kill(group);
                std::thread::sleep(Duration::from_millis(50));
            }
            last = self
                .directories(group)
                .iter()
                .try_for_each(|directory| remove_tree(directory));
            if last.is_ok() {
                break;
            }
        }
        last
    }
}

fn gather(directory: &Path, into: &mut Vec<i32>) {
    let procs = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    into.extend(
        procs
            .lines()
            .filter_map(|line| line.parse::<i32>().ok())
            .filter(|pid| *pid > 0),
    );
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            gather(&entry.path(), into);
        }
    }
}

fn remove_tree(directory: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(named(directory, error)),
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    match fs::remove_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(named(directory, error)),
        _ => Ok(()),
    }
}

/// Version 2: children get a controller only when their parent hands it on. Controllers that this
/// kernel or a container's manager keeps back are skipped one by one.
fn delegate(directory: &Path) -> io::Result<()> {
    let available = fs::read_to_string(directory.join("cgroup.controllers")).unwrap_or_default();
    for controller in available.split_whitespace() {
        if ["cpu", "cpuset", "io", "memory", "pids", "hugetlb"].contains(&controller) {
            let _ = fs::write(
                directory.join("cgroup.subtree_control"),
                format!("+{controller}"),
            );
        }
    }
    Ok(())
}

fn named(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// (version 1 controller, file, value)
fn assignments(unified: bool, limits: &Resources) -> Vec<(&'static str, String, String)> {
    let mut list = Vec::new();
    let mut set =
        |controller, file: &str, value: String| list.push((controller, file.to_owned(), value));
    if let Some(shares) = limits.cpu_shares.map(|shares| shares.clamp(2, 262_144)) {
        if unified {
            set("cpu", "cpu.weight", weight(shares).to_string());
        } else {
            set("cpu", "cpu.shares", shares.to_string());
        }
    }
    if let Some(quota) = limits.cpu_quota {
        let period = limits.cpu_period.unwrap_or(100_000);
        if unified {
            let quota = if quota > 0 {
                quota.to_string()
            } else {
                "max".to_owned()
            };
            set("cpu", "cpu.max", format!("{quota} {period}"));
        } else {
            set("cpu", "cpu.cfs_period_us", period.to_string());
            set(
                "cpu",
                "cpu.cfs_quota_us",
                if quota > 0 { quota } else { -1 }.to_string(),
            );
        }
    }
    if let Some(limit) = limits.memory_limit {
        let (file, none) = if unified {
            ("memory.max", "max")
        } else {
            ("memory.limit_in_bytes", "-1")
        };
        set(
            "memory",
            file,
            if limit > 0 {
                limit.to_string()
            } else {
                none.to_owned()
            },
        );
    }
    if let Some(pids) = limits.pids {
        set(
            "pids",
            "pids.max",
            if pids > 0 {
                pids.to_string()
            } else {
                "max".to_owned()
            },
        );
    }
    if let Some(cpus) = &limits.cpuset {
        set("cpuset", "cpuset.cpus", cpus.clone());
    }
    for (size, bytes) in &limits.hugepages {
        let file = if unified {
            format!("hugetlb.{size}.max")
        } else {
            format!("hugetlb.{size}.limit_in_bytes")
        };
        set("hugetlb", &file, bytes.to_string());
    }
    list
}

/// As runc converts: 2..=262144 onto 1..=10000.
fn weight(shares: u64) -> u64 {
    1 + ((shares - 2) * 9999) / 262_142
}

/// The pod's group below each hierarchy's root.
pub fn pod_group(parent: &str, qos: Qos, pod_uid: &str) -> String {
    format!("{}/pod{pod_uid}", qos_group(parent, qos))
}

pub fn qos_group(parent: &str, qos: Qos) -> String {
    let parent = parent.trim_end_matches('/');
    match qos {
        Qos::Guaranteed => format!("{parent}/kubepods"),
        Qos::Burstable => format!("{parent}/kubepods/burstable"),
        Qos::BestEffort => format!("{parent}/kubepods/besteffort"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        let v1 = "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu\n\
                  35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                  40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
                  41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                  50 31 0:38 / /run/other/memory rw - cgroup cgroup rw\n";
        let hierarchy = Hierarchy::parse(v1);
        assert_eq!(
            hierarchy.directory("cpuacct", "/a/b"),
            Some("/sys/fs/cgroup/cpu,cpuacct/a/b".into())
        );
        assert_eq!(hierarchy.directories("/a").len(), 2);
        let v2 = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(Hierarchy::parse(v2), Hierarchy::V2 { root: ROOT.into() });
    }

    #[test]
    fn files() {
        let limits = Resources {
            cpu_shares: Some(1024),
            cpu_quota: Some(10_000),
            memory_limit: Some(1 << 20),
            pids: Some(5),
            ..Resources::default()
        };
        let text = |unified| {
            assignments(unified, &limits)
                .iter()
                .map(|(_, f, v)| format!("{f}={v}"))
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(
            text(true),
            "cpu.weight=39 cpu.max=10000 100000 memory.max=1048576 pids.max=5"
        );
        assert_eq!(
            text(false),
            "cpu.shares=1024 cpu.cfs_period_us=100000 cpu.cfs_quota_us=10000 memory.limit_in_bytes=1048576 pids.max=5"
        );
        assert_eq!((weight(2), weight(262_144)), (1, 10_000));
        assert_eq!(
            pod_group("/caravel", Qos::Burstable, "u"),
            "/caravel/kubepods/burstable/podu"
        );
    }
}
