//! A byte stream carried in the binary messages of a WebSocket (KEP-4006: port-forward since 1.31).

use std::sync::Arc;

use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::sync::Mutex;
use tokio_tungstenite::tungstenite::Message;

use crate::{tasks, websocket};

const BUFFER: usize = 64 * 1024;

/// The stream's other end; both directions end with the WebSocket or when it is dropped.
pub(crate) async fn open<S>(io: S) -> DuplexStream
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sink, mut stream) = websocket::accept(io).await.split();
    let sink = Arc::new(Mutex::new(sink));
    let (ours, theirs) = tokio::io::duplex(BUFFER);
    let (mut from, mut to) = tokio::io::split(theirs);
    let answering = sink.clone();
    let inwards = async move {
        while let Some(Ok(message)) = stream.next().await {
            match message {
                Message::Binary(bytes) if to.write_all(&bytes).await.is_err() => break,
                Message::Close(_) => {
                    let _ = answering.lock().await.flush().await;
                    break;
                }
                Message::Ping(_) => {
                    let _ = answering.lock().await.flush().await;
                }
                _ => {}
            }
        }
        let _ = to.shutdown().await;
    };
    let outwards = async move {
        let mut buffer = vec![0u8; 32 * 1024];
        while let Ok(length) = from.read(&mut buffer).await {
            if length == 0 {
                break;
            }
            let message = Message::Binary(buffer[..length].to_vec().into());
            if sink.lock().await.send(message).await.is_err() {
                return;
            }
        }
        let _ = sink.lock().await.send(Message::Close(None)).await;
    };
    tasks::half(inwards);
    tasks::half(outwards);
    ours
}
