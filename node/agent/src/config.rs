//! What a node daemon is told at its start. Plain data: whoever reads flags and files fills it in.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::Taint;

#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// The Node object's name.
    pub name: String,
    /// The address under which the other machines reach this one.
    pub node_ip: IpAddr,
    /// The API servers, and who this node is (`system:node:<name>`).
    pub client: caravel_client::Config,
    /// Labels and taints of a node that registers for the first time; labels are also kept on a known one.
    pub labels: BTreeMap<String, String>,
    pub taints: Vec<Taint>,

    /// `/var/lib/caravel/node`.
    pub data_dir: PathBuf,
    /// `/var/lib/kubelet`.
    pub kubelet_dir: PathBuf,
    /// `/var/log/pods`.
    pub pod_logs: PathBuf,
    /// `/run/caravel`.
    pub run_dir: PathBuf,
    /// Archives to import at the start; `data_dir/images` is always one of them.
    pub image_dirs: Vec<PathBuf>,
    /// When images that nobody uses are taken away.
    pub image_thresholds: crate::ImageThresholds,
    /// `registries.yaml`; need not exist.
    pub registries: PathBuf,
    /// This program, which runs again as `shim`, `exec-helper` and `dns`.
    pub program: PathBuf,
    /// Cgroup below which pods live, `/caravel`.
    pub cgroup_parent: String,

    pub cluster_domain: String,
    pub cluster_cidr: Ipv4Net,
    /// Address of the Service `kube-system/kube-dns`.
    pub cluster_dns: Ipv4Addr,
    /// Name of the bridge that pods hang on, at most 15 bytes.
    pub bridge: String,
    pub mtu: u32,
    /// The machine's resolver file, for `dnsPolicy: Default`.
    pub resolv_conf: PathBuf,

    /// Where the node's own HTTPS server listens (port 10250).
    pub listen: SocketAddr,
    /// PEM: its serving certificate and key, and the CA whose client certificates it accepts.
    pub serving_cert: String,
    pub serving_key: String,
    pub client_ca: String,

    pub max_pods: u32,
    /// Kept back from pods: milli-CPUs and bytes.
    pub reserved_cpu_milli: i64,
    pub reserved_memory: i64,
    pub lease_renew: Duration,
    /// How often a full node status goes out where nothing changed.
    pub status_report: Duration,
}
