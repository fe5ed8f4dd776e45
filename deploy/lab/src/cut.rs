//! Packets that do not arrive: between hosts of a lab, in both directions or in one.
//!
//! A cut is an element of a set in a table of its own in the receiving host's network namespace: what comes from that
//! address is dropped before anything else sees it, also of connections that are open. The kernel's set is the only
//! record, so that there is nothing to disagree with it, and it goes with the namespace. Only what is addressed to the host
//! itself is dropped: pods' packets that pass through are not.

use crate::layout::Layout;
use crate::record::{Host, Record};
use anyhow::Context as _;
use serde::Serialize;
use serde_json::Value;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

const TABLE: &str = "caravel_cut";
const SET: &str = "silenced";

/// What `to` does not hear.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cut {
    pub from: String,
    pub to: String,
    /// Packets dropped so far.
    pub dropped: u64,
}

/// `to` hears `from` no longer. Doing it again changes nothing.
pub fn cut(layout: &Layout, from: &Host, to: &Host) -> anyhow::Result<()> {
    anyhow::ensure!(
        from.name != to.name,
        "{} cannot be cut from itself",
        from.name
    );
    change(layout, to, &silencing(from.address))
}

/// `to` hears `from` again. Also where it did all the time.
pub fn heal(layout: &Layout, from: &Host, to: &Host) -> anyhow::Result<()> {
    let address = from.address;
    // Added first, because what is not there cannot be deleted.
    let rules = format!(
        "{}delete element ip {TABLE} {SET} {{ {address} }}\n",
        silencing(address)
    );
    change(layout, to, &rules)
}

/// `host` hears everybody again.
pub fn heal_all(layout: &Layout, host: &Host) -> anyhow::Result<()> {
    let rules = format!("add table ip {TABLE}\ndelete table ip {TABLE}\n");
    change(layout, host, &rules)
}

/// Every cut there is, in the order of the hosts.
pub fn cuts(layout: &Layout, record: &Record) -> anyhow::Result<Vec<Cut>> {
    let mut all = Vec::new();
    for to in &record.hosts {
        if !layout.pin(&to.name, "net").exists() {
            continue;
        }
        let listed = nft(layout, &to.name, &["-j", "list", "ruleset", "ip"], "")?;
        let listed: Value =
            serde_json::from_slice(&listed).context("read the packet rules of a host")?;
        let silenced = silenced(&listed);
        for from in &record.hosts {
            if let Some((_, dropped)) = silenced.iter().find(|(a, _)| *a == from.address) {
                all.push(Cut {
                    from: from.name.clone(),
                    to: to.name.clone(),
                    dropped: *dropped,
                });
            }
        }
    }
    Ok(all)
}

fn change(layout: &Layout, host: &Host, rules: &str) -> anyhow::Result<()> {
    nft(layout, &host.name, &["-f", "-"], rules).map(drop)
}

fn silencing(from: Ipv4Addr) -> String {
    format!(
        "add table ip {TABLE}\n\
         add set ip {TABLE} {SET} {{ type ipv4_addr; counter; }}\n\
         add chain ip {TABLE} input {{ type filter hook input priority -300; }}\n\
         flush chain ip {TABLE} input\n\
         add rule ip {TABLE} input ip saddr @{SET} drop\n\
         add element ip {TABLE} {SET} {{ {from} }}\n"
    )
}

/// Addresses in our set and what was dropped of each, from nft's JSON.
fn silenced(listed: &Value) -> Vec<(Ipv4Addr, u64)> {
    let objects = listed["nftables"].as_array().into_iter().flatten();
    let sets = objects
        .filter_map(|object| object.get("set"))
        .filter(|set| set["table"] == TABLE && set["name"] == SET);
    let elements = sets.flat_map(|set| set["elem"].as_array().into_iter().flatten());
    elements
        .filter_map(|element| {
            let address = element["elem"]["val"].as_str()?.parse().ok()?;
            let packets = element["elem"]["counter"]["packets"].as_u64();
            Some((address, packets.unwrap_or_default()))
        })
        .collect()
}

/// Runs nft in the network namespace of a host, with `commands` to read; what it prints. Never with `-j` and commands that
/// are not JSON: nft then does nothing and calls that a success.
fn nft(layout: &Layout, host: &str, args: &[&str], commands: &str) -> anyhow::Result<Vec<u8>> {
    let pin = layout.pin(host, "net");
    let mut child = Command::new("nsenter")
        .arg(format!("--net={}", pin.display()))
        .arg("nft")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("run nft on a host (Debian packages nftables, util-linux)")?;
    let mut input = child.stdin.take().context("standard input")?;
    input.write_all(commands.as_bytes())?;
    drop(input);
    let out = child.wait_with_output()?;
    anyhow::ensure!(
        out.status.success(),
        "the packet rules of {host} cannot be changed (is the lab up?):\n{}",
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(out.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn cuts_are_read_from_the_kernels_set() {
        let element = |address: &str, packets: u64| json!({"elem": {"val": address, "counter": {"packets": packets, "bytes": 1}}});
        let listed = json!({"nftables": [
            {"metainfo": {}},
            {"set": {"table": "other", "name": SET, "elem": [element("10.0.0.9", 1)]}},
            {"set": {"table": TABLE, "name": SET, "elem": [element("10.0.0.1", 7), element("10.0.0.2", 0)]}},
        ]});
        let expected = [("10.0.0.1", 7), ("10.0.0.2", 0)].map(|(a, n)| (a.parse().unwrap(), n));
        assert_eq!(silenced(&listed), expected);
        assert_eq!(silenced(&json!({"nftables": []})), []);
    }
}
