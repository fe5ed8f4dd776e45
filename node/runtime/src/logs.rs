//! Reads a container's CRI log back: tail, since, timestamps, a limit in bytes, follow across rotation.
//! As upstream it reads the current file only, not rotated ones, except that a follower finishes the
//! file that was rotated under it. Upstream: `pkg/kubelet/kuberuntime/logs/logs.go`.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use jiff::Timestamp;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

mod line;

/// How often a follower at the end looks for more.
const PULSE: Duration = Duration::from_millis(100);
const BLOCK: usize = 32 * 1024;
/// A raw line longer than this is not one of ours; it is dropped.
const LONGEST: usize = 256 * 1024;

#[derive(Clone, Default)]
pub struct LogOptions {
    pub follow: bool,
    /// Last lines only.
    pub tail: Option<u64>,
    pub since: Option<Timestamp>,
    pub timestamps: bool,
    pub limit_bytes: Option<u64>,
    /// `Some(true)`: stderr only; `Some(false)`: stdout only.
    pub stderr: Option<bool>,
}

/// Whether the container may still write: a follower ends after it no longer may.
pub type Alive = Arc<dyn Fn() -> bool + Send + Sync>;

struct Reader {
    path: PathBuf,
    file: File,
    options: LogOptions,
    alive: Alive,
    raw: Vec<u8>,
    /// The next line continues the last one: no timestamp before it.
    inside: bool,
    left: Option<u64>,
    done: bool,
}

/// Chunks of output. The log must exist; an empty one is fine.
pub async fn read(
    path: PathBuf,
    options: LogOptions,
    alive: Alive,
) -> io::Result<impl Stream<Item = io::Result<Bytes>> + Send> {
    let mut file = File::open(&path).await?;
    if let Some(tail) = options.tail {
        let start = tail_start(&mut file, tail).await?;
        file.seek(io::SeekFrom::Start(start)).await?;
    }
    let left = options.limit_bytes;
    let reader = Reader {
        path,
        file,
        options,
        alive,
        raw: Vec::new(),
        inside: false,
        left,
        done: false,
    };
    Ok(futures::stream::try_unfold(
        reader,
        |mut reader| async move { Ok(reader.next().await?.map(|chunk| (chunk, reader))) },
    ))
}

