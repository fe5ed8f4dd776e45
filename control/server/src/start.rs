//! The start of a server, step by step, and its end.
//!
//! Each step is one line below. Nothing is served before everything that every cluster has is there.

use crate::authority;
use crate::bootstrap;
use crate::cluster::ClusterService;
use crate::config::ServerConfig;
use crate::hand::ApiHand;
use crate::join::JoinService;
use crate::kubeconfig;
use crate::metrics::StoreMetrics;
use crate::quorum::{self, Quorum};
use crate::tasks::Running;
use anyhow::{Context, Result};
use caravel_apiserver::{ApiServer, Config};
use caravel_controllers::{ApiService, Settings};
use caravel_exporter::Registry;
use caravel_rpc::cluster::v1::ClusterConfig;
use caravel_store::Store;
use futures::FutureExt as _;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpSocket};
use tokio_util::sync::CancellationToken;

/// Between two attempts at what a lost leader interrupted.
const AGAIN: Duration = Duration::from_millis(500);
/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;

/// Runs a server until `shutdown`.
///
/// # Errors
/// When a step of the start fails, each with what it tried; or when a part ends unasked.
pub async fn run(config: ServerConfig, shutdown: CancellationToken) -> Result<()> {
    // Of a type that forgets what is inside: the compiler gives up on futures nested this deep.
    steps(config, shutdown).boxed_local().await
}

async fn steps(config: ServerConfig, shutdown: CancellationToken) -> Result<()> {
    let started = Instant::now();
    config.check()?;
    directories(&config)?;
    let door = bind(config.listen)?;
    let peers = listen(bind(SocketAddr::new(config.listen.ip(), config.peer_port))?)?;
    let Some(opened) = shutdown
        .run_until_cancelled(Box::pin(quorum::open(&config, peers)))
        .await
    else {
        return Ok(());
    };
    let quorum = opened?;
    let ended = serve(&config, &quorum, door, shutdown, started).await;
    quorum.end().await;
    ended
}

async fn serve(
    config: &ServerConfig,
    quorum: &Quorum,
    door: TcpSocket,
    shutdown: CancellationToken,
    started: Instant,
) -> Result<()> {
    let (store, authority) = (quorum.store.clone(), quorum.authority.clone());
    let tls = authority::serving(&authority, config)?;
    let api = make_api(config, quorum, &shutdown)?;
    let made = shutdown.run_until_cancelled(everything(&api, config).boxed_local());
    match made.await {
        Some(made) => made?,
        None => return Ok(()),
    }
    let door = listen(door)?;
    kubeconfig::write(
        &authority,
        &config.kubeconfig_path(),
        &config.kubeconfig_url(),
    )?;
    // Nothing below fails: what runs ends in its own order.
    let mut running = Running::new(shutdown.child_token());
    let hand = Arc::new(ApiHand { api: api.clone() });
    running.controllers(
        store.clone(),
        hand.clone(),
        settings(config, &store, &authority),
    );
    running.scheduler(store.clone(), hand);
    running.backups(store.clone(), config);
    running.quorum(store, quorum.transport());
    running.rotation(quorum.membership.clone());
    running.level(quorum.membership.clone());
    running.api(api, door, tls);
    tracing::info!(listen = %config.listen, took = ?started.elapsed(), "the server is up");
    running.until_stopped().await
}

/// Makes what every cluster has. A leader that dies meanwhile is no reason to end: it is all looked at again.
async fn everything(api: &Arc<ApiServer>, config: &ServerConfig) -> Result<()> {
    loop {
        let made = match bootstrap::bootstrap(api, config).boxed_local().await {
            Ok(()) => bootstrap::join_token(api, config).boxed_local().await,
            Err(error) => Err(error),
        };
        match made {
            Err(error) if bootstrap::is_temporary(&error) => {
                tracing::warn!("not everything is there yet: {error:#}");
                tokio::time::sleep(AGAIN).await;
            }
            made => return made,
        }
    }
}

