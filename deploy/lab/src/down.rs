//! Taking a lab away so that nothing of it is left. Works from the directory alone, in any state, more than once.

use crate::layout::Layout;
use crate::record::Record;
use crate::{cgroups, links};
use anyhow::Context as _;
use nix::mount::{MntFlags, umount2};
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(15);
const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";

/// Ends and removes everything, then the directory.
pub fn down(layout: &Layout) -> anyhow::Result<()> {
    anyhow::ensure!(
        nix::unistd::geteuid().is_root(),
        "a lab belongs to root: run it as root"
    );
    let record = Record::load(layout).ok();
    remove_all(layout)?;
    if record.is_some_and(|r| r.forwarding_was_off) && !other_labs()? {
        let _ = fs::write(FORWARDING, "0");
    }
    match fs::remove_dir_all(layout.dir()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", layout.dir().display()))
        }
        _ => Ok(()),
    }
}

/// Everything but the directory and its record. In this order: who could make more goes first.
pub fn remove_all(layout: &Layout) -> anyhow::Result<()> {
    let begun = Instant::now();
    let step = |what: &str| tracing::debug!(after = ?begun.elapsed(), "{what}");
    cgroups::kill_all(&layout.cgroup(), PATIENCE)?;
    step("ended the processes");
    unmount(layout)?;
    step("unpinned the namespaces");
    links::remove(layout)?;
    step("removed links and rules");
    cgroups::remove(&layout.cgroup())?;
    step("removed the cgroups");
    for dir in ["hosts", "pids", "ns"] {
        let dir = layout.dir().join(dir);
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("remove {}", dir.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Mounts under the lab's directory in this namespace: the pins. With them go the hosts' namespaces and all mounts in these.
fn unmount(layout: &Layout) -> anyhow::Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let mut points: Vec<PathBuf> = mounts
        .lines()
        .filter_map(|l| l.split(' ').nth(1))
        .map(unescape)
        .filter(|p| p.starts_with(layout.dir()))
        .collect();
    points.reverse();
    for point in points {
        umount2(&point, MntFlags::MNT_DETACH)
            .with_context(|| format!("unmount {}", point.display()))?;
    }
    Ok(())
}

/// The kernel writes blanks in mount points as `\040`.
fn unescape(point: &str) -> PathBuf {
    PathBuf::from(
        point
            .replace("\\040", " ")
            .replace("\\011", "\t")
            .replace("\\134", "\\"),
    )
}

fn other_labs() -> anyhow::Result<bool> {
    Ok(fs::read_dir("/sys/class/net")?
        .flatten()
        .any(|e| e.file_name().to_string_lossy().starts_with("cvl")))
}
