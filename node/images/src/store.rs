//! The images of one machine: references, blobs and unpacked layers under one directory.
//!
//! Several processes may use the directory at once (the node daemon and `caravel image import`): the index is a small
//! file, replaced atomically under a lock and read again when it changed. A layer directory exists only complete.
//! Never deletes a layer of an image that somebody names in use.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::blobs::{BlobError, Blobs, Hashing};
use crate::image::{Image, ImageConfig};
use crate::layer::{self, LayerError, Limits};
use crate::manifest::{self, Config, Document, MAX_DOCUMENT};
use crate::pull::Flights;
use crate::reference::{InvalidReference, Reference, is_digest};
use crate::registries::Registries;

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{operation} {path}: {source}")]
    Io {
        operation: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error("unpack layer {digest}: {source}")]
    Layer { digest: String, source: LayerError },
    #[error("layer {digest} unpacks to {actual}, but its image says {expected}: refused")]
    WrongDiff {
        digest: String,
        expected: String,
        actual: String,
    },
    #[error("{what} {digest} cannot be read: {source}")]
    Document {
        what: &'static str,
        digest: String,
        source: serde_json::Error,
    },
    #[error("image {digest} is malformed: {why}")]
    Malformed { digest: String, why: &'static str },
    #[error(transparent)]
    Reference(#[from] InvalidReference),
}

/// The image store of one machine. Cheap to clone.
#[derive(Clone)]
pub struct ImageStore {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    root: PathBuf,
    pub(crate) blobs: Blobs,
    pub(crate) registries: Registries,
    pub(crate) flights: Flights,
    pub(crate) cache: Mutex<Cache>,
    /// One unpack at a time and process: two would only fight for the disk, and may want the same layer.
    unpacking: Mutex<()>,
}

#[derive(Default)]
pub(crate) struct Cache {
    index: Index,
    read_at: Option<(SystemTime, u64)>,
    pub images: BTreeMap<String, Image>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Index {
    /// Normalised reference -> manifest digest.
    pub references: BTreeMap<String, String>,
}

impl ImageStore {
    /// Opens the store of the node whose data directory is `data_dir`: the daemon's and `caravel image`'s is the same one.
    pub fn of_node(data_dir: &Path, registries: Registries) -> Result<Self, StoreError> {
        Self::open(&data_dir.join("image-store"), registries)
    }

    /// Opens, or creates, the store in `root`. Reads disks: not for async threads.
    pub fn open(root: &Path, registries: Registries) -> Result<Self, StoreError> {
        let blobs = Blobs::open(root)?;
        let layers = root.join("layers");
        std::fs::create_dir_all(&layers).map_err(|source| StoreError::Io {
            operation: "create",
            path: layers,
            source,
        })?;
        let inner = Inner {
            root: root.to_owned(),
            blobs,
            registries,
            flights: Flights::default(),
            cache: Mutex::default(),
            unpacking: Mutex::default(),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// The image under `reference` (a name, a name with digest, or an image's id), if it is complete on this machine.
    pub fn get(&self, reference: &str) -> Result<Option<Image>, StoreError> {
        let index = self.inner.index()?;
        if is_digest(reference) {
            for digest in index.references.values().collect::<BTreeSet<_>>() {
                let image = self.inner.image(digest)?;
                if image.id == reference || digest == reference {
                    return Ok(Some(image));
                }
            }
            return Ok(None);
        }
        let name = Reference::parse(reference)?;
        let key = match &name.digest {
            Some(digest) => name.at(digest),
            None => name.to_string(),
        };
        match index.references.get(&key) {
            Some(digest) => self.inner.image(digest).map(Some),
            None => Ok(None),
        }
    }

    /// Every image, by identity. One that cannot be read is left out, with a warning.
    pub fn list(&self) -> Result<Vec<Image>, StoreError> {
        let index = self.inner.index()?;
        let mut images = BTreeMap::new();
        for digest in index.references.values() {
            match self.inner.image(digest) {
                Ok(image) => drop(images.insert(image.id.clone(), image)),
                Err(error) => tracing::warn!(digest, %error, "image left out of the list"),
            }
        }
        Ok(images.into_values().collect())
    }

    /// Forgets one reference; an image without any is deleted by the next `gc`. Whether there was one.
    pub fn remove(&self, reference: &str) -> Result<bool, StoreError> {
        let name = if is_digest(reference) {
            reference.to_owned()
        } else {
            Reference::parse(reference)?.to_string()
        };
        let mut removed = false;
        self.inner.change(|index| {
            let digest = index.references.remove(&name);
            removed = digest.is_some();
            // The digest reference that a pull left beside the tag goes with the last tag.
            if let Some(digest) = digest
                && !index
                    .references
                    .iter()
                    .any(|(name, other)| *other == digest && !name.contains('@'))
            {
                index.references.retain(|_, other| *other != digest);
            }
        })?;
        Ok(removed)
    }
}

impl Inner {
    pub(crate) fn layers(&self) -> PathBuf {
        self.root.join("layers")
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Held while an image is being added, so that a collection in another process leaves its blobs alone.
    pub(crate) fn using(&self) -> Result<Option<File>, StoreError> {
        self.lock("users.lock", FlockOperation::LockShared)
    }

    pub(crate) fn lock(
        &self,
        name: &str,
        operation: FlockOperation,
    ) -> Result<Option<File>, StoreError> {
        let path = self.root.join(name);
        let failed = |source| StoreError::Io {
            operation: "lock",
            path: path.clone(),
            source,
        };
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(failed)?;
        match rustix::fs::flock(&file, operation) {
            Ok(()) => Ok(Some(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(failed(error.into())),
        }
    }

    pub(crate) fn index(&self) -> Result<Index, StoreError> {
        let path = self.root.join("index.json");
        let stamp = match path.metadata() {
            Ok(meta) => meta.modified().ok().map(|at| (at, meta.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Index::default()),
            Err(source) => {
                return Err(StoreError::Io {
                    operation: "read",
                    path,
                    source,
                });
            }
        };
        let mut cache = lock(&self.cache);
        if stamp.is_none() || cache.read_at != stamp {
            let bytes = std::fs::read(&path).map_err(|source| StoreError::Io {
                operation: "read",
                path,
                source,
            })?;
            cache.index =
                serde_json::from_slice(&bytes).map_err(|source| StoreError::Document {
                    what: "index",
                    digest: "index.json".into(),
                    source,
                })?;
            cache.read_at = stamp;
            cache.images.clear();
        }
        Ok(cache.index.clone())
    }

    fn change(&self, change: impl FnOnce(&mut Index)) -> Result<(), StoreError> {
        let _alone = self.lock("index.lock", FlockOperation::LockExclusive)?;
        let mut index = self.index()?;
        let before = index.clone();
        change(&mut index);
        if index == before {
            return Ok(());
        }
        let path = self.root.join("index.json");
        let failed = |source| StoreError::Io {
            operation: "write",
            path: path.clone(),
            source,
        };
        let mut file = tempfile::NamedTempFile::new_in(&self.root).map_err(failed)?;
        serde_json::to_writer_pretty(&mut file, &index).map_err(|error| failed(error.into()))?;
        file.as_file().sync_data().map_err(failed)?;
        file.persist(&path).map_err(|error| failed(error.error))?;
        let mut cache = lock(&self.cache);
        cache.read_at = None;
        Ok(())
    }

    pub(crate) fn documents(&self, digest: &str) -> Result<(Document, Config), StoreError> {
        let document: Document = serde_json::from_slice(&self.blobs.read(digest, MAX_DOCUMENT)?)
            .map_err(|source| StoreError::Document {
                what: "manifest",
                digest: digest.to_owned(),
                source,
            })?;
        let malformed = |why| StoreError::Malformed {
            digest: digest.to_owned(),
            why,
        };
        let config = document
            .config
            .as_ref()
            .ok_or_else(|| malformed("its manifest names no configuration"))?;
        let config: Config = serde_json::from_slice(
            &self.blobs.read(&config.digest, MAX_DOCUMENT)?,
        )
        .map_err(|source| StoreError::Document {
            what: "configuration",
            digest: config.digest.clone(),
            source,
        })?;
        if config.rootfs.diff_ids.len() != document.layers.len() {
            return Err(malformed(
                "its configuration and its manifest differ in the number of layers",
            ));
        }
        if !config.architecture.is_empty() && config.architecture != manifest::architecture() {
            return Err(malformed("it is made for another architecture"));
        }
        Ok((document, config))
    }

    fn image(&self, digest: &str) -> Result<Image, StoreError> {
        if let Some(image) = lock(&self.cache).images.get(digest) {
            return Ok(image.clone());
        }
        let (document, config) = self.documents(digest)?;
        let mut layers = Vec::new();
        for diff in config.rootfs.diff_ids.iter().rev() {
            let path = self.layer(diff)?;
            // A layer may occur twice (an empty one, say); overlayfs refuses the same directory twice.
            if !layers.contains(&path) {
                layers.push(path);
            }
        }
        let references = self
            .index()?
            .references
            .into_iter()
            .filter(|(_, other)| other == digest)
            .map(|(name, _)| name)
            .collect();
        let size = document
            .layers
            .iter()
            .map(|l| self.blobs.size(&l.digest))
            .sum::<u64>()
            + self.blobs.size(digest);
        let defaults = config.config;
        let image = Image {
            id: document.config.map(|c| c.digest).unwrap_or_default(),
            references,
            size,
            config: ImageConfig {
                entrypoint: defaults.entrypoint,
                cmd: defaults.cmd,
                env: defaults.env,
                user: defaults.user,
                working_dir: defaults.working_dir,
                stop_signal: defaults.stop_signal.filter(|s| !s.is_empty()),
            },
            layers,
        };
        lock(&self.cache)
            .images
            .insert(digest.to_owned(), image.clone());
        Ok(image)
    }

    pub(crate) fn layer(&self, diff: &str) -> Result<PathBuf, StoreError> {
        match diff.strip_prefix("sha256:") {
            Some(hex) if is_digest(diff) => Ok(self.layers().join(hex)),
            _ => Err(BlobError::NotADigest(diff.to_owned()).into()),
        }
    }

    /// Makes the image of `manifest`, whose blobs are all here, usable under `references`.
    pub(crate) fn add(&self, manifest: &str, references: &[String]) -> Result<Image, StoreError> {
        let (document, config) = self.documents(manifest)?;
        for (blob, diff) in document.layers.iter().zip(&config.rootfs.diff_ids) {
            self.unpack(&blob.digest, diff)?;
        }
        self.change(|index| {
            index.references.extend(
                references
                    .iter()
                    .map(|name| (name.clone(), manifest.to_owned())),
            )
        })?;
        self.index()?;
        self.image(manifest)
    }

    fn unpack(&self, blob: &str, diff: &str) -> Result<(), StoreError> {
        let path = self.layer(diff)?;
        let _one = lock(&self.unpacking);
        if path.exists() {
            return Ok(());
        }
        let failed = |source| StoreError::Io {
            operation: "unpack into",
            path: self.layers(),
            source,
        };
        let work = tempfile::Builder::new()
            .prefix(".unpack-")
            .tempdir_in(self.layers())
            .map_err(failed)?;
        let root = work.path().join("root");
        std::fs::create_dir(&root).map_err(failed)?;
        let mut tar = Hashing::new(decompressed(self.blobs.file(blob)?).map_err(failed)?);
        layer::unpack(&mut tar, &root, Limits::of(self.blobs.size(blob))).map_err(|source| {
            StoreError::Layer {
                digest: blob.to_owned(),
                source,
            }
        })?;
        let actual = tar.digest();
        if actual != diff {
            return Err(StoreError::WrongDiff {
                digest: blob.to_owned(),
                expected: diff.to_owned(),
                actual,
            });
        }
        // A layer that exists is complete, also after a power cut.
        rustix::fs::syncfs(File::open(&root).map_err(failed)?).map_err(|e| failed(e.into()))?;
        match std::fs::rename(&root, &path) {
            Err(_) if path.exists() => Ok(()), // another process was faster
            other => other.map_err(failed),
        }
    }
}

/// The content of a tar that may be compressed by gzip or zstd, told apart by their first bytes.
pub(crate) fn decompressed<R: Read + 'static>(raw: R) -> io::Result<Box<dyn Read>> {
    use std::io::BufRead;
    let mut raw = BufReader::with_capacity(128 << 10, raw);
    let start = raw.fill_buf()?;
    Ok(if start.starts_with(&[0x1f, 0x8b]) {
        Box::new(flate2::bufread::MultiGzDecoder::new(raw))
    } else if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        let mut decoder = zstd::Decoder::with_buffer(raw)?;
        // 128 MiB of window: the most that a decoder of zstd's command line takes by default.
        decoder.window_log_max(27)?;
        Box::new(decoder)
    } else {
        Box::new(raw)
    })
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change under these locks is a single assignment: a panic elsewhere leaves them consistent.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
