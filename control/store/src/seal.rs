//! Everything durable is sealed: the envelope around every record.
//!
//! A record names the key it was sealed with; where it is kept is authenticated with it, so that no record can be put
//! in another's place. XChaCha20-Poly1305, whose nonces may be made without coordination. Which key seals new records
//! may change at any time (`reseal`); any key of the ring opens.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use chacha20poly1305::aead::AeadInPlace;
use chacha20poly1305::{Tag, XNonce};
use parking_lot::RwLock;
use rand::RngCore;

pub(crate) use crate::keys::KeyRing;
use crate::keys::{KEY, KeyError};

/// Layout of the envelope: version, key id, nonce, ciphertext, tag.
const VERSION: u8 = 1;
const NONCE: usize = 24;
const TAG: usize = 16;
const HEADER: usize = 1 + 4 + NONCE;

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

/// How a replica seals.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sealing {
    /// What new records are sealed with.
    pub key: u32,
    pub holds: Vec<u32>,
    /// Log records below this index may be sealed with an older key; 0: none.
    pub old_log_below: u64,
    /// Other records may be.
    pub old_state: bool,
}

impl Sealing {
    /// Whether records are left that an older key seals.
    #[must_use]
    pub fn is_resealing(&self) -> bool {
        self.old_state || self.old_log_below > 0
    }
}

/// Seals and opens records.
pub(crate) struct Sealer {
    ring: RwLock<KeyRing>,
    /// Nonces are this and a counter: unique without asking for randomness each time.
    prefix: [u8; 16],
    counter: AtomicU64,
    /// As in [`Sealing`], told by the owner of the disk.
    pub old_log_below: AtomicU64,
    pub old_state: std::sync::atomic::AtomicBool,
}

impl Sealer {
    pub fn new(ring: KeyRing) -> Self {
        let mut prefix = [0; 16];
        rand::rng().fill_bytes(&mut prefix);
        Sealer {
            ring: RwLock::new(ring),
            prefix,
            counter: AtomicU64::new(0),
            old_log_below: AtomicU64::new(0),
            old_state: false.into(),
        }
    }

    pub fn status(&self) -> Sealing {
        let ring = self.ring.read();
        Sealing {
            key: ring.current(),
            holds: ring.bytes().into_keys().collect(),
            old_log_below: self.old_log_below.load(Ordering::Relaxed),
            old_state: self.old_state.load(Ordering::Relaxed),
        }
    }

    /// All keys, and the one in use.
    pub fn keys(&self) -> (BTreeMap<u32, [u8; KEY]>, u32) {
        let ring = self.ring.read();
        (ring.bytes(), ring.current())
    }

    pub fn hold(&self, id: u32, key: [u8; KEY]) -> Result<(), KeyError> {
        self.ring.write().hold(id, key)
    }

    /// From now on records are sealed with key `id`. Only the owner of the disk says so.
    pub fn choose(&self, id: u32) -> Result<(), KeyError> {
        self.ring.write().choose(id)
    }

    pub fn retire(&self, id: u32) -> Result<(), KeyError> {
        self.ring.write().retire(id)
    }

    pub fn unused(&self) -> Result<u32, KeyError> {
        self.ring.read().unused()
    }

    /// Is a sealed record one that another key than the current one sealed?
    pub fn is_old(&self, sealed: &[u8]) -> bool {
        key_of(sealed).is_some_and(|id| id != self.ring.read().current())
    }

    /// `plain` sealed for the place named by `tree` and `key`.
    pub fn seal(&self, tree: &str, key: &[u8], plain: &[u8]) -> Vec<u8> {
        let ring = self.ring.read();
        let mut nonce = [0; NONCE];
        nonce[..16].copy_from_slice(&self.prefix);
        nonce[16..].copy_from_slice(&self.counter.fetch_add(1, Ordering::Relaxed).to_be_bytes());
        let mut sealed = Vec::with_capacity(HEADER + plain.len() + TAG);
        sealed.push(VERSION);
        sealed.extend_from_slice(&ring.current().to_be_bytes());
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(plain);
        let cipher = ring
            .cipher(ring.current())
            .expect("a ring always holds its current key");
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
        let id = key_of(&sealed).ok_or(SealError::Broken)?;
        let nonce = *XNonce::from_slice(&sealed[5..HEADER]);
        let tag = *Tag::from_slice(&sealed[sealed.len() - TAG..]);
        sealed.truncate(sealed.len() - TAG);
        self.ring
            .read()
            .cipher(id)
            .ok_or(SealError::NoKey(id))?
            .decrypt_in_place_detached(&nonce, &place(tree, key), &mut sealed[HEADER..], &tag)
            .map_err(|_| SealError::Broken)?;
        sealed.drain(..HEADER);
        Ok(sealed)
    }
}

/// The number of the key that a record is sealed with.
fn key_of(sealed: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(*sealed.get(1..)?.first_chunk()?))
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
    fn what_an_old_key_sealed_opens_until_that_is_put_aside() {
        let sealer = Sealer::new(KeyRing::ephemeral());
        let old = sealer.seal("t", b"k", b"x");
        sealer.hold(2, [7; KEY]).unwrap();
        assert!(!sealer.is_old(&old));
        sealer.choose(2).unwrap();
        assert!(sealer.is_old(&old));
        assert_eq!(sealer.open("t", b"k", old.clone()).unwrap(), b"x");
        let new = sealer.seal("t", b"k", b"x");
        assert!(!sealer.is_old(&new));
        sealer.retire(1).unwrap();
        assert_eq!(sealer.open("t", b"k", old), Err(SealError::NoKey(1)));
        assert_eq!(sealer.open("t", b"k", new).unwrap(), b"x");
    }
}
