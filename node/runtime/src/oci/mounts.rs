//! The container's mounts: the kernel's file systems, the pod's `/dev/shm`, its own cgroups to read,
//! then the caller's, outer targets before inner ones.

use std::path::{Path, PathBuf};

use oci_spec::OciSpecError;
use oci_spec::runtime::{Mount, MountBuilder};

use super::Context;
use crate::cgroup::Hierarchy;
use crate::spec::{self, Propagation};

const CGROUPS: &str = "/sys/fs/cgroup";

pub fn build(context: &Context<'_>) -> Result<Vec<Mount>, OciSpecError> {
    let wanted = &context.spec.mounts;
    let taken = |target: &str| wanted.iter().any(|mount| mount.target == Path::new(target));
    let privileged = context.spec.security.privileged;
    let mut list = Vec::new();
    let mut add =
        |target: &str, typ: &str, source: &str, options: &[&str]| -> Result<(), OciSpecError> {
            if !taken(target) {
                list.push(mount(
                    target,
                    typ,
                    source,
                    options.iter().map(|o| o.to_string()).collect(),
                )?);
            }
            Ok(())
        };
    add("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"])?;
    add(
        "/dev",
        "tmpfs",
        "tmpfs",
        &["nosuid", "strictatime", "mode=755", "size=65536k"],
    )?;
    add(
        "/dev/pts",
        "devpts",
        "devpts",
        &[
            "nosuid",
            "noexec",
            "newinstance",
            "ptmxmode=0666",
            "mode=0620",
            "gid=5",
        ],
    )?;
    add(
        "/dev/mqueue",
        "mqueue",
        "mqueue",
        &["nosuid", "noexec", "nodev"],
    )?;
    add(
        "/sys",
        "sysfs",
        "sysfs",
        if privileged {
            &["nosuid", "noexec", "nodev", "rw"]
        } else {
            &["nosuid", "noexec", "nodev", "ro"]
        },
    )?;
    let shm = context
        .sandbox
        .shm
        .clone()
        .unwrap_or_else(|| PathBuf::from("/dev/shm"));
    add(
        "/dev/shm",
        "bind",
        &shm.to_string_lossy(),
        &["rbind", "rprivate", "nosuid", "noexec", "nodev"],
    )?;
    match &context.machine.hierarchy {
        Hierarchy::V2 { .. } => {
            let writable = if privileged { "rw" } else { "ro" };
            add(
                CGROUPS,
                "cgroup",
                "cgroup",
                &["nosuid", "noexec", "nodev", "relatime", writable],
            )?;
        }
        // Bind mounts of the container's own directories rather than libcontainer's emulation, which
        // cannot mount them read-only and needs a PID namespace of its own.
        Hierarchy::V1 { controllers } => {
            add(
                CGROUPS,
                "tmpfs",
                "tmpfs",
                &["nosuid", "noexec", "nodev", "mode=755", "size=64k"],
            )?;
            for (name, mount_point) in controllers {
                let source = format!("{}{}", mount_point.display(), context.cgroup);
                let writable = if privileged { "rw" } else { "ro" };
                add(
                    &format!("{CGROUPS}/{name}"),
                    "bind",
                    &source,
                    &["bind", "nosuid", "noexec", "nodev", writable],
                )?;
            }
        }
    }
    let mut wanted: Vec<&spec::Mount> = wanted.iter().collect();
    wanted.sort_by_key(|mount| mount.target.components().count());
    for bind in wanted {
        list.push(mount(
            &bind.target.to_string_lossy(),
            "bind",
            &bind.source.to_string_lossy(),
            options(bind),
        )?);
    }
    Ok(list)
}

/// Paths to make read-only once everything is mounted in them.
pub fn read_only_after(context: &Context<'_>) -> Vec<String> {
    match context.machine.hierarchy {
        Hierarchy::V1 { .. } if !context.spec.security.privileged => vec![CGROUPS.to_owned()],
        _ => Vec::new(),
    }
}

fn options(bind: &spec::Mount) -> Vec<String> {
    let propagation = match bind.propagation {
        Propagation::Private => "rprivate",
        Propagation::HostToContainer => "rslave",
        Propagation::Bidirectional => "rshared",
    };
    let access = match (bind.read_only, bind.recursive_read_only) {
        (_, true) => "rro",
        (true, false) => "ro",
        (false, false) => "rw",
    };
    vec![
        "rbind".to_owned(),
        propagation.to_owned(),
        access.to_owned(),
    ]
}

fn mount(
    target: &str,
    typ: &str,
    source: &str,
    options: Vec<String>,
) -> Result<Mount, OciSpecError> {
    MountBuilder::default()
        .destination(target)
        .typ(typ)
        .source(source)
        .options(options)
        .build()
}
