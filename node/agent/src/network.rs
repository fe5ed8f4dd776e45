//! Keeps the machine's network at what the cluster says: pod range, routes to other nodes, Services, host ports.
//!
//! Watches Services, EndpointSlices and Nodes once for everybody; a change is compiled after a moment's rest, so that
//! a burst is one change of rules.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use caravel_network::routes::PeerNode;
use caravel_network::services::{HostPort, Nft, compile};
use caravel_network::{NetworkConfig, PodNetwork, ServiceProxy, ServiceSet};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::reflector::{self, Lookup, Store, store::Writer};
use kube::runtime::watcher;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::api::Api;
use crate::tasks::blocking;
use crate::world::World;

/// Changes within this time are one.
const REST: Duration = Duration::from_millis(15);
/// How often the kernel's rules are looked at: somebody may have flushed them.
const CHECK: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_millis(500);

/// Stores filled by watches, and what tells of changes.
pub(crate) struct Cluster {
    pub services: Store<Service>,
    pub slices: Store<EndpointSlice>,
    pub nodes: Store<Node>,
    pub changed: Arc<Notify>,
}

/// Fills a store until the daemon ends; a broken watch is begun again, on another server if need be.
pub(crate) async fn follow<K>(
    api: Api,
    mut writer: Writer<K>,
    changed: Arc<Notify>,
    known: Option<watch::Sender<bool>>,
    shutdown: CancellationToken,
) where
    K: kube::Resource
        + Lookup
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned
        + Send
        + Sync
        + 'static,
    <K as kube::Resource>::DynamicType: Default + Clone,
    <K as Lookup>::DynamicType: Eq + std::hash::Hash + Clone + Default,
{
    loop {
        let mut events = watcher::watcher(
            kube::Api::<K>::all(api.client()),
            watcher::Config::default(),
        )
        .boxed();
        loop {
            let event = tokio::select! {
                () = shutdown.cancelled() => return,
                event = events.next() => event,
            };
            match event {
                Some(Ok(event)) => {
                    let done = matches!(event, watcher::Event::InitDone);
                    let quiet =
                        matches!(event, watcher::Event::Init | watcher::Event::InitApply(_));
                    writer.apply_watcher_event(&event);
                    if done && let Some(known) = &known {
                        known.send_replace(true);
                    }
                    if !quiet {
                        changed.notify_one();
                    }
                }
                Some(Err(error)) => {
                    tracing::warn!(%error, "watch interrupted");
                    let probe = api.client();
                    let _ = api.request(probe.apiserver_version()).await;
                    break;
                }
                None => break,
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(AGAIN) => {}
        }
    }
}

pub(crate) fn store<K>() -> (Store<K>, Writer<K>)
where
    K: Lookup + Clone + 'static,
    K::DynamicType: Eq + std::hash::Hash + Clone + Default,
{
    reflector::store()
}

/// Opens the pods' network once the node has a range, and keeps rules and routes until the daemon ends.
pub(crate) async fn keep(
    world: Arc<World>,
    cluster: Cluster,
    opened: watch::Sender<Option<Arc<PodNetwork>>>,
) {
    let mut proxy = ServiceProxy::new(Nft);
    let mut peers: Vec<PeerNode> = Vec::new();
    let mut check = tokio::time::interval(CHECK);
    loop {
        if opened.borrow().is_none() {
            open(&world, &cluster, &opened).await;
        }
        let network = opened.borrow().clone();
        if let Some(network) = &network {
            let wanted = wanted_peers(&cluster.nodes, &world.config.name);
            if wanted != peers {
                match network.set_peers(&wanted).await {
                    Ok(()) => peers = wanted,
                    Err(error) => tracing::warn!(%error, "routes to other nodes not set"),
                }
            }
        }
        if *world.services_known.borrow() {
            let set = ServiceSet {
                services: cluster.services.state(),
                slices: cluster.slices.state(),
                host_ports: host_ports(&world),
                node: world.config.name.clone(),
                cluster_cidr: world.config.cluster_cidr,
                dns_ip: world.config.cluster_dns,
            };
            let (back, result) = blocking(move || {
                let result = proxy.sync(compile(&set));
                (proxy, result)
            })
            .await;
            proxy = back;
            if let Err(error) = result {
                tracing::warn!(%error, "service rules not applied");
            }
        }
        tokio::select! {
            () = world.shutdown.cancelled() => return,
            () = cluster.changed.notified() => tokio::time::sleep(REST).await,
            _ = check.tick() => {
                let (back, result) = blocking(move || { let result = proxy.check(); (proxy, result) }).await;
                proxy = back;
                if let Err(error) = result {
                    tracing::warn!(%error, "service rules not checked");
                }
            }
        }
    }
}

async fn open(world: &World, cluster: &Cluster, opened: &watch::Sender<Option<Arc<PodNetwork>>>) {
    let nodes = cluster.nodes.state();
    let own = nodes
        .iter()
        .find(|n| n.metadata.name.as_deref() == Some(&world.config.name));
    let Some(cidr) = own
        .and_then(|n| n.spec.as_ref())
        .and_then(|s| s.pod_cidr.as_deref())
        .and_then(|c| c.parse().ok())
    else {
        return;
    };
    let config = NetworkConfig {
        bridge: world.config.bridge.clone(),
        pod_cidr: cidr,
        mtu: world.config.mtu,
        state_dir: world.config.data_dir.join("network"),
        dns_ip: world.config.cluster_dns,
    };
    match PodNetwork::open(config).await {
        Ok(network) => drop(opened.send_replace(Some(Arc::new(network)))),
        Err(error) => tracing::error!(%error, "the pods' network could not be set up"),
    }
}

fn wanted_peers(nodes: &Store<Node>, own: &str) -> Vec<PeerNode> {
    let mut peers: Vec<PeerNode> = nodes
        .state()
        .iter()
        .filter(|n| n.metadata.name.as_deref() != Some(own))
        .filter_map(|node| {
            let cidr = node.spec.as_ref()?.pod_cidr.as_deref()?.parse().ok()?;
            let addresses = node.status.as_ref()?.addresses.as_ref()?;
            let via = addresses
                .iter()
                .find(|a| a.type_ == "InternalIP")?
                .address
                .parse::<Ipv4Addr>()
                .ok()?;
            Some(PeerNode { cidr, via })
        })
        .collect();
    peers.sort();
    peers
}

/// Host ports of the pods that have an address and have not ended.
fn host_ports(world: &World) -> Vec<HostPort> {
    let mut ports = BTreeSet::new();
    for view in world.pods.list() {
        let Some(IpAddr::V4(ip)) = view.ip else {
            continue;
        };
        let over = view
            .pod
            .status
            .as_ref()
            .and_then(|s| s.phase.as_deref())
            .is_some_and(|p| matches!(p, "Succeeded" | "Failed"));
        let spec = view.pod.spec.as_ref();
        if over || spec.and_then(|s| s.host_network) == Some(true) {
            continue;
        }
        ports.extend(of_pod(&view.pod, ip));
    }
    ports.into_iter().collect()
}

fn of_pod(pod: &Pod, pod_ip: Ipv4Addr) -> Vec<HostPort> {
    let containers = pod.spec.iter().flat_map(|s| {
        s.containers.iter().chain(
            s.init_containers
                .iter()
                .flatten()
                .filter(|c| c.restart_policy.as_deref() == Some("Always")),
        )
    });
    let ports = containers.flat_map(|c| c.ports.iter().flatten());
    ports
        .filter_map(|port| {
            Some(HostPort {
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".into()),
                host_ip: port
                    .host_ip
                    .as_deref()
                    .and_then(|ip| ip.parse::<Ipv4Addr>().ok())
                    .filter(|ip| !ip.is_unspecified()),
                host_port: u16::try_from(port.host_port?).ok().filter(|p| *p > 0)?,
                pod_ip,
                container_port: u16::try_from(port.container_port).ok()?,
            })
        })
        .collect()
}
