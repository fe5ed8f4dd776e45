//! A node's identity: taken from its data directory, or got from a server by the join token at the first start; and
//! renewed, by itself and without a token, well before it expires.

use anyhow::Context as _;
use caravel_agent::rotation;
use caravel_auth::certificate;
use caravel_auth::join::JoinToken;
use caravel_client::{JoinTarget, join};
use caravel_rpc::cluster::v1::{ClusterConfig, SignNodeRequest};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

const RETRY: Duration = Duration::from_secs(1);
/// How often it is looked whether certificates are to be renewed.
const LOOK: Duration = Duration::from_secs(3600);

/// All that a node has from its cluster. Everything is PEM text.
#[derive(Clone, Serialize, Deserialize)]
pub struct Identity {
    pub node: String,
    pub client_cert: String,
    pub client_key: String,
    pub server_cert: String,
    pub server_key: String,
    pub ca: String,
    pub cluster_cidr: String,
    pub service_cidr: String,
    pub dns_ip: String,
    pub domain: String,
    pub servers: Vec<String>,
}

/// What a first start needs.
pub struct Joining<'a> {
    pub node: &'a str,
    pub addresses: Vec<IpAddr>,
    pub servers: &'a [String],
    pub token: Option<JoinToken>,
}

/// The identity kept in `dir`, or a new one. Waits for a server as long as none answers.
pub async fn identity(dir: &Path, joining: Joining<'_>) -> anyhow::Result<Identity> {
    let file = dir.join("identity.json");
    match fs::read(&file) {
        Ok(bytes) => {
            let identity: Identity = serde_json::from_slice(&bytes).with_context(|| {
                format!(
                    "{} is damaged; remove it, and join again with a token",
                    file.display()
                )
            })?;
            anyhow::ensure!(
                identity.node == joining.node,
                "this machine joined as node {:?}, not {:?}; keep its name, or remove {} and join again",
                identity.node,
                joining.node,
                file.display()
            );
            return Ok(identity);
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("read {}", file.display())),
    }
    let identity = first_join(joining).await?;
    keep(dir, &identity)?;
    Ok(identity)
}

fn keep(dir: &Path, identity: &Identity) -> anyhow::Result<()> {
    let file = dir.join("identity.json");
    fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    let part = file.with_extension("part");
    let mut out = fs::OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&part)
        .with_context(|| format!("write {}", part.display()))?;
    out.write_all(&serde_json::to_vec_pretty(identity)?)?;
    out.sync_all()?;
    fs::rename(&part, &file).with_context(|| format!("write {}", file.display()))
}

/// At a start: new certificates where the old ones have lived too long, if a server gives them at once.
pub async fn fresh(dir: &Path, old: Identity, addresses: &[IpAddr]) -> Identity {
    if !due(&old).is_ok_and(|at| at <= SystemTime::now()) {
        return old;
    }
    match renew(dir, &old, addresses).await {
        Ok(new) => new,
        Err(error) => {
            tracing::warn!("the node's certificates are not renewed yet: {error:#}");
            old
        }
    }
}

/// Waits until the certificates are to be renewed, and renews them: a new identity, kept in `dir`. Goes on until it is
/// done; a server that refuses is asked again later, for the certificates are still good for a while.
pub async fn renewed(dir: &Path, old: &Identity, addresses: &[IpAddr]) -> Identity {
    loop {
        match due(old) {
            Ok(at) => match at.duration_since(SystemTime::now()) {
                // In steps: the clock may be set, and the machine may sleep.
                Ok(wait) => {
                    tokio::time::sleep(wait.min(LOOK)).await;
                    continue;
                }
                Err(_) => match renew(dir, old, addresses).await {
                    Ok(new) => return new,
                    Err(error) => {
                        tracing::warn!("the node's certificates are not renewed yet: {error:#}")
                    }
                },
            },
            Err(error) => tracing::warn!("the node's certificates: {error:#}"),
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn due(identity: &Identity) -> Result<SystemTime, rotation::Unreadable> {
    Ok(rotation::due(&identity.client_cert)?.min(rotation::due(&identity.server_cert)?))
}

async fn renew(dir: &Path, old: &Identity, addresses: &[IpAddr]) -> anyhow::Result<Identity> {
    let (client_key, client_csr) = certificate::signing_request(&old.node)?;
    let (server_key, server_csr) = certificate::signing_request(&old.node)?;
    let request = SignNodeRequest {
        node_name: old.node.clone(),
        client_csr,
        server_csr,
        addresses: addresses.iter().map(IpAddr::to_string).collect(),
        ..SignNodeRequest::default()
    };
    let target = JoinTarget {
        servers: old.servers.clone(),
        ca_hash: certificate::hash_of_first(&old.ca).context("the cluster's CA cannot be read")?,
    };
    let answer = caravel_client::renew(&target, &old.client_cert, &old.client_key, request).await?;
    let new = Identity {
        client_cert: answer.client_certificate,
        client_key,
        server_cert: answer.server_certificate,
        server_key,
        ca: answer.ca_certificates,
        ..old.clone()
    };
    keep(dir, &new)?;
    tracing::info!(node = new.node, "renewed the node's certificates");
    Ok(new)
}

async fn first_join(joining: Joining<'_>) -> anyhow::Result<Identity> {
    anyhow::ensure!(
        !joining.servers.is_empty(),
        "this node has not joined yet: give --server https://ADDRESS:6443 and --token"
    );
    let token = joining.token.context("this node has not joined yet: give the --token that `caravel token create` prints on a server")?;
    let (client_key, client_csr) = certificate::signing_request(joining.node)?;
    let (server_key, server_csr) = certificate::signing_request(joining.node)?;
    let request = SignNodeRequest {
        token_id: token.id.clone(),
        token_secret: token.secret.clone(),
        node_name: joining.node.to_owned(),
        client_csr,
        server_csr,
        addresses: joining.addresses.iter().map(IpAddr::to_string).collect(),
    };
    let target = JoinTarget {
        servers: joining.servers.to_vec(),
        ca_hash: token.ca_hash,
    };
    let answer = loop {
        match join(&target, request.clone()).await {
            Ok(answer) => break answer,
            Err(error) if error.is_temporary() => {
                tracing::warn!("cannot join yet: {error}");
                tokio::time::sleep(RETRY).await;
            }
            Err(error) => return Err(error).context("join the cluster"),
        }
    };
    tracing::info!(node = joining.node, "joined the cluster");
    let ClusterConfig {
        cluster_cidr,
        service_cidr,
        dns_ip,
        domain,
        servers,
    } = answer
        .cluster
        .context("the server told nothing about the cluster")?;
    Ok(Identity {
        node: joining.node.to_owned(),
        client_cert: answer.client_certificate,
        client_key,
        server_cert: answer.server_certificate,
        server_key,
        ca: answer.ca_certificates,
        cluster_cidr,
        service_cidr,
        dns_ip,
        domain,
        servers,
    })
}
