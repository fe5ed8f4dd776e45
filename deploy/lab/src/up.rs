//! Building a lab and waiting until it is a cluster. The steps are one list; each says what it does, on standard error.

use crate::layout::Layout;
use crate::record::{self, Host, Record};
use crate::{cgroups, daemon, down, host, links, subnet};
use anyhow::Context as _;
use caravel_auth::certificate;
use caravel_auth::join::{self, SECRET_NAMESPACE, Scope};
use caravel_client::{Kubeconfig, connect};
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, ListParams, PostParams};
use std::fs;
use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";
/// Allocation of subnets and ports, one lab at a time.
const LOCK: &str = "/var/lock/caravel-lab";
/// The first server makes the cluster's keys; a loaded machine takes its time.
const SERVER_PATIENCE: Duration = Duration::from_secs(60);
const NODE_PATIENCE: Duration = Duration::from_secs(120);
/// How long a server's join token is good.
const TOKEN_SECONDS: u64 = 3600;

#[derive(Clone, Debug)]
pub struct UpOptions {
    pub servers: usize,
    pub nodes: usize,
    /// Hosts reach the world beyond this machine, masqueraded.
    pub masquerade: bool,
    /// Archives, or directories of archives, that every node has from the start.
    pub images: Vec<PathBuf>,
    /// Lines for every server's and every node's config.yaml.
    pub server_config: Vec<String>,
    pub node_config: Vec<String>,
}

pub async fn up(layout: &Layout, options: &UpOptions) -> anyhow::Result<()> {
    check(options)?;
    if layout.record().exists() {
        let record = Record::load(layout)?;
        let pinned = record
            .hosts
            .iter()
            .all(|host| layout.pin(&host.name, "mnt").exists());
        if pinned
            && record.servers().count() == options.servers
            && record.nodes().count() == options.nodes
        {
            return resume(layout, &record).await;
        }
        anyhow::ensure!(
            !pinned,
            "there is another lab in {} already; remove it with `caravel lab down --dir {}`",
            layout.dir().display(),
            layout.dir().display()
        );
        // What is left of a lab after a reboot, or of an `up` that did not come far: it is made anew.
    }
    let progress = Progress::begin();
    match build(layout, options, &progress).await {
        Ok(record) => {
            progress.done(&format!(
                "ready: {} {}, {} nodes, API on https://127.0.0.1:{}",
                options.servers,
                if options.servers == 1 {
                    "server"
                } else {
                    "servers"
                },
                options.nodes,
                record.port
            ));
            Ok(())
        }
        Err(error) => {
            progress.say("failed; the hosts are left as they are: look at them with `lab exec`, at their logs, and remove them with `lab down`");
            Err(error)
        }
    }
}

fn check(options: &UpOptions) -> anyhow::Result<()> {
    anyhow::ensure!(
        nix::unistd::geteuid().is_root(),
        "a lab makes network namespaces and mounts: run it as root"
    );
    anyhow::ensure!(
        [1, 3, 5].contains(&options.servers),
        "--servers {}: 1, 3 or 5 servers agree best; an even number bears no more failures than one less",
        options.servers
    );
    anyhow::ensure!((1..=50).contains(&options.nodes), "--nodes must be 1 to 50");
    for path in &options.images {
        anyhow::ensure!(path.exists(), "--images: {} does not exist", path.display());
    }
    Ok(())
}

async fn build(
    layout: &Layout,
    options: &UpOptions,
    progress: &Progress,
) -> anyhow::Result<Record> {
    // What an earlier lab in this directory left after a crash of the machine or of `lab up`.
    down::remove_all(layout)?;
    for dir in ["hosts", "logs", "pids"] {
        fs::create_dir_all(layout.dir().join(dir))
            .with_context(|| format!("make {}", layout.dir().join(dir).display()))?;
    }
    fs::set_permissions(layout.dir(), fs::Permissions::from_mode(0o700))?;
    progress.say("network");
    let record = allocate(layout, options)?;
    progress.say("hosts");
    host::create_pins(layout)?;
    for member in &record.hosts {
        host::create(layout, &record, member)
            .with_context(|| format!("make the host {}", member.name))?;
        let extra = if member.role == record::Role::Server {
            &options.server_config
        } else {
            &options.node_config
        };
        daemon::configure(layout, &record, member, extra)?;
    }
    daemon::start_balancer(layout)?;
    stock_images(layout, &record, &options.images)?;
    start(layout, &record, progress).await?;
    Ok(record)
}

/// Brings a lab that exists (all of it, or with stopped hosts) to be ready.
async fn resume(layout: &Layout, record: &Record) -> anyhow::Result<()> {
    let progress = Progress::begin();
    daemon::start_balancer(layout)?;
    start(layout, record, &progress).await?;
    progress.done("ready (it was there already)");
    Ok(())
}

