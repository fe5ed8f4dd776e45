//! `caravel node`: joins, and hands the node daemon its configuration.

use crate::balancer::Balancer;
use crate::cli::{NodeArgs, NodeSettings};
use crate::joining::{Identity, Joining, fresh, identity, renewed};
use crate::name_server::NameServer;
use crate::server::{host_name, own_address};
use crate::tasks;
use anyhow::Context as _;
use caravel_agent::{ImageThresholds, NodeConfig};
use caravel_auth::join::JoinToken;
use caravel_client::{Config, Credential};
use k8s_openapi::api::core::v1::Taint;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

pub async fn run(
    args: NodeArgs,
    end: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    let token = match (&args.token, &args.token_file) {
        (Some(token), _) => Some(token.clone()),
        (None, Some(file)) => Some(
            std::fs::read_to_string(file)
                .with_context(|| format!("read the join token from {}", file.display()))?,
        ),
        (None, None) => None,
    };
    let token = token.map(|t| t.parse::<JoinToken>()).transpose()?;
    let shutdown = CancellationToken::new();
    tasks::cancel_after(end, shutdown.clone());
    tokio::select! {
        result = join_and_run(args.settings, &args.server, token, shutdown.clone()) => result,
        // Only while joining; the daemon itself ends in order.
        () = ended_while_joining(shutdown) => Ok(()),
    }
}

async fn ended_while_joining(shutdown: CancellationToken) {
    shutdown.cancelled().await;
    // The daemon has its own order of ending, and a minute for it.
    tokio::time::sleep(Duration::from_secs(60)).await;
}

/// The daemon of this machine, until `shutdown`. `servers` and `token` matter at the first start only.
pub async fn join_and_run(
    settings: NodeSettings,
    servers: &[String],
    token: Option<JoinToken>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let name = settings.node_name.clone().map_or_else(host_name, Ok)?;
    let address = match settings.node_ip {
        Some(address) => address,
        None => own_address(servers.first().and_then(|s| socket_of(s)))
            .context("--node-ip is not given, and")?,
    };
    let joining = Joining {
        node: &name,
        addresses: vec![address, IpAddr::from([127, 0, 0, 1])],
        servers,
        token,
    };
    let addresses = joining.addresses.clone();
    let tls = settings.node_data_dir.join("tls");
    let mut identity = tokio::select! {
        identity = identity(&tls, joining) => identity?,
        () = shutdown.cancelled() => return Ok(()),
    };
    identity = tokio::select! {
        identity = fresh(&tls, identity, &addresses) => identity,
        () = shutdown.cancelled() => return Ok(()),
    };
    // With new certificates the daemon begins anew in this process: its containers do not notice.
    loop {
        let again = shutdown.child_token();
        let running = run_as(&settings, &name, address, &identity, servers, again.clone());
        let mut running = Box::pin(running);
        let new = tokio::select! {
            result = &mut running => return result,
            new = renewed(&tls, &identity, &addresses) => new,
        };
        again.cancel();
        if let Err(error) = (&mut running).await {
            tracing::warn!("the daemon under the old certificates: {error:#}");
        }
        drop(running);
        identity = new;
    }
}

/// The daemon under one identity, until `shutdown`.
async fn run_as(
    settings: &NodeSettings,
    name: &str,
    address: IpAddr,
    identity: &Identity,
    servers: &[String],
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let tls = settings.node_data_dir.join("tls");
    let port = settings.balancer_port;
    let (settings, name, identity) = (settings.clone(), name.to_owned(), identity.clone());
    let mut config = config(settings, name, address, identity, servers)?;
    let balancer = Balancer::open(port, &tls, config.client).await?;
    config.client = balancer.config();
    let dns = NameServer {
        program: config.program.clone(),
        run_dir: config.run_dir.clone(),
        address: config.cluster_dns,
        domain: config.cluster_domain.clone(),
        upstreams: upstreams(&config),
        client: config.client.clone(),
    };
    // The DNS server goes on without us; only its keeper ends here.
    let (result, (), ()) = tokio::join!(
        async {
            let result = caravel_agent::run(config, shutdown.clone()).await;
            shutdown.cancel();
            result
        },
        dns.keep(shutdown.clone()),
        balancer.keep(shutdown.clone())
    );
    result
}

/// Whom the cluster's DNS asks about other names: this machine's resolvers.
fn upstreams(config: &NodeConfig) -> Vec<SocketAddr> {
    let text = std::fs::read_to_string(&config.resolv_conf).unwrap_or_default();
    caravel_dns::upstreams_from(&text, &[IpAddr::V4(config.cluster_dns)])
}