fn directories(config: &ServerConfig) -> Result<()> {
    for (dir, mode) in [
        (config.data_dir.clone(), 0o700),
        (config.etc_dir.clone(), 0o755),
        (config.etc_dir.join("keys"), 0o700),
    ] {
        make(&dir, mode).with_context(|| format!("create the directory {}", dir.display()))?;
    }
    Ok(())
}

fn make(dir: &Path, mode: u32) -> std::io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    std::fs::create_dir_all(dir)?;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(mode))
}

/// Takes a port early: a program that listens on it already is told of before anything else is done. Until [`listen`] it
/// refuses connections: a client goes to another server instead of waiting for this one, which may itself wait for a majority.
fn bind(address: SocketAddr) -> Result<TcpSocket> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    };
    let bound = socket.and_then(|socket| {
        // Connections of a server that ended a moment ago do not keep the port.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        Ok(socket)
    });
    bound.with_context(|| in_use(address))
}

fn listen(socket: TcpSocket) -> Result<TcpListener> {
    let address = socket.local_addr()?;
    socket.listen(BACKLOG).with_context(|| in_use(address))
}

fn in_use(address: SocketAddr) -> String {
    format!("listen on {address}: is another program running on this port?")
}

fn make_api(
    config: &ServerConfig,
    quorum: &Quorum,
    stop: &CancellationToken,
) -> Result<Arc<ApiServer>> {
    let (store, authority) = (&quorum.store, &quorum.authority);
    let join = JoinService {
        store: store.clone(),
        authority: authority.clone(),
        cluster: ClusterConfig {
            cluster_cidr: config.cluster_cidr.to_string(),
            service_cidr: config.service_cidr.to_string(),
            dns_ip: config.dns_ip().to_string(),
            domain: config.domain.clone(),
            // Told anew with each answer.
            servers: Vec::new(),
        },
    };
    let cluster = ClusterService::new(
        quorum.membership.clone(),
        config.name.clone(),
        config.data_dir.clone(),
        stop.clone(),
    );
    let routes = join.routes().add_service(cluster.into_server());
    let registry = Registry::new();
    registry.register(StoreMetrics(store.clone()))?;
    Ok(ApiServer::new(Config {
        store: store.clone(),
        authority: authority.clone(),
        service_cidr: config.service_cidr.to_string(),
        node_ports: config.node_ports.clone(),
        kubelet_tls: authority::kubelet_client(authority)?,
        grpc: Some(routes),
        metrics: registry,
        advertise: std::net::SocketAddr::new(config.advertise, config.listen.port()).to_string(),
        audit: config.audit_log.clone(),
    })?)
}

fn settings(config: &ServerConfig, store: &Store, authority: &caravel_auth::Authority) -> Settings {
    let defaults = Settings::default();
    let store = store.clone();
    Settings {
        root_ca: authority.ca_pem().to_owned(),
        cluster_cidr: config.cluster_cidr,
        api: Some(ApiService {
            ip: config.kubernetes_ip(),
            servers: Arc::new(move || crate::living::servers(&store)),
        }),
        node_grace_seconds: config
            .node_grace_seconds
            .unwrap_or(defaults.node_grace_seconds),
        ..defaults
    }
}

#[cfg(test)]
mod tests {
    use super::{bind, listen};
    use tokio::net::TcpStream;

    #[tokio::test]
    async fn a_port_taken_refuses_until_it_is_listened_on() {
        let socket = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = socket.local_addr().unwrap();
        let early = TcpStream::connect(address).await.unwrap_err();
        assert_eq!(early.kind(), std::io::ErrorKind::ConnectionRefused);
        let listener = listen(socket).unwrap();
        assert!(TcpStream::connect(address).await.is_ok());
        let second = bind(address).unwrap_err();
        assert!(second.to_string().contains("another program"), "{second}");
        drop(listener);
    }
}
