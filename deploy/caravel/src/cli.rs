//! Every command and flag. Help texts are documentation: they say units, defaults and what a flag is for.

mod certificate;
mod doctor;
mod lab;

pub use certificate::CertificateCommand;
pub use doctor::DoctorArgs;
pub use lab::{LabCommand, LabDir, LabImageCommand};

use caravel_store::Timing;
use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnet::Ipv4Net;
use std::net::IpAddr;
use std::path::PathBuf;

#[derive(Parser, Debug)]
#[command(
    name = "caravel",
    version,
    about = "A Kubernetes-compatible cluster in one program",
    args_override_self = true,
    propagate_version = true
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    /// What to log, as `info` or `warn,caravel_agent=debug`.
    #[arg(long, global = true, env = "CARAVEL_LOG", value_name = "FILTER")]
    pub log: Option<String>,
    /// Log lines of JSON.
    #[arg(long, global = true, env = "CARAVEL_LOG_JSON")]
    pub log_json: bool,
    /// The configuration file: keys are the names of flags, values override nothing that is given as flag or environment.
    #[arg(
        long,
        global = true,
        env = "CARAVEL_CONFIG",
        value_name = "FILE",
        default_value = "/etc/caravel/config.yaml"
    )]
    pub config: PathBuf,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run a server: the API, the store, the controllers and the scheduler.
    Server(Box<ServerArgs>),
    /// Run a node: join a cluster and run its pods on this machine.
    Node(Box<NodeArgs>),
    /// Run a whole cluster on this machine: a server and a node in one process.
    Up(Box<UpArgs>),
    /// A whole cluster of several hosts on this machine, in network namespaces, to try and to test.
    #[command(subcommand)]
    Lab(LabCommand),
    /// Serve the cluster's DNS names on this node (started by the node daemon).
    #[command(hide = true)]
    Dns(DnsArgs),
    /// The container images of this node.
    #[command(subcommand)]
    Image(ImageCommand),
    /// Tokens with which machines join.
    #[command(subcommand)]
    Token(TokenCommand),
    /// Backups of the cluster's state.
    #[command(subcommand)]
    Snapshot(SnapshotCommand),
    /// The servers that agree on the cluster's state.
    #[command(subcommand)]
    Member(MemberCommand),
    /// The cluster's certificates, and the keys that its data is sealed with.
    #[command(subcommand)]
    Certificate(CertificateCommand),
    /// Look what is wrong with the cluster, and what to do about it. Fails when something is.
    Doctor(DoctorArgs),
    /// Print the administrator's kubeconfig.
    Kubeconfig(KubeconfigArgs),
    /// Look whether this machine's kernel and programs have what Caravel needs.
    Check(CheckArgs),
    /// Print a completion script.
    Completion { shell: clap_complete::Shell },
    /// Print the version.
    Version,
}

impl Command {
    pub fn is_daemon(&self) -> bool {
        matches!(
            self,
            Self::Server(_)
                | Self::Node(_)
                | Self::Up(_)
                | Self::Dns(_)
                | Self::Lab(LabCommand::Balance { .. })
        )
    }
}

/// What all machines of a cluster must agree on; nodes learn it when they join.
#[derive(Args, Debug, Clone)]
pub struct ClusterArgs {
    /// Addresses of pods; every node gets a /24 of it.
    #[arg(long, env = "CARAVEL_CLUSTER_CIDR", default_value = "10.42.0.0/16")]
    pub cluster_cidr: Ipv4Net,
    /// Addresses of Services.
    #[arg(long, env = "CARAVEL_SERVICE_CIDR", default_value = "10.43.0.0/16")]
    pub service_cidr: Ipv4Net,
    /// Domain of the cluster's DNS names.
    #[arg(long, env = "CARAVEL_CLUSTER_DOMAIN", default_value = "cluster.local")]
    pub cluster_domain: String,
    /// Ports of Services of type NodePort, first and last.
    #[arg(
        long,
        env = "CARAVEL_SERVICE_NODE_PORT_RANGE",
        default_value = "30000-32767"
    )]
    pub service_node_port_range: PortRange,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    pub first: u16,
    pub last: u16,
}

impl std::str::FromStr for PortRange {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (first, last) = text
            .split_once('-')
            .ok_or("expected FIRST-LAST, as 30000-32767")?;
        let port = |t: &str| {
            t.trim()
                .parse::<u16>()
                .map_err(|_| format!("{t:?} is no port"))
        };
        let range = Self {
            first: port(first)?,
            last: port(last)?,
        };
        if range.first == 0 || range.first > range.last {
            Err(format!("{text:?} is no range of ports"))
        } else {
            Ok(range)
        }
    }
}

