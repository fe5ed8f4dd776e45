//! Backups on this server's own disk, made by the clock: one every so often, the newest few kept. And coming back from one.

use crate::config::ServerConfig;
use crate::place::{self, Place};
use crate::{rotation, saved};
use anyhow::{Context, Result, ensure};
use caravel_store::backup::{self, BackupHead};
use caravel_store::{Store, StoreConfig};
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How file names end.
const SUFFIX: &str = ".snapshot";

/// A backup on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub path: PathBuf,
    pub bytes: u64,
    /// `None`: it cannot be read.
    pub head: Option<BackupHead>,
}

/// The backups in `dir`, oldest first; none if there is no such directory.
///
/// # Errors
/// A directory that cannot be read.
pub fn list(dir: &Path) -> Result<Vec<Found>> {
    let files = match fs::read_dir(dir) {
        Ok(files) => files,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("read {}", dir.display())),
    };
    let mut found = Vec::new();
    for file in files.flatten() {
        let path = file.path();
        if !path.to_string_lossy().ends_with(SUFFIX) {
            continue;
        }
        let head = fs::File::open(&path)
            .ok()
            .and_then(|file| backup::head(file).ok());
        let bytes = file.metadata().map(|meta| meta.len()).unwrap_or(0);
        found.push(Found { path, bytes, head });
    }
    found.sort_by_key(|one| (one.head.as_ref().map(|head| head.created), one.path.clone()));
    Ok(found)
}

/// Which of `found` (oldest first) go when `keep` are kept. What cannot be read is nobody's to remove.
fn surplus(found: &[Found], keep: usize) -> Vec<&Path> {
    let readable: Vec<&Found> = found.iter().filter(|one| one.head.is_some()).collect();
    let gone = readable.len().saturating_sub(keep);
    readable[..gone]
        .iter()
        .map(|one| one.path.as_path())
        .collect()
}

/// The name of a backup's file.
#[must_use]
pub fn file_name(head: &BackupHead) -> String {
    format!("caravel-{}-{}{SUFFIX}", head.created, head.revision)
}

/// Makes one now in `dir`; its head and path.
async fn save(store: &Store, dir: &Path, keep: usize) -> Result<(BackupHead, PathBuf)> {
    let created = caravel_api::time::now().as_second().unsigned_abs();
    let (head, pieces) = store.backup(created).await?;
    let (dir, name) = (dir.to_owned(), file_name(&head));
    let saved = tokio::task::spawn_blocking(move || -> Result<PathBuf> {
        fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        let (path, part) = (dir.join(&name), dir.join(format!("{name}.part")));
        let written = || {
            let mut out = fs::OpenOptions::new()
                .create(true)
                .truncate(true)
                .write(true)
                .mode(0o600)
                .open(&part)?;
            for piece in pieces {
                out.write_all(&piece)?;
            }
            out.sync_all()?;
            fs::rename(&part, &path)?;
            fs::File::open(&dir)?.sync_all()
        };
        if let Err(error) = written() {
            // What was begun must not fill the disk.
            let _ = fs::remove_file(&part);
            return Err(error).with_context(|| format!("write {}", path.display()));
        }
        for old in surplus(&list(&dir)?, keep) {
            fs::remove_file(old).with_context(|| format!("remove {}", old.display()))?;
        }
        Ok(path)
    });
    Ok((head, saved.await.context("save a backup")??))
}

/// Makes one every `every`, for ever; the first after a tenth of that, so that a server that restarts often has some.
pub(crate) async fn keep_saving(store: Store, dir: PathBuf, every: Duration, keep: usize) {
    tokio::time::sleep(every / 10).await;
    loop {
        match save(&store, &dir, keep).await {
            Ok((head, path)) => {
                tracing::info!(path = %path.display(), "a backup was saved");
                if let Err(error) = saved::note(&store, &head).await {
                    tracing::warn!("a backup was saved and not written down: {error:#}");
                }
            }
            Err(error) => tracing::error!("no backup was saved: {error:#}"),
        }
        tokio::time::sleep(every).await;
    }
}

/// Begins a new cluster from a backup, in the place of what `config` names. The server must not run. With `replace`, a
/// store that is there is moved aside; the path that it has then is returned.
///
/// # Errors
/// A backup that is damaged or sealed with other keys; a store in the way.
pub fn restore(
    config: &ServerConfig,
    file: &Path,
    replace: bool,
) -> Result<(BackupHead, Option<PathBuf>)> {
    let keys = config.etc_dir.join("keys");
    let open = fs::File::open(file).with_context(|| format!("open {}", file.display()))?;
    let read = backup::read(std::io::BufReader::new(open), &keys)
        .with_context(|| format!("{}", file.display()))?;
    let head = read.head.clone();
    let db = config.data_dir.join("db");
    let mut aside = None;
    if caravel_store::is_begun(&db) {
        ensure!(
            replace,
            "{} holds a store already: give --replace to move it aside",
            db.display()
        );
        let to = config.data_dir.join(format!("db.before-{}", head.created));
        ensure!(!to.exists(), "{} is in the way", to.display());
        fs::rename(&db, &to).with_context(|| format!("move {} aside", db.display()))?;
        aside = Some(to);
    }
    let mut store = StoreConfig::single(&db, keys);
    store.address = config.peer_address();
    // Who belonged to the old cluster, and what it was about to do with its keys.
    let left_out = [caravel_peers::roster::range(), rotation::range()];
    backup::restore(&store, read, &left_out)?;
    place::forget(&config.etc_dir)?;
    let place = Place {
        cluster: caravel_store::cluster_of(&store)?,
        id: store.node_id,
        founder: true,
        admitted: true,
        peers: Vec::new(),
    };
    place.save(&config.etc_dir)?;
    Ok((head, aside))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_kept_and_what_is_unreadable_is_left() {
        let found = |created: Option<u64>| Found {
            path: format!("/b/{created:?}").into(),
            bytes: 1,
            head: created.map(|created| BackupHead {
                cluster: String::new(),
                revision: 1,
                objects: 1,
                created,
            }),
        };
        let all = [found(None), found(Some(1)), found(Some(2)), found(Some(3))];
        assert_eq!(surplus(&all, 2), [Path::new("/b/Some(1)")]);
        assert!(surplus(&all, 3).is_empty());
    }
}
