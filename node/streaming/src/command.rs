//! A remote command's streams, whatever carries them, and the loop that joins them to a process.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, watch};

use crate::negotiate::{Accepted, Transport};
use crate::status::Outcome;
use crate::{StreamError, Wanted, spdy, websocket};

/// Columns and rows, as clients send them on the resize stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Size {
    pub width: u16,
    pub height: u16,
}

/// How long output may still come after the process has ended, from children that hold its streams.
const QUIET: Duration = Duration::from_secs(2);
/// How long a client may take to open its streams.
pub(crate) const OPEN: Duration = Duration::from_secs(30);
/// How long a client may take to read the outcome.
const FAREWELL: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Channel {
    Stdout,
    Stderr,
    Error,
}

pub(crate) type Sent = Pin<Box<dyn Future<Output = Result<(), StreamError>> + Send>>;

/// The way to the client.
pub(crate) trait Outgoing: Send + Sync {
    fn send(&self, channel: Channel, bytes: Bytes) -> Sent;
    /// No more will come on any channel; resolves when the client has it all.
    fn close(&self) -> Sent;
}

/// The client's side of an exec or attach.
pub struct RemoteCommand {
    pub(crate) stdin: Option<mpsc::Receiver<Bytes>>,
    pub(crate) resize: Option<mpsc::Receiver<Size>>,
    pub(crate) out: Arc<dyn Outgoing>,
    /// True once the client has gone.
    pub(crate) gone: watch::Receiver<bool>,
    pub(crate) as_status: bool,
    /// What listens to the client, where the streams do not own it.
    pub(crate) hearing: Option<tokio::task::AbortHandle>,
}

impl Drop for RemoteCommand {
    fn drop(&mut self) {
        if let Some(hearing) = &self.hearing {
            hearing.abort();
        }
    }
}

impl RemoteCommand {
    /// Waits for the upgraded connection and the client's streams.
    pub async fn open(
        upgrade: OnUpgrade,
        accepted: &Accepted,
        wanted: Wanted,
    ) -> Result<RemoteCommand, StreamError> {
        let io = TokioIo::new(upgrade.await?);
        match accepted.transport {
            Transport::WebSocket {
                base64,
                close_signal,
                status,
            } => {
                websocket::open(
                    io,
                    wanted,
                    websocket::Dialect {
                        base64,
                        close_signal,
                        status,
                    },
                )
                .await
            }
            Transport::Spdy { status } => {
                let connection = spdy::Connection::serve(io);
                // The second version of the protocol knew no sizes.
                let resizable = ["v3.", "v4.", "v5."]
                    .iter()
                    .any(|version| accepted.protocol.starts_with(version));
                spdy::command::open(connection, wanted, status, resizable).await
            }
            Transport::Tunnel => Err(StreamError::Protocol("a tunnel carries no command".into())),
        }
    }

    /// The terminal's size, where the client tells it right away: a command started with it needs no redraw.
    pub async fn first_size(&mut self, wait: Duration) -> Option<Size> {
        let sizes = self.resize.as_mut()?;
        tokio::time::timeout(wait, sizes.recv())
            .await
            .ok()
            .flatten()
    }

    async fn finish(&self, outcome: &Outcome) {
        let farewell = async {
            let bytes = outcome.encode(self.as_status);
            if !bytes.is_empty() {
                self.out.send(Channel::Error, bytes.into()).await?;
            }
            self.out.close().await?;
            // Hanging up first could destroy what the client has not read yet.
            let _ = self.gone.clone().wait_for(|gone| *gone).await;
            Ok::<(), StreamError>(())
        };
        // The client may be gone: then nobody wants to know.
        let _ = tokio::time::timeout(FAREWELL, farewell).await;
    }
}

/// What runs behind the streams.
pub struct Process {
    pub stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    pub stdout: Option<Box<dyn AsyncRead + Send + Unpin>>,
    pub stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
    pub resize: Option<mpsc::Sender<Size>>,
    /// Dropped when the client goes.
    pub exit: Pin<Box<dyn Future<Output = Outcome> + Send>>,
}

/// Carries everything until the process ends or the client goes; tells the client how it ended.
/// A process that could not be started is given as its outcome.
pub async fn run_command(mut remote: RemoteCommand, process: Result<Process, Outcome>) {
    let process = match process {
        Ok(process) => process,
        Err(outcome) => return remote.finish(&outcome).await,
    };
    let Process {
        stdin,
        stdout,
        stderr,
        resize,
        exit,
    } = process;
    let (ended, has_ended) = watch::channel(false);
    let input = feed(remote.stdin.take(), stdin);
    let sizes = apply_sizes(remote.resize.take(), resize);
    let output = async {
        tokio::join!(
            pump(stdout, Channel::Stdout, &*remote.out, has_ended.clone()),
            pump(stderr, Channel::Stderr, &*remote.out, has_ended.clone()),
        )
    };
    let work = async {
        let exit = async {
            let outcome = exit.await;
            let _ = ended.send(true);
            outcome
        };
        let ending = async { tokio::join!(exit, output).0 };
        tokio::select! {
            outcome = ending => outcome,
            // Both only ever wait for more.
            ((), ()) = async { tokio::join!(input, sizes) } => std::future::pending().await,
        }
    };
    let mut gone = remote.gone.clone();
    let outcome = tokio::select! {
        outcome = work => outcome,
        _ = gone.wait_for(|gone| *gone) => return,
    };
    remote.finish(&outcome).await;
}

async fn feed(from: Option<mpsc::Receiver<Bytes>>, to: Option<Box<dyn AsyncWrite + Send + Unpin>>) {
    if let (Some(mut from), Some(mut to)) = (from, to) {
        while let Some(bytes) = from.recv().await {
            if to.write_all(&bytes).await.is_err() || to.flush().await.is_err() {
                break;
            }
        }
        let _ = to.shutdown().await;
        drop(to);
        // A client that goes on typing must not be held up.
        while from.recv().await.is_some() {}
    }
    std::future::pending().await
}

async fn apply_sizes(from: Option<mpsc::Receiver<Size>>, to: Option<mpsc::Sender<Size>>) {
    if let Some(mut from) = from {
        while let Some(size) = from.recv().await {
            if let Some(to) = &to {
                let _ = to.send(size).await;
            }
        }
    }
    std::future::pending().await
}

async fn pump(
    from: Option<Box<dyn AsyncRead + Send + Unpin>>,
    channel: Channel,
    to: &dyn Outgoing,
    mut ended: watch::Receiver<bool>,
) {
    let Some(mut from) = from else { return };
    let mut buffer = vec![0u8; 16 * 1024];
    loop {
        let read = if *ended.borrow() {
            match tokio::time::timeout(QUIET, from.read(&mut buffer)).await {
                Ok(read) => read,
                Err(_) => return,
            }
        } else {
            tokio::select! {
                read = from.read(&mut buffer) => read,
                _ = ended.changed() => continue,
            }
        };
        match read {
            Ok(0) | Err(_) => return,
            Ok(length) => {
                if to
                    .send(channel, Bytes::copy_from_slice(&buffer[..length]))
                    .await
                    .is_err()
                {
                    return;
                }
            }
        }
    }
}
