//! What a server is told: plain data, made by the program from its file, flags and environment.

use caravel_apiserver::AuditLog;
use caravel_store::Timing;
use ipnet::Ipv4Net;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;

/// A server's configuration.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// `/var/lib/caravel/server`: the database (`db/`) and what must survive a restart.
    pub data_dir: PathBuf,
    /// `/etc/caravel`: the key ring (`keys/`) and the administrator's kubeconfig.
    pub etc_dir: PathBuf,
    /// Where the API listens.
    pub listen: SocketAddr,
    /// Port on which servers agree among themselves, on the same address.
    pub peer_port: u16,
    /// Servers of a cluster to join, `https://IP:6443`; a cluster of its own where none is named. Only a first start heeds it.
    pub join: Option<Vec<String>>,
    /// The token to join with.
    pub join_token: Option<String>,
    /// Hours between two backups on this server's disk; 0: none. How many are kept; where.
    pub snapshot_hours: u64,
    pub snapshot_retention: usize,
    pub snapshot_dir: Option<PathBuf>,
    /// Milliseconds between a leader's heartbeats, and the least after which it is taken for dead. The same on all servers.
    pub heartbeat_ms: u64,
    pub election_ms: u64,
    /// The address at which nodes and pods reach this server. The default, loopback, is refused: the program finds the machine's own.
    pub advertise: IpAddr,
    /// This server's name.
    pub name: String,
    /// Further names and addresses of the serving certificate.
    pub tls_sans: Vec<String>,
    /// Pods' addresses.
    pub cluster_cidr: Ipv4Net,
    /// Services' addresses.
    pub service_cidr: Ipv4Net,
    /// The cluster's DNS domain.
    pub domain: String,
    /// Node ports.
    pub node_ports: RangeInclusive<u16>,
    /// A join token chosen by the administrator (`K10<hash>::<id>:<secret>`, or `<id>:<secret>`); one is made otherwise.
    pub token: Option<String>,
    /// Where the administrator's kubeconfig is written; `<etc>/kubeconfig.yaml` by default.
    pub kubeconfig: Option<PathBuf>,
    /// The server's URL in that file; `https://127.0.0.1:<port>` by default where the server listens there.
    pub kubeconfig_server: Option<String>,
    /// Seconds after which a node that is silent is Unknown; upstream's 40 by default.
    pub node_grace_seconds: Option<i64>,
    /// Where each request is recorded (`--audit-log-path`); nowhere by default.
    pub audit_log: Option<AuditLog>,
}

/// Why a configuration cannot work.
#[derive(Debug, thiserror::Error)]
pub enum ServerConfigError {
    /// Two networks overlap.
    #[error(
        "cluster-cidr {cluster} and service-cidr {service} overlap: choose networks that share no address"
    )]
    Overlap { cluster: Ipv4Net, service: Ipv4Net },
    /// A network is too small or too large.
    #[error("service-cidr {0} must have between 8 and 28 bits")]
    ServiceSize(Ipv4Net),
    /// A network is too small for a /24 per node.
    #[error("cluster-cidr {0} must have at most 23 bits: every node gets a /24 of it")]
    ClusterSize(Ipv4Net),
    /// A leader would be taken for dead while it lives.
    #[error(
        "election-timeout {election} ms must be at least five times heartbeat-interval {heartbeat} ms, and that at least 10"
    )]
    Timing { heartbeat: u64, election: u64 },
    /// Nothing else reaches an unspecified or a loopback address; the Endpoints of the API must not name one.
    #[error("advertise-address {0} is no address that others can reach: name this machine's own")]
    Advertise(IpAddr),
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            data_dir: "/var/lib/caravel/server".into(),
            etc_dir: "/etc/caravel".into(),
            listen: SocketAddr::from(([0, 0, 0, 0], 6443)),
            peer_port: 2380,
            join: None,
            join_token: None,
            snapshot_hours: 12,
            snapshot_retention: 5,
            snapshot_dir: None,
            heartbeat_ms: Timing::HEARTBEAT_MS,
            election_ms: Timing::ELECTION_MS,
            advertise: IpAddr::V4(Ipv4Addr::LOCALHOST),
            name: "server".to_owned(),
            tls_sans: Vec::new(),
            cluster_cidr: Ipv4Net::new_assert(Ipv4Addr::new(10, 42, 0, 0), 16),
            service_cidr: Ipv4Net::new_assert(Ipv4Addr::new(10, 43, 0, 0), 16),
            domain: "cluster.local".to_owned(),
            node_ports: 30000..=32767,
            token: None,
            kubeconfig: None,
            kubeconfig_server: None,
            node_grace_seconds: None,
            audit_log: None,
        }
    }
}

