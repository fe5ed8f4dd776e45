//! The key ring: what everything durable is sealed with, in a directory of its own, never in the data directory or a backup.
//!
//! One file per key, readable by the owner only, and one that names the key for new records. A key is written whole or
//! not at all, is never overwritten, and is never thrown away: one that no record of this server needs is put aside
//! (`retired/`), where only backups look for it. Which key a cluster uses is agreed on elsewhere.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use chacha20poly1305::XChaCha20Poly1305;
use chacha20poly1305::aead::KeyInit;
use rand::RngCore;
use sha2::{Digest, Sha256};

/// Bytes of a key.
pub const KEY: usize = 32;
/// Names the key for new records. Where it is missing, the highest is meant.
const CURRENT: &str = "current";
/// Keys that only backups may need.
const RETIRED: &str = "retired";

/// Why the key ring cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("{path}: {cause}", path = .0.display(), cause = .1)]
    Io(PathBuf, io::Error),
    #[error("{path}: there is no key here, but the data is sealed with one. Restore the keys that belong to it", path = .0.display())]
    Missing(PathBuf),
    #[error("{path}: {1}", path = .0.display())]
    Bad(PathBuf, &'static str),
    #[error("the key ring has no key {0}")]
    Unknown(u32),
    #[error("the key ring has another key {0}")]
    Other(u32),
}

struct Held {
    bytes: [u8; KEY],
    cipher: XChaCha20Poly1305,
}

impl Held {
    fn new(bytes: [u8; KEY]) -> Self {
        Held {
            bytes,
            cipher: XChaCha20Poly1305::new(&bytes.into()),
        }
    }
}

/// The keys records are sealed with; new ones with the current one.
pub struct KeyRing {
    keys: BTreeMap<u32, Held>,
    current: u32,
    /// Where it is written down; `None` for state that is not either.
    dir: Option<PathBuf>,
}

impl KeyRing {
    /// A ring that is never written down.
    pub fn ephemeral() -> Self {
        Self::of(random())
    }

    /// A ring of one known key, for tests and simulations.
    pub fn fixed() -> Self {
        Self::of([9; KEY])
    }

    fn of(key: [u8; KEY]) -> Self {
        KeyRing {
            keys: BTreeMap::from([(1, Held::new(key))]),
            current: 1,
            dir: None,
        }
    }

    /// The keys in `dir`. Where there is none, the first one is made if `create`.
    pub fn open(dir: &Path, create: bool) -> Result<Self, KeyError> {
        let mut keys = read_all(dir)?;
        if keys.is_empty() {
            if !create {
                return Err(KeyError::Missing(dir.to_owned()));
            }
            let key = random();
            write_key(dir, 1, &key)?;
            keys.insert(1, key);
        }
        let current = current(dir, &keys)?;
        let keys = keys.into_iter().map(|(id, key)| (id, Held::new(key)));
        Ok(KeyRing {
            keys: keys.collect(),
            current,
            dir: Some(dir.to_owned()),
        })
    }

    /// As [`open`](Self::open), with the keys that were put aside: for backups, which may be old.
    pub fn open_with_retired(dir: &Path) -> Result<Self, KeyError> {
        let mut ring = Self::open(dir, false)?;
        for (id, key) in read_all(&dir.join(RETIRED))? {
            ring.keys.entry(id).or_insert_with(|| Held::new(key));
        }
        Ok(ring)
    }

    pub fn current(&self) -> u32 {
        self.current
    }

    pub(crate) fn cipher(&self, id: u32) -> Option<&XChaCha20Poly1305> {
        self.keys.get(&id).map(|held| &held.cipher)
    }

    /// All keys as they are, to be handed to another server.
    pub fn bytes(&self) -> BTreeMap<u32, [u8; KEY]> {
        let keys = self.keys.iter();
        keys.map(|(id, held)| (*id, held.bytes)).collect()
    }

    /// Takes a key in, on the disk when this returns. New records are sealed as before.
    pub fn hold(&mut self, id: u32, key: [u8; KEY]) -> Result<(), KeyError> {
        if let Some(held) = self.keys.get(&id) {
            return match held.bytes == key {
                true => Ok(()),
                false => Err(KeyError::Other(id)),
            };
        }
        if let Some(dir) = &self.dir {
            // Without this file a restart would take the new key for the current one.
            write_current(dir, self.current)?;
            write_key(dir, id, &key)?;
        }
        self.keys.insert(id, Held::new(key));
        Ok(())
    }

