//! The daemons of a host: their configuration, and starting and ending them. Containers are not touched by any of it.

use crate::enter;
use crate::layout::Layout;
use crate::process::Process;
use crate::record::{Host, Record, Role};
use anyhow::Context as _;
use nix::sys::signal::Signal;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// A server hands over its leadership and closes its store; a node writes its last status.
const GRACE: Duration = Duration::from_secs(20);
/// Where a node's join token lies on its host.
pub const TOKEN_FILE: &str = "/etc/caravel/join-token";

/// This program, also when its file has been replaced by a newer build since it started.
pub fn program() -> anyhow::Result<PathBuf> {
    let exe = std::env::current_exe().context("find this program")?;
    Ok(exe
        .to_str()
        .and_then(|e| e.strip_suffix(" (deleted)"))
        .map(PathBuf::from)
        .unwrap_or(exe))
}

/// Writes the host's `/etc/caravel/config.yaml`: all that its daemon is told.
pub fn configure(
    layout: &Layout,
    record: &Record,
    host: &Host,
    extra: &[String],
) -> anyhow::Result<()> {
    let mut lines = match host.role {
        Role::Server => {
            let mut lines = vec![
                format!("name: {}", host.name),
                format!("advertise-address: {}", host.address),
                "tls-san:".to_owned(),
                "- 127.0.0.1".to_owned(),
                format!("- {}", record.gateway()),
                format!("- {}", host.name),
            ];
            let others: Vec<&Host> = record
                .servers()
                .filter(|server| server.name != host.name)
                .collect();
            // The first begins the cluster, the others join it through any that is there.
            if record
                .servers()
                .next()
                .is_some_and(|first| first.name != host.name)
            {
                lines.push(format!("token-file: {TOKEN_FILE}"));
                lines.push("join:".to_owned());
                lines.extend(
                    others
                        .iter()
                        .map(|server| format!("- https://{}:6443", server.address)),
                );
            }
            lines
        }
        Role::Node => {
            let mut lines = vec![
                format!("node-name: {}", host.name),
                format!("node-ip: {}", host.address),
                format!("token-file: {TOKEN_FILE}"),
                format!("cgroup-parent: {}", layout.host_cgroup(&host.name)),
                "server:".to_owned(),
            ];
            lines.extend(record.server_urls().iter().map(|url| format!("- {url}")));
            lines
        }
    };
    lines.extend(extra.iter().cloned());
    let path = layout
        .host_file(&host.name, "/etc/caravel/config.yaml")
        .context("the host's configuration")?;
    fs::write(&path, lines.join("\n") + "\n").with_context(|| format!("write {}", path.display()))
}

/// Gives a node its join token, readable by root only.
pub fn give_token(layout: &Layout, host: &str, token: &str) -> anyhow::Result<()> {
    let path = layout
        .host_file(host, TOKEN_FILE)
        .context("the token's file")?;
    fs::write(&path, "")?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    fs::write(&path, format!("{}\n", token.trim()))
        .with_context(|| format!("write {}", path.display()))
}

/// Starts the host's daemon, if it does not run.
pub fn start(layout: &Layout, host: &Host) -> anyhow::Result<()> {
    if running(layout, host).is_some() {
        return Ok(());
    }
    let mut command = enter::command(layout, &host.name, program()?.as_os_str())?;
    command.arg(host.role.command());
    spawn(layout, &host.name, command)
}

/// The balancer of the API's port, and the resolver of the hosts. One process on this machine.
pub const BALANCER: &str = "balance";

pub fn start_balancer(layout: &Layout) -> anyhow::Result<()> {
    if Process::load(&layout.pid_file(BALANCER)).is_some() {
        return Ok(());
    }
    let mut command = enter::machine_command(layout, program()?.as_os_str())?;
    command.args(["lab", BALANCER, "--dir"]).arg(layout.dir());
    spawn(layout, BALANCER, command)
}

fn spawn(layout: &Layout, name: &str, mut command: Command) -> anyhow::Result<()> {
    let log = layout.log(name);
    if let Some(dir) = log.parent() {
        fs::create_dir_all(dir)?;
    }
    let log = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&log)
        .with_context(|| format!("open {}", log.display()))?;
    let child = command
        .current_dir("/")
        .env_remove("KUBECONFIG")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .spawn()
        .with_context(|| format!("start {name}"))?;
    let process = Process::of(child.id() as i32)
        .with_context(|| format!("{name} ended at once; see its log"))?;
    process.save(&layout.pid_file(name))
}

pub fn running(layout: &Layout, host: &Host) -> Option<Process> {
    Process::load(&layout.pid_file(&host.name))
}

/// Asks the daemon to end, and insists after a while.
pub fn stop(layout: &Layout, host: &Host) -> anyhow::Result<()> {
    match running(layout, host) {
        Some(process) => resume(layout, host)
            .and_then(|()| process.end(Signal::SIGTERM, GRACE))
            .or_else(|_| process.end(Signal::SIGKILL, GRACE)),
        None => Ok(()),
    }
}

pub fn kill(layout: &Layout, host: &Host) -> anyhow::Result<()> {
    running(layout, host).map_or(Ok(()), |process| process.end(Signal::SIGKILL, GRACE))
}

/// Freezes the daemon: it does nothing, and does not notice.
pub fn pause(layout: &Layout, host: &Host) -> anyhow::Result<()> {
    let process = running(layout, host)
        .with_context(|| format!("{} does not run: there is nothing to pause", host.name))?;
    process.send(Signal::SIGSTOP)
}

/// Wakes the daemon, if it is frozen.
pub fn resume(layout: &Layout, host: &Host) -> anyhow::Result<()> {
    running(layout, host).map_or(Ok(()), |process| process.send(Signal::SIGCONT))
}

/// The last lines of a log, for an error message.
pub fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}
