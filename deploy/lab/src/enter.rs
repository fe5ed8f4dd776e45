//! Starting a program on a host of the lab: in its namespaces and its cgroup.
#![allow(unsafe_code)]

use crate::cgroups;
use crate::layout::Layout;
use anyhow::Context as _;
use nix::sched::{CloneFlags, setns, unshare};
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// Namespaces of a host, and the order in which they are entered: mounts last, because the others' pins lie outside.
pub const NAMESPACES: [(&str, CloneFlags); 3] = [
    ("net", CloneFlags::CLONE_NEWNET),
    ("uts", CloneFlags::CLONE_NEWUTS),
    ("mnt", CloneFlags::CLONE_NEWNS),
];

/// A command that will run on `host`, as its daemons do.
pub fn command(layout: &Layout, host: &str, program: &std::ffi::OsStr) -> anyhow::Result<Command> {
    let pins = NAMESPACES
        .iter()
        .map(|(name, flag)| {
            let pin = layout.pin(host, name);
            File::open(&pin)
                .map(|file| (file, *flag))
                .with_context(|| format!("open {}: is the lab up?", pin.display()))
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    prepared(
        &format!("{}/{}", layout.host_cgroup(host), cgroups::SYSTEM),
        pins,
        program,
    )
}

/// A command that will run on this machine itself, but as part of the lab: `down` ends it.
pub fn machine_command(layout: &Layout, program: &std::ffi::OsStr) -> anyhow::Result<Command> {
    let cgroup = format!("{}/{}", layout.cgroup(), cgroups::SYSTEM);
    cgroups::create(&cgroup)?;
    prepared(&cgroup, vec![], program)
}

fn prepared(
    cgroup: &str,
    pins: Vec<(File, CloneFlags)>,
    program: &std::ffi::OsStr,
) -> anyhow::Result<Command> {
    let doors = cgroups::entrances(cgroup)
        .into_iter()
        .map(|door| {
            OpenOptions::new()
                .write(true)
                .open(&door)
                .with_context(|| format!("open {}", door.display()))
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    let mut command = Command::new(program);
    // SAFETY: runs between fork and exec. It only makes system calls on files opened before the fork: no allocation, no lock.
    unsafe {
        command.pre_exec(move || {
            for mut door in &doors {
                // A hierarchy may refuse (v2 beside v1); the others keep the process findable.
                let _ = door.write_all(b"0");
            }
            if !pins.is_empty() {
                unshare(CloneFlags::CLONE_FS)?;
            }
            for (pin, flag) in &pins {
                setns(pin, *flag)?;
            }
            Ok(())
        });
    }
    Ok(command)
}
