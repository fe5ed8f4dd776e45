//! The streaming protocols of exec, attach and port-forward, the server's side: WebSocket
//! (`v5.channel.k8s.io` and older) and SPDY/3.1, also tunnelled inside a WebSocket.
//!
//! [`negotiate`] decides from the request's head, [`Accepted::response`] is the 101, and the accepted
//! connection becomes a [`RemoteCommand`] or a [`PortForward`]. What it must never do: know what runs
//! behind the streams.
//!
//! Upstream: `k8s.io/apimachinery/pkg/util/{httpstream,remotecommand}`, `k8s.io/kubelet/pkg/cri/streaming`,
//! `moby/spdystream`.

mod command;
mod negotiate;
mod port_forward;
#[cfg(test)]
mod session_tests;
pub mod spdy;
mod status;
mod tasks;
mod tunnel;
mod websocket;

pub use command::{Process, RemoteCommand, Size, run_command};
pub use negotiate::{Accepted, Purpose, Refused, Transport, negotiate};
pub use port_forward::{Dial, Dialled, run_port_forward};
pub use status::Outcome;

/// Why a streaming session broke.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    #[error("the connection was not upgraded: {0}")]
    Upgrade(#[from] hyper::Error),
    #[error("the client did not open its streams within {0:?}")]
    NoStreams(std::time::Duration),
    #[error("the client broke the protocol: {0}")]
    Protocol(String),
    #[error("connection: {0}")]
    Io(#[from] std::io::Error),
    #[error("the client has gone")]
    Gone,
}

/// Which streams an exec or attach wants, as the request's query says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

impl Wanted {
    /// With a terminal there is no separate stderr. Upstream wants at least one stream.
    pub fn normalised(self) -> Wanted {
        Wanted {
            stderr: self.stderr && !self.tty,
            ..self
        }
    }
    pub fn is_valid(self) -> bool {
        self.stdin || self.stdout || self.stderr
    }
}