    /// Seals new records with key `id`, also after a restart.
    pub fn choose(&mut self, id: u32) -> Result<(), KeyError> {
        if !self.keys.contains_key(&id) {
            return Err(KeyError::Unknown(id));
        }
        if let Some(dir) = &self.dir {
            write_current(dir, id)?;
        }
        self.current = id;
        Ok(())
    }

    /// Puts a key aside that no record needs.
    pub fn retire(&mut self, id: u32) -> Result<(), KeyError> {
        if id == self.current || !self.keys.contains_key(&id) {
            return Err(KeyError::Unknown(id));
        }
        if let Some(dir) = &self.dir {
            let (from, aside) = (key_path(dir, id), dir.join(RETIRED));
            let to = key_path(&aside, id);
            make_dir(&aside)?;
            fs::rename(&from, &to).map_err(|cause| KeyError::Io(from, cause))?;
            sync_dir(&aside)?;
            sync_dir(dir)?;
        }
        self.keys.remove(&id);
        Ok(())
    }

    /// A number that no key here has or ever had.
    pub fn unused(&self) -> Result<u32, KeyError> {
        let retired = match &self.dir {
            Some(dir) => read_all(&dir.join(RETIRED))?,
            None => BTreeMap::new(),
        };
        let highest = self.keys.keys().chain(retired.keys()).max();
        Ok(1 + highest.copied().unwrap_or(0))
    }
}

/// A new key.
#[must_use]
pub fn random() -> [u8; KEY] {
    let mut key = [0; KEY];
    rand::rng().fill_bytes(&mut key);
    key
}

/// Tells keys of one number apart without telling them.
#[must_use]
pub fn fingerprint(key: &[u8; KEY]) -> String {
    let mut sum = Sha256::new();
    sum.update(b"caravel key fingerprint\0");
    sum.update(key);
    let digest = sum.finalize();
    digest[..16].iter().map(|b| format!("{b:02x}")).collect()
}

/// Keeps keys that were handed over to a server that joins, and which of them is used. A key that is there already
/// stays, and must be the same.
///
/// # Errors
/// A directory that cannot be written, or a different key of the same number.
pub fn take_over(
    dir: &Path,
    keys: &BTreeMap<u32, [u8; KEY]>,
    current: u32,
) -> Result<(), KeyError> {
    for (id, key) in keys {
        let path = key_path(dir, *id);
        if !path.exists() {
            write_key(dir, *id, key)?;
        } else if key_bytes(&path)? != *key {
            return Err(KeyError::Bad(
                path,
                "this is another cluster's key. Move it away before joining",
            ));
        }
    }
    if keys.contains_key(&current) {
        write_current(dir, current)?;
    }
    Ok(())
}

fn read_all(dir: &Path) -> Result<BTreeMap<u32, [u8; KEY]>, KeyError> {
    let fail = |cause| KeyError::Io(dir.to_owned(), cause);
    let mut keys = BTreeMap::new();
    match fs::read_dir(dir) {
        Ok(files) => {
            for file in files {
                let path = file.map_err(fail)?.path();
                if let Some(id) = key_id(&path) {
                    keys.insert(id, key_bytes(&path)?);
                }
            }
            Ok(keys)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(keys),
        Err(error) => Err(fail(error)),
    }
}

fn current(dir: &Path, keys: &BTreeMap<u32, [u8; KEY]>) -> Result<u32, KeyError> {
    let path = dir.join(CURRENT);
    match fs::read_to_string(&path) {
        Ok(text) => {
            let id = text.trim().parse().ok();
            id.filter(|id| keys.contains_key(id)).ok_or(KeyError::Bad(
                path,
                "it names a key that is not here. Restore the keys as they were",
            ))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Ok(keys.keys().copied().max().unwrap_or(1))
        }
        Err(error) => Err(KeyError::Io(path, error)),
    }
}

fn key_path(dir: &Path, id: u32) -> PathBuf {
    dir.join(format!("store-{id}.key"))
}

fn key_id(path: &Path) -> Option<u32> {
    path.file_name()?
        .to_str()?
        .strip_prefix("store-")?
        .strip_suffix(".key")?
        .parse()
        .ok()
}

fn key_bytes(path: &Path) -> Result<[u8; KEY], KeyError> {
    let fail = |cause| KeyError::Io(path.to_owned(), cause);
    if fs::metadata(path).map_err(fail)?.permissions().mode() & 0o077 != 0 {
        return Err(KeyError::Bad(
            path.to_owned(),
            "others may read this key. Make it readable by its owner only (chmod 600)",
        ));
    }
    fs::read(path)
        .map_err(fail)?
        .try_into()
        .map_err(|_| KeyError::Bad(path.to_owned(), "a key has 32 bytes. Restore this file"))
}

fn write_key(dir: &Path, id: u32, key: &[u8; KEY]) -> Result<(), KeyError> {
    make_dir(dir)?;
    write(dir, &key_path(dir, id), key)
}

fn write_current(dir: &Path, id: u32) -> Result<(), KeyError> {
    write(dir, &dir.join(CURRENT), format!("{id}\n").as_bytes())
}

fn make_dir(dir: &Path) -> Result<(), KeyError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|cause| KeyError::Io(dir.to_owned(), cause))
}

