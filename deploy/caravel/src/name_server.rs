//! Keeps this node's DNS server running: a process of this program beside the daemon, which outlives it.
//!
//! A daemon that starts finds the process that an earlier one left, and keeps it if it is the same program with the same
//! settings; otherwise it starts a new one beside it (both may listen, by SO_REUSEPORT) and then ends the old one.

use anyhow::Context as _;
use caravel_client::{Config, Kubeconfig};
use caravel_lab::process::Process;
use nix::sys::signal::Signal;
use std::hash::{Hash as _, Hasher as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often it is looked whether the process lives.
const LOOK: Duration = Duration::from_secs(1);
/// A new process has this long to read the cluster's state before its predecessor goes.
const OVERLAP: Duration = Duration::from_secs(2);
const GRACE: Duration = Duration::from_secs(5);

pub struct NameServer {
    pub program: PathBuf,
    /// `/run/caravel`.
    pub run_dir: PathBuf,
    pub address: Ipv4Addr,
    pub domain: String,
    pub upstreams: Vec<SocketAddr>,
    pub client: Config,
}

impl NameServer {
    /// Until `shutdown`; the process goes on after it.
    pub async fn keep(self, shutdown: CancellationToken) {
        let mut child: Option<Child> = None;
        loop {
            // A child of ours that ended is taken note of, or it would look alive for ever.
            if let Some(own) = &mut child {
                let _ = own.try_wait();
            }
            match self.look() {
                Ok(Found::Ours) => {}
                Ok(found) => match self.start() {
                    Ok(started) => {
                        child = Some(started);
                        if let Found::Another(old) = found {
                            tokio::time::sleep(OVERLAP).await;
                            end(old).await;
                        }
                    }
                    Err(error) => tracing::error!("the DNS server cannot be started: {error:#}"),
                },
                Err(error) => tracing::error!("the DNS server: {error:#}"),
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    fn pid_file(&self) -> PathBuf {
        self.run_dir.join("dns.pid")
    }

    fn look(&self) -> anyhow::Result<Found> {
        let Some(process) = Process::load(&self.pid_file()) else {
            return Ok(Found::None);
        };
        let started_with =
            std::fs::read_to_string(self.run_dir.join("dns.args")).unwrap_or_default();
        Ok(if started_with == self.fingerprint()? {
            Found::Ours
        } else {
            Found::Another(process)
        })
    }

    fn arguments(&self) -> Vec<String> {
        let mut args = vec![
            "dns".to_owned(),
            format!("--listen={}:53", self.address),
            format!("--domain={}", self.domain),
        ];
        args.extend(self.upstreams.iter().map(|u| format!("--upstream={u}")));
        args.push(format!("--kubeconfig={}", self.kubeconfig_file().display()));
        args
    }

    fn kubeconfig_file(&self) -> PathBuf {
        self.run_dir.join("dns.kubeconfig")
    }

    /// Program, its build, settings, and who it is to the API server: with new certificates it is another process.
    fn fingerprint(&self) -> anyhow::Result<String> {
        let mut hasher = std::hash::DefaultHasher::new();
        format!("{:?}", self.client.credential).hash(&mut hasher);
        let built = std::fs::metadata(&self.program)
            .and_then(|m| m.modified())
            .with_context(|| format!("look at {}", self.program.display()))?;
        Ok(format!(
            "{} {built:?} {} {:x}",
            self.program.display(),
            self.arguments().join(" "),
            hasher.finish()
        ))
    }

    fn start(&self) -> anyhow::Result<Child> {
        std::fs::create_dir_all(&self.run_dir)
            .with_context(|| format!("make {}", self.run_dir.display()))?;
        let kubeconfig = Kubeconfig {
            cluster: "caravel".into(),
            user: "node".into(),
            server: self
                .client
                .servers
                .first()
                .context("no server is known")?
                .clone(),
            ca: self.client.ca.clone(),
            credential: self.client.credential.clone(),
            namespace: None,
        };
        private(&self.kubeconfig_file(), &kubeconfig.to_yaml()?)?;
        let child = Command::new(&self.program)
            .args(self.arguments())
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()
            .with_context(|| format!("run {} dns", self.program.display()))?;
        let process = i32::try_from(child.id())
            .ok()
            .and_then(Process::of)
            .context("it ended at once")?;
        process.save(&self.pid_file())?;
        private(&self.run_dir.join("dns.args"), &self.fingerprint()?)?;
        tracing::info!(pid = child.id(), address = %self.address, "started the DNS server");
        Ok(child)
    }
}

enum Found {
    None,
    Ours,
    Another(Process),
}

async fn end(old: Process) {
    let ended = tokio::task::spawn_blocking(move || {
        old.end(Signal::SIGTERM, GRACE)
            .or_else(|_| old.end(Signal::SIGKILL, GRACE))
    })
    .await;
    if let Ok(Err(error)) = ended {
        tracing::warn!("the DNS server's predecessor: {error:#}");
    }
}

fn private(path: &Path, text: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    let mut file = std::fs::OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("write {}", path.display()))?;
    file.write_all(text.as_bytes())
        .with_context(|| format!("write {}", path.display()))
}
