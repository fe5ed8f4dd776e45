//! `caravel shim`: one small single-threaded process per container. It makes the container with
//! libcontainer, holds its streams, writes its log and, last, how it ended. It outlives the daemon.
//! It must never start a thread or a runtime: libcontainer clones.
#![allow(unsafe_code)]

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{ForkResult, fork, setsid};
use serde::{Deserialize, Serialize};

use crate::cgroup::Hierarchy;
use crate::fds;
use crate::oci;
use crate::paths::{self, read_json, write_atomic};
use crate::spec::ContainerSpec;
use crate::state::{Process, Sandbox, Started};

mod footprint;
mod launch;
pub mod log;
mod pause;
mod relay;

/// What the shim tells the daemon that started it, as one line of JSON on its stdout.
#[derive(Debug, Serialize, Deserialize)]
pub enum Report {
    Started(Started),
    Paused(Process),
    Failed(String),
}

/// What the daemon leaves for the shim beside the specification.
#[derive(Debug, Serialize, Deserialize)]
pub struct Order {
    pub sandbox: Sandbox,
    /// The container's own control group.
    pub group: String,
    /// Holds the writable layer.
    pub layer: PathBuf,
}

/// `args` are those after the word `shim`: `run <directory>` or `pause <directory>`. To be called
/// before the program starts any thread.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ! {
    let args: Vec<OsString> = args.into_iter().collect();
    let [verb, dir] = args.as_slice() else {
        std::process::exit(2)
    };
    let dir = PathBuf::from(dir);
    detach();
    let code = match verb.to_str() {
        Some("run") => run(&dir),
        Some("pause") => pause::run(&dir),
        _ => 2,
    };
    std::process::exit(code)
}

/// Away from the daemon's session and process tree; not a session leader, so that opening a terminal
/// never makes it ours.
fn detach() {
    let _ = setsid();
    // SAFETY: this process has one thread, so the child may do anything.
    match unsafe { fork() } {
        Ok(ForkResult::Child) => {}
        Ok(ForkResult::Parent { .. }) => std::process::exit(0),
        Err(_) => std::process::exit(1),
    }
    let _ = std::env::set_current_dir("/");
}

/// Keeps the report's channel and points the standard streams at nothing; errors of libraries go to a
/// file in the container's directory.
fn take_report(dir: &Path) -> std::io::Result<File> {
    let report = File::from(fds::own(1)?);
    let null: OwnedFd = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")?
        .into();
    let errors: OwnedFd = OpenOptions::new()
        .create(true)
        .append(true)
        .open(dir.join("shim.log"))?
        .into();
    fds::redirect(&null, &null, &errors)?;
    Ok(report)
}

fn send(report: &mut File, message: &Report) {
    if let Ok(mut line) = serde_json::to_vec(message) {
        line.push(b'\n');
        // The daemon may have died meanwhile; it will find the files.
        let _ = report.write_all(&line);
    }
}

fn run(dir: &Path) -> i32 {
    let Ok(mut report) = take_report(dir) else {
        return 1;
    };
    match begin(dir) {
        Ok((relay, started)) => {
            send(&mut report, &Report::Started(started));
            drop(report);
            footprint::release();
            relay.run();
            0
        }
        Err(message) => {
            launch::unmount_root(dir);
            if let Ok(Some(order)) = read_json::<Order>(&dir.join(paths::SANDBOX)) {
                let _ = Hierarchy::detect().remove(&order.group);
            }
            send(&mut report, &Report::Failed(message));
            1
        }
    }
}

fn begin(dir: &Path) -> Result<(relay::Relay, Started), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let me = Process::of(std::process::id() as i32).ok_or("/proc is not mounted")?;
    write_atomic(
        &dir.join(paths::SHIM),
        &serde_json::to_vec(&me).map_err(|e| text(&e))?,
    )
    .map_err(|e| text(&e))?;
    let absent = || "the container's directory is incomplete".to_owned();
    let spec: ContainerSpec = read_json(&dir.join(paths::SPEC))
        .map_err(|e| text(&e))?
        .ok_or_else(absent)?;
    let order: Order = read_json(&dir.join(paths::SANDBOX))
        .map_err(|e| text(&e))?
        .ok_or_else(absent)?;
    nix::sys::prctl::set_child_subreaper(true).map_err(|e| text(&e))?;
    let log =
        log::Log::open(&spec.log).map_err(|error| format!("failed to open the log: {error}"))?;
    let socket = dir.join(paths::SOCKET);
    let _ = std::fs::remove_file(&socket);
    let listener =
        UnixListener::bind(&socket).map_err(|error| format!("{}: {error}", socket.display()))?;
    let launched = launch::launch(dir, &order.layer, &spec, &order.sandbox, &order.group)?;
    let started = launch::started(launched.process);
    let hierarchy = Hierarchy::detect();
    if let (Hierarchy::V2 { .. }, Some(group)) =
        (&hierarchy, hierarchy.directory("memory", &order.group))
    {
        // As the kubelet's default (NoSwap); a kernel without swap has no such file.
        let _ = std::fs::write(group.join("memory.swap.max"), "0");
    }
    write_atomic(
        &dir.join(paths::STARTED),
        &serde_json::to_vec(&started).map_err(|e| text(&e))?,
    )
    .map_err(|e| text(&e))?;
    // Blocked only now: what is blocked before a fork stays blocked in the container.
    let mut child = SigSet::empty();
    child.add(Signal::SIGCHLD);
    child.thread_block().map_err(|e| text(&e))?;
    let alone = oci::owns_pid_namespace(&spec, &order.sandbox);
    let relay = relay::Relay::new(
        dir.to_owned(),
        spec,
        order.group,
        launched,
        started,
        listener,
        log,
        alone,
    )
    .map_err(|e| text(&e))?;
    Ok((relay, started))
}
