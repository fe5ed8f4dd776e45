//! Whole sessions over in-memory connections: a client's bytes in, a client's bytes out, for each transport.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::command::{Process, run_command};
use crate::spdy::{Connection, Decoder, Encoder, Frame};
use crate::{Outcome, Wanted, spdy, websocket};

const ALL: Wanted = Wanted {
    stdin: true,
    stdout: true,
    stderr: true,
    tty: false,
};

/// Echoes stdin to stdout, says `err` on stderr, then exits with 3.
fn echo() -> Process {
    let (ours, theirs) = tokio::io::duplex(1024);
    let (mut from, mut to) = tokio::io::split(theirs);
    let (read, write) = tokio::io::split(ours);
    let exit = async move {
        let mut text = Vec::new();
        let _ = from.read_to_end(&mut text).await;
        let _ = to.write_all(&text).await;
        let _ = to.shutdown().await;
        Outcome::Exited(3)
    };
    Process {
        stdin: Some(Box::new(write)),
        stdout: Some(Box::new(read)),
        stderr: Some(Box::new(std::io::Cursor::new(b"err".to_vec()))),
        resize: None,
        exit: Box::pin(exit),
    }
}

struct Client {
    io: DuplexStream,
    encoder: Encoder,
    decoder: Decoder,
    buffer: BytesMut,
}

impl Client {
    fn new(io: DuplexStream) -> Self {
        Client {
            io,
            encoder: Encoder::default(),
            decoder: Decoder::default(),
            buffer: BytesMut::new(),
        }
    }

    async fn send(&mut self, frame: Frame) {
        let bytes = self.encoder.encode(&frame).unwrap();
        self.io.write_all(&bytes).await.unwrap();
    }

    async fn open(&mut self, id: u32, headers: &[(&str, &str)]) {
        let headers = headers
            .iter()
            .map(|(k, v)| (k.to_string(), v.to_string()))
            .collect();
        self.send(Frame::Open {
            id,
            fin: false,
            headers,
        })
        .await;
    }

