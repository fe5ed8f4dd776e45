//! The pause process: PID 1 of a pod's shared PID namespace. It reaps and waits, nothing else.
#![allow(unsafe_code)]

use std::fs::File;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

use super::{Report, send, take_report};
use crate::paths::{self, write_atomic};
use crate::state::Process;

pub fn run(dir: &Path) -> i32 {
    let Ok(mut report) = take_report(dir) else {
        return 1;
    };
    let message = match begin(dir) {
        Ok(process) => Report::Paused(process),
        Err(error) => Report::Failed(format!("pause: {error}")),
    };
    send(&mut report, &message);
    0
}

fn begin(dir: &Path) -> std::io::Result<Process> {
    unshare(CloneFlags::CLONE_NEWPID)?;
    // SAFETY: this process has one thread.
    let pid = match unsafe { fork() }? {
        ForkResult::Child => wait_for_ever(),
        ForkResult::Parent { child } => child.as_raw(),
    };
    let process = Process::of(pid).ok_or_else(|| std::io::Error::other("it ended at once"))?;
    let target = dir.join("pid");
    File::create(&target)?;
    mount(
        Some(format!("/proc/{pid}/ns/pid").as_str()),
        &target,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )?;
    write_atomic(&dir.join(paths::SHIM), &serde_json::to_vec(&process)?)?;
    Ok(process)
}

fn wait_for_ever() -> ! {
    // Nothing of the daemon may be kept open: it waits for the end of the report.
    for fd in 3..64 {
        let _ = nix::unistd::close(fd);
    }
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT] {
        signals.add(signal);
    }
    let _ = signals.thread_block();
    loop {
        match signals.wait() {
            Ok(Signal::SIGCHLD) => {
                while let Ok(status) = waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
                    if status == WaitStatus::StillAlive {
                        break;
                    }
                }
            }
            Ok(_) => std::process::exit(0),
            Err(_) => {}
        }
    }
}
