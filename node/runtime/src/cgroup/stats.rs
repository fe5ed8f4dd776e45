//! Reads a group's counters. Absent files count as zero: controllers differ between machines.
//! Working set as the kubelet computes it: usage minus inactive file pages.

use std::path::Path;

use super::Hierarchy;
use crate::state::Stats;

/// A "no limit" of version 1: the largest page-aligned value.
const UNLIMITED: u64 = 1 << 62;

pub fn read(hierarchy: &Hierarchy, group: &str) -> Stats {
    let file = |controller: &str, name: &str| -> String {
        hierarchy
            .directory(controller, group)
            .and_then(|directory| std::fs::read_to_string(directory.join(name)).ok())
            .unwrap_or_default()
    };
    let number = |controller, name| file(controller, name).trim().parse::<u64>().unwrap_or(0);
    let stat = file("memory", "memory.stat");
    let v2 = matches!(hierarchy, Hierarchy::V2 { .. });
    let (usage, limit, inactive, rss, faults, major) = if v2 {
        (
            "memory.current",
            "memory.max",
            "inactive_file",
            "anon",
            "pgfault",
            "pgmajfault",
        )
    } else {
        (
            "memory.usage_in_bytes",
            "memory.limit_in_bytes",
            "total_inactive_file",
            "total_rss",
            "total_pgfault",
            "total_pgmajfault",
        )
    };
    let memory_usage = number("memory", usage);
    Stats {
        cpu_nanos: if v2 {
            keyed(&file("cpu", "cpu.stat"), "usage_usec") * 1000
        } else {
            number("cpuacct", "cpuacct.usage")
        },
        memory_usage,
        memory_working_set: memory_usage.saturating_sub(keyed(&stat, inactive)),
        memory_rss: keyed(&stat, rss),
        memory_limit: Some(number("memory", limit))
            .filter(|limit| *limit > 0 && *limit < UNLIMITED),
        page_faults: keyed(&stat, faults),
        major_page_faults: keyed(&stat, major),
        pids: number("pids", "pids.current"),
        ..Stats::default()
    }
}

fn keyed(text: &str, key: &str) -> u64 {
    text.lines()
        .find_map(|line| {
            line.strip_prefix(key)?
                .strip_prefix(' ')?
                .trim()
                .parse()
                .ok()
        })
        .unwrap_or(0)
}

/// How many processes of the group the kernel has killed for want of memory.
pub fn oom_kills(hierarchy: &Hierarchy, group: &str) -> u64 {
    let Some(directory) = hierarchy.directory("memory", group) else {
        return 0;
    };
    let file = match hierarchy {
        Hierarchy::V1 { .. } => "memory.oom_control",
        Hierarchy::V2 { .. } => "memory.events",
    };
    keyed(
        &std::fs::read_to_string(directory.join(file)).unwrap_or_default(),
        "oom_kill",
    )
}

/// Bytes and inodes below a directory, without crossing into another file system.
pub fn disk(directory: &Path) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    let (mut bytes, mut inodes) = (0, 0);
    let mut waiting = vec![directory.to_owned()];
    while let Some(next) = waiting.pop() {
        for entry in std::fs::read_dir(next).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            bytes += meta.blocks() * 512;
            inodes += 1;
            if meta.is_dir() {
                waiting.push(entry.path());
            }
        }
    }
    (bytes, inodes)
}

#[cfg(test)]
mod tests {
    #[test]
    fn keys_are_whole_words() {
        let text = "oom_kill_disable 1\nunder_oom 0\noom_kill 3\n";
        assert_eq!(super::keyed(text, "oom_kill"), 3);
        assert_eq!(super::keyed(text, "nothing"), 0);
    }
}
