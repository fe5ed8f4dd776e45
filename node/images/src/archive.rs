//! Images from archives: OCI layouts and `docker save`, plain or compressed, singly or from a directory.
//!
//! An archive is read once from front to end; each file goes into the blob store under the digest that it has, whatever
//! its name claims, and documents are then followed by digest. Never writes outside the store.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tar::{Archive, EntryType};

use crate::blobs::BlobError;
use crate::image::Image;
use crate::manifest::{Descriptor, DockerImage, Document, MAX_DOCUMENT};
use crate::reference::Reference;
use crate::store::{ImageStore, StoreError, decompressed};
use crate::tasks;

const MAX_FILES: usize = 100_000;
const MAX_BYTES: u64 = 64 << 30;

#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error("import {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("import {path}: {why}")]
    Content { path: PathBuf, why: String },
    #[error("import {path}: {source}")]
    Store { path: PathBuf, source: StoreError },
}

impl ImageStore {
    /// Adds every image of the archive at `path`.
    pub async fn import(&self, path: &Path) -> Result<Vec<Image>, ImportError> {
        let (store, path) = (self.clone(), path.to_owned());
        tasks::blocking(move || import(&store, &path)).await
    }

    /// Adds the images of every archive in `directory` that has changed since it was last imported; goes on after one that fails.
    pub async fn import_directory(&self, directory: &Path) -> Vec<Result<Vec<Image>, ImportError>> {
        let (store, directory) = (self.clone(), directory.to_owned());
        tasks::blocking(move || import_directory(&store, &directory)).await
    }

    /// Identities of the images that came from archives in image directories which are still there. They are not to be
    /// collected: nobody imports them again, and there may be no registry that has them.
    pub fn pinned(&self) -> BTreeSet<String> {
        imported(self)
            .into_iter()
            .filter(|(path, _)| path.exists())
            .flat_map(|(_, archive)| archive.images)
            .collect()
    }
}

/// An archive of an image directory as it was when it was imported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Imported {
    /// Its length and time of change.
    mark: String,
    /// Identities of its images.
    images: Vec<String>,
}

type Archives = BTreeMap<PathBuf, Imported>;

const IMPORTED: &str = "imported.json";

fn imported(store: &ImageStore) -> Archives {
    std::fs::read(store.inner.root().join(IMPORTED))
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default()
}

fn import_directory(store: &ImageStore, directory: &Path) -> Vec<Result<Vec<Image>, ImportError>> {
    let mut archives: Vec<PathBuf> = std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path())
        .filter(|p| is_archive(p))
        .collect();
    archives.sort();
    let mut known = imported(store);
    let mut results = Vec::new();
    for path in archives {
        let mark = path
            .metadata()
            .ok()
            .map(|m| format!("{} {:?}", m.len(), m.modified().ok()))
            .unwrap_or_default();
        if known.get(&path).is_some_and(|k| k.mark == mark) {
            continue;
        }
        let result = import(store, &path);
        if let Ok(images) = &result {
            let images = images.iter().map(|image| image.id.clone()).collect();
            known.insert(path, Imported { mark, images });
        }
        results.push(result);
    }
    let path = store.inner.root().join(IMPORTED);
    if let Ok(bytes) = serde_json::to_vec_pretty(&known)
        && let Err(error) = std::fs::write(&path, bytes)
    {
        tracing::warn!(path = %path.display(), %error, "imported archives not remembered: they are imported again at the next start");
    }
    results
}

fn is_archive(path: &Path) -> bool {
    let name = path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .to_lowercase();
    [".tar", ".tar.gz", ".tgz", ".tar.zst"]
        .iter()
        .any(|end| name.ends_with(end))
        && path.is_file()
}

fn import(store: &ImageStore, path: &Path) -> Result<Vec<Image>, ImportError> {
    let in_store = |source| ImportError::Store {
        path: path.to_owned(),
        source,
    };
    let _using = store.inner.using().map_err(in_store)?;
    let files = read(store, path)?;
    let content = |why: String| ImportError::Content {
        path: path.to_owned(),
        why,
    };
    let manifests = if let Some(digest) = files.get("manifest.json") {
        docker(store, &files, digest).map_err(|error| error.into_import(path))?
    } else if let Some(digest) = files.get("index.json") {
        oci(store, digest).map_err(|error| error.into_import(path))?
    } else {
        return Err(content(
            "it holds neither an index.json (OCI layout) nor a manifest.json (docker archive)"
                .into(),
        ));
    };
    if manifests.is_empty() {
        return Err(content("it holds no image for this machine".into()));
    }
    manifests
        .into_iter()
        .map(|(manifest, names)| store.inner.add(&manifest, &names).map_err(in_store))
        .collect()
}