#[derive(Args, Debug, Clone)]
pub struct ServerArgs {
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// This server's name. Default: the machine's host name.
    #[arg(long, env = "CARAVEL_NAME")]
    pub name: Option<String>,
    /// Where the API listens.
    #[arg(long, env = "CARAVEL_BIND_ADDRESS", default_value = "0.0.0.0")]
    pub bind_address: IpAddr,
    /// Port of the API.
    #[arg(long, env = "CARAVEL_HTTPS_LISTEN_PORT", default_value_t = 6443)]
    pub https_listen_port: u16,
    /// The address under which others reach this server. Default: that of the interface with the default route.
    #[arg(long, env = "CARAVEL_ADVERTISE_ADDRESS")]
    pub advertise_address: Option<IpAddr>,
    /// More names and addresses that the API's certificate shall be valid for.
    #[arg(long, env = "CARAVEL_TLS_SAN", value_delimiter = ',')]
    pub tls_san: Vec<String>,
    /// Where the server keeps its data.
    #[arg(
        long = "server-data-dir",
        env = "CARAVEL_SERVER_DATA_DIR",
        default_value = "/var/lib/caravel/server"
    )]
    pub server_data_dir: PathBuf,
    /// Where the keys lie that the data is sealed with (`keys/`), and the administrator's kubeconfig.
    #[arg(long, env = "CARAVEL_ETC_DIR", default_value = "/etc/caravel")]
    pub etc_dir: PathBuf,
    /// Where the administrator's kubeconfig is written, for root only. Default: kubeconfig.yaml in --etc-dir.
    #[arg(long, env = "CARAVEL_WRITE_KUBECONFIG", value_name = "FILE")]
    pub write_kubeconfig: Option<PathBuf>,
    /// Begin a new cluster. This is what a first start does anyway unless it is told to join one.
    #[arg(long, env = "CARAVEL_CLUSTER_INIT", conflicts_with = "join")]
    pub cluster_init: bool,
    /// Join the cluster of this server, https://ADDRESS:6443; several are tried in order. Heeded by a first start only.
    #[arg(long, env = "CARAVEL_JOIN", value_delimiter = ',', value_name = "URL")]
    pub join: Vec<String>,
    /// The token to join with, as `caravel token create --role server` printed it.
    #[arg(long = "token", env = "CARAVEL_JOIN_TOKEN", hide_env_values = true)]
    pub join_token: Option<String>,
    /// A file that holds it.
    #[arg(
        long = "token-file",
        env = "CARAVEL_JOIN_TOKEN_FILE",
        value_name = "FILE",
        conflicts_with = "join_token"
    )]
    pub join_token_file: Option<PathBuf>,
    /// Port on which the servers agree among themselves.
    #[arg(long, env = "CARAVEL_PEER_PORT", default_value_t = 2380)]
    pub peer_port: u16,
    /// Hours between two backups that this server saves by itself; 0: none.
    #[arg(
        long,
        env = "CARAVEL_SNAPSHOT_INTERVAL",
        default_value_t = 12,
        value_name = "HOURS"
    )]
    pub snapshot_interval: u64,
    /// Backups that are kept.
    #[arg(long, env = "CARAVEL_SNAPSHOT_RETENTION", default_value_t = 5)]
    pub snapshot_retention: usize,
    /// Where they lie. Default: snapshots in --server-data-dir.
    #[arg(long, env = "CARAVEL_SNAPSHOT_DIR", value_name = "DIR")]
    pub snapshot_dir: Option<PathBuf>,
    /// Milliseconds between a leader's heartbeats. The same on all servers.
    #[arg(
        long,
        env = "CARAVEL_HEARTBEAT_INTERVAL",
        default_value_t = Timing::HEARTBEAT_MS,
        value_name = "MS"
    )]
    pub heartbeat_interval: u64,
    /// Servers that hear nothing of their leader elect another after one and a half of this and a random part more, between this
    /// and one and a half of it, in milliseconds. The same on all servers.
    #[arg(
        long,
        env = "CARAVEL_ELECTION_TIMEOUT",
        default_value_t = Timing::ELECTION_MS,
        value_name = "MS"
    )]
    pub election_timeout: u64,
    /// The join token, ID:SECRET, instead of one made at the first start (which lies in node-token in the data directory).
    #[arg(
        long = "server-token",
        env = "CARAVEL_SERVER_TOKEN",
        hide_env_values = true
    )]
    pub server_token: Option<String>,
    /// Seconds after which a silent node is Unknown.
    #[arg(long, env = "CARAVEL_NODE_MONITOR_GRACE_PERIOD")]
    pub node_monitor_grace_period: Option<i64>,
    #[command(flatten)]
    pub audit: crate::audit::AuditArgs,
}