/// Written beside and renamed, so that a crash leaves no half of a key.
fn write(dir: &Path, path: &Path, bytes: &[u8]) -> Result<(), KeyError> {
    let beside = path.with_extension("new");
    let written = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    written().map_err(|cause| KeyError::Io(path.to_owned(), cause))?;
    sync_dir(dir)
}

fn sync_dir(dir: &Path) -> Result<(), KeyError> {
    fs::File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(|cause| KeyError::Io(dir.to_owned(), cause))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_is_made_once_for_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let keys = dir.path().join("keys");
        assert!(matches!(
            KeyRing::open(&keys, false),
            Err(KeyError::Missing(_))
        ));
        let first = KeyRing::open(&keys, true).unwrap();
        let second = KeyRing::open(&keys, false).unwrap();
        assert_eq!(first.bytes(), second.bytes());
        let file = keys.join("store-1.key");
        assert_eq!(
            fs::metadata(&file).unwrap().permissions().mode() & 0o777,
            0o600
        );
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(KeyRing::open(&keys, true), Err(KeyError::Bad(..))));
    }

    #[test]
    fn a_new_key_is_held_then_chosen_then_the_old_one_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        let keys = dir.path().join("keys");
        let again = || KeyRing::open(&keys, false).unwrap();
        let mut ring = KeyRing::open(&keys, true).unwrap();
        let old = ring.bytes()[&1];
        let id = ring.unused().unwrap();
        let key = random();
        ring.hold(id, key).unwrap();
        ring.hold(id, key).unwrap();
        assert!(matches!(ring.hold(id, random()), Err(KeyError::Other(2))));
        assert_eq!((again().current(), again().bytes().len()), (1, 2));
        assert!(ring.choose(3).is_err());
        ring.choose(id).unwrap();
        assert_eq!(again().current(), 2);
        assert!(ring.retire(2).is_err());
        ring.retire(1).unwrap();
        assert_eq!(again().bytes(), BTreeMap::from([(2, key)]));
        assert_eq!(ring.unused().unwrap(), 3);
        let all = KeyRing::open_with_retired(&keys).unwrap();
        assert_eq!(
            (all.current(), all.bytes()),
            (2, BTreeMap::from([(1, old), (2, key)]))
        );
    }

    #[test]
    fn a_server_that_joins_uses_what_the_others_use() {
        let dir = tempfile::tempdir().unwrap();
        let handed = BTreeMap::from([(1, [1; KEY]), (2, [2; KEY])]);
        take_over(dir.path(), &handed, 1).unwrap();
        assert_eq!(KeyRing::open(dir.path(), false).unwrap().current(), 1);
        take_over(dir.path(), &handed, 1).unwrap();
        let other = BTreeMap::from([(2, [3; KEY])]);
        assert!(take_over(dir.path(), &other, 2).is_err());
        // A cluster of before there was a choice.
        let early = tempfile::tempdir().unwrap();
        take_over(early.path(), &handed, 0).unwrap();
        assert_eq!(KeyRing::open(early.path(), false).unwrap().current(), 2);
        fs::remove_file(dir.path().join("store-1.key")).unwrap();
        assert!(KeyRing::open(dir.path(), false).is_err());
    }

    #[test]
    fn a_fingerprint_tells_keys_apart() {
        assert_eq!(fingerprint(&[1; KEY]), fingerprint(&[1; KEY]));
        assert_ne!(fingerprint(&[1; KEY]), fingerprint(&[2; KEY]));
        assert_eq!(fingerprint(&[1; KEY]).len(), 32);
    }
}