impl ServerConfig {
    /// What can be known to be wrong before anything is started.
    ///
    /// # Errors
    /// See [`ServerConfigError`].
    pub fn check(&self) -> Result<(), ServerConfigError> {
        let (cluster, service) = (self.cluster_cidr, self.service_cidr);
        if cluster.contains(&service) || service.contains(&cluster) {
            return Err(ServerConfigError::Overlap { cluster, service });
        }
        if !(8..=28).contains(&service.prefix_len()) {
            return Err(ServerConfigError::ServiceSize(service));
        }
        if cluster.prefix_len() > 23 {
            return Err(ServerConfigError::ClusterSize(cluster));
        }
        if self.heartbeat_ms < 10 || self.election_ms < self.heartbeat_ms * 5 {
            return Err(ServerConfigError::Timing {
                heartbeat: self.heartbeat_ms,
                election: self.election_ms,
            });
        }
        if self.advertise.is_unspecified() || self.advertise.is_loopback() {
            return Err(ServerConfigError::Advertise(self.advertise));
        }
        Ok(())
    }

    fn service_ip(&self, offset: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.service_cidr.network()) + offset)
    }

    /// Cluster IP of the Service `default/kubernetes`.
    #[must_use]
    pub fn kubernetes_ip(&self) -> Ipv4Addr {
        self.service_ip(1)
    }

    /// Cluster IP of the Service `kube-system/kube-dns`.
    #[must_use]
    pub fn dns_ip(&self) -> Ipv4Addr {
        self.service_ip(10)
    }

    /// The administrator's kubeconfig.
    #[must_use]
    pub fn kubeconfig_path(&self) -> PathBuf {
        self.kubeconfig
            .clone()
            .unwrap_or_else(|| self.etc_dir.join("kubeconfig.yaml"))
    }

    /// The server's URL in the administrator's kubeconfig.
    #[must_use]
    pub fn kubeconfig_url(&self) -> String {
        self.kubeconfig_server.clone().unwrap_or_else(|| {
            let host = if self.listen.ip().is_unspecified() {
                IpAddr::V4(Ipv4Addr::LOCALHOST)
            } else {
                self.listen.ip()
            };
            format!("https://{}", SocketAddr::new(host, self.listen.port()))
        })
    }

    /// Where other servers reach this one.
    #[must_use]
    pub fn peer_address(&self) -> String {
        SocketAddr::new(self.advertise, self.peer_port).to_string()
    }

    /// Where backups lie.
    #[must_use]
    pub fn snapshots(&self) -> PathBuf {
        self.snapshot_dir
            .clone()
            .unwrap_or_else(|| self.data_dir.join("snapshots"))
    }

    /// Raft's clock.
    #[must_use]
    pub fn timing(&self) -> Timing {
        Timing::of(self.heartbeat_ms, self.election_ms)
    }

    /// The server's URL for nodes.
    #[must_use]
    pub fn node_url(&self) -> String {
        format!(
            "https://{}",
            SocketAddr::new(self.advertise, self.listen.port())
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_checked() {
        let with = |cluster: &str, service: &str| ServerConfig {
            cluster_cidr: cluster.parse().unwrap(),
            service_cidr: service.parse().unwrap(),
            advertise: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
            ..ServerConfig::default()
        };
        assert!(with("10.42.0.0/16", "10.43.0.0/16").check().is_ok());
        assert!(with("10.0.0.0/8", "10.43.0.0/16").check().is_err());
        assert!(with("10.42.0.0/24", "10.43.0.0/16").check().is_err());
        assert_eq!(
            ServerConfig::default().dns_ip(),
            Ipv4Addr::new(10, 43, 0, 10)
        );
    }
}