    /// Data by stream, until the server says goodbye.
    async fn rest(&mut self) -> BTreeMap<u32, Vec<u8>> {
        let mut data: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
        loop {
            while let Some(frame) = self.decoder.take(&mut self.buffer).unwrap() {
                match frame {
                    Frame::Data { id, bytes, .. } => {
                        data.entry(id).or_default().extend_from_slice(&bytes)
                    }
                    Frame::GoAway => return data,
                    _ => {}
                }
            }
            if self.io.read_buf(&mut self.buffer).await.unwrap() == 0 {
                return data;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn command_over_spdy() {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let server = tokio::spawn(async move {
        let remote = spdy::command::open(Connection::serve(theirs), ALL, true, true)
            .await
            .unwrap();
        run_command(remote, Ok(echo())).await;
    });
    let mut client = Client::new(ours);
    for (id, kind) in [(1, "error"), (3, "stdin"), (5, "stdout"), (7, "stderr")] {
        client.open(id, &[("streamtype", kind)]).await;
    }
    client.send(Frame::Ping(1)).await;
    client
        .send(Frame::Data {
            id: 3,
            fin: false,
            bytes: Bytes::from_static(b"hello "),
        })
        .await;
    client
        .send(Frame::Data {
            id: 3,
            fin: true,
            bytes: Bytes::from_static(b"you"),
        })
        .await;
    let data = client.rest().await;
    drop(client);
    assert_eq!(
        (&data[&5][..], &data[&7][..]),
        (&b"hello you"[..], &b"err"[..])
    );
    let status: serde_json::Value = serde_json::from_slice(&data[&1]).unwrap();
    assert_eq!(status["reason"], "NonZeroExitCode");
    assert_eq!(status["details"]["causes"][0]["message"], "3");
    server.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn command_over_websocket() {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let dialect = websocket::Dialect {
        base64: false,
        close_signal: true,
        status: true,
    };
    let server = tokio::spawn(async move {
        let remote = websocket::open(theirs, ALL, dialect).await.unwrap();
        run_command(remote, Ok(echo())).await;
    });
    let mut client = WebSocketStream::from_raw_socket(ours, Role::Client, None).await;
    client
        .send(Message::binary(&b"\x00hello"[..]))
        .await
        .unwrap();
    client
        .send(Message::binary(&b"\xff\x00"[..]))
        .await
        .unwrap();
    let mut data: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
    while let Some(Ok(message)) = client.next().await {
        if let Message::Binary(bytes) = message {
            data.entry(bytes[0])
                .or_default()
                .extend_from_slice(&bytes[1..]);
        }
    }
    drop(client);
    assert_eq!((&data[&1][..], &data[&2][..]), (&b"hello"[..], &b"err"[..]));
    let status: serde_json::Value = serde_json::from_slice(&data[&3]).unwrap();
    assert_eq!(status["details"]["causes"][0]["reason"], "ExitCode");
    server.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_ends_the_process() {
    let (ours, theirs) = tokio::io::duplex(1024);
    let dialect = websocket::Dialect {
        base64: false,
        close_signal: false,
        status: true,
    };
    let remote = websocket::open(theirs, ALL, dialect).await.unwrap();
    let (alive, ended) = tokio::sync::oneshot::channel::<()>();
    let exit = Box::pin(async move {
        let _alive = alive;
        std::future::pending().await
    });
    drop(ours);
    run_command(
        remote,
        Ok(Process {
            stdin: None,
            stdout: None,
            stderr: None,
            resize: None,
            exit,
        }),
    )
    .await;
    assert!(ended.await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_client_without_streams_is_not_waited_for() {
    let (_ours, theirs) = tokio::io::duplex(1024);
    let opened = spdy::command::open(Connection::serve(theirs), ALL, true, true).await;
    assert!(matches!(opened, Err(crate::StreamError::NoStreams(_))));
}

#[tokio::test]
async fn forwarding_over_spdy() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let dial: Arc<dyn crate::Dial> = Arc::new(move |port: u16| -> crate::Dialled {
        Box::pin(async move {
            if port != 80 {
                return Err("connection refused".to_owned());
            }
            tokio::net::TcpStream::connect(address)
                .await
                .map_err(|error| error.to_string())
        })
    });
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let serving = tokio::spawn(async move {
        crate::port_forward::serve(Connection::serve(theirs), "p_ns", dial).await
    });
    let mut client = Client::new(ours);
    for (id, kind, port, request) in [
        (1, "error", "80", "0"),
        (3, "data", "80", "0"),
        (5, "error", "81", "1"),
        (7, "data", "81", "1"),
    ] {
        client
            .open(
                id,
                &[("streamtype", kind), ("port", port), ("requestid", request)],
            )
            .await;
    }
    client
        .send(Frame::Data {
            id: 3,
            fin: true,
            bytes: Bytes::from_static(b"ping"),
        })
        .await;
    let (mut socket, _) = listener.accept().await.unwrap();
    let mut got = Vec::new();
    socket.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, b"ping");
    socket.write_all(b"pong").await.unwrap();
    drop(socket);
    let mut data: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
    let mut finished = 0;
    while finished < 4 {
        while let Some(frame) = client.decoder.take(&mut client.buffer).unwrap() {
            if let Frame::Data { id, fin, bytes } = frame {
                data.entry(id).or_default().extend_from_slice(&bytes);
                finished += usize::from(fin);
            }
        }
        if finished < 4 {
            client.io.read_buf(&mut client.buffer).await.unwrap();
        }
    }
    assert_eq!(data[&3], b"pong");
    assert!(data[&1].is_empty());
    assert!(
        String::from_utf8_lossy(&data[&5])
            .contains("error forwarding port 81 to pod p_ns: connection refused")
    );
    drop(client);
    serving.await.unwrap().unwrap();
}
