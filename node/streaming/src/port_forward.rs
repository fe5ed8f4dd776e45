//! Port-forward over SPDY: for each connection that the client accepted, a data stream and an error
//! stream with the same request id. Upstream: `k8s.io/kubelet/pkg/cri/streaming/portforward`.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::negotiate::{Accepted, Transport};
use crate::spdy::{Connection, Stream};
use crate::{StreamError, tasks, tunnel};

/// Without any connection for so long, the session ends; upstream's default.
const IDLE: Duration = Duration::from_secs(4 * 3600);
/// Half pairs that may wait for their other half.
const MOST_HALVES: usize = 128;

pub type Dialled = Pin<Box<dyn Future<Output = Result<TcpStream, String>> + Send>>;

/// Connects to a port of the pod, in its network namespace.
pub trait Dial: Send + Sync + 'static {
    fn dial(&self, port: u16) -> Dialled;
}

impl<F: Fn(u16) -> Dialled + Send + Sync + 'static> Dial for F {
    fn dial(&self, port: u16) -> Dialled {
        self(port)
    }
}

/// Serves until the client goes. `pod` names the pod in errors.
pub async fn run_port_forward(
    upgrade: OnUpgrade,
    accepted: &Accepted,
    pod: &str,
    dial: Arc<dyn Dial>,
) -> Result<(), StreamError> {
    let io = TokioIo::new(upgrade.await?);
    let connection = match accepted.transport {
        Transport::Tunnel => Connection::serve(tunnel::open(io).await),
        _ => Connection::serve(io),
    };
    serve(connection, pod, dial).await
}

pub(crate) async fn serve(
    connection: Connection,
    pod: &str,
    dial: Arc<dyn Dial>,
) -> Result<(), StreamError> {
    let (mut streams, mut gone, closer) = connection.split();
    let mut halves: HashMap<String, Stream> = HashMap::new();
    loop {
        let stream = tokio::select! {
            stream = tokio::time::timeout(IDLE, streams.recv()) => match stream {
                Ok(Some(stream)) => stream,
                Ok(None) | Err(_) => break,
            },
            _ = gone.wait_for(|gone| *gone) => break,
        };
        let key = pair_key(&stream);
        match halves.remove(&key) {
            None if halves.len() < MOST_HALVES => {
                halves.insert(key, stream);
            }
            None => return Err(StreamError::Protocol("too many unpaired streams".into())),
            Some(other) => {
                let (data, error) = if is_data(&stream) {
                    (stream, other)
                } else {
                    (other, stream)
                };
                if !is_data(&data) || is_data(&error) {
                    return Err(StreamError::Protocol(format!(
                        "two streams of one type for request {key}"
                    )));
                }
                // Ends with its streams, which end with the connection.
                let _ = tasks::half(forward(data, error, pod.to_owned(), dial.clone()));
            }
        }
    }
    drop(closer);
    Ok(())
}

fn is_data(stream: &Stream) -> bool {
    stream
        .headers
        .get("streamtype")
        .is_some_and(|kind| kind == "data")
}

/// Clients older than request ids open the error stream first, the data stream right after it.
fn pair_key(stream: &Stream) -> String {
    match stream.headers.get("requestid") {
        Some(id) => id.clone(),
        None if is_data(stream) => format!("#{}", stream.id.saturating_sub(2)),
        None => format!("#{}", stream.id),
    }
}

async fn forward(data: Stream, error: Stream, pod: String, dial: Arc<dyn Dial>) {
    let port = data
        .headers
        .get("port")
        .and_then(|port| port.parse::<u16>().ok())
        .filter(|port| *port > 0);
    let connected = match port {
        Some(port) => dial.dial(port).await,
        None => Err("no such port".to_owned()),
    };
    let port = port.unwrap_or(0);
    let result = match connected {
        Ok(socket) => carry(&data.writer, data.incoming, socket).await,
        Err(message) => Err(message),
    };
    if let Err(message) = result {
        let text = format!(
            "an error occurred forwarding {port} -> {port}: error forwarding port {port} to pod {pod}: {message}"
        );
        let _ = error.writer.send(text.into()).await;
    }
    let _ = data.writer.finish().await;
    let _ = error.writer.finish().await;
}

async fn carry(
    to_client: &crate::spdy::StreamWriter,
    mut from_client: tokio::sync::mpsc::Receiver<Bytes>,
    socket: TcpStream,
) -> Result<(), String> {
    let (mut read, mut write) = socket.into_split();
    let inwards = async move {
        while let Some(bytes) = from_client.recv().await {
            write
                .write_all(&bytes)
                .await
                .map_err(|error| error.to_string())?;
        }
        let _ = write.shutdown().await;
        Ok::<(), String>(())
    };
    let outwards = async {
        let mut buffer = vec![0u8; 16 * 1024];
        loop {
            match read.read(&mut buffer).await {
                Ok(0) => return Ok(()),
                Ok(length) => {
                    let bytes = Bytes::copy_from_slice(&buffer[..length]);
                    if to_client.send(bytes).await.is_err() {
                        return Ok(());
                    }
                }
                Err(error) => return Err(error.to_string()),
            }
        }
    };
    tokio::pin!(inwards);
    tokio::pin!(outwards);
    // When the pod's side ends there is nobody left to write to; when the client's does, it may still
    // wait for the answer.
    tokio::select! {
        result = &mut outwards => result,
        result = &mut inwards => {
            result?;
            outwards.await
        }
    }
}