async fn start(layout: &Layout, record: &Record, progress: &Progress) -> anyhow::Result<()> {
    let first = record.servers().next().context("the lab has no server")?;
    // A cluster that is there comes back when most of its servers do: all at once. A new one begins with its first.
    let begun = layout.kubeconfig().exists();
    for server in record.servers().take(if begun { usize::MAX } else { 1 }) {
        progress.say(&format!("starting {}", server.name));
        daemon::start(layout, server)?;
    }
    let client = server_ready(layout, record, first, progress).await?;
    for server in record.servers().skip(1) {
        if daemon::running(layout, server).is_none() {
            if !has_token(layout, server) {
                daemon::give_token(layout, &server.name, &server_token(layout).await?)?;
            }
            progress.say(&format!("starting {}", server.name));
            daemon::start(layout, server)?;
        }
        server_ready(layout, record, server, progress).await?;
    }
    for node in record.nodes() {
        if !has_token(layout, node) {
            daemon::give_token(layout, &node.name, &join_token(layout, record)?)?;
        }
        progress.say(&format!("starting {}", node.name));
        daemon::start(layout, node)?;
    }
    nodes_ready(layout, record, &client, progress).await
}

/// Chooses subnet and port and makes the bridge, so that the next lab sees them taken.
fn allocate(layout: &Layout, options: &UpOptions) -> anyhow::Result<Record> {
    let _ = fs::create_dir_all("/var/lock");
    let lock = fs::File::create(LOCK).with_context(|| format!("open {LOCK}"))?;
    let _lock = nix::fcntl::Flock::lock(lock, nix::fcntl::FlockArg::LockExclusive)
        .map_err(|(_, e)| e)
        .context("wait for another `lab up`")?;
    let (routes, addresses) = links::in_use()?;
    let seed = u32::from_str_radix(layout.id(), 16).unwrap_or_default();
    let subnet = subnet::choose(&subnet::taken(&routes, &addresses), seed)
        .context("no /24 of 10.200.0.0/13 is free on this machine")?;
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|l| l.local_addr())
        .context("find a free port")?
        .port();
    let forwarding_was_off =
        options.masquerade && fs::read_to_string(FORWARDING).is_ok_and(|v| v.trim() == "0");
    let record = Record {
        id: layout.id().to_owned(),
        subnet,
        port,
        masquerade: options.masquerade,
        forwarding_was_off,
        hosts: record::hosts(subnet, options.servers, options.nodes),
    };
    record.save(layout)?;
    cgroups::create(&layout.cgroup())?;
    links::create_bridge(layout, &record)?;
    if forwarding_was_off {
        fs::write(FORWARDING, "1").context("let this machine forward packets for the lab")?;
    }
    Ok(record)
}

/// Hard links, or else copies, of the archives in every node's images directory, which it imports at its start.
fn stock_images(layout: &Layout, record: &Record, images: &[PathBuf]) -> anyhow::Result<()> {
    let mut archives = Vec::new();
    for path in images {
        if path.is_dir() {
            let files = fs::read_dir(path)?
                .flatten()
                .map(|e| e.path())
                .filter(|p| p.is_file() && p.to_string_lossy().contains(".tar"));
            archives.extend(files.filter(|p| !p.to_string_lossy().ends_with(".part")));
        } else {
            archives.push(path.clone());
        }
    }
    for node in record.nodes() {
        let dir = layout
            .host_file(&node.name, IMAGES)
            .context("the images directory")?;
        fs::create_dir_all(&dir)?;
        for archive in &archives {
            let to = dir.join(archive.file_name().unwrap_or_default());
            if fs::hard_link(archive, &to).is_err() {
                fs::copy(archive, &to)
                    .with_context(|| format!("copy {} to {}", archive.display(), to.display()))?;
            }
        }
    }
    Ok(())
}

/// Archives that a node imports at its start.
pub const IMAGES: &str = "/var/lib/caravel/node/images";

fn has_token(layout: &Layout, host: &Host) -> bool {
    layout
        .host_file(&host.name, daemon::TOKEN_FILE)
        .is_some_and(|file| file.exists())
}

