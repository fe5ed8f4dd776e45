//! Attach: a connection to the container's shim, seen as streams.

use std::io;

use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};

use super::Shims;
use super::tasks::{self, Carried};
use crate::paths::{self, read_json};
use crate::protocol;
use crate::runtime::{Input, RuntimeError, Session};
use crate::spec::ContainerSpec;

/// Bytes between the shim and a caller that does not read.
const BUFFER: usize = 64 * 1024;

impl Shims {
    pub(super) async fn attach_session(
        &self,
        id: &str,
        stdin: bool,
    ) -> Result<Session, RuntimeError> {
        let dir = self.directory(id)?;
        let spec: Option<ContainerSpec> = read_json(&dir.join(paths::SPEC))
            .map_err(RuntimeError::io(format!("reading container {id}")))?;
        let spec = spec.ok_or_else(|| RuntimeError::NoContainer(id.to_owned()))?;
        let mut socket = UnixStream::connect(dir.join(paths::SOCKET))
            .await
            .map_err(|source| match source.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    RuntimeError::NotRunning(id.to_owned())
                }
                _ => RuntimeError::Io {
                    what: format!("connecting to the shim of container {id}"),
                    source,
                },
            })?;
        let stdin = stdin && spec.stdin;
        socket
            .write_all(&protocol::frame(protocol::ATTACH, &[u8::from(stdin)]))
            .await
            .map_err(RuntimeError::io("attaching"))?;
        let (typed, typed_end) = tokio::io::duplex(BUFFER);
        let (stdout, stdout_end) = tokio::io::duplex(BUFFER);
        let (stderr, stderr_end) = tokio::io::duplex(BUFFER);
        let (resize, sizes) = mpsc::channel(4);
        let (exit, ended) = oneshot::channel();
        tasks::carry(
            socket,
            Carried {
                stdin: stdin.then_some(typed_end),
                resize: sizes,
                stdout: stdout_end,
                stderr: stderr_end,
                exit,
            },
        );
        Ok(Session {
            stdin: stdin.then(|| Box::new(typed) as Input),
            stdout: Some(Box::new(stdout)),
            stderr: if spec.tty {
                None
            } else {
                Some(Box::new(stderr))
            },
            resize: spec.tty.then_some(resize),
            exit: Box::pin(async move {
                ended.await.unwrap_or_else(|_| {
                    Err(RuntimeError::Refused("the attached session ended".into()))
                })
            }),
        })
    }
}
