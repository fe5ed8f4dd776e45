//! Writes a container's output as a CRI log: `<RFC3339Nano> <stdout|stderr> <F|P> <line>`, and rotates
//! it. A full disk loses lines, never the container. Upstream: containerd `pkg/cri/io/logger.go`;
//! rotated names as the kubelet's `container_log_manager.go` (`<file>.<timestamp>`).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::spec::LogSpec;

/// Longer lines are written in parts.
const LONGEST: usize = 16 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Stdout,
    Stderr,
}

#[derive(Default)]
struct Unfinished {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

pub struct Log {
    spec: LogSpec,
    file: Option<File>,
    size: u64,
    unfinished: Unfinished,
    batch: Vec<u8>,
    now: fn() -> String,
}

impl Log {
    pub fn open(spec: &LogSpec) -> io::Result<Log> {
        let mut log = Log {
            spec: spec.clone(),
            file: None,
            size: 0,
            unfinished: Unfinished::default(),
            batch: Vec::new(),
            now: || format!("{:.9}", jiff::Timestamp::now()),
        };
        if let Some(path) = &spec.path {
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            log.attach(path)?;
        }
        Ok(log)
    }

    fn attach(&mut self, path: &Path) -> io::Result<()> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o640)
            .open(path)?;
        self.size = file.metadata()?.len();
        self.file = Some(file);
        Ok(())
    }

    /// Takes what the container wrote; complete lines reach the file before this returns.
    pub fn write(&mut self, source: Source, bytes: &[u8]) {
        if self.file.is_none() {
            return;
        }
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            self.part(source, &rest[..end]);
            self.line(source, b'F');
            rest = &rest[end + 1..];
        }
        self.part(source, rest);
        self.flush();
    }

    /// What has no newline at the end of a stream is written as a part.
    pub fn finish(&mut self) {
        for source in [Source::Stdout, Source::Stderr] {
            if !self.unfinished(source).is_empty() {
                self.line(source, b'P');
            }
        }
        self.flush();
    }

    fn unfinished(&mut self, source: Source) -> &mut Vec<u8> {
        match source {
            Source::Stdout => &mut self.unfinished.stdout,
            Source::Stderr => &mut self.unfinished.stderr,
        }
    }

    fn part(&mut self, source: Source, mut bytes: &[u8]) {
        loop {
            let room = LONGEST - self.unfinished(source).len();
            if bytes.len() <= room {
                self.unfinished(source).extend_from_slice(bytes);
                return;
            }
            self.unfinished(source).extend_from_slice(&bytes[..room]);
            self.line(source, b'P');
            bytes = &bytes[room..];
        }
    }

    fn line(&mut self, source: Source, tag: u8) {
        let line = std::mem::take(self.unfinished(source));
        self.batch.extend_from_slice((self.now)().as_bytes());
        self.batch.extend_from_slice(match source {
            Source::Stdout => b" stdout ",
            Source::Stderr => b" stderr ",
        });
        self.batch.extend_from_slice(&[tag, b' ']);
        self.batch.extend_from_slice(&line);
        self.batch.push(b'\n');
        let mut line = line;
        line.clear();
        *self.unfinished(source) = line;
    }

    fn flush(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        if self.spec.max_size > 0 && self.size >= self.spec.max_size {
            // On failure the old file just grows on.
            let _ = self.rotate();
        }
        if let Some(file) = &mut self.file
            && file.write_all(&self.batch).is_ok()
        {
            self.size += self.batch.len() as u64;
        }
        self.batch.clear();
        self.batch.shrink_to(2 * LONGEST);
    }

    fn rotate(&mut self) -> io::Result<()> {
        let Some(path) = self.spec.path.clone() else {
            return Ok(());
        };
        let stamp = jiff::Timestamp::now()
            .strftime("%Y%m%d-%H%M%S.%9f")
            .to_string();
        let mut old = path.as_os_str().to_owned();
        old.push(".");
        old.push(stamp);
        fs::rename(&path, PathBuf::from(old))?;
        self.attach(&path)?;
        let rotated = rotated(&path)?;
        let keep = self.spec.max_files.max(2) as usize - 1;
        for surplus in rotated.iter().rev().skip(keep) {
            fs::remove_file(surplus)?;
        }
        Ok(())
    }
}

/// Earlier files of the same log, oldest first.
pub fn rotated(path: &Path) -> io::Result<Vec<PathBuf>> {
    let (Some(parent), Some(name)) = (
        path.parent(),
        path.file_name().and_then(|name| name.to_str()),
    ) else {
        return Ok(Vec::new());
    };
    let prefix = format!("{name}.");
    let mut files = Vec::new();
    for entry in fs::read_dir(parent)? {
        let entry = entry?;
        let is_one = entry.file_name().to_str().is_some_and(|name| {
            name.strip_prefix(&prefix)
                .is_some_and(|stamp| stamp.starts_with(|c: char| c.is_ascii_digit()))
        });
        if is_one {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(path: &Path, max_size: u64) -> Log {
        let spec = LogSpec {
            path: Some(path.to_owned()),
            max_size,
            max_files: 2,
        };
        Log {
            now: || "T".into(),
            ..Log::open(&spec).unwrap()
        }
    }

    #[test]
    fn lines_and_parts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/0.log");
        let mut log = log(&path, 0);
        log.write(Source::Stdout, b"one\ntw");
        log.write(Source::Stderr, b"oops\n\n");
        log.write(Source::Stdout, b"o\nend");
        log.write(Source::Stderr, &vec![b'x'; LONGEST + 1]);
        log.finish();
        let text = fs::read_to_string(&path)
            .unwrap()
            .replace(&"x".repeat(LONGEST), "X");
        assert_eq!(
            text,
            "T stdout F one\nT stderr F oops\nT stderr F \nT stdout F two\nT stderr P X\nT stdout P end\nT stderr P x\n"
        );
    }

    #[test]
    fn rotation_keeps_two() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut log = log(&path, 20);
        for i in 0..9 {
            log.write(Source::Stdout, format!("line {i}\n").as_bytes());
        }
        let old = rotated(&path).unwrap();
        assert_eq!(old.len(), 1);
        let text = fs::read_to_string(&old[0]).unwrap() + &fs::read_to_string(&path).unwrap();
        assert_eq!(
            text,
            "T stdout F line 6\nT stdout F line 7\nT stdout F line 8\n"
        );
    }
}
