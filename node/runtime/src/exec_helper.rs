//! `caravel exec-helper`: runs one process in a running container with libcontainer's tenant builder.
//! Single-threaded, lives as long as that process. Its stdin is a message socket to the daemon: the
//! process's streams come in over it; the terminal, the exit code or an error go out. When the daemon
//! hangs up the process is killed.
#![allow(unsafe_code)]

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::diagnosis::Diagnosis;
use crate::executor::Payload;
use crate::fds;
use crate::paths::LIBCONTAINER_ID;
use crate::process::pidfd_open;

/// What the helper tells the daemon. The terminal's master comes with `Started`.
#[derive(Debug, Serialize, Deserialize)]
pub enum Message {
    Started,
    Failed(String),
    Exited(i32),
}

/// `args` are those after the word `exec-helper`: the container's directory, the file with the OCI
/// process, and `tty` or `streams`. To be called before the program starts any thread.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ! {
    let args: Vec<OsString> = args.into_iter().collect();
    let [dir, process, mode] = args.as_slice() else {
        std::process::exit(2)
    };
    let control = match own_control() {
        Ok(control) => control,
        Err(_) => std::process::exit(1),
    };
    let process = PathBuf::from(process);
    let message = match run(Path::new(dir), &process, mode == "tty", &control) {
        Ok(code) => Message::Exited(code),
        Err(error) => Message::Failed(error),
    };
    let _ = std::fs::remove_file(&process);
    tell(&control, &message, None);
    std::process::exit(0)
}

/// Away from descriptor 0, which the container's process will get.
fn own_control() -> std::io::Result<OwnedFd> {
    let control = fds::own(0)?;
    let null: OwnedFd = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")?
        .into();
    fds::redirect(&null, &null, &null)?;
    Ok(control)
}

fn tell(control: &OwnedFd, message: &Message, terminal: Option<&OwnedFd>) {
    let Ok(bytes) = serde_json::to_vec(message) else {
        return;
    };
    let fds: Vec<i32> = terminal.iter().map(|fd| fd.as_raw_fd()).collect();
    let _ = fds::send(control, &bytes, &fds);
}

fn run(dir: &Path, process: &Path, tty: bool, control: &OwnedFd) -> Result<i32, String> {
    nix::sys::prctl::set_child_subreaper(true).map_err(|errno| errno.to_string())?;
    // `i`, `o`, `e`: which streams come with the message, in this order.
    let (wanted, mut streams) = fds::receive(control).map_err(|error| error.to_string())?;
    streams.reverse();
    let mut stream = |letter: u8| -> Result<OwnedFd, String> {
        if wanted.contains(&letter)
            && let Some(fd) = streams.pop()
        {
            return Ok(fd);
        }
        let null = OpenOptions::new().read(true).write(true).open("/dev/null");
        null.map(OwnedFd::from).map_err(|error| error.to_string())
    };
    let diagnosis =
        Diagnosis::collect(process.with_extension("log")).map_err(|error| error.to_string())?;
    let mut builder = ContainerBuilder::new(LIBCONTAINER_ID.to_owned(), SyscallType::default())
        .with_executor(Payload)
        .with_root_path(dir)
        .map_err(|error| diagnosis.explain(&error))?;
    let console_path = process.with_extension("sock");
    let mut console = None;
    if tty {
        console = Some(
            UnixListener::bind(&console_path)
                .map_err(|error| format!("console socket: {error}"))?,
        );
        builder = builder.with_console_socket(Some(console_path.clone()));
    } else {
        let (stdin, stdout, stderr) = (stream(b'i')?, stream(b'o')?, stream(b'e')?);
        builder = builder
            .with_stdin(stdin)
            .with_stdout(stdout)
            .with_stderr(stderr);
    }
    let built = builder
        .as_tenant()
        .with_process(Some(process))
        .with_detach(true)
        .build();
    let _ = std::fs::remove_file(&console_path);
    let built = built.map_err(|error| diagnosis.explain(&error));
    let _ = std::fs::remove_file(diagnosis.path());
    let pid = built?;
    let terminal = match console {
        Some(listener) => {
            Some(fds::receive_one(&listener).map_err(|error| format!("console: {error}"))?)
        }
        None => None,
    };
    tell(control, &Message::Started, terminal.as_ref());
    // The daemon holds the terminal alone, so that it sees the end of it.
    drop(terminal);
    wait(pid, control)
}

fn wait(pid: Pid, control: &OwnedFd) -> Result<i32, String> {
    let mut hung_up = false;
    loop {
        match waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(_, code)) => return Ok(code),
            Ok(WaitStatus::Signaled(_, signal, _)) => return Ok(128 + signal as i32),
            Ok(_) => {}
            Err(errno) => return Err(format!("waiting for the process: {errno}")),
        }
        let pidfd = pidfd_open(pid.as_raw()).map_err(|error| error.to_string())?;
        let mut watched = vec![PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        if !hung_up {
            watched.push(PollFd::new(control.as_fd(), PollFlags::POLLIN));
        }
        let _ = poll(&mut watched, PollTimeout::NONE);
        if watched
            .get(1)
            .and_then(|fd| fd.revents())
            .is_some_and(|events| !events.is_empty())
        {
            // The daemon never speaks again: whatever comes is its end.
            hung_up = true;
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
    }
}
