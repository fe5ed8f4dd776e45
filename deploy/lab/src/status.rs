//! What a lab's hosts are doing.

use crate::cut::{self, Cut};
use crate::daemon;
use crate::layout::Layout;
use crate::process::Process;
use crate::record::{Record, Role};
use caravel_client::{Config, Kubeconfig, grpc};
use caravel_rpc::cluster::v1::cluster_client::ClusterClient;
use caravel_rpc::cluster::v1::{Member, MembersRequest, MembersResponse};
use futures::future::join_all;
use serde::Serialize;
use std::net::Ipv4Addr;
use std::time::Duration;

#[derive(Debug, Serialize)]
pub struct Status {
    pub hosts: Vec<HostStatus>,
    /// Between which hosts packets are dropped.
    pub cuts: Vec<Cut>,
}

#[derive(Debug, Serialize)]
pub struct HostStatus {
    pub name: String,
    pub role: Role,
    pub address: Ipv4Addr,
    pub running: bool,
    /// Frozen by `lab pause`; counts as running.
    pub paused: bool,
    /// Of a server: whether it leads.
    pub leader: bool,
}

/// A server that has not answered by then is not asked further.
const ANSWER: Duration = Duration::from_secs(2);

pub async fn status(layout: &Layout) -> anyhow::Result<Status> {
    let record = Record::load(layout)?;
    let leader = leader(layout, &record).await;
    let hosts = record.hosts.iter().map(|host| {
        let process = daemon::running(layout, host);
        let running = process.is_some();
        HostStatus {
            name: host.name.clone(),
            role: host.role,
            address: host.address,
            running,
            paused: process.is_some_and(Process::is_stopped),
            leader: running && leader.as_ref() == Some(&host.name),
        }
    });
    Ok(Status {
        hosts: hosts.collect(),
        cuts: cut::cuts(layout, &record)?,
    })
}

/// The name of the server that leads, as those say that know the latest term.
async fn leader(layout: &Layout, record: &Record) -> Option<String> {
    let text = std::fs::read_to_string(layout.kubeconfig()).ok()?;
    let kubeconfig = Kubeconfig::parse(&text).ok()?;
    let running = record
        .servers()
        .filter(|host| daemon::running(layout, host).is_some());
    let asked = running.map(|host| {
        let config = kubeconfig
            .clone()
            .at(&format!("https://{}:6443", host.address))
            .config();
        async move { tokio::time::timeout(ANSWER, members(&config)).await.ok()? }
    });
    let latest = join_all(asked)
        .await
        .into_iter()
        .flatten()
        .filter(|answer| answer.leader != 0)
        .max_by_key(|answer| answer.term)?;
    let name = |member: &Member| (member.id == latest.leader).then(|| member.name.clone());
    latest.members.iter().find_map(name)
}

async fn members(config: &Config) -> Option<MembersResponse> {
    let channel = grpc::channel(config).await.ok()?;
    let answer = ClusterClient::new(channel).members(MembersRequest {}).await;
    Some(answer.ok()?.into_inner())
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
                if host.paused {
                    "paused"
                } else {
                    yes(host.running)
                }
            ));
        }
        for cut in &self.cuts {
            text.push_str(&format!(
                "cut: {} -> {} ({} packets dropped)\n",
                cut.from, cut.to, cut.dropped
            ));
        }
        text
    }
}
