//! `caravel check`: what the kernel and the machine lack, and what to do about it.
//!
//! Looks and tries, in throw-away namespaces, and leaves nothing behind. It changes no setting.

use crate::cli::{CheckArgs, Output};
use nix::sched::{CloneFlags, unshare};
use serde::Serialize;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

#[derive(Debug, Serialize)]
struct Finding {
    name: &'static str,
    ok: bool,
    /// Caravel cannot run pods without it.
    required: bool,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<&'static str>,
}

pub fn run(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let findings = all();
    match args.output {
        Output::Json => println!(
            "{}",
            serde_json::to_string(&serde_json::json!({ "checks": findings }))?
        ),
        Output::Table => {
            for f in &findings {
                let verdict = if f.ok {
                    "ok"
                } else if f.required {
                    "MISSING"
                } else {
                    "absent"
                };
                println!("{verdict:<8} {:<20} {}", f.name, f.found);
                if let Some(remedy) = f.remedy {
                    println!("{:<29} -> {remedy}", "");
                }
            }
        }
    }
    let lacking = findings.iter().any(|f| f.required && !f.ok);
    Ok(if lacking {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// What this machine lacks to run pods, and what to do.
pub fn lacking() -> Vec<(String, String)> {
    let missing = all().into_iter().filter(|one| one.required && !one.ok);
    missing
        .map(|one| {
            (
                one.name.to_owned(),
                one.remedy.unwrap_or_default().to_owned(),
            )
        })
        .collect()
}

/// In the order in which a machine is set up.
fn all() -> Vec<Finding> {
    let root = nix::unistd::geteuid().is_root();
    let mut findings = vec![finding(
        "root",
        root,
        true,
        if root { "yes" } else { "no" },
        "run as root: containers need namespaces, mounts and cgroups",
    )];
    findings.push(kernel());
    for (name, path) in [
        ("pid namespaces", "pid"),
        ("network namespaces", "net"),
        ("mount namespaces", "mnt"),
        ("uts namespaces", "uts"),
        ("ipc namespaces", "ipc"),
    ] {
        let there = Path::new("/proc/self/ns").join(path).exists();
        findings.push(finding(
            name,
            there,
            true,
            if there { "yes" } else { "not in this kernel" },
            "use a kernel with namespaces (CONFIG_NAMESPACES)",
        ));
    }
    findings.push(cgroups());
    for controller in ["cpu", "memory", "pids", "cpuset", "devices"] {
        findings.push(controller_there(controller));
    }
    let overlay = filesystem("overlay");
    findings.push(finding(
        "overlayfs",
        overlay,
        true,
        if overlay { "yes" } else { "not in this kernel" },
        "modprobe overlay; or a kernel with CONFIG_OVERLAY_FS",
    ));
    if root {
        for (name, kind, remedy) in [
            (
                "bridge",
                "bridge",
                "modprobe bridge; or a kernel with CONFIG_BRIDGE",
            ),
            (
                "veth",
                "veth",
                "modprobe veth; or a kernel with CONFIG_VETH",
            ),
        ] {
            findings.push(link(name, kind, true, remedy));
        }
        findings.push(link(
            "vxlan",
            "vxlan",
            false,
            "only for nodes on different network segments: modprobe vxlan",
        ));
        findings.push(nftables());
    }
    for (name, needed, remedy) in [
        ("nft", true, "install the package nftables"),
        (
            "ip",
            false,
            "only for `caravel lab`: install the package iproute2",
        ),
        (
            "nsenter",
            false,
            "only for `caravel lab`: install the package util-linux",
        ),
    ] {
        let path = program(name);
        findings.push(finding(
            name,
            path.is_some(),
            needed,
            path.as_deref().unwrap_or("not in PATH"),
            remedy,
        ));
    }
    findings
}

fn finding(
    name: &'static str,
    ok: bool,
    required: bool,
    found: &str,
    remedy: &'static str,
) -> Finding {
    Finding {
        name,
        ok,
        required,
        found: found.to_owned(),
        remedy: (!ok).then_some(remedy),
    }
}

fn kernel() -> Finding {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut parts = release
        .split(['.', '-'])
        .map(|p| p.parse::<u32>().unwrap_or(0));
    let version = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    finding(
        "kernel",
        version >= (5, 10),
        true,
        release.trim(),
        "use Linux 5.10 or later",
    )
}

fn cgroups() -> Finding {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let kinds: Vec<&str> = mounts
        .lines()
        .filter_map(|l| l.split(' ').nth(2))
        .filter(|k| k.starts_with("cgroup"))
        .collect();
    let (one, two) = (kinds.contains(&"cgroup"), kinds.contains(&"cgroup2"));
    let found = match (one, two) {
        (true, true) => "v1 and v2 (v1 is used)",
        (true, false) => "v1",
        (false, true) => "v2",
        (false, false) => "not mounted",
    };
    finding(
        "cgroups",
        one || two,
        true,
        found,
        "mount -t cgroup2 cgroup2 /sys/fs/cgroup, or boot with systemd",
    )
}

fn controller_there(name: &'static str) -> Finding {
    let v1 = fs::read_to_string("/proc/cgroups")
        .unwrap_or_default()
        .lines()
        .any(|l| {
            let mut words = l.split_whitespace();
            words.next() == Some(name) && words.nth(2) == Some("1")
        });
    // v2 has no devices controller: programs of BPF do it.
    let v2 = name == "devices"
        || fs::read_to_string("/sys/fs/cgroup/cgroup.controllers")
            .is_ok_and(|t| t.split_whitespace().any(|c| c == name));
    let there = v1 || v2;
    let label = match name {
        "cpu" => "cgroup cpu",
        "memory" => "cgroup memory",
        "pids" => "cgroup pids",
        "cpuset" => "cgroup cpuset",
        _ => "cgroup devices",
    };
    finding(
        label,
        there,
        name != "cpuset",
        if there { "yes" } else { "not enabled" },
        "enable the controller: on Debian for ARM boards, cgroup_enable=memory on the kernel's command line",
    )
}

fn filesystem(name: &str) -> bool {
    let listed = || {
        fs::read_to_string("/proc/filesystems")
            .unwrap_or_default()
            .lines()
            .any(|l| l.split_whitespace().last() == Some(name))
    };
    listed() || (modprobe(name) && listed())
}

/// The kernel loads what is used; this only does it earlier.
fn modprobe(name: &str) -> bool {
    Command::new("modprobe")
        .arg(name)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}

/// Makes a link of this kind in a network namespace that ends with the thread.
fn link(name: &'static str, kind: &str, required: bool, remedy: &'static str) -> Finding {
    let extra: &[&str] = match kind {
        "veth" => &["peer", "name", "probe1"],
        "vxlan" => &["id", "1", "dstport", "8472"],
        _ => &[],
    };
    let mut args = vec!["link", "add", "name", "probe0", "type", kind];
    args.extend(extra);
    let there = in_namespace(|| {
        Command::new("ip")
            .args(&args)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|s| s.success())
    });
    finding(
        name,
        there,
        required,
        if there {
            "yes"
        } else {
            "cannot be made (by ip)"
        },
        remedy,
    )
}

fn nftables() -> Finding {
    let rules = "add table ip t; add map ip t m { type ipv4_addr . inet_proto . inet_service : verdict; }; add chain ip t n { type nat hook output priority -110; }";
    let there = in_namespace(|| {
        Command::new("nft")
            .arg(rules)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|s| s.success())
    });
    finding(
        "nftables",
        there,
        true,
        if there {
            "yes"
        } else {
            "maps or NAT chains cannot be made"
        },
        "a kernel with CONFIG_NF_TABLES and CONFIG_NFT_NAT; modprobe nf_tables nft_chain_nat",
    )
}

fn in_namespace(work: impl FnOnce() -> bool + Send) -> bool {
    crate::tasks::on_own_thread(|| unshare(CloneFlags::CLONE_NEWNET).is_ok() && work())
}

fn program(name: &str) -> Option<String> {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .map(|dir| Path::new(dir).join(name))
        .find(|p| p.is_file())
        .map(|p| p.display().to_string())
}