#[derive(Args, Debug, Clone)]
pub struct NodeArgs {
    /// A server to join, https://ADDRESS:6443; several are tried in order. Needed for the first start.
    #[arg(
        long,
        env = "CARAVEL_SERVER",
        value_delimiter = ',',
        value_name = "URL"
    )]
    pub server: Vec<String>,
    /// The join token that `caravel token create` printed. Needed for the first start.
    #[arg(long, env = "CARAVEL_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// A file that holds the join token.
    #[arg(
        long,
        env = "CARAVEL_TOKEN_FILE",
        value_name = "FILE",
        conflicts_with = "token"
    )]
    pub token_file: Option<PathBuf>,
    #[command(flatten)]
    pub settings: NodeSettings,
}

/// What a node is told beside whom to join.
#[derive(Args, Debug, Clone)]
pub struct NodeSettings {
    /// The node's name in the cluster. Default: the machine's host name.
    #[arg(long, env = "CARAVEL_NODE_NAME")]
    pub node_name: Option<String>,
    /// The address under which the other machines reach this one. Default: that of the interface with the default route.
    #[arg(long, env = "CARAVEL_NODE_IP")]
    pub node_ip: Option<IpAddr>,
    /// Labels of the node, KEY=VALUE.
    #[arg(
        long,
        env = "CARAVEL_NODE_LABEL",
        value_delimiter = ',',
        value_name = "KEY=VALUE"
    )]
    pub node_label: Vec<String>,
    /// Taints that the node has when it first registers, KEY[=VALUE]:EFFECT.
    #[arg(
        long,
        env = "CARAVEL_NODE_TAINT",
        value_delimiter = ',',
        value_name = "KEY=VALUE:EFFECT"
    )]
    pub node_taint: Vec<String>,
    /// Where the node keeps images, containers and its certificates.
    #[arg(
        long = "node-data-dir",
        env = "CARAVEL_NODE_DATA_DIR",
        default_value = "/var/lib/caravel/node"
    )]
    pub node_data_dir: PathBuf,
    /// More directories of image archives to import at the start.
    #[arg(
        long,
        env = "CARAVEL_IMAGE_DIR",
        value_delimiter = ',',
        value_name = "DIR"
    )]
    pub image_dir: Vec<PathBuf>,
    /// Percent of the image file system in use above which images that nobody uses are taken away.
    #[arg(long, env = "CARAVEL_IMAGE_GC_HIGH_THRESHOLD", default_value_t = 85, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub image_gc_high_threshold: u8,
    /// Percent at which that ends.
    #[arg(long, env = "CARAVEL_IMAGE_GC_LOW_THRESHOLD", default_value_t = 80, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub image_gc_low_threshold: u8,
    /// Mirrors and credentials of registries.
    #[arg(
        long,
        env = "CARAVEL_REGISTRIES",
        default_value = "/etc/caravel/registries.yaml"
    )]
    pub registries: PathBuf,
    /// The cgroup below which pods run.
    #[arg(long, env = "CARAVEL_CGROUP_PARENT", default_value = "/caravel")]
    pub cgroup_parent: String,
    /// Name of the bridge that pods hang on, at most 15 bytes.
    #[arg(long, env = "CARAVEL_BRIDGE", default_value = "caravel0")]
    pub bridge: String,
    /// Bytes of the largest packet between pods.
    #[arg(long, env = "CARAVEL_MTU", default_value_t = 1500)]
    pub mtu: u32,
    /// The resolver configuration that pods with dnsPolicy Default get, and that the cluster's DNS asks about other names.
    #[arg(long, env = "CARAVEL_RESOLV_CONF", default_value = "/etc/resolv.conf")]
    pub resolv_conf: PathBuf,
    /// Port on loopback through which this node's programs reach whichever server is ready.
    #[arg(long, env = "CARAVEL_BALANCER_PORT", default_value_t = 6444)]
    pub balancer_port: u16,
    /// Pods that may run here at once.
    #[arg(long, env = "CARAVEL_MAX_PODS", default_value_t = 110)]
    pub max_pods: u32,
    /// Port of the node's own API (logs, exec, statistics).
    #[arg(long, env = "CARAVEL_KUBELET_PORT", default_value_t = 10250)]
    pub kubelet_port: u16,
}

#[derive(Args, Debug, Clone)]
pub struct UpArgs {
    #[command(flatten)]
    pub server: ServerArgs,
    #[command(flatten)]
    pub node: NodeSettings,
}

#[derive(Args, Debug)]
pub struct DnsArgs {
    /// Where to listen, ADDRESS:PORT, UDP and TCP.
    #[arg(long, required = true, value_delimiter = ',')]
    pub listen: Vec<std::net::SocketAddr>,
    #[arg(long, default_value = "cluster.local")]
    pub domain: String,
    /// Who is asked about other names, ADDRESS:PORT.
    #[arg(long, value_delimiter = ',')]
    pub upstream: Vec<std::net::SocketAddr>,
    /// Credentials for the API.
    #[arg(long)]
    pub kubeconfig: PathBuf,
}

