//! Processes that outlive the command that started them, known by pid and start time: a pid alone may be somebody else's.

use anyhow::Context as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    pub pid: i32,
    /// Field 22 of `/proc/PID/stat`, in clock ticks since boot.
    start: u64,
}

impl Process {
    pub fn of(pid: i32) -> Option<Self> {
        Some(Self {
            pid,
            start: start_time(pid)?,
        })
    }

    pub fn save(self, path: &Path) -> anyhow::Result<()> {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        fs::write(path, format!("{} {}\n", self.pid, self.start))
            .with_context(|| format!("write {}", path.display()))
    }

    /// The process that a file names, if it still runs.
    pub fn load(path: &Path) -> Option<Self> {
        let text = fs::read_to_string(path).ok()?;
        let (pid, start) = text.trim().split_once(' ')?;
        let known = Self {
            pid: pid.parse().ok()?,
            start: start.parse().ok()?,
        };
        known.runs().then_some(known)
    }

    pub fn runs(self) -> bool {
        start_time(self.pid) == Some(self.start)
    }

    /// Whether it was told to do nothing (SIGSTOP).
    pub fn is_stopped(self) -> bool {
        self.runs() && state(self.pid).is_some_and(|state| state == "T")
    }

    pub fn send(self, signal: Signal) -> anyhow::Result<()> {
        anyhow::ensure!(self.runs(), "process {} has ended", self.pid);
        kill(Pid::from_raw(self.pid), signal)
            .with_context(|| format!("send {signal} to process {}", self.pid))
    }

    /// Sends `signal` and waits for the end.
    pub fn end(self, signal: Signal, patience: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + patience;
        if self.runs() {
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
        while self.runs() {
            anyhow::ensure!(
                Instant::now() < end,
                "process {} does not end within {} s of {signal}",
                self.pid,
                patience.as_secs()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

fn state(pid: i32) -> Option<String> {
    Some(fields(pid)?.split(' ').next()?.to_owned())
}

/// What `/proc/PID/stat` says after the command.
fn fields(pid: i32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command in parentheses may hold anything, also parentheses.
    Some(stat.rsplit_once(") ")?.1.to_owned())
}

/// `None` for no process, and for a zombie.
fn start_time(pid: i32) -> Option<u64> {
    let fields = fields(pid)?;
    let mut fields = fields.split(' ');
    let state = fields.next()?;
    (state != "Z" && state != "X").then(|| fields.nth(18)?.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_itself_and_no_ghost() {
        let me = Process::of(std::process::id() as i32).unwrap();
        assert!(me.runs());
        assert!(
            !Process {
                start: me.start + 1,
                ..me
            }
            .runs()
        );
    }
}
