//! The lab's wires: a bridge on this machine, a veth pair per host, and the rules between the lab and the world.
//!
//! By `ip -batch` and `nft -f`, one process per step: they are there wherever a lab runs, and their errors are readable.

use crate::layout::Layout;
use crate::record::{Host, Record};
use anyhow::Context as _;
use serde_json::Value;
use std::io::Write as _;
use std::process::{Command, Stdio};

/// What this machine uses already: routes and addresses.
pub fn in_use() -> anyhow::Result<(Value, Value)> {
    let ask = |args: &[&str]| -> anyhow::Result<Value> {
        let out = Command::new("ip")
            .args(args)
            .output()
            .context("run ip (Debian package iproute2)")?;
        anyhow::ensure!(
            out.status.success(),
            "ip {}: {}",
            args.join(" "),
            String::from_utf8_lossy(&out.stderr)
        );
        Ok(serde_json::from_slice(&out.stdout)?)
    };
    Ok((
        ask(&["-4", "-json", "route", "show", "table", "all"])?,
        ask(&["-4", "-json", "address"])?,
    ))
}

/// The bridge with the gateway's address, and the packet rules.
pub fn create_bridge(layout: &Layout, record: &Record) -> anyhow::Result<()> {
    let (bridge, gateway, bits) = (
        layout.bridge(),
        record.gateway(),
        record.subnet.prefix_len(),
    );
    ip(
        &format!(
            "link add {bridge} type bridge\naddress add {gateway}/{bits} dev {bridge}\nlink set {bridge} up\n"
        ),
        Command::new("ip"),
    )?;
    nft(&rules(layout, record))
}

/// Traffic that leaves the lab is masqueraded, or, in an isolated lab, refused at once rather than lost.
fn rules(layout: &Layout, record: &Record) -> String {
    let (table, bridge, subnet) = (layout.table(), layout.bridge(), record.subnet);
    let body = if record.masquerade {
        format!(
            "chain postrouting {{ type nat hook postrouting priority srcnat; ip saddr {subnet} oifname != \"{bridge}\" masquerade; }}"
        )
    } else {
        format!(
            "chain forward {{ type filter hook forward priority filter; iifname \"{bridge}\" oifname != \"{bridge}\" reject; }}"
        )
    };
    format!("table ip {table} {{\n{body}\n}}\n")
}

/// A pair between the bridge and the host's namespace, where it is `eth0` with the host's address.
pub fn connect(layout: &Layout, record: &Record, host: &Host) -> anyhow::Result<()> {
    let (veth, bridge, bits) = (
        layout.veth(record.index(&host.name)),
        layout.bridge(),
        record.subnet.prefix_len(),
    );
    let pin = layout.pin(&host.name, "net");
    // The peer is made inside the host's namespace: nothing is ever half moved.
    ip(
        &format!(
            "link add {veth} type veth peer name eth0 netns {}\nlink set {veth} master {bridge} up\n",
            pin.display()
        ),
        Command::new("ip"),
    )?;
    let inside = format!(
        "link set lo up\naddress add {}/{bits} dev eth0\nlink set eth0 up\nroute add default via {}\n",
        host.address,
        record.gateway()
    );
    let mut nsenter = Command::new("nsenter");
    nsenter.arg(format!("--net={}", pin.display())).arg("ip");
    ip(&inside, nsenter)
}

/// Removes bridge, veths and table; what is not there is no error.
pub fn remove(layout: &Layout) -> anyhow::Result<()> {
    let prefix = layout.bridge();
    let names: Vec<String> = std::fs::read_dir("/sys/class/net")?
        .flatten()
        .filter_map(|e| e.file_name().into_string().ok())
        .filter(|name| {
            *name == prefix
                || name
                    .strip_prefix(&prefix)
                    .is_some_and(|rest| rest.starts_with('-'))
        })
        .collect();
    for name in names {
        // A veth may go with its peer's namespace between the listing and here.
        let _ = ip(&format!("link delete {name}\n"), Command::new("ip"));
    }
    let table = layout.table();
    nft(&format!("table ip {table}\ndelete table ip {table}\n"))
}

fn ip(batch: &str, command: Command) -> anyhow::Result<()> {
    let mut command = command;
    feed(command.args(["-batch", "-"]), batch).context("configure the lab's links")
}

fn nft(rules: &str) -> anyhow::Result<()> {
    feed(Command::new("nft").args(["-f", "-"]), rules).context("configure the lab's packet rules")
}

fn feed(command: &mut Command, input: &str) -> anyhow::Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("run {name} (Debian packages iproute2, nftables, util-linux)"))?;
    child
        .stdin
        .take()
        .context("standard input")?
        .write_all(input.as_bytes())?;
    let out = child.wait_with_output()?;
    anyhow::ensure!(
        out.status.success(),
        "{name} refused:\n{input}{}",
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(())
}
