//! Blobs by digest: written to a temporary file while they are hashed, and visible only once the digest is right.
//!
//! Never replaces a blob and never reads one without its digest in the path.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use crate::reference::is_digest;

#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    #[error("{operation} {path}: {source}")]
    Io {
        operation: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("{0:?} is not a sha256 digest")]
    NotADigest(String),
    #[error("content is {actual}, not {expected} as announced: refused")]
    WrongDigest { expected: String, actual: String },
    #[error("content is longer than the announced {0} bytes: refused")]
    TooLong(u64),
    #[error("no blob {0} on this machine")]
    Missing(String),
}

#[derive(Clone, Debug)]
pub(crate) struct Blobs {
    root: PathBuf,
    ingest: PathBuf,
}

impl Blobs {
    pub fn open(root: &Path) -> Result<Self, BlobError> {
        let blobs = Self {
            root: root.join("blobs/sha256"),
            ingest: root.join("ingest"),
        };
        for directory in [&blobs.root, &blobs.ingest] {
            std::fs::create_dir_all(directory).map_err(|source| BlobError::Io {
                operation: "create",
                path: directory.clone(),
                source,
            })?;
        }
        Ok(blobs)
    }

    pub fn path(&self, digest: &str) -> Result<PathBuf, BlobError> {
        match digest.strip_prefix("sha256:") {
            Some(hex) if is_digest(digest) => Ok(self.root.join(hex)),
            _ => Err(BlobError::NotADigest(digest.to_owned())),
        }
    }

    pub fn contains(&self, digest: &str) -> bool {
        self.path(digest).is_ok_and(|path| path.exists())
    }

    /// A small blob (a manifest, a configuration), checked again as it is read.
    pub fn read(&self, digest: &str, most: u64) -> Result<Vec<u8>, BlobError> {
        let path = self.path(digest)?;
        let mut bytes = Vec::new();
        self.file(digest)?
            .take(most + 1)
            .read_to_end(&mut bytes)
            .map_err(|source| BlobError::Io {
                operation: "read",
                path,
                source,
            })?;
        if bytes.len() as u64 > most {
            return Err(BlobError::TooLong(most));
        }
        let actual = digest_of(&bytes);
        if actual != digest {
            return Err(BlobError::WrongDigest {
                expected: digest.to_owned(),
                actual,
            });
        }
        Ok(bytes)
    }

    pub fn file(&self, digest: &str) -> Result<File, BlobError> {
        let path = self.path(digest)?;
        File::open(&path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => BlobError::Missing(digest.to_owned()),
            _ => BlobError::Io {
                operation: "open",
                path,
                source,
            },
        })
    }

    pub fn size(&self, digest: &str) -> u64 {
        self.path(digest)
            .ok()
            .and_then(|path| path.metadata().ok())
            .map_or(0, |meta| meta.len())
    }

    pub fn put(&self, bytes: &[u8]) -> Result<String, BlobError> {
        let mut writer = self.writer(bytes.len() as u64)?;
        writer
            .write_all(bytes)
            .map_err(|source| self.failed(source))?;
        writer.finish(None)
    }

    /// A writer that takes at most `most` bytes.
    pub fn writer(&self, most: u64) -> Result<BlobWriter, BlobError> {
        let file = NamedTempFile::new_in(&self.ingest).map_err(|source| self.failed(source))?;
        Ok(BlobWriter {
            blobs: self.clone(),
            file,
            hash: Sha256::new(),
            left: most,
            most,
        })
    }

    pub fn digests(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.root)
            .into_iter()
            .flatten()
            .flatten();
        entries
            .map(|entry| format!("sha256:{}", entry.file_name().to_string_lossy()))
            .collect()
    }

    fn failed(&self, source: io::Error) -> BlobError {
        BlobError::Io {
            operation: "write in",
            path: self.ingest.clone(),
            source,
        }
    }
}

pub(crate) struct BlobWriter {
    blobs: Blobs,
    file: NamedTempFile,
    hash: Sha256,
    left: u64,
    most: u64,
}

impl BlobWriter {
    /// Makes the blob visible under its digest, if that is `expected` or nothing is expected.
    pub fn finish(self, expected: Option<&str>) -> Result<String, BlobError> {
        let actual = format!("sha256:{}", hex::encode(self.hash.finalize()));
        if let Some(expected) = expected
            && expected != actual
        {
            return Err(BlobError::WrongDigest {
                expected: expected.to_owned(),
                actual,
            });
        }
        let path = self.blobs.path(&actual)?;
        if !path.exists() {
            let failed = |source| BlobError::Io {
                operation: "write",
                path: path.clone(),
                source,
            };
            self.file.as_file().sync_data().map_err(failed)?;
            self.file
                .persist(&path)
                .map_err(|error| failed(error.error))?;
        }
        Ok(actual)
    }
}

impl Write for BlobWriter {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        if buffer.len() as u64 > self.left {
            return Err(io::Error::other(BlobError::TooLong(self.most)));
        }
        let written = self.file.write(buffer)?;
        self.hash.update(&buffer[..written]);
        self.left -= written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

pub(crate) fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// Hashes what passes through.
pub(crate) struct Hashing<R> {
    inner: R,
    hash: Sha256,
}

impl<R> Hashing<R> {
    pub fn new(inner: R) -> Self {
        Self {
            inner,
            hash: Sha256::new(),
        }
    }

    pub fn digest(self) -> String {
        format!("sha256:{}", hex::encode(self.hash.finalize()))
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hash.update(&buffer[..read]);
        Ok(read)
    }
}
