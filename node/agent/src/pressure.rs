//! Whether this machine runs short of memory, disk or process ids. Pure but for the reading at the end.
//!
//! Thresholds and the time for which a condition outlasts its cause follow pkg/kubelet/eviction, where disks are
//! counted in tenths; a large disk is not short here while 10 GiB are free. Upstream has no default for process ids.

use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use crate::machine::{self, Disk};

const LEAST_MEMORY: i64 = 100 << 20;
/// Never short of disk while this is free.
const ROOMY: i64 = 10 << 30;
/// A twentieth of the ids, and of the inodes.
const TWENTIETH: u64 = 20;
/// How long a condition stays after it was last seen, so that it does not flap.
const OUTLASTS: Duration = Duration::from_secs(300);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pressures {
    pub memory: bool,
    pub disk: bool,
    pub pids: bool,
}

/// What was read of the machine. What cannot be read is no pressure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Signals {
    pub memory_available: Option<i64>,
    /// The file systems of pods' files and of images.
    pub pods: Option<Disk>,
    pub images: Option<Disk>,
    /// Tasks in the kernel, and the most that there may be.
    pub tasks: Option<(u64, u64)>,
}

impl Signals {
    fn pressures(&self) -> Pressures {
        let short = |disk: Option<Disk>, percent: i64| {
            disk.is_some_and(|d| {
                let bytes = d.free < d.total / 100 * percent && d.free < ROOMY;
                let inodes = d.inodes > 0 && d.inodes_free < d.inodes / TWENTIETH;
                d.total > 0 && (bytes || inodes)
            })
        };
        Pressures {
            memory: self
                .memory_available
                .is_some_and(|free| free < LEAST_MEMORY),
            disk: short(self.pods, 10) || short(self.images, 15),
            pids: self
                .tasks
                .is_some_and(|(now, most)| most.saturating_sub(now) < most / TWENTIETH),
        }
    }
}

/// What was seen lately.
#[derive(Default)]
pub(crate) struct Lately {
    memory: Option<Instant>,
    disk: Option<Instant>,
    pids: Option<Instant>,
}

impl Lately {
    pub fn see(&mut self, signals: Signals, now: Instant) -> Pressures {
        let seen = signals.pressures();
        let one = |last: &mut Option<Instant>, is: bool| {
            if is {
                *last = Some(now);
            }
            last.is_some_and(|at| now.duration_since(at) < OUTLASTS)
        };
        Pressures {
            memory: one(&mut self.memory, seen.memory),
            disk: one(&mut self.disk, seen.disk),
            pids: one(&mut self.pids, seen.pids),
        }
    }
}

/// Reads small files of /proc and two file systems.
pub(crate) fn signals(pods: &Path, images: &Path) -> Signals {
    let number = |path: &str| {
        std::fs::read_to_string(path)
            .ok()?
            .trim()
            .parse::<u64>()
            .ok()
    };
    let most = ["pid_max", "threads-max"]
        .into_iter()
        .filter_map(|name| number(&format!("/proc/sys/kernel/{name}")))
        .min();
    let tasks = std::fs::read_to_string("/proc/loadavg")
        .ok()
        .and_then(|text| tasks(&text));
    Signals {
        memory_available: machine::meminfo("MemAvailable:"),
        pods: machine::disk(pods),
        images: machine::disk(images),
        tasks: tasks.zip(most),
    }
}

/// The second number of `1/234` in /proc/loadavg.
fn tasks(loadavg: &str) -> Option<u64> {
    let (_, all) = loadavg.split_whitespace().nth(3)?.split_once('/')?;
    all.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: i64 = 1 << 30;

    fn disk(total: i64, free: i64) -> Disk {
        Disk {
            total: total * GIB,
            free: free * GIB,
            inodes: 1000,
            inodes_free: 500,
        }
    }

    #[test]
    fn thresholds() {
        let few_inodes = Disk {
            inodes_free: 49,
            ..disk(100, 50)
        };
        let without_inodes = Disk {
            inodes: 0,
            inodes_free: 0,
            ..disk(100, 50)
        };
        let none = Signals::default();
        for (signals, memory, disk_short, pids) in [
            (none, false, false, false),
            (
                Signals {
                    memory_available: Some((100 << 20) - 1),
                    ..none
                },
                true,
                false,
                false,
            ),
            (
                Signals {
                    memory_available: Some(100 << 20),
                    ..none
                },
                false,
                false,
                false,
            ),
            (
                Signals {
                    pods: Some(disk(80, 7)),
                    ..none
                },
                false,
                true,
                false,
            ),
            (
                Signals {
                    pods: Some(disk(80, 9)),
                    ..none
                },
                false,
                false,
                false,
            ),
            (
                Signals {
                    images: Some(disk(60, 8)),
                    ..none
                },
                false,
                true,
                false,
            ),
            (
                Signals {
                    pods: Some(disk(1000, 11)),
                    ..none
                },
                false,
                false,
                false,
            ),
            (
                Signals {
                    pods: Some(few_inodes),
                    ..none
                },
                false,
                true,
                false,
            ),
            (
                Signals {
                    pods: Some(without_inodes),
                    ..none
                },
                false,
                false,
                false,
            ),
            (
                Signals {
                    tasks: Some((951, 1000)),
                    ..none
                },
                false,
                false,
                true,
            ),
            (
                Signals {
                    tasks: Some((950, 1000)),
                    ..none
                },
                false,
                false,
                false,
            ),
        ] {
            let expected = Pressures {
                memory,
                disk: disk_short,
                pids,
            };
            assert_eq!(signals.pressures(), expected, "{signals:?}");
        }
    }

    #[test]
    fn a_condition_outlasts_its_cause() {
        let mut lately = Lately::default();
        let begun = Instant::now();
        let short = Signals {
            tasks: Some((1000, 1000)),
            ..Signals::default()
        };
        assert!(!lately.see(Signals::default(), begun).pids);
        assert!(lately.see(short, begun).pids);
        assert!(lately.see(Signals::default(), begun + OUTLASTS / 2).pids);
        assert!(!lately.see(Signals::default(), begun + OUTLASTS).pids);
    }

    #[test]
    fn this_machine_can_be_read() {
        assert_eq!(tasks("0.03 0.03 0.04 2/413 12345\n"), Some(413));
        let seen = signals(Path::new("/"), Path::new("/"));
        assert!(seen.memory_available.is_some() && seen.pods.is_some());
        assert!(seen.tasks.is_some_and(|(now, most)| 0 < now && now < most));
    }
}