#[derive(Args, Debug, Clone)]
pub struct ImageStoreArgs {
    #[arg(
        long = "node-data-dir",
        env = "CARAVEL_NODE_DATA_DIR",
        default_value = "/var/lib/caravel/node"
    )]
    pub node_data_dir: PathBuf,
    #[arg(
        long,
        env = "CARAVEL_REGISTRIES",
        default_value = "/etc/caravel/registries.yaml"
    )]
    pub registries: PathBuf,
}

#[derive(Subcommand, Debug)]
pub enum ImageCommand {
    /// Import archives: OCI layouts or `docker save`, plain or compressed.
    Import {
        #[command(flatten)]
        store: ImageStoreArgs,
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// List images.
    List {
        #[command(flatten)]
        store: ImageStoreArgs,
        #[arg(long, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
    /// Pull an image from its registry.
    Pull {
        #[command(flatten)]
        store: ImageStoreArgs,
        reference: String,
    },
    /// Forget an image's name.
    Remove {
        #[command(flatten)]
        store: ImageStoreArgs,
        reference: String,
    },
}

#[derive(Args, Debug, Clone)]
pub struct AdminArgs {
    /// The administrator's kubeconfig.
    #[arg(
        long,
        env = "KUBECONFIG",
        default_value = "/etc/caravel/kubeconfig.yaml"
    )]
    pub kubeconfig: PathBuf,
}

#[derive(Subcommand, Debug)]
pub enum TokenCommand {
    /// Make a token and print it: it is shown this once.
    Create {
        #[command(flatten)]
        admin: AdminArgs,
        /// What its holder may become.
        #[arg(long, value_enum, default_value_t = TokenRole::Node)]
        role: TokenRole,
        /// Hours until it expires; 0: never.
        #[arg(long, default_value_t = 24)]
        ttl_hours: u64,
        /// What it is for.
        #[arg(long, default_value = "")]
        description: String,
    },
    /// List tokens, without their secrets.
    List {
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Revoke a token by its id.
    Delete {
        #[command(flatten)]
        admin: AdminArgs,
        id: String,
    },
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenRole {
    Node,
    Server,
}

#[derive(Subcommand, Debug)]
pub enum MemberCommand {
    /// List the servers: who leads, who has a vote, who lags.
    List {
        #[command(flatten)]
        admin: AdminArgs,
        #[arg(long, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
    /// Print what to run on a machine that shall become a server.
    Add {
        #[command(flatten)]
        admin: AdminArgs,
        /// Hours until its token expires.
        #[arg(long, default_value_t = 1)]
        ttl_hours: u64,
    },
    /// Take a server out for ever. It can come back only as a new one.
    Remove {
        #[command(flatten)]
        admin: AdminArgs,
        /// Its number or name.
        server: String,
    },
    /// Give a learner its vote.
    Promote {
        #[command(flatten)]
        admin: AdminArgs,
        /// Its number or name.
        server: String,
    },
    /// Hand the leadership to another server.
    TransferLeadership {
        #[command(flatten)]
        admin: AdminArgs,
        /// Its number or name. Default: the one that is furthest.
        server: Option<String>,
    },
}

#[derive(Subcommand, Debug)]
pub enum SnapshotCommand {
    /// Save the whole state of now into a file, sealed with the cluster's keys.
    Save {
        #[command(flatten)]
        admin: AdminArgs,
        /// The file. Default: caravel-SECONDS-REVISION.snapshot here.
        file: Option<PathBuf>,
    },
    /// List the backups that this server saved.
    List {
        #[arg(
            long,
            env = "CARAVEL_SNAPSHOT_DIR",
            default_value = "/var/lib/caravel/server/snapshots"
        )]
        dir: PathBuf,
        #[arg(long, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
    /// Read a backup whole: every seal, every object, the checksum.
    Verify {
        file: PathBuf,
        /// Directory of the keys that it is sealed with.
        #[arg(long, default_value = "/etc/caravel/keys")]
        keys: PathBuf,
    },
    /// Begin a new cluster of this one server from a backup. The server must not run; the others join it again.
    Restore {
        file: PathBuf,
        /// Move a store that is there aside.
        #[arg(long)]
        replace: bool,
        #[command(flatten)]
        server: Box<ServerArgs>,
    },
}

#[derive(Args, Debug)]
pub struct KubeconfigArgs {
    #[command(flatten)]
    pub admin: AdminArgs,
    /// The API's address as seen from where the file will be used. Default: as it was written.
    #[arg(long)]
    pub server: Option<String>,
}

#[derive(Args, Debug)]
pub struct CheckArgs {
    #[arg(long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    Table,
    Json,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn flags_do_not_contradict_each_other() {
        super::Cli::command().debug_assert();
    }
}
