//! What controllers are told about the cluster when they start. Defaults are upstream's.

use crate::network::kubernetes::ApiService;
use ipnet::Ipv4Net;

#[derive(Clone, Debug)]
pub struct Settings {
    /// PEM of the cluster CA, published as `kube-root-ca.crt` in each namespace.
    pub root_ca: String,
    /// What nodes' pod CIDRs are cut from.
    pub cluster_cidr: Ipv4Net,
    /// Prefix length of one node's pod CIDR.
    pub node_mask: u8,
    /// A node whose Lease is older is not heard of any more (`--node-monitor-grace-period`).
    pub node_grace_seconds: i64,
    /// How often to look at a node that is heard of (`--node-monitor-period`).
    pub node_period_seconds: i64,
    /// Events live this long (`--event-ttl`).
    pub event_ttl_seconds: i64,
    /// The API's own Service, and the servers behind it; not kept where none is named.
    pub api: Option<ApiService>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            root_ca: String::new(),
            cluster_cidr: Ipv4Net::new_assert(std::net::Ipv4Addr::new(10, 42, 0, 0), 16),
            node_mask: 24,
            node_grace_seconds: 40,
            node_period_seconds: 5,
            event_ttl_seconds: 3600,
            api: None,
        }
    }
}
