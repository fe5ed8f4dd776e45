//! Takes away what no image needs any more: blobs and layers without a name that leads to them.
//!
//! Never touches a layer that a container stands on, whatever became of the image it came from, nor anything while an
//! image is being added. Which images lose their names is decided by the node's agent.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use crate::store::{ImageStore, StoreError, lock};

impl ImageStore {
    /// Deletes blobs and layers that belong to no image with a name; the layer directories `in_use` stay. Bytes freed.
    pub fn gc(&self, in_use: &BTreeSet<PathBuf>) -> Result<u64, StoreError> {
        // Somebody is adding an image just now: next time.
        let Some(_alone) = self
            .inner
            .lock("users.lock", FlockOperation::NonBlockingLockExclusive)?
        else {
            return Ok(0);
        };
        let mut blobs = BTreeSet::new();
        let mut layers = in_use.clone();
        let named: BTreeSet<String> = self.inner.index()?.references.into_values().collect();
        for digest in &named {
            let (document, config) = self.inner.documents(digest)?;
            blobs.insert(digest.clone());
            blobs.extend(document.config.map(|c| c.digest));
            blobs.extend(document.layers.into_iter().map(|l| l.digest));
            for diff in &config.rootfs.diff_ids {
                layers.insert(self.inner.layer(diff)?);
            }
        }
        lock(&self.inner.cache)
            .images
            .retain(|digest, _| named.contains(digest));
        let mut freed = 0;
        for digest in self.inner.blobs.digests() {
            if !blobs.contains(&digest) {
                let path = self.inner.blobs.path(&digest)?;
                freed += self.inner.blobs.size(&digest);
                removed(&path, fs::remove_file(&path))?;
            }
        }
        for entry in fs::read_dir(self.inner.layers()).into_iter().flatten() {
            let Ok(entry) = entry else { continue };
            let path = entry.path();
            if !layers.contains(&path) {
                freed += size(&path);
                removed(&path, fs::remove_dir_all(&path))?;
            }
        }
        Ok(freed)
    }
}

fn removed(path: &Path, result: std::io::Result<()>) -> Result<(), StoreError> {
    result.map_err(|source| StoreError::Io {
        operation: "remove",
        path: path.to_owned(),
        source,
    })
}

/// Bytes on the disk of a directory's files. What cannot be read counts nothing.
fn size(directory: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let mut bytes = 0;
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        match entry.metadata() {
            Ok(meta) if meta.is_dir() => bytes += size(&entry.path()),
            Ok(meta) => bytes += meta.blocks() * 512,
            Err(_) => {}
        }
    }
    bytes
}