impl Reader {
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            if self.done {
                return Ok(None);
            }
            // Asked before the read: what is written between the read and the end is not missed.
            let may_grow = self.options.follow && (self.alive)();
            let mut block = vec![0u8; BLOCK];
            let length = self.file.read(&mut block).await?;
            if length > 0 {
                self.raw.extend_from_slice(&block[..length]);
                let chunk = self.render();
                if !chunk.is_empty() {
                    return Ok(Some(chunk.into()));
                }
                continue;
            }
            if !self.options.follow {
                return Ok(None);
            }
            if self.was_rotated().await? {
                continue;
            }
            if !may_grow {
                return Ok(None);
            }
            tokio::time::sleep(PULSE).await;
        }
    }

    /// At the end of a file that no longer has the log's name: go on with the one that has.
    async fn was_rotated(&mut self) -> io::Result<bool> {
        let own = self.file.metadata().await?;
        match tokio::fs::metadata(&self.path).await {
            Ok(current) if current.ino() != own.ino() || current.dev() != own.dev() => {
                // Lines may have come between our last read and the rename.
                let mut rest = Vec::new();
                (&mut self.file)
                    .take(LONGEST as u64 * 4)
                    .read_to_end(&mut rest)
                    .await?;
                if !rest.is_empty() {
                    self.file
                        .seek(io::SeekFrom::Current(-(rest.len() as i64)))
                        .await?;
                    return Ok(true);
                }
                self.file = File::open(&self.path).await?;
                Ok(true)
            }
            Ok(_) => Ok(false),
            // Removed with its pod, or between rename and create.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Takes all complete lines out of `raw`.
    fn render(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        let Some(end) = self.raw.iter().rposition(|byte| *byte == b'\n') else {
            if self.raw.len() > LONGEST {
                self.raw.clear();
            }
            return out;
        };
        for raw in self.raw[..end].split(|byte| *byte == b'\n') {
            let Some(line) = line::parse(raw) else {
                continue;
            };
            let unwanted = self
                .options
                .stderr
                .is_some_and(|stderr| stderr != line.stderr)
                || self
                    .options
                    .since
                    .is_some_and(|since| line.is_before(since));
            if unwanted {
                continue;
            }
            if self.options.timestamps && !self.inside {
                out.extend_from_slice(line.timestamp.as_bytes());
                out.push(b' ');
            }
            out.extend_from_slice(line.content);
            self.inside = line.partial;
            if !line.partial {
                out.push(b'\n');
            }
        }
        self.raw.drain(..=end);
        if let Some(left) = &mut self.left {
            if out.len() as u64 >= *left {
                out.truncate(*left as usize);
                self.done = true;
            }
            *left -= out.len() as u64;
        }
        out
    }
}

/// Where the last `lines` lines begin.
async fn tail_start(file: &mut File, lines: u64) -> io::Result<u64> {
    let size = file.metadata().await?.len();
    if lines == 0 {
        return Ok(size);
    }
    let mut position = size;
    let mut found = 0;
    let mut block = vec![0u8; BLOCK];
    while position > 0 {
        let length = position.min(BLOCK as u64);
        position -= length;
        file.seek(io::SeekFrom::Start(position)).await?;
        let block = &mut block[..length as usize];
        file.read_exact(block).await?;
        for (index, _) in block
            .iter()
            .enumerate()
            .rev()
            .filter(|(_, byte)| **byte == b'\n')
        {
            let after = position + index as u64 + 1;
            // The newline that ends the last line begins nothing.
            if after == size {
                continue;
            }
            found += 1;
            if found == lines {
                return Ok(after);
            }
        }
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{StreamExt, TryStreamExt};
    use std::io::Write;
    use std::sync::atomic::{AtomicBool, Ordering};

    const LOG: &str = "2026-01-01T00:00:01Z stdout F one\n2026-01-01T00:00:02Z stderr F oops\n\
                       2026-01-01T00:00:03Z stdout P tw\n2026-01-01T00:00:04Z stdout F o\ngarbage\n\
                       2026-01-01T00:00:05Z stdout F three\n";

    async fn all(path: &std::path::Path, options: LogOptions) -> String {
        let stream = read(path.to_owned(), options, Arc::new(|| false))
            .await
            .unwrap();
        let chunks: Vec<Bytes> = stream.try_collect().await.unwrap();
        String::from_utf8(chunks.concat()).unwrap()
    }

    #[tokio::test]
    async fn options() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::fs::write(&path, LOG).unwrap();
        let default = LogOptions::default;
        for (options, want) in [
            (default(), "one\noops\ntwo\nthree\n"),
            (
                LogOptions {
                    tail: Some(1),
                    ..default()
                },
                "three\n",
            ),
            (
                LogOptions {
                    tail: Some(0),
                    ..default()
                },
                "",
            ),
            (
                LogOptions {
                    tail: Some(99),
                    ..default()
                },
                "one\noops\ntwo\nthree\n",
            ),
            (
                LogOptions {
                    since: Some("2026-01-01T00:00:05Z".parse().unwrap()),
                    ..default()
                },
                "three\n",
            ),
            (
                LogOptions {
                    limit_bytes: Some(6),
                    ..default()
                },
                "one\noo",
            ),
            (
                LogOptions {
                    stderr: Some(true),
                    ..default()
                },
                "oops\n",
            ),
            (
                LogOptions {
                    timestamps: true,
                    since: Some("2026-01-01T00:00:03Z".parse().unwrap()),
                    ..default()
                },
                "2026-01-01T00:00:03Z two\n2026-01-01T00:00:05Z three\n",
            ),
        ] {
            assert_eq!(all(&path, options).await, want);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn follows_across_rotation_until_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::fs::write(&path, "T stdout F one\n").unwrap();
        let running = Arc::new(AtomicBool::new(true));
        let alive = running.clone();
        let options = LogOptions {
            follow: true,
            ..LogOptions::default()
        };
        let stream = read(
            path.clone(),
            options,
            Arc::new(move || alive.load(Ordering::SeqCst)),
        )
        .await
        .unwrap();
        let mut stream = Box::pin(stream);
        assert_eq!(stream.next().await.unwrap().unwrap(), "one\n");
        let mut file = std::fs::OpenOptions::new()
            .append(true)
            .open(&path)
            .unwrap();
        file.write_all(b"T stdout F two\nT stdout F thr").unwrap();
        assert_eq!(stream.next().await.unwrap().unwrap(), "two\n");
        file.write_all(b"ee\n").unwrap();
        std::fs::rename(&path, dir.path().join("0.log.1")).unwrap();
        std::fs::write(&path, "T stdout F four\n").unwrap();
        assert_eq!(stream.next().await.unwrap().unwrap(), "three\n");
        assert_eq!(stream.next().await.unwrap().unwrap(), "four\n");
        running.store(false, Ordering::SeqCst);
        assert!(stream.next().await.is_none());
    }
}
