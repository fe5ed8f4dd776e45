//! A remote command over SPDY: one stream each for error, stdin, stdout, stderr and resize.
//! Upstream: `k8s.io/kubelet/pkg/cri/streaming/remotecommand/httpstream.go`.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::connection::{Closer, Connection, Stream, StreamWriter};
use crate::command::{Channel, OPEN, Outgoing, RemoteCommand, Sent, Size};
use crate::{StreamError, Wanted, tasks};

struct Out {
    error: StreamWriter,
    stdout: Option<StreamWriter>,
    stderr: Option<StreamWriter>,
    closer: Closer,
}

impl Outgoing for Out {
    fn send(&self, channel: Channel, bytes: Bytes) -> Sent {
        let to = match channel {
            Channel::Error => Some(&self.error),
            Channel::Stdout => self.stdout.as_ref(),
            Channel::Stderr => self.stderr.as_ref(),
        };
        match to.cloned() {
            Some(to) => Box::pin(async move { to.send(bytes).await }),
            None => Box::pin(std::future::ready(Ok(()))),
        }
    }

    fn close(&self) -> Sent {
        let writers: Vec<StreamWriter> = [
            self.stdout.clone(),
            self.stderr.clone(),
            Some(self.error.clone()),
        ]
        .into_iter()
        .flatten()
        .collect();
        let close = self.closer.close();
        Box::pin(async move {
            for writer in writers {
                writer.finish().await?;
            }
            close.await
        })
    }
}

pub(crate) async fn open(
    connection: Connection,
    wanted: Wanted,
    status: bool,
    resizable: bool,
) -> Result<RemoteCommand, StreamError> {
    let (mut streams, gone, closer) = connection.split();
    let mut expected = vec!["error"];
    for (wanted, name) in [
        (wanted.stdin, "stdin"),
        (wanted.stdout, "stdout"),
        (wanted.stderr, "stderr"),
        (wanted.tty && resizable, "resize"),
    ] {
        if wanted {
            expected.push(name);
        }
    }
    let mut open: BTreeMap<String, Stream> = BTreeMap::new();
    let collect = async {
        while !expected.iter().all(|name| open.contains_key(*name)) {
            let stream = streams.recv().await.ok_or(StreamError::Gone)?;
            let name = stream
                .headers
                .get("streamtype")
                .cloned()
                .unwrap_or_default();
            if !expected.contains(&name.as_str()) {
                return Err(StreamError::Protocol(format!(
                    "unexpected stream type: {name:?}"
                )));
            }
            open.insert(name, stream);
        }
        Ok(())
    };
    tokio::time::timeout(OPEN, collect)
        .await
        .map_err(|_| StreamError::NoStreams(OPEN))??;
    let error = open.remove("error").ok_or(StreamError::Gone)?;
    let stdin = open.remove("stdin").map(|stream| stream.incoming);
    let resize = open.remove("resize").map(|stream| {
        let (sizes, resize) = mpsc::channel(8);
        tasks::half(read_sizes(stream.incoming, sizes));
        resize
    });
    let mut writer = |name| open.remove(name).map(|stream| stream.writer);
    let out = Arc::new(Out {
        error: error.writer,
        stdout: writer("stdout"),
        stderr: writer("stderr"),
        closer,
    });
    Ok(RemoteCommand {
        stdin,
        resize,
        out,
        gone,
        as_status: status,
        hearing: None,
    })
}

/// JSON objects, one after another.
async fn read_sizes(mut from: mpsc::Receiver<Bytes>, to: mpsc::Sender<Size>) {
    let mut buffer = Vec::new();
    while let Some(bytes) = from.recv().await {
        buffer.extend_from_slice(&bytes);
        let mut read = 0;
        let mut values = serde_json::Deserializer::from_slice(&buffer).into_iter::<Size>();
        while let Some(Ok(size)) = values.next() {
            read = values.byte_offset();
            let _ = to.try_send(size);
        }
        buffer.drain(..read);
        if buffer.len() > 4096 {
            return;
        }
    }
}
