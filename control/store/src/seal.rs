//! Everything durable is sealed: the key ring, and the envelope around every record.
//!
//! The ring lies in a directory of its own, never in the data directory or a backup, one file per key, readable by
//! the owner only. A record names the key it was sealed with; where it is kept is authenticated with it, so that no
//! record can be put in another's place. XChaCha20-Poly1305, whose nonces may be made without coordination.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use chacha20poly1305::aead::{AeadInPlace, KeyInit};
use chacha20poly1305::{Tag, XChaCha20Poly1305, XNonce};
use rand::RngCore;

/// Layout of the envelope: version, key id, nonce, ciphertext, tag.
const VERSION: u8 = 1;
const NONCE: usize = 24;
const TAG: usize = 16;
const HEADER: usize = 1 + 4 + NONCE;
const KEY: usize = 32;

/// Why a sealed record cannot be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    #[error("the record is sealed in a format this version does not know ({0})")]
    Version(u8),
    #[error("the record is sealed with key {0}, which the key ring does not have")]
    NoKey(u32),
    #[error("the record does not match its seal")]
    Broken,
}

/// Why the key ring cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("{path}: {cause}", path = .0.display(), cause = .1)]
    Io(PathBuf, io::Error),
    #[error("{path}: there is no key here, but the data directory is sealed with one. Restore the keys that belong to it", path = .0.display())]
    Missing(PathBuf),
    #[error("{path}: {1}", path = .0.display())]
    Bad(PathBuf, &'static str),
}

/// The keys records are sealed with; new ones with the newest key.
pub struct KeyRing {
    keys: BTreeMap<u32, XChaCha20Poly1305>,
    current: u32,
}

impl KeyRing {
    /// A ring that is never written down, for state that is not either.
    pub fn ephemeral() -> Self {
        let mut key = [0; KEY];
        rand::rng().fill_bytes(&mut key);
        KeyRing {
            keys: BTreeMap::from([(1, XChaCha20Poly1305::new(&key.into()))]),
            current: 1,
        }
    }

    /// A ring of one known key, for tests and simulations.
    pub fn fixed() -> Self {
        KeyRing {
            keys: BTreeMap::from([(1, XChaCha20Poly1305::new(&[9; KEY].into()))]),
            current: 1,
        }
    }

