//! Exec: starts a helper process, gives it the streams, and hears from it how the command ended.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::Stdio;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::pipe2;
use oci_spec::runtime::{BoxBuilder, Process as OciProcess, Spec};
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

use super::terminal::Terminal;
use super::{Shims, tasks};
use crate::exec_helper::Message;
use crate::fds;
use crate::runtime::{RuntimeError, Session};
use crate::spec::ExecSpec;
use crate::state::ContainerState;

/// The helper must have started the command within this time.
const START: Duration = Duration::from_secs(30);

/// The helper and the socket to it. Dropping it makes the helper kill the command.
struct Helper {
    control: AsyncFd<OwnedFd>,
    child: Child,
}

impl Helper {
    async fn hear(&self) -> io::Result<(Message, Option<OwnedFd>)> {
        let (bytes, mut fds) = loop {
            let mut guard = self.control.readable().await?;
            if let Ok(result) = guard.try_io(|control| fds::receive(control.get_ref())) {
                break result?;
            }
        };
        if bytes.is_empty() {
            return Err(io::Error::other("the exec helper ended without a word"));
        }
        Ok((serde_json::from_slice(&bytes)?, fds.pop()))
    }
}

impl Shims {
    pub(super) async fn exec_session(
        &self,
        id: &str,
        spec: ExecSpec,
    ) -> Result<Session, RuntimeError> {
        let dir = self.directory(id)?;
        match self.read_state(id)? {
            ContainerState::Running(_) => {}
            _ => return Err(RuntimeError::NotRunning(id.to_owned())),
        }
        let failed = |message: String| RuntimeError::Exec {
            id: id.to_owned(),
            message,
        };
        let broken = |error: io::Error| RuntimeError::Exec {
            id: id.to_owned(),
            message: error.to_string(),
        };
        let oci = Spec::load(dir.join("config.json")).map_err(|error| failed(error.to_string()))?;
        let process =
            process(&oci, &spec).ok_or_else(|| failed("the container has no process".into()))?;
        let number = self.exec_number.fetch_add(1, Ordering::Relaxed);
        let file = dir.join(format!("x{}-{number}", std::process::id()));
        std::fs::write(
            &file,
            serde_json::to_vec(&process).map_err(|error| failed(error.to_string()))?,
        )
        .map_err(broken)?;

        let (ours, theirs) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )
        .map_err(|errno| broken(errno.into()))?;
        let child = Command::new(&self.config.program)
            .args([OsStr::new("exec-helper"), dir.as_os_str(), file.as_os_str()])
            .arg(if spec.tty { "tty" } else { "streams" })
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir("/")
            .spawn()
            .map_err(broken)?;

        let pipe = || pipe2(OFlag::O_CLOEXEC).map_err(|errno| broken(errno.into()));
        let mut letters = Vec::new();
        let mut given: Vec<OwnedFd> = Vec::new();
        let mut session = Session {
            stdin: None,
            stdout: None,
            stderr: None,
            resize: None,
            exit: Box::pin(std::future::pending()),
        };
        if !spec.tty {
            if spec.stdin {
                let (read, write) = pipe()?;
                session.stdin = Some(Box::new(
                    pipe::Sender::from_owned_fd(nonblocking(write).map_err(broken)?)
                        .map_err(broken)?,
                ));
                letters.push(b'i');
                given.push(read);
            }
            for (wanted, letter) in [(spec.stdout, b'o'), (spec.stderr, b'e')] {
                if wanted {
                    let (read, write) = pipe()?;
                    let read = pipe::Receiver::from_owned_fd(nonblocking(read).map_err(broken)?)
                        .map_err(broken)?;
                    if letter == b'o' {
                        session.stdout = Some(Box::new(read));
                    } else {
                        session.stderr = Some(Box::new(read));
                    }
                    letters.push(letter);
                    given.push(write);
                }
            }
        }
        if letters.is_empty() {
            letters.push(b'-');
        }
        let raw: Vec<i32> = given.iter().map(|fd| fd.as_raw_fd()).collect();
        fds::send(&ours, &letters, &raw).map_err(broken)?;
        drop(given);
        fds::set_nonblocking(&ours).map_err(broken)?;
        let mut helper = Helper {
            control: fds::watch(ours).map_err(broken)?,
            child,
        };

        let first = tokio::time::timeout(START, helper.hear())
            .await
            .map_err(|_| RuntimeError::Timeout(START))?;
        match first.map_err(broken)? {
            (Message::Started, terminal) => {
                if let Some(terminal) = terminal {
                    let copy = || terminal.as_fd().try_clone_to_owned();
                    session.stdout = Some(Box::new(
                        Terminal::new(copy().map_err(broken)?).map_err(broken)?,
                    ));
                    if spec.stdin {
                        session.stdin = Some(Box::new(
                            Terminal::new(copy().map_err(broken)?).map_err(broken)?,
                        ));
                    }
                    let (resize, sizes) = mpsc::channel(4);
                    tasks::resize(terminal, sizes);
                    session.resize = Some(resize);
                }
            }
            (Message::Failed(message), _) => {
                let _ = helper.child.wait().await;
                return Err(failed(message));
            }
            (Message::Exited(code), _) => {
                let _ = helper.child.wait().await;
                session.exit = Box::pin(std::future::ready(Ok(code)));
                return Ok(session);
            }
        }
        let id = id.to_owned();
        session.exit = Box::pin(async move {
            let end = helper.hear().await;
            let _ = helper.child.wait().await;
            match end {
                Ok((Message::Exited(code), _)) => Ok(code),
                Ok((Message::Failed(message), _)) => Err(RuntimeError::Exec { id, message }),
                Ok((Message::Started, _)) => Err(RuntimeError::Exec {
                    id,
                    message: "unexpected message".into(),
                }),
                Err(error) => Err(RuntimeError::Exec {
                    id,
                    message: error.to_string(),
                }),
            }
        });
        Ok(session)
    }
}

fn nonblocking(fd: OwnedFd) -> io::Result<OwnedFd> {
    fds::set_nonblocking(&fd)?;
    Ok(fd)
}

/// The container's own process, with another command.
fn process(oci: &Spec, spec: &ExecSpec) -> Option<OciProcess> {
    let mut process = oci.process().clone()?;
    let mut env = process.env().clone().unwrap_or_default();
    if spec.tty && !env.iter().any(|entry| entry.starts_with("TERM=")) {
        env.push("TERM=xterm".to_owned());
    }
    env.extend(spec.env.iter().map(|(key, value)| format!("{key}={value}")));
    process.set_env(Some(env));
    process.set_args(Some(spec.args.clone()));
    process.set_terminal(Some(spec.tty));
    // Applied by the process itself before it becomes the command: later would be a race.
    let size = spec.size.filter(|_| spec.tty);
    let size = size.map(|size| {
        BoxBuilder::default()
            .height(size.height)
            .width(size.width)
            .build()
    });
    process.set_console_size(size.and_then(Result::ok));
    // Inherited from the container would need the container's privilege to set.
    process.set_oom_score_adj(None);
    Some(process)
}
