//! One SPDY connection: a reading and a writing half, and the streams between them. Streams and
//! buffers are bounded; a stream that nobody reads holds up its connection, as in spdystream.

use std::collections::HashMap;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;

use super::frame::{Decoder, Encoder, Frame};
use super::headers::Headers;
use crate::{StreamError, tasks};

const MOST_STREAMS: usize = 512;
/// Frames waiting in one stream.
const WAITING: usize = 64;
const REFUSED_STREAM: u32 = 3;
/// Of one data frame.
const PIECE: usize = 16 * 1024;

enum Order {
    Frame(Frame),
    /// Everything before has been written; the writing side is shut down.
    Close(oneshot::Sender<()>),
}

pub struct Stream {
    pub id: u32,
    pub headers: Headers,
    /// Ends when the client finishes or resets the stream, or goes.
    pub incoming: mpsc::Receiver<Bytes>,
    pub writer: StreamWriter,
}

#[derive(Clone)]
pub struct StreamWriter {
    id: u32,
    out: mpsc::Sender<Order>,
}

impl StreamWriter {
    pub async fn send(&self, mut bytes: Bytes) -> Result<(), StreamError> {
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(PIECE));
            self.frame(Frame::Data {
                id: self.id,
                fin: false,
                bytes: piece,
            })
            .await?;
        }
        Ok(())
    }

    pub async fn finish(&self) -> Result<(), StreamError> {
        self.frame(Frame::Data {
            id: self.id,
            fin: true,
            bytes: Bytes::new(),
        })
        .await
    }

    async fn frame(&self, frame: Frame) -> Result<(), StreamError> {
        self.out
            .send(Order::Frame(frame))
            .await
            .map_err(|_| StreamError::Gone)
    }
}

pub struct Connection {
    pub streams: mpsc::Receiver<Stream>,
    pub gone: watch::Receiver<bool>,
    closer: Closer,
}

/// Ends the connection when dropped.
pub struct Closer {
    out: mpsc::Sender<Order>,
    halves: [AbortHandle; 2],
}

impl Drop for Closer {
    fn drop(&mut self) {
        for half in &self.halves {
            half.abort();
        }
    }
}

impl Closer {
    /// Resolves when everything has been written.
    pub fn close(&self) -> impl Future<Output = Result<(), StreamError>> + Send + 'static {
        let out = self.out.clone();
        async move {
            let (done, wait) = oneshot::channel();
            out.send(Order::Close(done))
                .await
                .map_err(|_| StreamError::Gone)?;
            wait.await.map_err(|_| StreamError::Gone)
        }
    }
}

impl Connection {
    pub fn serve<S: AsyncRead + AsyncWrite + Send + 'static>(io: S) -> Connection {
        let (read, write) = tokio::io::split(io);
        let (out, orders) = mpsc::channel(WAITING);
        let (opened, streams) = mpsc::channel(MOST_STREAMS);
        let (went, gone) = watch::channel(false);
        let reader = tasks::until_gone(hear(read, opened, out.clone()), went);
        let writer = tasks::half(say(write, orders));
        Connection {
            streams,
            gone,
            closer: Closer {
                out,
                halves: [reader, writer],
            },
        }
    }

    /// The connection without its streams: it lives as long as this does.
    pub fn split(self) -> (mpsc::Receiver<Stream>, watch::Receiver<bool>, Closer) {
        (self.streams, self.gone, self.closer)
    }
}

async fn say<S: AsyncRead + AsyncWrite + Send>(
    mut io: WriteHalf<S>,
    mut orders: mpsc::Receiver<Order>,
) {
    let mut encoder = Encoder::default();
    while let Some(order) = orders.recv().await {
        match order {
            Order::Frame(frame) => {
                let Ok(bytes) = encoder.encode(&frame) else {
                    return;
                };
                if io.write_all(&bytes).await.is_err()
                    || (orders.is_empty() && io.flush().await.is_err())
                {
                    return;
                }
            }
            Order::Close(done) => {
                if let Ok(bytes) = encoder.encode(&Frame::GoAway) {
                    let _ = io.write_all(&bytes).await;
                }
                let _ = io.shutdown().await;
                let _ = done.send(());
                return;
            }
        }
    }
}

async fn hear<S: AsyncRead + AsyncWrite + Send>(
    mut io: ReadHalf<S>,
    opened: mpsc::Sender<Stream>,
    out: mpsc::Sender<Order>,
) {
    let mut decoder = Decoder::default();
    let mut buffer = BytesMut::new();
    let mut streams: HashMap<u32, mpsc::Sender<Bytes>> = HashMap::new();
    loop {
        loop {
            let frame = match decoder.take(&mut buffer) {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(error) => {
                    tracing::debug!(%error, "ending a SPDY connection");
                    return;
                }
            };
            match frame {
                Frame::Open { id, fin, headers } => {
                    // Streams whose handler has gone are still open for the client, not for us.
                    streams.retain(|_, to| !to.is_closed());
                    if streams.len() >= MOST_STREAMS {
                        let reset = Frame::Reset {
                            id,
                            status: REFUSED_STREAM,
                        };
                        if out.send(Order::Frame(reset)).await.is_err() {
                            return;
                        }
                        continue;
                    }
                    let (to, incoming) = mpsc::channel(WAITING);
                    if !fin {
                        streams.insert(id, to);
                    }
                    if out.send(Order::Frame(Frame::Reply { id })).await.is_err() {
                        return;
                    }
                    let writer = StreamWriter {
                        id,
                        out: out.clone(),
                    };
                    let _ = opened
                        .send(Stream {
                            id,
                            headers,
                            incoming,
                            writer,
                        })
                        .await;
                }
                Frame::Data { id, fin, bytes } => {
                    if let Some(to) = streams.get(&id)
                        && !bytes.is_empty()
                    {
                        let _ = to.send(bytes).await;
                    }
                    if fin {
                        streams.remove(&id);
                    }
                }
                Frame::Reset { id, .. } => drop(streams.remove(&id)),
                // Odd numbers are the client's own pings.
                Frame::Ping(id) if id % 2 == 1 => {
                    if out.send(Order::Frame(Frame::Ping(id))).await.is_err() {
                        return;
                    }
                }
                Frame::Ping(_) | Frame::Reply { .. } | Frame::GoAway | Frame::Other(_) => {}
            }
        }
        match io.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
}