    /// The keys in `dir`. Where there is none, the first one is made if `create`.
    pub fn open(dir: &Path, create: bool) -> Result<Self, KeyError> {
        let fail = |cause| KeyError::Io(dir.to_owned(), cause);
        let mut keys = BTreeMap::new();
        match fs::read_dir(dir) {
            Ok(files) => {
                for file in files {
                    let path = file.map_err(fail)?.path();
                    if let Some(id) = key_id(&path) {
                        keys.insert(id, read_key(&path)?);
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(fail(error)),
        }
        if keys.is_empty() {
            if !create {
                return Err(KeyError::Missing(dir.to_owned()));
            }
            keys.insert(1, create_key(dir, 1)?);
        }
        let current = keys.keys().copied().max().unwrap_or(1);
        Ok(KeyRing { keys, current })
    }
}

/// The keys in `dir` as they are, to be handed to a server that joins.
///
/// # Errors
/// A key that cannot be read, or that others may read too.
pub fn hand_over(dir: &Path) -> Result<BTreeMap<u32, [u8; KEY]>, KeyError> {
    let fail = |cause| KeyError::Io(dir.to_owned(), cause);
    let mut keys = BTreeMap::new();
    for file in fs::read_dir(dir).map_err(fail)? {
        let path = file.map_err(fail)?.path();
        if let Some(id) = key_id(&path) {
            keys.insert(id, key_bytes(&path)?);
        }
    }
    if keys.is_empty() {
        return Err(KeyError::Missing(dir.to_owned()));
    }
    Ok(keys)
}

/// Keeps keys that were handed over. A key that is there already stays, and must be the same.
///
/// # Errors
/// A directory that cannot be written, or a different key of the same number.
pub fn take_over(dir: &Path, keys: &BTreeMap<u32, [u8; KEY]>) -> Result<(), KeyError> {
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
    Ok(())
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

fn read_key(path: &Path) -> Result<XChaCha20Poly1305, KeyError> {
    Ok(XChaCha20Poly1305::new(&key_bytes(path)?.into()))
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

fn create_key(dir: &Path, id: u32) -> Result<XChaCha20Poly1305, KeyError> {
    let mut key = [0; KEY];
    rand::rng().fill_bytes(&mut key);
    write_key(dir, id, &key)?;
    Ok(XChaCha20Poly1305::new(&key.into()))
}

fn write_key(dir: &Path, id: u32, key: &[u8; KEY]) -> Result<(), KeyError> {
    let path = key_path(dir, id);
    let fail = |cause| KeyError::Io(path.clone(), cause);
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(fail)?;
    // Written beside and renamed, so that a crash leaves no half of a key.
    let beside = dir.join(format!("store-{id}.key.new"));
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)
        .map_err(fail)?;
    file.write_all(key)
        .and_then(|()| file.sync_all())
        .map_err(fail)?;
    fs::rename(&beside, &path).map_err(fail)?;
    fs::File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(fail)
}

/// Seals and opens records.
pub(crate) struct Sealer {
    ring: KeyRing,
    /// Nonces are this and a counter: unique without asking for randomness each time.
    prefix: [u8; 16],
    counter: AtomicU64,
}

impl Sealer {
    pub fn new(ring: KeyRing) -> Self {
        let mut prefix = [0; 16];
        rand::rng().fill_bytes(&mut prefix);
        Sealer {
            ring,
            prefix,
            counter: AtomicU64::new(0),
        }
    }

    /// `plain` sealed for the place named by `tree` and `key`.
    pub fn seal(&self, tree: &str, key: &[u8], plain: &[u8]) -> Vec<u8> {
        let mut nonce = [0; NONCE];
        nonce[..16].copy_from_slice(&self.prefix);
        nonce[16..].copy_from_slice(&self.counter.fetch_add(1, Ordering::Relaxed).to_be_bytes());
        let mut sealed = Vec::with_capacity(HEADER + plain.len() + TAG);
        sealed.push(VERSION);
        sealed.extend_from_slice(&self.ring.current.to_be_bytes());
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(plain);
        let cipher = &self.ring.keys[&self.ring.current];
        let tag = cipher
            .encrypt_in_place_detached(
                XNonce::from_slice(&nonce),
                &place(tree, key),
                &mut sealed[HEADER..],
            )
            .expect("records are far shorter than the cipher's limit of 256 GiB");
        sealed.extend_from_slice(&tag);
        sealed
    }

    pub fn open(&self, tree: &str, key: &[u8], mut sealed: Vec<u8>) -> Result<Vec<u8>, SealError> {
        match sealed.first() {
            Some(&VERSION) if sealed.len() >= HEADER + TAG => {}
            Some(&VERSION) | None => return Err(SealError::Broken),
            Some(&other) => return Err(SealError::Version(other)),
        }
        let id = u32::from_be_bytes([sealed[1], sealed[2], sealed[3], sealed[4]]);
        let cipher = self.ring.keys.get(&id).ok_or(SealError::NoKey(id))?;
        let nonce = *XNonce::from_slice(&sealed[5..HEADER]);
        let tag = *Tag::from_slice(&sealed[sealed.len() - TAG..]);
        sealed.truncate(sealed.len() - TAG);
        cipher
            .decrypt_in_place_detached(&nonce, &place(tree, key), &mut sealed[HEADER..], &tag)
            .map_err(|_| SealError::Broken)?;
        sealed.drain(..HEADER);
        Ok(sealed)
    }
}

fn place(tree: &str, key: &[u8]) -> Vec<u8> {
    [tree.as_bytes(), b"\0", key].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_opens_only_in_its_place_and_whole() {
        let sealer = Sealer::new(KeyRing::ephemeral());
        let sealed = sealer.seal("state", b"k", b"hello");
        assert_eq!(
            sealer.open("state", b"k", sealed.clone()).unwrap(),
            b"hello"
        );
        assert_eq!(
            sealer.open("state", b"other", sealed.clone()),
            Err(SealError::Broken)
        );
        assert_eq!(
            sealer.open("log", b"k", sealed.clone()),
            Err(SealError::Broken)
        );
        for at in 0..sealed.len() {
            let mut flipped = sealed.clone();
            flipped[at] ^= 1;
            assert!(sealer.open("state", b"k", flipped).is_err(), "byte {at}");
        }
        for length in 0..sealed.len() {
            assert!(
                sealer
                    .open("state", b"k", sealed[..length].to_vec())
                    .is_err()
            );
        }
        assert!(
            Sealer::new(KeyRing::ephemeral())
                .open("state", b"k", sealed)
                .is_err()
        );
    }

    #[test]
    fn the_ring_is_made_once_for_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let keys = dir.path().join("keys");
        assert!(matches!(
            KeyRing::open(&keys, false),
            Err(KeyError::Missing(_))
        ));
        let first = Sealer::new(KeyRing::open(&keys, true).unwrap());
        let second = Sealer::new(KeyRing::open(&keys, false).unwrap());
        assert_eq!(
            second.open("t", b"k", first.seal("t", b"k", b"x")).unwrap(),
            b"x"
        );
        let file = keys.join("store-1.key");
        assert_eq!(
            fs::metadata(&file).unwrap().permissions().mode() & 0o777,
            0o600
        );
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(KeyRing::open(&keys, true), Err(KeyError::Bad(..))));
    }
}
