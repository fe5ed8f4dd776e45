//! What this machine is: size, kernel, system, identity. Read once at the start.
//!
//! Nothing here changes while the daemon runs; an unreadable fact is empty, as the kubelet reports it.

use std::fs;

#[derive(Clone, Debug, Default)]
pub(crate) struct Machine {
    pub cpu_milli: i64,
    /// Bytes.
    pub memory: i64,
    pub hostname: String,
    pub machine_id: String,
    pub system_uuid: String,
    pub boot_id: String,
    pub kernel: String,
    pub os_image: String,
    /// Bytes of the file system that holds pods.
    pub storage: i64,
}

impl Machine {
    pub fn read(storage: &std::path::Path) -> Self {
        let text = |path: &str| {
            fs::read_to_string(path)
                .unwrap_or_default()
                .trim()
                .to_owned()
        };
        let uname = nix::sys::utsname::uname().ok();
        let of = |value: Option<&std::ffi::OsStr>| {
            value.unwrap_or_default().to_string_lossy().into_owned()
        };
        Self {
            cpu_milli: std::thread::available_parallelism()
                .map_or(1, |n| i64::try_from(n.get()).unwrap_or(1))
                * 1000,
            memory: meminfo("MemTotal:").unwrap_or_default(),
            hostname: of(uname.as_ref().map(|u| u.nodename())),
            machine_id: text("/etc/machine-id"),
            system_uuid: text("/sys/class/dmi/id/product_uuid"),
            boot_id: text("/proc/sys/kernel/random/boot_id"),
            kernel: of(uname.as_ref().map(|u| u.release())),
            os_image: text("/etc/os-release")
                .lines()
                .find_map(|l| l.strip_prefix("PRETTY_NAME="))
                .map(|v| v.trim_matches('"').to_owned())
                .unwrap_or_else(|| "Linux".into()),
            storage: disk(storage).map_or(0, |d| d.total),
        }
    }
}

/// Bytes of one line of /proc/meminfo.
pub(crate) fn meminfo(name: &str) -> Option<i64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix(name))?;
    line.split_whitespace()
        .next()?
        .parse::<i64>()
        .ok()
        .map(|kib| kib * 1024)
}

/// One file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Disk {
    /// Bytes.
    pub total: i64,
    pub free: i64,
    /// Zero where the file system makes them as it goes.
    pub inodes: u64,
    pub inodes_free: u64,
}

pub(crate) fn disk(path: &std::path::Path) -> Option<Disk> {
    let stat = nix::sys::statvfs::statvfs(path).ok()?;
    let size = i64::try_from(stat.fragment_size()).ok()?;
    let bytes = |blocks: u64| {
        i64::try_from(blocks)
            .unwrap_or(i64::MAX)
            .saturating_mul(size)
    };
    Some(Disk {
        total: bytes(stat.blocks()),
        free: bytes(stat.blocks_available()),
        inodes: stat.files(),
        inodes_free: stat.files_free(),
    })
}
