//! The shim's life after the start: one poll loop between the container's streams, its log, attached
//! clients and the end of the container. Nothing in it blocks, and every buffer has a limit: a slow
//! client slows the container down for a while and is then cut off.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::launch::{Launched, Streams, unmount_root};
use super::log::{Log, Source};
use crate::cgroup::{Hierarchy, stats};
use crate::fds;
use crate::paths::{self, write_atomic};
use crate::protocol;
use crate::spec::ContainerSpec;
use crate::state::{Exit, Started};

/// Bytes held for one client before the container has to wait.
const CLIENT_BUFFER: usize = 256 * 1024;
/// How long a client may refuse to read before it is cut off.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes held for the container's stdin before clients have to wait.
const STDIN_BUFFER: usize = 64 * 1024;
const MOST_CLIENTS: usize = 16;
/// How long output may still come after the end, from processes that shared the streams.
const DRAIN: Duration = Duration::from_secs(2);

struct Client {
    stream: UnixStream,
    input: Vec<u8>,
    output: Vec<u8>,
    attached: bool,
    stdin: bool,
    stalled: Option<Instant>,
    gone: bool,
}

pub struct Relay {
    dir: PathBuf,
    spec: ContainerSpec,
    group: String,
    hierarchy: Hierarchy,
    started: Started,
    streams: Streams,
    signals: SignalFd,
    listener: UnixListener,
    log: Log,
    clients: Vec<Client>,
    pending_stdin: Vec<u8>,
    close_stdin: bool,
    /// The container's PID namespace is its own: when its first process ends, all have ended.
    alone: bool,
    ended: Option<(i32, Option<i32>)>,
}

