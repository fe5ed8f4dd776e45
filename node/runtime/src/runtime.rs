//! The edge: what a node daemon can ask of a container runtime. Real: `Shims`. In memory: `fake`.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::sync::{broadcast, mpsc};

use crate::spec::{ContainerSpec, ExecSpec, SandboxSpec};
use crate::state::{Container, ContainerExit, ContainerState, Sandbox, Started, Stats};

/// Columns and rows of a terminal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    pub width: u16,
    pub height: u16,
}

#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    #[error("no container {0}")]
    NoContainer(String),
    #[error("no sandbox for pod {0}")]
    NoSandbox(String),
    #[error("container {0} is not running")]
    NotRunning(String),
    #[error("container {0} already exists")]
    Exists(String),
    /// The container's process could not be started: the user's mistake most often (no such
    /// executable, no such user). Upstream reason: `RunContainerError` / `StartError`.
    #[error("failed to start container {id}: {message}")]
    Start { id: String, message: String },
    #[error("failed to exec in container {id}: {message}")]
    Exec { id: String, message: String },
    #[error("command timed out after {0:?}")]
    Timeout(Duration),
    #[error("{what}: {source}")]
    Io {
        what: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{0}")]
    Refused(String),
}

impl RuntimeError {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> RuntimeError {
        let what = what.into();
        move |source| RuntimeError::Io { what, source }
    }
}

pub type Input = Box<dyn AsyncWrite + Send + Unpin>;
pub type Output = Box<dyn AsyncRead + Send + Unpin>;
pub type ExitCode = Pin<Box<dyn Future<Output = Result<i32, RuntimeError>> + Send>>;

/// The streams of an exec or an attach. With a terminal everything comes on `stdout`. Dropping
/// `exit` ends an exec'd process (SIGKILL); it does not touch an attached container.
pub struct Session {
    /// Dropping it closes the process's stdin.
    pub stdin: Option<Input>,
    pub stdout: Option<Output>,
    pub stderr: Option<Output>,
    /// Terminal sizes to apply; absent without a terminal.
    pub resize: Option<mpsc::Sender<Size>>,
    /// The process's exit code (128 + signal when killed).
    pub exit: ExitCode,
}

/// What a short command said (probes, hooks). `output` is stdout and stderr, cut at a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecOutput {
    pub code: i32,
    pub output: Vec<u8>,
}

#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// Makes the namespaces, `/dev/shm` and cgroup of a pod; gives the existing sandbox when there is one.
    async fn create_sandbox(&self, spec: SandboxSpec) -> Result<Sandbox, RuntimeError>;
    /// Undoes `create_sandbox`; Ok when there is none. All containers must have been removed.
    async fn remove_sandbox(&self, pod_uid: &str) -> Result<(), RuntimeError>;
    async fn sandboxes(&self) -> Result<Vec<Sandbox>, RuntimeError>;

    /// Creates and starts; returns once the process runs, or with why it could not.
    async fn start(&self, spec: ContainerSpec) -> Result<Started, RuntimeError>;
    async fn state(&self, id: &str) -> Result<ContainerState, RuntimeError>;
    /// All containers, running or ended, that have not been removed.
    async fn list(&self) -> Result<Vec<Container>, RuntimeError>;
    /// Sends a signal to the first process. Ok when it has already ended.
    async fn signal(&self, id: &str, signal: i32) -> Result<(), RuntimeError>;
    /// Kills what runs, unmounts, deletes the writable layer. Logs stay. Ok when there is none.
    async fn remove(&self, id: &str) -> Result<(), RuntimeError>;

    async fn exec(&self, id: &str, spec: ExecSpec) -> Result<Session, RuntimeError>;
    /// Streams of the container's first process from now on.
    async fn attach(&self, id: &str, stdin: bool) -> Result<Session, RuntimeError>;

    async fn stats(&self, id: &str) -> Result<Stats, RuntimeError>;
    async fn pod_stats(&self, pod_uid: &str) -> Result<Stats, RuntimeError>;
    /// Changes limits of a running container in place.
    async fn update(&self, id: &str, resources: crate::spec::Resources)
    -> Result<(), RuntimeError>;

    /// A hint for each container that ends; a receiver that lags must list again.
    fn exits(&self) -> broadcast::Receiver<ContainerExit>;

    /// Runs a command to its end or to `timeout`, keeping at most `limit` bytes of output.
    async fn exec_sync(
        &self,
        id: &str,
        args: Vec<String>,
        timeout: Duration,
        limit: usize,
    ) -> Result<ExecOutput, RuntimeError> {
        let spec = ExecSpec {
            args,
            stdout: true,
            stderr: true,
            ..ExecSpec::default()
        };
        let run = async {
            let session = self.exec(id, spec).await?;
            let mut output = Vec::new();
            let mut errors = Vec::new();
            let read = async {
                tokio::join!(
                    read_up_to(session.stdout, limit, &mut output),
                    read_up_to(session.stderr, limit, &mut errors)
                );
            };
            let ((), code) = tokio::join!(read, session.exit);
            output.extend_from_slice(&errors);
            output.truncate(limit);
            Ok(ExecOutput {
                code: code?,
                output,
            })
        };
        match tokio::time::timeout(timeout, run).await {
            Ok(result) => result,
            Err(_) => Err(RuntimeError::Timeout(timeout)),
        }
    }
}

/// Reads to the end, keeps the first `limit` bytes.
async fn read_up_to(stream: Option<Output>, limit: usize, into: &mut Vec<u8>) {
    let Some(mut stream) = stream else { return };
    let mut buffer = [0u8; 4096];
    while let Ok(n) = stream.read(&mut buffer).await {
        if n == 0 {
            return;
        }
        let room = limit.saturating_sub(into.len());
        into.extend_from_slice(&buffer[..n.min(room)]);
    }
}
