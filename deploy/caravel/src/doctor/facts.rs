//! What a doctor looks at: every server by itself, nodes and their leases, certificates, clocks, this machine.
//!
//! Nothing that cannot be had is an error here: that it cannot is a fact.

use crate::certificate::{self, Shown, Span};
use crate::{check, member};
use caravel_client::{Kubeconfig, connect, grpc};
use caravel_rpc::cluster::v1::cluster_client::ClusterClient;
use caravel_rpc::cluster::v1::{HealthRequest, HealthResponse, Member, MembersRequest};
use futures::future::join_all;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ListParams};
use std::time::Duration;
use tokio::time::timeout;

/// Whoever has not answered by then is not asked any more.
const WITHIN: Duration = Duration::from_secs(5);
const LEASES: &str = "kube-node-lease";

/// One server, asked by itself.
#[derive(Clone, Debug)]
pub struct Server {
    pub member: Member,
    pub health: Result<HealthResponse, String>,
    /// How far its clock is ahead of this machine's, and how surely: milliseconds.
    pub skew: Option<(i64, i64)>,
    pub certificate: Result<Span, String>,
}

/// One node, as the API tells, with what it shows itself.
#[derive(Clone, Debug)]
pub struct NodeFacts {
    pub name: String,
    /// The condition Ready: its status, reason and message.
    pub ready: Option<(String, String, String)>,
    /// Pressures that it reports.
    pub pressures: Vec<String>,
    pub version: String,
    /// How long ago its lease was renewed by its own clock, as this machine's clock has it: milliseconds, below zero when
    /// its clock is ahead.
    pub renewed_ms: Option<i64>,
    pub certificate: Result<Span, String>,
}

/// Everything that was seen.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Seconds since 1970.
    pub now: i64,
    /// The members, by any server; or why nobody told.
    pub members: Result<Vec<Member>, String>,
    pub servers: Vec<Server>,
    pub nodes: Result<Vec<NodeFacts>, String>,
    /// Of the authority and the administrator.
    pub certificates: Vec<(String, Result<Span, String>)>,
    /// What this machine lacks; empty when it was not looked at.
    pub lacking: Vec<(String, String)>,
}

pub async fn gather(kubeconfig: &Kubeconfig) -> Facts {
    let members = match timeout(WITHIN, members(kubeconfig)).await {
        Ok(members) => members.map_err(|error| format!("{error:#}")),
        Err(_) => Err(format!("no answer within {} s", WITHIN.as_secs())),
    };
    let there = members.iter().flatten().filter(|one| member::is_there(one));
    let servers = join_all(there.map(|member| server(kubeconfig, member)));
    let nodes = async {
        match timeout(2 * WITHIN, nodes(kubeconfig)).await {
            Ok(nodes) => nodes.map_err(|error| format!("{error:#}")),
            Err(_) => Err(format!("no answer within {} s", 2 * WITHIN.as_secs())),
        }
    };
    let (servers, nodes) = tokio::join!(servers, nodes);
    let own = certificate::own(kubeconfig).into_iter();
    Facts {
        now: Timestamp::now().as_second(),
        members,
        servers,
        nodes,
        certificates: own.map(|Shown { whose, span }| (whose, span)).collect(),
        lacking: lacking(),
    }
}

async fn members(kubeconfig: &Kubeconfig) -> anyhow::Result<Vec<Member>> {
    let channel = grpc::channel(&kubeconfig.config()).await?;
    let answer = ClusterClient::new(channel).members(MembersRequest {}).await;
    Ok(answer
        .map_err(|status| member::refused(&status))?
        .into_inner()
        .members)
}

async fn server(kubeconfig: &Kubeconfig, member: &Member) -> Server {
    let mut config = kubeconfig.config();
    config.servers = vec![member.api_url.clone()];
    let ask = async {
        let channel = grpc::channel(&config)
            .await
            .map_err(|error| error.to_string())?;
        let mut client = ClusterClient::new(channel);
        let asked = Timestamp::now().as_millisecond();
        let answer = client.health(HealthRequest {}).await;
        let answered = Timestamp::now().as_millisecond();
        let health = answer.map_err(|status| status.message().to_owned())?;
        let health = health.into_inner();
        let theirs = i64::try_from(health.unix_ms).unwrap_or(0);
        let between = answered - asked;
        Ok((health, (theirs - asked - between / 2, between / 2 + 1)))
    };
    let (asked, certificate) = tokio::join!(
        timeout(WITHIN, ask),
        certificate::of_url(&member.api_url, &kubeconfig.ca)
    );
    let asked = asked.unwrap_or_else(|_| Err(format!("no answer within {} s", WITHIN.as_secs())));
    let skew = asked.as_ref().ok().map(|(_, skew)| *skew);
    Server {
        member: member.clone(),
        health: asked.map(|(health, _)| health),
        skew,
        certificate,
    }
}

async fn nodes(kubeconfig: &Kubeconfig) -> anyhow::Result<Vec<NodeFacts>> {
    let client = connect::connect(&kubeconfig.config()).await?;
    let every = ListParams::default();
    let nodes = Api::<Node>::all(client.clone()).list(&every).await?;
    let leases = Api::<Lease>::namespaced(client, LEASES)
        .list(&every)
        .await?;
    let now = Timestamp::now().as_millisecond();
    let facts = nodes.items.iter().map(|node| {
        let name = node.metadata.name.clone().unwrap_or_default();
        let lease = leases
            .items
            .iter()
            .find(|lease| lease.metadata.name.as_ref() == Some(&name));
        let renewed = lease
            .and_then(|lease| Some(lease.spec.as_ref()?.renew_time.as_ref()?.0.as_millisecond()));
        one_node(kubeconfig, node, name, renewed.map(|at| now - at))
    });
    Ok(join_all(facts).await)
}

async fn one_node(
    kubeconfig: &Kubeconfig,
    node: &Node,
    name: String,
    renewed_ms: Option<i64>,
) -> NodeFacts {
    let status = node.status.clone().unwrap_or_default();
    let conditions = status.conditions.clone().unwrap_or_default();
    let ready = conditions.iter().find(|one| one.type_ == "Ready");
    let pressures = conditions
        .iter()
        .filter(|one| one.type_ != "Ready" && one.status == "True");
    let certificate = match certificate::address(node) {
        Some(address) => certificate::at(address, 10250, &kubeconfig.ca).await,
        None => Err("it has no address".to_owned()),
    };
    NodeFacts {
        name,
        ready: ready.map(|one| {
            (
                one.status.clone(),
                one.reason.clone().unwrap_or_default(),
                one.message.clone().unwrap_or_default(),
            )
        }),
        pressures: pressures.map(|one| one.type_.clone()).collect(),
        version: status
            .node_info
            .map_or_else(String::new, |info| info.kubelet_version),
        renewed_ms,
        certificate,
    }
}

/// Only root can look; an administrator's own computer need run no pods.
fn lacking() -> Vec<(String, String)> {
    if !nix::unistd::geteuid().is_root() {
        return Vec::new();
    }
    check::lacking()
}
