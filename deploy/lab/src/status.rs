//! What a lab's hosts are doing.

use crate::daemon;
use crate::layout::Layout;
use crate::record::{Record, Role};
use serde::Serialize;
use std::net::Ipv4Addr;

#[derive(Debug, Serialize)]
pub struct Status {
    pub hosts: Vec<HostStatus>,
}

#[derive(Debug, Serialize)]
pub struct HostStatus {
    pub name: String,
    pub role: Role,
    pub address: Ipv4Addr,
    pub running: bool,
    /// Of a server: whether it leads.
    pub leader: bool,
}

pub fn status(layout: &Layout) -> anyhow::Result<Status> {
    let record = Record::load(layout)?;
    let hosts = record.hosts.iter().map(|host| {
        let running = daemon::running(layout, host).is_some();
        // One server leads whenever it runs; with several, the leader will have to be asked for.
        HostStatus {
            name: host.name.clone(),
            role: host.role,
            address: host.address,
            running,
            leader: running && host.role == Role::Server,
        }
    });
    Ok(Status {
        hosts: hosts.collect(),
    })
}

impl Status {
    /// For people.
    pub fn table(&self) -> String {
        let mut text = format!(
            "{:<12} {:<7} {:<15} {:<8} LEADER\n",
            "NAME", "ROLE", "ADDRESS", "RUNNING"
        );
        for host in &self.hosts {
            let yes = |b: bool| if b { "yes" } else { "no" };
            let leader = if host.role == Role::Server {
                yes(host.leader)
            } else {
                "-"
            };
            text.push_str(&format!(
                "{:<12} {:<7} {:<15} {:<8} {leader}\n",
                host.name,
                host.role.command(),
                host.address,
                yes(host.running)
            ));
        }
        text
    }
}
