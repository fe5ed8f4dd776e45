//! Processes identified beyond doubt: pid and start time together, signals through a pidfd.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::state::Process;

/// Start time in clock ticks since boot: field 22 of `/proc/<pid>/stat`, whose second field may hold
/// blanks and parentheses. None for a zombie too: it has ended.
pub fn start_time(pid: i32) -> Option<u64> {
    parse_stat(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_stat(stat: &str) -> Option<u64> {
    let rest = &stat[stat.rfind(')')? + 2..];
    let mut fields = rest.split(' ');
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

impl Process {
    /// The process with this pid now.
    pub fn of(pid: i32) -> Option<Process> {
        start_time(pid).map(|start_time| Process { pid, start_time })
    }

    pub fn is_alive(&self) -> bool {
        start_time(self.pid) == Some(self.start_time)
    }

    /// A descriptor that becomes readable when the process ends; None when it already has.
    pub fn pidfd(&self) -> io::Result<Option<OwnedFd>> {
        let fd = match pidfd_open(self.pid) {
            Ok(fd) => fd,
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
            Err(error) => return Err(error),
        };
        // Checked after the open: from here on the descriptor means this very process.
        Ok(self.is_alive().then_some(fd))
    }

    /// Sends a signal; false when the process has already ended.
    pub fn signal(&self, signal: i32) -> io::Result<bool> {
        let Some(fd) = self.pidfd()? else {
            return Ok(false);
        };
        // SAFETY: plain system call on a descriptor that we own; no pointers but a null siginfo.
        let result = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                fd.as_raw_fd(),
                signal,
                std::ptr::null::<()>(),
                0,
            )
        };
        if result == 0 {
            return Ok(true);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() == Some(libc::ESRCH) {
            Ok(false)
        } else {
            Err(error)
        }
    }
}

pub(crate) fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: plain system call without pointers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor, nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

#[cfg(test)]
mod tests {
    #[test]
    fn stat_fields() {
        let tail = "S 1 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 1 2";
        assert_eq!(super::parse_stat(&format!("7 (a b) c) {tail}")), Some(4242));
        assert_eq!(
            super::parse_stat(&format!("7 (x) {}", tail.replacen('S', "Z", 1))),
            None
        );
    }

    #[test]
    fn this_process_is_alive() {
        let me = super::Process::of(std::process::id() as i32).unwrap();
        assert!(me.is_alive() && me.signal(0).unwrap());
        let other = super::Process {
            start_time: me.start_time + 1,
            ..me
        };
        assert!(!other.is_alive() && !other.signal(0).unwrap());
    }
}
