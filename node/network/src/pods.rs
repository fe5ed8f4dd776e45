//! Connecting pods to the machine's bridge, and the machine to the other nodes' pods.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;
use tokio::sync::Mutex;

use crate::ipam::{Ipam, IpamError, gateway};
use crate::links::{LinkError, Links};
use crate::routes::{self, PeerNode};
use crate::{netns, sysctl};

/// Beginning of the names of our veth ends on the host.
const VETH: &str = "cv";

/// What the network of one node needs to know. Addresses are IPv4.
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// Name of the bridge, at most 15 bytes.
    pub bridge: String,
    /// This node's pod range, from `node.spec.podCIDR`.
    pub pod_cidr: Ipv4Net,
    /// Bytes; 1500 unless the uplink says less.
    pub mtu: u32,
    /// Where the address book is kept.
    pub state_dir: PathBuf,
    /// Address on which this machine's own DNS server answers (the Service `kube-system/kube-dns`).
    pub dns_ip: Ipv4Addr,
}

/// A pod's place in the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attached {
    /// The pod's address.
    pub ip: Ipv4Addr,
}

/// Why a pod could not be connected.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// No address, or the book is unreadable.
    #[error(transparent)]
    Ipam(#[from] IpamError),
    /// The kernel refused.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// A setting or namespace could not be reached.
    #[error("{doing}: {source}")]
    Io {
        /// What was tried.
        doing: String,
        /// What the system said.
        source: std::io::Error,
    },
}

/// The pods' network on this machine.
pub struct PodNetwork {
    config: NetworkConfig,
    links: Links,
    bridge: u32,
    ipam: Mutex<Ipam>,
}

impl PodNetwork {
    /// Prepares the machine: forwarding, the bridge, the DNS address. Idempotent; existing pods stay connected.
    pub async fn open(config: NetworkConfig) -> Result<Self, NetworkError> {
        let set = |name: &str, value: &str| {
            sysctl::set(name, value).map_err(|source| NetworkError::Io {
                doing: format!("set {name}={value}"),
                source,
            })
        };
        set("net.ipv4.ip_forward", "1")?;
        let links = Links::open()?;
        let address = Ipv4Net::new(gateway(config.pod_cidr), config.pod_cidr.prefix_len())
            .unwrap_or(config.pod_cidr);
        let bridge = links
            .ensure_bridge(&config.bridge, address, config.mtu)
            .await?;
        // Pods of one machine reach each other by way of the bridge's address; it must not tell them of a shorter way.
        set(
            &format!("net.ipv4.conf.{}.send_redirects", config.bridge),
            "0",
        )?;
        set("net.ipv4.conf.all.send_redirects", "0")?;
        links.add_local_address(config.dns_ip).await?;
        let ipam = Mutex::new(Ipam::open(&config.state_dir, config.pod_cidr)?);
        Ok(Self {
            config,
            links,
            bridge,
            ipam,
        })
    }

    /// Connects the pod's namespace and returns its address; doing it again changes nothing.
    pub async fn attach(&self, netns: &Path, uid: &str) -> Result<Attached, NetworkError> {
        let ip = self.ipam.lock().await.allocate(uid)?;
        self.links
            .ensure_veth(&veth_name(uid), self.bridge, netns, self.config.mtu)
            .await?;
        let gateway = gateway(self.config.pod_cidr);
        netns::within(netns, move || async move {
            Links::open()?.configure_pod(ip, gateway).await
        })
        .await
        .map_err(|source| NetworkError::Io {
            doing: format!("enter namespace {}", netns.display()),
            source,
        })??;
        Ok(Attached { ip })
    }

    /// Disconnects the pod and frees its address. Unknown pods are no error.
    pub async fn detach(&self, uid: &str) -> Result<(), NetworkError> {
        self.links.remove(&veth_name(uid)).await?;
        self.ipam.lock().await.release(uid)?;
        Ok(())
    }

    /// The address the pod was given, also by an earlier daemon.
    pub async fn address(&self, uid: &str) -> Option<Ipv4Addr> {
        self.ipam.lock().await.get(uid)
    }

    /// Disconnects every pod that is not in `keep`: what a crash left behind.
    pub async fn retain(&self, keep: impl Fn(&str) -> bool) -> Result<(), NetworkError> {
        let stale: Vec<String> = self
            .ipam
            .lock()
            .await
            .pods()
            .map(|(uid, _)| uid.to_owned())
            .filter(|uid| !keep(uid))
            .collect();
        for uid in stale {
            self.detach(&uid).await?;
        }
        Ok(())
    }

    /// Makes the routes to other nodes' pods exactly these.
    pub async fn set_peers(&self, peers: &[PeerNode]) -> Result<(), NetworkError> {
        let present = self.links.peer_routes().await?;
        let plan = routes::plan(&present, peers);
        for cidr in plan.remove {
            if let Some(via) = present.get(&cidr) {
                self.links.remove_route(cidr, *via).await?;
            }
        }
        for peer in &plan.put {
            self.links.put_route(peer).await?;
        }
        Ok(())
    }
}

/// At most 15 bytes, and different for different pods of one machine: 52 bits of the UID.
fn veth_name(uid: &str) -> String {
    let hex: String = uid
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .take(13)
        .collect();
    format!("{VETH}{hex}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A namespace of this test's own, held open by a file descriptor of a parked thread.
    fn namespace() -> PathBuf {
        let (send, receive) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            let tid = nix::unistd::gettid();
            send.send(PathBuf::from(format!("/proc/self/task/{tid}/ns/net")))
                .unwrap();
            std::thread::park();
        });
        receive.recv().unwrap()
    }

    fn run_in(netns: &Path, work: impl AsyncFnOnce() + Send + 'static) {
        let file = std::fs::File::open(netns).unwrap();
        std::thread::spawn(move || {
            nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap()
                .block_on(work());
        })
        .join()
        .unwrap();
    }

    #[test]
    fn connects_and_disconnects_pods() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let (host, pod) = (namespace(), namespace());
        let config = NetworkConfig {
            bridge: "caravel0".into(),
            pod_cidr: "10.42.7.0/24".parse().unwrap(),
            mtu: 1500,
            state_dir: dir.path().to_owned(),
            dns_ip: "10.43.0.10".parse().unwrap(),
        };
        run_in(&host, async move || {
            let network = PodNetwork::open(config.clone()).await.unwrap();
            let uid = "0f0e0d0c-1111-2222-3333-444444444444";
            let first = network.attach(&pod, uid).await.unwrap();
            assert_eq!(first.ip.to_string(), "10.42.7.2");
            assert_eq!(
                network.attach(&pod, uid).await.unwrap(),
                first,
                "attaching twice changes nothing"
            );

            let reopened = PodNetwork::open(config).await.unwrap();
            assert_eq!(reopened.address(uid).await, Some(first.ip));
            let via = "10.42.7.77".parse().unwrap();
            let peer = PeerNode {
                cidr: "10.42.8.0/24".parse().unwrap(),
                via,
            };
            reopened
                .set_peers(std::slice::from_ref(&peer))
                .await
                .unwrap();
            assert_eq!(
                reopened.links.peer_routes().await.unwrap(),
                std::collections::BTreeMap::from([(peer.cidr, via)])
            );
            reopened.set_peers(&[]).await.unwrap();
            assert!(reopened.links.peer_routes().await.unwrap().is_empty());

            reopened.retain(|_| false).await.unwrap();
            assert!(reopened.links.names(VETH).await.unwrap().is_empty());
        });
    }
}
