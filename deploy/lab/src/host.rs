//! A host: a network, UTS and mount namespace, pinned by files so that it lives without any process in it.
//!
//! The process namespace is the machine's: daemons re-adopt containers by pid. Directories that a host has for itself
//! lie in the lab's directory and are bind-mounted inside the host's mount namespace only.

use crate::cgroups;
use crate::enter::NAMESPACES;
use crate::layout::{Layout, OWN};
use crate::record::{Host, Record};
use crate::{links, tasks};
use anyhow::Context as _;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use std::fs;
use std::path::{Path, PathBuf};

const NONE: Option<&str> = None;

/// Where namespaces are pinned: private, because a mount namespace cannot be pinned on a shared mount.
pub fn create_pins(layout: &Layout) -> anyhow::Result<()> {
    let pins = layout.pins();
    fs::create_dir_all(&pins)?;
    mount(
        Some("caravel-lab"),
        &pins,
        Some("tmpfs"),
        MsFlags::empty(),
        Some("size=1m,mode=700"),
    )
    .with_context(|| format!("mount {}", pins.display()))?;
    mount(NONE, &pins, NONE, MsFlags::MS_PRIVATE, NONE)
        .with_context(|| format!("make {} private", pins.display()))
}

/// Makes one host, without daemons.
pub fn create(layout: &Layout, record: &Record, host: &Host) -> anyhow::Result<()> {
    let system = format!("{}/{}", layout.host_cgroup(&host.name), cgroups::SYSTEM);
    cgroups::create(&system)?;
    for (own, dir) in OWN {
        fs::create_dir_all(own).with_context(|| format!("make {own}"))?;
        fs::create_dir_all(layout.host(&host.name).join(dir))?;
    }
    let run = layout.host(&host.name).join("run");
    fs::create_dir_all(&run)?;
    fs::write(
        layout.host(&host.name).join("resolv.conf"),
        format!("nameserver {}\n", record.gateway()),
    )?;
    fs::write(
        layout.host(&host.name).join("hosts"),
        hosts_file(record, host),
    )?;
    for (namespace, _) in NAMESPACES {
        fs::write(layout.pin(&host.name, namespace), "")?;
    }
    let (ready, wait_ready) = std::sync::mpsc::sync_channel::<i32>(1);
    let (pinned, wait_pinned) = std::sync::mpsc::sync_channel::<()>(1);
    let resolver =
        fs::canonicalize("/etc/resolv.conf").unwrap_or_else(|_| PathBuf::from("/etc/resolv.conf"));
    std::thread::scope(|scope| {
        let inside = scope.spawn(move || {
            tasks::on_own_thread(move || -> anyhow::Result<()> {
                // Dropped on any way out, so that the other side never waits in vain.
                let ready = ready;
                unshare_into(layout, host, &resolver)?;
                ready
                    .send(nix::unistd::gettid().as_raw())
                    .context("the lab has given up")?;
                // The thread's end is the namespaces' end unless they are pinned.
                let _ = wait_pinned.recv();
                Ok(())
            })
        });
        let pin = || -> anyhow::Result<()> {
            let Ok(thread) = wait_ready.recv() else {
                return Ok(());
            };
            for (namespace, _) in NAMESPACES {
                let (from, to) = (
                    format!("/proc/self/task/{thread}/ns/{namespace}"),
                    layout.pin(&host.name, namespace),
                );
                mount(Some(from.as_str()), &to, NONE, MsFlags::MS_BIND, NONE)
                    .with_context(|| format!("pin the {namespace} namespace of {}", host.name))?;
            }
            Ok(())
        };
        let pins = pin();
        drop(pinned);
        inside
            .join()
            .map_err(|_| anyhow::anyhow!("a thread of the lab panicked"))???;
        pins
    })?;
    links::connect(layout, record, host)
}

/// Runs on a throw-away thread: gives it new namespaces and puts the host's own files in place.
fn unshare_into(layout: &Layout, host: &Host, resolver: &Path) -> anyhow::Result<()> {
    let flags = NAMESPACES
        .iter()
        .fold(CloneFlags::CLONE_FS, |all, (_, flag)| all | *flag);
    unshare(flags).context("make namespaces (a lab needs root)")?;
    nix::unistd::sethostname(&host.name).context("set the host's name")?;
    // Nothing mounted here is seen outside, and nothing mounted outside later is seen here; then shared again within,
    // because containers may ask for mounts that propagate.
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)
        .context("detach the host's mounts")?;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_SHARED, NONE)
        .context("share the host's mounts within")?;
    let bind = |from: &Path, to: &Path| {
        mount(Some(from), to, NONE, MsFlags::MS_BIND, NONE)
            .with_context(|| format!("bind {} to {}", from.display(), to.display()))
    };
    for (own, dir) in OWN {
        bind(&layout.host(&host.name).join(dir), Path::new(own))?;
    }
    mount(
        Some("caravel-lab"),
        "/run",
        Some("tmpfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        Some("mode=755"),
    )
    .context("mount /run")?;
    let own_resolver = layout.host(&host.name).join("resolv.conf");
    if resolver.starts_with("/run") {
        // /etc/resolv.conf is a link into /run, which is empty now.
        fs::create_dir_all(resolver.parent().unwrap_or(Path::new("/run")))?;
        fs::copy(&own_resolver, resolver)?;
    } else if resolver.exists() {
        bind(&own_resolver, resolver)?;
    }
    if Path::new("/etc/hosts").exists() {
        bind(
            &layout.host(&host.name).join("hosts"),
            Path::new("/etc/hosts"),
        )?;
    }
    // The pins of other hosts must not be held by this one.
    let _ = umount2(&layout.pins(), MntFlags::MNT_DETACH);
    Ok(())
}

fn hosts_file(record: &Record, host: &Host) -> String {
    let mut text = String::from("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n");
    for other in &record.hosts {
        let own = if other.name == host.name {
            " # this host"
        } else {
            ""
        };
        text.push_str(&format!("{} {}{own}\n", other.address, other.name));
    }
    text
}