/// Every file of the archive, as name -> digest, links followed.
fn read(store: &ImageStore, path: &Path) -> Result<BTreeMap<String, String>, ImportError> {
    let failed = |source| ImportError::Read {
        path: path.to_owned(),
        source,
    };
    let refused = |why: &str| ImportError::Content {
        path: path.to_owned(),
        why: why.to_owned(),
    };
    let blob = |source: BlobError| ImportError::Store {
        path: path.to_owned(),
        source: source.into(),
    };
    let mut archive =
        Archive::new(decompressed(File::open(path).map_err(failed)?).map_err(failed)?);
    let (mut files, mut links) = (BTreeMap::new(), Vec::new());
    let mut left = MAX_BYTES;
    for entry in archive.entries().map_err(failed)? {
        let mut entry = entry.map_err(failed)?;
        let name = clean(&entry.path().map_err(failed)?);
        if files.len() + links.len() >= MAX_FILES {
            return Err(refused("it has too many files"));
        }
        match entry.header().entry_type() {
            EntryType::Regular | EntryType::Continuous => {
                left = left
                    .checked_sub(entry.size())
                    .ok_or_else(|| refused("it is larger than any image may be"))?;
                let mut writer = store.inner.blobs.writer(entry.size()).map_err(blob)?;
                io::copy(&mut entry, &mut writer).map_err(failed)?;
                files.insert(name, writer.finish(None).map_err(blob)?);
            }
            kind @ (EntryType::Symlink | EntryType::Link) => {
                let target = entry
                    .link_name()
                    .map_err(failed)?
                    .map(|t| t.into_owned())
                    .unwrap_or_default();
                let from = if kind == EntryType::Link {
                    PathBuf::new()
                } else {
                    Path::new(&name)
                        .parent()
                        .unwrap_or(Path::new(""))
                        .to_owned()
                };
                links.push((name, clean(&from.join(target))));
            }
            _ => {}
        }
    }
    for (name, target) in links {
        if let Some(digest) = files.get(&target).cloned() {
            files.insert(name, digest);
        }
    }
    Ok(files)
}

/// A name as a key: `./a/../b` is `b`. It is only ever compared, never opened.
fn clean(path: &Path) -> String {
    let mut parts: Vec<String> = Vec::new();
    for component in path.components() {
        match component {
            std::path::Component::Normal(part) => parts.push(part.to_string_lossy().into_owned()),
            std::path::Component::ParentDir => drop(parts.pop()),
            _ => {}
        }
    }
    parts.join("/")
}

#[derive(Debug)]
enum Problem {
    Store(StoreError),
    Content(String),
}

impl Problem {
    fn into_import(self, path: &Path) -> ImportError {
        let path = path.to_owned();
        match self {
            Self::Store(source) => ImportError::Store { path, source },
            Self::Content(why) => ImportError::Content { path, why },
        }
    }
}

impl From<BlobError> for Problem {
    fn from(error: BlobError) -> Self {
        Self::Store(error.into())
    }
}

type Manifests = Vec<(String, Vec<String>)>;

fn docker(
    store: &ImageStore,
    files: &BTreeMap<String, String>,
    digest: &str,
) -> Result<Manifests, Problem> {
    let blobs = &store.inner.blobs;
    let images: Vec<DockerImage> = serde_json::from_slice(&blobs.read(digest, MAX_DOCUMENT)?)
        .map_err(|e| Problem::Content(format!("manifest.json cannot be read: {e}")))?;
    let mut manifests = Vec::new();
    for image in images {
        let describe = |name: &str, media_type: &str| {
            let digest = files.get(&clean(Path::new(name))).ok_or_else(|| {
                Problem::Content(format!(
                    "manifest.json names {name:?}, which is not in the archive"
                ))
            })?;
            Ok(Descriptor {
                media_type: media_type.into(),
                digest: digest.clone(),
                size: blobs.size(digest),
                platform: None,
                annotations: None,
            })
        };
        let document = Document {
            schema_version: 2,
            media_type: Some("application/vnd.docker.distribution.manifest.v2+json".into()),
            config: Some(describe(
                &image.config,
                "application/vnd.docker.container.image.v1+json",
            )?),
            layers: image
                .layers
                .iter()
                .map(|l| describe(l, "application/vnd.docker.image.rootfs.diff.tar"))
                .collect::<Result<_, Problem>>()?,
            manifests: Vec::new(),
        };
        let bytes = serde_json::to_vec(&document).map_err(|e| Problem::Content(e.to_string()))?;
        manifests.push((blobs.put(&bytes)?, image.repo_tags));
    }
    named(manifests)
}

fn oci(store: &ImageStore, digest: &str) -> Result<Manifests, Problem> {
    let blobs = &store.inner.blobs;
    let read = |digest: &str| -> Result<Document, Problem> {
        serde_json::from_slice(&blobs.read(digest, MAX_DOCUMENT)?)
            .map_err(|e| Problem::Content(format!("{digest} cannot be read: {e}")))
    };
    let mut manifests = Vec::new();
    for descriptor in read(digest)?.manifests {
        let annotation = |key| {
            descriptor
                .annotations
                .as_ref()
                .and_then(|a| a.get(key))
                .cloned()
        };
        let name = annotation("io.containerd.image.name")
            .or_else(|| annotation("org.opencontainers.image.ref.name"));
        let mut digest = descriptor.digest.clone();
        let mut document = read(&digest)?;
        if document.config.is_none() {
            let Some(inner) = document.for_this_machine() else {
                continue;
            };
            digest = inner.digest.clone();
            document = read(&digest)?;
        }
        if document.config.is_none() {
            return Err(Problem::Content(format!(
                "{digest} is not an image manifest"
            )));
        }
        manifests.push((digest, name.into_iter().collect()));
    }
    named(manifests)
}

fn named(manifests: Manifests) -> Result<Manifests, Problem> {
    let one = |(manifest, names): (String, Vec<String>)| {
        let mut references = Vec::new();
        for name in names {
            let reference = Reference::parse(&name).map_err(|e| Problem::Content(e.to_string()))?;
            references.push(reference.to_string());
        }
        if references.is_empty() {
            references.push(manifest.clone());
        }
        Ok((manifest, references))
    };
    manifests.into_iter().map(one).collect()
}