async fn server_ready(
    layout: &Layout,
    record: &Record,
    server: &Host,
    progress: &Progress,
) -> anyhow::Result<kube::Client> {
    let own = layout
        .host_file(&server.name, "/etc/caravel/kubeconfig.yaml")
        .context("the kubeconfig")?;
    let end = Instant::now() + SERVER_PATIENCE;
    let mut why = "it has not written its kubeconfig".to_owned();
    loop {
        if daemon::running(layout, server).is_none() {
            anyhow::bail!(
                "{} has ended:\n{}",
                server.name,
                daemon::tail(&layout.log(&server.name))
            );
        }
        anyhow::ensure!(
            Instant::now() < end,
            "{} is not ready after {} s: {why}\n{}",
            server.name,
            SERVER_PATIENCE.as_secs(),
            daemon::tail(&layout.log(&server.name))
        );
        if let Ok(text) = fs::read_to_string(&own) {
            let kubeconfig = Kubeconfig::parse(&text)?;
            let itself = kubeconfig
                .clone()
                .at(&format!("https://{}:6443", server.address));
            match ready(&itself).await {
                Ok(client) => {
                    let kubeconfig = kubeconfig.at(&format!("https://127.0.0.1:{}", record.port));
                    write_private(&layout.kubeconfig(), &kubeconfig.to_yaml()?)?;
                    return Ok(client);
                }
                Err(error) => why = error.to_string(),
            }
        }
        progress.tick();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A token for one more server, made through a living one.
async fn server_token(layout: &Layout) -> anyhow::Result<String> {
    let text = fs::read_to_string(layout.kubeconfig())?;
    let kubeconfig = Kubeconfig::parse(&text)?;
    let hash = certificate::hash_of_first(&kubeconfig.ca).context("the kubeconfig has no CA")?;
    let expires = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
        + TOKEN_SECONDS;
    let (token, stored) = join::create(&hash, Scope::Server, Some(expires), "a lab's server");
    let client = connect::connect(&kubeconfig.config()).await?;
    Api::namespaced(client, SECRET_NAMESPACE)
        .create(&PostParams::default(), &stored.to_secret()?)
        .await
        .context("keep a join token")?;
    Ok(token.to_string())
}

/// The token that the first server made for its cluster.
fn join_token(layout: &Layout, record: &Record) -> anyhow::Result<String> {
    let server = record.servers().next().context("the lab has no server")?;
    let file = layout
        .host_file(&server.name, "/var/lib/caravel/server/node-token")
        .context("the join token")?;
    fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))
}

async fn ready(kubeconfig: &Kubeconfig) -> anyhow::Result<kube::Client> {
    let client = connect::connect(&kubeconfig.config()).await?;
    let request = http::Request::get("/readyz").body(Vec::new())?;
    tokio::time::timeout(Duration::from_secs(5), client.request_text(request))
        .await
        .context("/readyz does not answer")??;
    Ok(client)
}

async fn nodes_ready(
    layout: &Layout,
    record: &Record,
    client: &kube::Client,
    progress: &Progress,
) -> anyhow::Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    let end = Instant::now() + NODE_PATIENCE;
    loop {
        let seen = nodes
            .list(&ListParams::default())
            .await
            .map(|l| l.items)
            .unwrap_or_default();
        let waiting: Vec<&Host> = record
            .nodes()
            .filter(|host| {
                !seen
                    .iter()
                    .any(|n| n.metadata.name.as_ref() == Some(&host.name) && is_ready(n))
            })
            .collect();
        let Some(first) = waiting.first() else {
            return Ok(());
        };
        for host in &waiting {
            anyhow::ensure!(
                daemon::running(layout, host).is_some(),
                "{} has ended:\n{}",
                host.name,
                daemon::tail(&layout.log(&host.name))
            );
        }
        anyhow::ensure!(
            Instant::now() < end,
            "{} is not Ready after {} s\n{}",
            first.name,
            NODE_PATIENCE.as_secs(),
            daemon::tail(&layout.log(&first.name))
        );
        progress.tick();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn is_ready(node: &Node) -> bool {
    let conditions = node
        .status
        .iter()
        .flat_map(|s| s.conditions.iter().flatten());
    conditions
        .into_iter()
        .any(|c| c.type_ == "Ready" && c.status == "True")
}

fn write_private(path: &std::path::Path, text: &str) -> anyhow::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut file = fs::OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("write {}", path.display()))?;
    Ok(file.write_all(text.as_bytes())?)
}

/// What a person sees meanwhile: one line a step, with the time since the beginning.
struct Progress {
    begun: Instant,
    ticks: std::cell::Cell<Option<Instant>>,
}

impl Progress {
    fn begin() -> Self {
        Self {
            begun: Instant::now(),
            ticks: std::cell::Cell::new(None),
        }
    }

    fn say(&self, what: &str) {
        if self.ticks.take().is_some() {
            let _ = writeln!(std::io::stderr());
        }
        let _ = writeln!(
            std::io::stderr(),
            "[{:5.1} s] {what}",
            self.begun.elapsed().as_secs_f32()
        );
    }

    /// A dot a second while something is waited for.
    fn tick(&self) {
        let now = Instant::now();
        match self.ticks.get() {
            Some(last) if now.duration_since(last) < Duration::from_secs(1) => return,
            Some(_) => {
                let _ = write!(std::io::stderr(), ".");
            }
            None => {
                let _ = write!(std::io::stderr(), "          waiting ");
            }
        }
        self.ticks.set(Some(now));
    }

    fn done(&self, what: &str) {
        self.say(what);
    }
}
