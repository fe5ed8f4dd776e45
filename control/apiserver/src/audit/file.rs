//! The audit log's file: appended to, put aside when it is full, and the oldest of those put aside removed.
//!
//! Follows upstream's log backend (lumberjack): `audit.log`, then `audit-2026-01-01T00-00-00.000.log`; readable by its owner only.

use super::AuditLog;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The file that is written, and what is needed to put it aside.
pub(crate) struct Rotating {
    path: PathBuf,
    max_bytes: u64,
    backups: usize,
    file: BufWriter<File>,
    size: u64,
    /// When one was last put aside, milliseconds: the next has a later name.
    last: i64,
}

impl Rotating {
    pub(crate) fn open(log: &AuditLog) -> io::Result<Self> {
        let file = append(&log.path)?;
        Ok(Self {
            size: file.metadata()?.len(),
            path: log.path.clone(),
            max_bytes: log.max_bytes.max(1),
            backups: log.backups,
            file: BufWriter::with_capacity(64 * 1024, file),
            last: 0,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Appends one line, in a new file where this one is full.
    pub(crate) fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let more = line.len() as u64;
        if self.size > 0 && self.size + more > self.max_bytes {
            self.rotate()?;
        }
        self.file.write_all(line)?;
        self.size += more;
        Ok(())
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.file.flush()?;
        let now = jiff::Timestamp::now().as_millisecond();
        let (at, aside) = free(&self.path, now.max(self.last + 1))?;
        std::fs::rename(&self.path, aside)?;
        self.last = at;
        let file = append(&self.path)?;
        self.file = BufWriter::with_capacity(64 * 1024, file);
        self.size = 0;
        for old in self.aside()?.into_iter().rev().skip(self.backups) {
            std::fs::remove_file(old)?;
        }
        Ok(())
    }

    /// Files that were put aside, oldest first: their names are in the order of time.
    fn aside(&self) -> io::Result<Vec<PathBuf>> {
        let (stem, extension) = parts(&self.path);
        let mut found = Vec::new();
        for entry in std::fs::read_dir(directory(&self.path))? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let time = name
                .strip_prefix(stem.as_str())
                .and_then(|rest| rest.strip_prefix('-'))
                .and_then(|rest| rest.strip_suffix(extension.as_str()));
            if time.is_some_and(is_time) {
                found.push(entry.path());
            }
        }
        found.sort();
        Ok(found)
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
}

fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// `audit` and `.log`.
fn parts(path: &Path) -> (String, String) {
    let text = |part: Option<&std::ffi::OsStr>| {
        part.map(|part| part.to_string_lossy().into_owned())
            .unwrap_or_default()
    };
    let extension = match text(path.extension()) {
        extension if extension.is_empty() => extension,
        extension => format!(".{extension}"),
    };
    (text(path.file_stem()), extension)
}

/// A name that is not taken, of this millisecond or a later one.
fn free(path: &Path, mut at: i64) -> io::Result<(i64, PathBuf)> {
    let (stem, extension) = parts(path);
    loop {
        let time = jiff::Timestamp::from_millisecond(at)
            .map_err(io::Error::other)?
            .strftime("%Y-%m-%dT%H-%M-%S.%3f");
        let aside = directory(path).join(format!("{stem}-{time}{extension}"));
        if !aside.try_exists()? {
            return Ok((at, aside));
        }
        at += 1;
    }
}

fn is_time(text: &str) -> bool {
    let shape = "0000-00-00T00-00-00.000";
    text.len() == shape.len()
        && text
            .bytes()
            .zip(shape.bytes())
            .all(|(found, wanted)| match wanted {
                b'0' => found.is_ascii_digit(),
                other => found == other,
            })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn full_files_are_put_aside_and_the_oldest_go() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        std::fs::write(dir.path().join("audit-of-another.log"), "mine").unwrap();
        let log = AuditLog {
            path: path.clone(),
            max_bytes: 25,
            backups: 2,
        };
        let mut file = Rotating::open(&log).unwrap();
        for line in 0..9 {
            file.write(format!("line {line:04}\n").as_bytes()).unwrap();
        }
        file.flush().unwrap();
        // Two lines a file: 0..1 and 2..3 are gone, 4..5 and 6..7 are aside, 8 is the newest.
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "line 0008\n");
        let names = names(dir.path());
        assert_eq!(names.len(), 4, "{names:?}");
        let aside = std::fs::read_to_string(dir.path().join(&names[0])).unwrap();
        assert_eq!(aside, "line 0004\nline 0005\n");
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        // A restart goes on where it was, and a line larger than a file is still written.
        let mut file = Rotating::open(&log).unwrap();
        file.write(&[b'x'; 100]).unwrap();
        file.write(b"y\n").unwrap();
        file.flush().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "y\n");
    }

    #[test]
    fn a_directory_that_is_not_there_is_said() {
        let log = AuditLog {
            path: "/nowhere/at/all/audit.log".into(),
            max_bytes: 1,
            backups: 1,
        };
        assert!(Rotating::open(&log).is_err());
    }
}
