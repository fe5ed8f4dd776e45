//! A remote command over WebSocket: every message begins with its channel's number. Version 5 adds a
//! signal that a channel is closed. Upstream: `k8s.io/apimachinery/pkg/util/httpstream/wsstream`,
//! KEP-4006.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Mutex, mpsc, watch};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{
    CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode,
};

use crate::command::{Channel, Outgoing, RemoteCommand, Sent, Size};
use crate::{StreamError, Wanted, tasks};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// Larger messages end the connection.
pub(crate) const LARGEST: usize = 4 * 1024 * 1024;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Dialect {
    pub base64: bool,
    pub close_signal: bool,
    /// Status objects on the error channel.
    pub status: bool,
}

pub(crate) async fn accept<S>(io: S) -> WebSocketStream<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let config = WebSocketConfig::default()
        .max_message_size(Some(LARGEST))
        .max_frame_size(Some(LARGEST));
    WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await
}

type Sink<S> = Arc<Mutex<SplitSink<WebSocketStream<S>, Message>>>;

struct Out<S> {
    sink: Sink<S>,
    base64: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Outgoing for Out<S> {
    fn send(&self, channel: Channel, bytes: Bytes) -> Sent {
        let (sink, base64) = (self.sink.clone(), self.base64);
        Box::pin(async move {
            let message = encode(number(channel), &bytes, base64);
            sink.lock()
                .await
                .send(message)
                .await
                .map_err(|_| StreamError::Gone)
        })
    }

    fn close(&self) -> Sent {
        let sink = self.sink.clone();
        Box::pin(async move {
            let normal = CloseFrame {
                code: CloseCode::Normal,
                reason: "".into(),
            };
            sink.lock()
                .await
                .send(Message::Close(Some(normal)))
                .await
                .map_err(|_| StreamError::Gone)
        })
    }
}

fn number(channel: Channel) -> u8 {
    match channel {
        Channel::Stdout => STDOUT,
        Channel::Stderr => STDERR,
        Channel::Error => ERROR,
    }
}

fn encode(channel: u8, bytes: &[u8], base64: bool) -> Message {
    if base64 {
        return Message::text(format!("{channel}{}", STANDARD.encode(bytes)));
    }
    let mut message = BytesMut::with_capacity(bytes.len() + 1);
    message.put_u8(channel);
    message.put_slice(bytes);
    Message::Binary(message.freeze())
}

/// Channel number and payload.
fn decode(message: Message, base64: bool) -> Option<(u8, Bytes)> {
    let bytes = match message {
        Message::Binary(bytes) => bytes,
        Message::Text(text) => text.into(),
        _ => return None,
    };
    let channel = *bytes.first()?;
    let rest = bytes.slice(1..);
    if !base64 {
        return Some((channel, rest));
    }
    let digit = channel.checked_sub(b'0').filter(|digit| *digit < 10)?;
    Some((digit, STANDARD.decode(rest).ok()?.into()))
}

pub(crate) async fn open<S>(
    io: S,
    wanted: Wanted,
    dialect: Dialect,
) -> Result<RemoteCommand, StreamError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sink, stream) = accept(io).await.split();
    let sink: Sink<S> = Arc::new(Mutex::new(sink));
    // An empty message tells the client that the streams are there.
    let first = if wanted.stdout {
        STDOUT
    } else if wanted.stderr {
        STDERR
    } else {
        ERROR
    };
    sink.lock()
        .await
        .send(encode(first, b"", dialect.base64))
        .await
        .map_err(|_| StreamError::Gone)?;
    let (typed, stdin) = mpsc::channel(64);
    let (sizes, resize) = mpsc::channel(8);
    let (went, gone) = watch::channel(false);
    let out = Arc::new(Out {
        sink: sink.clone(),
        base64: dialect.base64,
    });
    let hearing = hear(stream, sink, dialect, wanted.stdin.then_some(typed), sizes);
    let hearing = Some(tasks::until_gone(hearing, went));
    Ok(RemoteCommand {
        stdin: wanted.stdin.then_some(stdin),
        resize: wanted.tty.then_some(resize),
        out,
        gone,
        as_status: dialect.status,
        hearing,
    })
}

async fn hear<S>(
    mut stream: SplitStream<WebSocketStream<S>>,
    sink: Sink<S>,
    dialect: Dialect,
    mut stdin: Option<mpsc::Sender<Bytes>>,
    resize: mpsc::Sender<Size>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    while let Some(Ok(message)) = stream.next().await {
        match message {
            // The answer is queued by the library and leaves with the next flush.
            Message::Ping(_) => {
                let _ = sink.lock().await.flush().await;
                continue;
            }
            Message::Close(_) => {
                let _ = sink.lock().await.flush().await;
                return;
            }
            _ => {}
        }
        match decode(message, dialect.base64) {
            Some((STDIN, bytes)) => {
                if let Some(to) = &stdin
                    && !bytes.is_empty()
                    && to.send(bytes).await.is_err()
                {
                    stdin = None;
                }
            }
            Some((RESIZE, bytes)) => {
                if let Ok(size) = serde_json::from_slice(&bytes) {
                    let _ = resize.try_send(size);
                }
            }
            Some((CLOSE, bytes)) if dialect.close_signal && bytes.first() == Some(&STDIN) => {
                stdin = None
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages() {
        assert_eq!(
            decode(encode(3, b"ab", false), false),
            Some((3, Bytes::from_static(b"ab")))
        );
        assert_eq!(encode(1, b"ab", true), Message::text("1YWI="));
        assert_eq!(
            decode(Message::text("0YWI="), true),
            Some((0, Bytes::from_static(b"ab")))
        );
        assert_eq!(decode(Message::text(""), true), None);
        assert_eq!(decode(Message::text("x!"), true), None);
    }
}