fn socket_of(url: &str) -> Option<SocketAddr> {
    url.strip_prefix("https://")?
        .trim_end_matches('/')
        .to_socket_addrs()
        .ok()?
        .next()
}

fn config(
    settings: NodeSettings,
    name: String,
    address: IpAddr,
    identity: Identity,
    servers: &[String],
) -> anyhow::Result<NodeConfig> {
    // Given servers first: an administrator may have moved one.
    let mut all: Vec<String> = servers.to_vec();
    all.extend(
        identity
            .servers
            .iter()
            .filter(|s| !servers.contains(s))
            .cloned(),
    );
    let network = |what: &str, text: &str| {
        text.parse()
            .with_context(|| format!("the cluster's {what} {text:?}"))
    };
    Ok(NodeConfig {
        name,
        node_ip: address,
        client: Config {
            servers: all,
            ca: identity.ca.clone(),
            credential: Credential::Certificate {
                cert: identity.client_cert,
                key: identity.client_key,
            },
            namespace: None,
        },
        labels: labels(&settings.node_label)?,
        taints: settings
            .node_taint
            .iter()
            .map(|t| taint(t))
            .collect::<anyhow::Result<_>>()?,
        data_dir: settings.node_data_dir,
        kubelet_dir: "/var/lib/kubelet".into(),
        pod_logs: "/var/log/pods".into(),
        run_dir: "/run/caravel".into(),
        image_dirs: settings.image_dir,
        image_thresholds: thresholds(
            settings.image_gc_high_threshold,
            settings.image_gc_low_threshold,
        )?,
        registries: settings.registries,
        program: caravel_lab::daemon::program()?,
        cgroup_parent: settings.cgroup_parent,
        cluster_domain: identity.domain,
        cluster_cidr: network("cluster-cidr", &identity.cluster_cidr)?,
        cluster_dns: identity
            .dns_ip
            .parse()
            .with_context(|| format!("the cluster's DNS address {:?}", identity.dns_ip))?,
        bridge: settings.bridge,
        mtu: settings.mtu,
        resolv_conf: settings.resolv_conf,
        listen: SocketAddr::from(([0, 0, 0, 0], settings.kubelet_port)),
        serving_cert: identity.server_cert,
        serving_key: identity.server_key,
        client_ca: identity.ca,
        max_pods: settings.max_pods,
        reserved_cpu_milli: 0,
        reserved_memory: 0,
        lease_renew: Duration::from_secs(10),
        status_report: Duration::from_secs(300),
    })
}

fn thresholds(high: u8, low: u8) -> anyhow::Result<ImageThresholds> {
    anyhow::ensure!(
        low < high,
        "--image-gc-low-threshold {low} must be below --image-gc-high-threshold {high}"
    );
    Ok(ImageThresholds { high, low })
}

fn labels(given: &[String]) -> anyhow::Result<BTreeMap<String, String>> {
    let pair = |text: &String| {
        text.split_once('=')
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .with_context(|| format!("--node-label {text:?}: KEY=VALUE is expected"))
    };
    given.iter().map(pair).collect()
}

fn taint(text: &str) -> anyhow::Result<Taint> {
    let wrong = || {
        format!(
            "--node-taint {text:?}: KEY[=VALUE]:EFFECT is expected, EFFECT NoSchedule, PreferNoSchedule or NoExecute"
        )
    };
    let (rest, effect) = text.rsplit_once(':').with_context(wrong)?;
    anyhow::ensure!(
        ["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect),
        wrong()
    );
    let (key, value) = rest
        .split_once('=')
        .map_or((rest, None), |(k, v)| (k, Some(v.to_owned())));
    anyhow::ensure!(!key.is_empty(), wrong());
    Ok(Taint {
        key: key.to_owned(),
        value,
        effect: effect.to_owned(),
        time_added: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taints_and_labels() {
        for (text, expected) in [
            ("a=b:NoSchedule", Some(("a", Some("b"), "NoSchedule"))),
            ("x.io/a:NoExecute", Some(("x.io/a", None, "NoExecute"))),
            ("a=b", None),
            ("a:Never", None),
            (":NoSchedule", None),
        ] {
            let found = taint(text).ok();
            assert_eq!(
                found
                    .as_ref()
                    .map(|t| (t.key.as_str(), t.value.as_deref(), t.effect.as_str())),
                expected,
                "{text}"
            );
        }
        assert!(labels(&["a".into()]).is_err());
    }
}
