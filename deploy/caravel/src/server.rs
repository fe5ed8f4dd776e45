//! `caravel server`: from flags to a server's configuration.

use crate::cli::ServerArgs;
use crate::tasks;
use anyhow::Context as _;
use caravel_server::ServerConfig;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use tokio_util::sync::CancellationToken;

pub async fn run(
    args: ServerArgs,
    end: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    let config = config(args)?;
    let shutdown = CancellationToken::new();
    tasks::cancel_after(end, shutdown.clone());
    caravel_server::run(config, shutdown).await
}

pub fn config(args: ServerArgs) -> anyhow::Result<ServerConfig> {
    let advertise = match args.advertise_address {
        Some(address) => address,
        None if !args.bind_address.is_unspecified() => args.bind_address,
        None => own_address(None).context("--advertise-address is not given, and")?,
    };
    let join_token = match args.join_token_file {
        Some(file) if !args.join.is_empty() => {
            let text = std::fs::read_to_string(&file)
                .with_context(|| format!("read the join token {}", file.display()))?;
            Some(text.trim().to_owned())
        }
        _ => args.join_token,
    };
    let config = ServerConfig {
        data_dir: args.server_data_dir,
        etc_dir: args.etc_dir,
        listen: SocketAddr::new(args.bind_address, args.https_listen_port),
        advertise,
        peer_port: args.peer_port,
        join: (!args.join.is_empty()).then_some(args.join),
        join_token,
        snapshot_hours: args.snapshot_interval,
        snapshot_retention: args.snapshot_retention,
        snapshot_dir: args.snapshot_dir,
        heartbeat_ms: args.heartbeat_interval,
        election_ms: args.election_timeout,
        name: args.name.map_or_else(host_name, Ok)?,
        tls_sans: args.tls_san,
        cluster_cidr: args.cluster.cluster_cidr,
        service_cidr: args.cluster.service_cidr,
        domain: args.cluster.cluster_domain,
        node_ports: args.cluster.service_node_port_range.first
            ..=args.cluster.service_node_port_range.last,
        token: args.server_token,
        kubeconfig: args.write_kubeconfig,
        node_grace_seconds: args.node_monitor_grace_period,
        audit_log: args.audit.into_log(),
        ..ServerConfig::default()
    };
    config.check()?;
    Ok(config)
}

/// The machine's name, as a node's or server's: lower case.
pub fn host_name() -> anyhow::Result<String> {
    let name = nix::unistd::gethostname().context("read the machine's name")?;
    Ok(name.to_string_lossy().to_ascii_lowercase())
}

/// The address from which this machine reaches `towards` (or the world beyond its default route). Sends nothing.
pub fn own_address(towards: Option<SocketAddr>) -> anyhow::Result<IpAddr> {
    // An address of a network that is kept for documentation: only the route to it matters.
    let towards = towards.unwrap_or_else(|| SocketAddr::from(([198, 51, 100, 1], 9)));
    let any = if towards.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let address = UdpSocket::bind(any)
        .and_then(|socket| socket.connect(towards).and_then(|()| socket.local_addr()));
    Ok(address
        .with_context(|| {
            format!(
                "this machine has no route to {}, so its own address cannot be guessed",
                towards.ip()
            )
        })?
        .ip())
}
