//! What a lab is: its hosts and addresses, kept in `lab.json` in its directory. Written before anything is made.

use crate::layout::Layout;
use anyhow::Context as _;
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Server,
    Node,
}

impl Role {
    /// The daemon's sub-command.
    pub fn command(self) -> &'static str {
        match self {
            Role::Server => "server",
            Role::Node => "node",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    pub name: String,
    pub role: Role,
    pub address: Ipv4Addr,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub id: String,
    pub subnet: Ipv4Net,
    /// Loopback port of the API, balanced over the living servers.
    pub port: u16,
    /// Hosts reach the world beyond this machine.
    pub masquerade: bool,
    /// Forwarding was off on this machine before the lab turned it on.
    pub forwarding_was_off: bool,
    pub hosts: Vec<Host>,
}

impl Record {
    /// The bridge's address: how hosts reach this machine.
    pub fn gateway(&self) -> Ipv4Addr {
        nth(self.subnet, 1)
    }

    pub fn host(&self, name: &str) -> anyhow::Result<&Host> {
        let names = || {
            self.hosts
                .iter()
                .map(|h| h.name.as_str())
                .collect::<Vec<_>>()
                .join(", ")
        };
        self.hosts
            .iter()
            .find(|h| h.name == name)
            .with_context(|| format!("the lab has no host {name:?}; its hosts are {}", names()))
    }

    pub fn index(&self, name: &str) -> usize {
        self.hosts
            .iter()
            .position(|h| h.name == name)
            .unwrap_or_default()
    }

    pub fn servers(&self) -> impl Iterator<Item = &Host> {
        self.hosts.iter().filter(|h| h.role == Role::Server)
    }

    pub fn nodes(&self) -> impl Iterator<Item = &Host> {
        self.hosts.iter().filter(|h| h.role == Role::Node)
    }

    pub fn server_urls(&self) -> Vec<String> {
        self.servers()
            .map(|s| format!("https://{}:6443", s.address))
            .collect()
    }

    pub fn load(layout: &Layout) -> anyhow::Result<Self> {
        let path = layout.record();
        let text = std::fs::read(&path).with_context(|| {
            format!(
                "there is no lab in {}: `caravel lab up` makes one",
                layout.dir().display()
            )
        })?;
        serde_json::from_slice(&text).with_context(|| {
            format!(
                "{} is damaged; `caravel lab down` still removes the lab",
                path.display()
            )
        })
    }

    pub fn save(&self, layout: &Layout) -> anyhow::Result<()> {
        let path = layout.record();
        let temporary = path.with_extension("part");
        std::fs::write(&temporary, serde_json::to_vec_pretty(self)?)?;
        std::fs::rename(&temporary, &path).with_context(|| format!("write {}", path.display()))
    }
}

/// `server-1..S`, then `node-1..N`, at .11 and up, and .101 and up.
pub fn hosts(subnet: Ipv4Net, servers: usize, nodes: usize) -> Vec<Host> {
    let host = |role: Role, i: usize, base: u32| Host {
        name: format!("{}-{i}", role.command()),
        role,
        address: nth(subnet, base + i as u32),
    };
    (1..=servers)
        .map(|i| host(Role::Server, i, 10))
        .chain((1..=nodes).map(|i| host(Role::Node, i, 100)))
        .collect()
}

fn nth(subnet: Ipv4Net, n: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(subnet.network()) + n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_have_names_and_addresses() {
        let hosts = hosts("10.9.8.0/24".parse().unwrap(), 1, 2);
        let seen: Vec<String> = hosts
            .iter()
            .map(|h| format!("{} {}", h.name, h.address))
            .collect();
        assert_eq!(
            seen,
            [
                "server-1 10.9.8.11",
                "node-1 10.9.8.101",
                "node-2 10.9.8.102"
            ]
        );
    }
}
