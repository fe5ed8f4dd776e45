//! The runtime's background work: waiting for processes, blocking work on threads of its own, and
//! carrying an attached container's streams.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{broadcast, mpsc, oneshot};

use crate::protocol;
use crate::runtime::{RuntimeError, Size};
use crate::state::{ContainerExit, Exit, Process};

/// Runs blocking work on a fresh thread that ends with it: some of it leaves the machine's namespaces,
/// and a runtime's thread must never do that.
pub async fn on_own_thread<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (send, receive) = oneshot::channel();
    std::thread::Builder::new()
        .name("runtime-edge".into())
        .spawn(move || {
            let _ = send.send(work());
        })?;
    receive
        .await
        .map_err(|_| io::Error::other("the thread panicked"))?
}

/// Resolves when the process has ended.
pub async fn end_of(process: Process) {
    if let Ok(Some(fd)) = process.pidfd()
        && let Ok(fd) = crate::fds::watch(fd)
    {
        let _ = fd.readable().await;
    }
}

/// Ends with the shim, which ends with the container.
pub fn hint_at_end(
    shim: Process,
    check: impl FnOnce() + Send + 'static,
    hint: ContainerExit,
    to: broadcast::Sender<ContainerExit>,
) {
    tokio::spawn(async move {
        end_of(shim).await;
        check();
        // Nobody listening is fine: the files tell the truth.
        let _ = to.send(hint);
    });
}

/// What the caller of an attach holds on the other side.
pub struct Carried {
    pub stdin: Option<DuplexStream>,
    pub resize: mpsc::Receiver<Size>,
    pub stdout: DuplexStream,
    pub stderr: DuplexStream,
    pub exit: oneshot::Sender<Result<i32, RuntimeError>>,
}

/// Ends when the shim closes the socket, or when the caller has dropped everything.
pub fn carry(socket: UnixStream, carried: Carried) {
    let (from, to) = socket.into_split();
    let Carried {
        stdin,
        resize,
        stdout,
        stderr,
        mut exit,
    } = carried;
    tokio::spawn(async move {
        let end = tokio::select! {
            end = outwards(from, stdout, stderr) => end,
            () = async {
                let _kept = inwards(to, stdin, resize).await;
                std::future::pending().await
            } => return,
            () = exit.closed() => return,
        };
        let _ = exit.send(end);
    });
}

async fn outwards(
    mut from: OwnedReadHalf,
    mut stdout: DuplexStream,
    mut stderr: DuplexStream,
) -> Result<i32, RuntimeError> {
    let mut buffer = Vec::new();
    let read = |source| RuntimeError::Io {
        what: "reading from the shim".into(),
        source,
    };
    loop {
        while let Some((kind, payload)) = protocol::take(&mut buffer)
            .map_err(|error| RuntimeError::Refused(format!("shim: {error:?}")))?
        {
            // A caller that reads only one of the streams does not hold up the other.
            match kind {
                protocol::STDOUT => drop(stdout.write_all(&payload).await),
                protocol::STDERR => drop(stderr.write_all(&payload).await),
                protocol::EXIT => {
                    let exit: Exit = serde_json::from_slice(&payload)
                        .map_err(|error| RuntimeError::Refused(format!("shim: {error}")))?;
                    return Ok(exit.code);
                }
                _ => {}
            }
        }
        if from.read_buf(&mut buffer).await.map_err(read)? == 0 {
            return Err(RuntimeError::Refused(
                "the shim closed the connection".into(),
            ));
        }
    }
}

/// Gives the socket back when there is nothing more to say: closing it would detach.
async fn inwards(
    mut to: OwnedWriteHalf,
    mut stdin: Option<DuplexStream>,
    mut resize: mpsc::Receiver<Size>,
) -> OwnedWriteHalf {
    let mut buffer = vec![0u8; 16 * 1024];
    let mut resizable = true;
    loop {
        let typed = async {
            match &mut stdin {
                Some(stdin) => stdin.read(&mut buffer).await,
                None => std::future::pending().await,
            }
        };
        let frame = tokio::select! {
            read = typed => match read {
                Ok(0) | Err(_) => {
                    stdin = None;
                    protocol::frame(protocol::CLOSE_STDIN, &[])
                }
                Ok(length) => protocol::frame(protocol::STDIN, &buffer[..length]),
            },
            size = resize.recv(), if resizable => match size {
                Some(size) => protocol::frame(protocol::RESIZE, &protocol::size_payload(size)),
                None => {
                    resizable = false;
                    continue;
                }
            },
        };
        if to.write_all(&frame).await.is_err() || (stdin.is_none() && !resizable) {
            return to;
        }
    }
}

/// Applies terminal sizes until the sender is dropped.
pub fn resize(terminal: OwnedFd, mut sizes: mpsc::Receiver<Size>) {
    tokio::spawn(async move {
        while let Some(size) = sizes.recv().await {
            let _ = crate::fds::resize(&terminal, size);
        }
    });
}