impl Relay {
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        dir: PathBuf,
        spec: ContainerSpec,
        group: String,
        launched: Launched,
        started: Started,
        listener: UnixListener,
        log: Log,
        alone: bool,
    ) -> io::Result<Relay> {
        let mut child = SigSet::empty();
        child.add(Signal::SIGCHLD);
        let signals = SignalFd::with_flags(&child, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        listener.set_nonblocking(true)?;
        let streams = launched.streams;
        for fd in [
            &streams.stdin,
            &streams.stdout,
            &streams.stderr,
            &streams.terminal,
        ]
        .into_iter()
        .flatten()
        {
            fds::set_nonblocking(fd)?;
        }
        Ok(Relay {
            dir,
            spec,
            group,
            hierarchy: Hierarchy::detect(),
            started,
            streams,
            signals,
            listener,
            log,
            clients: Vec::new(),
            pending_stdin: Vec::new(),
            close_stdin: false,
            alone,
            ended: None,
        })
    }

    pub fn run(mut self) {
        // A child that ended before SIGCHLD was blocked sends no second signal.
        self.reap();
        while self.ended.is_none() {
            self.turn(None);
        }
        let kills = stats::oom_kills(&self.hierarchy, &self.group);
        if !self.alone {
            self.hierarchy.kill(&self.group);
        }
        let deadline = Instant::now() + DRAIN;
        while (self.streams.stdout.is_some()
            || self.streams.stderr.is_some()
            || self.streams.terminal.is_some())
            && Instant::now() < deadline
        {
            self.turn(Some(deadline));
        }
        self.finish(kills);
    }

    fn finish(mut self, kills: u64) {
        self.log.finish();
        let (code, signal) = self.ended.unwrap_or((255, None));
        let exit = Exit {
            code,
            signal,
            oom: kills > 0 && code != 0,
            started_at: self.started.started_at,
            finished_at: jiff::Timestamp::now(),
        };
        let text = serde_json::to_vec(&exit).unwrap_or_default();
        for client in self.clients.iter_mut().filter(|client| client.attached) {
            protocol::encode(protocol::EXIT, &text, &mut client.output);
            let _ = client.stream.set_nonblocking(false);
            let _ = client.stream.set_write_timeout(Some(DRAIN));
            let _ = client.stream.write_all(&client.output);
        }
        unmount_root(&self.dir);
        let _ = self.hierarchy.remove(&self.group);
        let _ = std::fs::remove_file(self.dir.join(paths::SOCKET));
        let _ = write_atomic(&self.dir.join(paths::EXIT), &text);
    }

    /// Waits for something to do, until `deadline` if there is one, and does it.
    fn turn(&mut self, deadline: Option<Instant>) {
        let congested = self
            .clients
            .iter()
            .any(|client| client.output.len() > CLIENT_BUFFER);
        let stdin_full = self.pending_stdin.len() > STDIN_BUFFER;
        let mut watched: Vec<(Watch, BorrowedFd<'_>, PollFlags)> = vec![
            (Watch::Signals, self.signals.as_fd(), PollFlags::POLLIN),
            (Watch::Listener, self.listener.as_fd(), PollFlags::POLLIN),
        ];
        let read = if congested {
            PollFlags::empty()
        } else {
            PollFlags::POLLIN
        };
        let write = |wanted: bool| {
            if wanted {
                PollFlags::POLLOUT
            } else {
                PollFlags::empty()
            }
        };
        if let Some(fd) = &self.streams.terminal {
            watched.push((
                Watch::Terminal,
                fd.as_fd(),
                read | write(!self.pending_stdin.is_empty()),
            ));
        }
        for (watch, fd) in [
            (Watch::Stdout, &self.streams.stdout),
            (Watch::Stderr, &self.streams.stderr),
        ] {
            if let Some(fd) = fd.as_ref().filter(|_| !congested) {
                watched.push((watch, fd.as_fd(), PollFlags::POLLIN));
            }
        }
        if let Some(fd) = self
            .streams
            .stdin
            .as_ref()
            .filter(|_| !self.pending_stdin.is_empty())
        {
            watched.push((Watch::Stdin, fd.as_fd(), PollFlags::POLLOUT));
        }
        for (index, client) in self.clients.iter().enumerate() {
            let read = if stdin_full {
                PollFlags::empty()
            } else {
                PollFlags::POLLIN
            };
            watched.push((
                Watch::Client(index),
                client.stream.as_fd(),
                read | write(!client.output.is_empty()),
            ));
        }
        let timeout = match deadline {
            Some(deadline) => deadline
                .saturating_duration_since(Instant::now())
                .as_millis()
                .min(100) as u16,
            None if congested => 1000,
            None => u16::MAX,
        };
        let timeout = if timeout == u16::MAX {
            PollTimeout::NONE
        } else {
            PollTimeout::from(timeout)
        };
        let mut polled: Vec<PollFd<'_>> = watched
            .iter()
            .map(|(_, fd, flags)| PollFd::new(*fd, *flags))
            .collect();
        if poll(&mut polled, timeout).is_err() {
            return;
        }
        let ready: Vec<(Watch, PollFlags)> = watched
            .iter()
            .zip(&polled)
            .map(|((watch, ..), fd)| (*watch, fd.revents().unwrap_or(PollFlags::empty())))
            .filter(|(_, events)| !events.is_empty())
            .collect();
        for (watch, events) in ready {
            self.act(watch, events);
        }
        self.expire();
    }

    fn act(&mut self, watch: Watch, events: PollFlags) {
        match watch {
            Watch::Signals => {
                while let Ok(Some(_)) = self.signals.read_signal() {}
                self.reap();
            }
            Watch::Listener => self.accept(),
            Watch::Stdout => self.output(Source::Stdout),
            Watch::Stderr => self.output(Source::Stderr),
            Watch::Terminal => {
                if events.intersects(PollFlags::POLLOUT) {
                    self.feed();
                }
                if events.intersects(PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR) {
                    self.output(Source::Stdout);
                }
            }
            Watch::Stdin => self.feed(),
            Watch::Client(index) => {
                if events.intersects(PollFlags::POLLOUT) {
                    self.clients[index].flush();
                }
                if events.intersects(PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR) {
                    self.hear(index);
                }
            }
        }
    }

    fn reap(&mut self) {
        loop {
            let (pid, end) = match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, (code, None)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => {
                    (pid, (128 + signal as i32, Some(signal as i32)))
                }
                Ok(WaitStatus::StillAlive) | Err(_) => return,
                Ok(_) => continue,
            };
            if pid.as_raw() == self.started.pid {
                self.ended = Some(end);
            }
        }
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            if self.clients.len() >= MOST_CLIENTS || stream.set_nonblocking(true).is_err() {
                continue;
            }
            self.clients.push(Client {
                stream,
                input: Vec::new(),
                output: Vec::new(),
                attached: false,
                stdin: false,
                stalled: None,
                gone: false,
            });
        }
    }

    /// One read of what the container wrote: to the log, then to everybody attached.
    fn output(&mut self, source: Source) {
        let slot = match (&self.streams.terminal, source) {
            (Some(_), _) => &mut self.streams.terminal,
            (None, Source::Stdout) => &mut self.streams.stdout,
            (None, Source::Stderr) => &mut self.streams.stderr,
        };
        let Some(fd) = slot.as_ref() else { return };
        let mut buffer = [0u8; 32 * 1024];
        match nix::unistd::read(fd.as_raw_fd(), &mut buffer) {
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            // EIO: the last process has closed the terminal.
            Ok(0) | Err(_) => *slot = None,
            Ok(length) => {
                let bytes = &buffer[..length];
                self.log.write(source, bytes);
                let kind = match source {
                    Source::Stdout => protocol::STDOUT,
                    Source::Stderr => protocol::STDERR,
                };
                for client in self.clients.iter_mut().filter(|client| client.attached) {
                    protocol::encode(kind, bytes, &mut client.output);
                    client.flush();
                }
            }
        }
    }

    /// Gives the container what clients typed.
    fn feed(&mut self) {
        let Some(fd) = self
            .streams
            .terminal
            .as_ref()
            .or(self.streams.stdin.as_ref())
        else {
            self.pending_stdin.clear();
            return;
        };
        match nix::unistd::write(fd, &self.pending_stdin) {
            Ok(length) => {
                self.pending_stdin.drain(..length);
            }
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(_) => {
                self.streams.stdin = None;
                self.pending_stdin.clear();
            }
        }
        if self.pending_stdin.is_empty() && self.close_stdin {
            self.streams.stdin = None;
        }
    }

    fn hear(&mut self, index: usize) {
        let mut buffer = [0u8; 16 * 1024];
        let client = &mut self.clients[index];
        match client.stream.read(&mut buffer) {
            Ok(0) => client.gone = true,
            Ok(length) => client.input.extend_from_slice(&buffer[..length]),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) =>
            {
                return;
            }
            Err(_) => client.gone = true,
        }
        loop {
            match protocol::take(&mut self.clients[index].input) {
                Ok(Some((kind, payload))) => self.obey(index, kind, &payload),
                Ok(None) => return,
                Err(_) => {
                    self.clients[index].gone = true;
                    return;
                }
            }
        }
    }

    fn obey(&mut self, index: usize, kind: u8, payload: &[u8]) {
        let client = &mut self.clients[index];
        match kind {
            protocol::ATTACH => {
                client.attached = true;
                client.stdin = payload.first() == Some(&1);
            }
            protocol::STDIN if client.stdin => {
                self.pending_stdin.extend_from_slice(payload);
                self.feed();
            }
            protocol::CLOSE_STDIN if client.stdin => {
                client.stdin = false;
                self.stdin_left();
            }
            protocol::RESIZE => {
                if let (Some(size), Some(terminal)) =
                    (protocol::size(payload), &self.streams.terminal)
                {
                    let _ = fds::resize(terminal, size);
                }
            }
            protocol::STATE => {
                let answer = serde_json::to_vec(&self.started).unwrap_or_default();
                protocol::encode(protocol::ANSWER, &answer, &mut client.output);
                client.flush();
            }
            protocol::SIGNAL => {
                let number = payload.try_into().map(i32::from_be_bytes).unwrap_or(0);
                let process = crate::state::Process {
                    pid: self.started.pid,
                    start_time: self.started.start_time,
                };
                let (kind, text) = match process.signal(number) {
                    Ok(_) => (protocol::ANSWER, String::new()),
                    Err(error) => (protocol::ERROR, error.to_string()),
                };
                protocol::encode(kind, text.as_bytes(), &mut client.output);
                client.flush();
            }
            _ => {}
        }
    }

    /// A client that wrote to stdin is done: the container's stdin ends with it only if it asked so.
    fn stdin_left(&mut self) {
        if self.spec.stdin_once && self.streams.terminal.is_none() {
            self.close_stdin = true;
            self.feed();
        }
    }

    /// Forgets clients that went, and those that do not read.
    fn expire(&mut self) {
        let mut left = false;
        for client in &mut self.clients {
            if client.output.len() <= CLIENT_BUFFER {
                client.stalled = None;
            } else if client.stalled.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
                client.gone = true;
            }
            left |= client.gone && client.stdin;
        }
        self.clients.retain(|client| !client.gone);
        if left {
            self.stdin_left();
        }
    }
}

#[derive(Clone, Copy)]
enum Watch {
    Signals,
    Listener,
    Stdout,
    Stderr,
    Terminal,
    Stdin,
    Client(usize),
}

impl Client {
    fn flush(&mut self) {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(length) => {
                    self.output.drain(..length);
                    self.stalled = None;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.gone = true;
                    self.output.clear();
                }
            }
        }
    }
}
