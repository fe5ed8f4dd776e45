//! One object at one revision, as it is served: JSON with its revision in place, and what is known without decoding.
//!
//! Typed forms are decoded on demand and kept in a cache bounded in bytes for the whole process. What cannot be
//! decoded is an error, never "absent".

use std::any::Any;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use caravel_api::{Encoded, Key, Kind, Meta, Revision};
use parking_lot::Mutex;

/// Typed objects kept for reuse, in estimated bytes.
const DECODED_BYTES: usize = 64 << 20;
/// A typed object takes about this many times its JSON (a pod nine to ten times, by a heap profile).
const DECODED_FACTOR: usize = 10;

/// A stored object cannot be read as the kind it is kept under.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{key} at revision {revision} cannot be read as {kind}: {cause}")]
pub struct Undecodable {
    pub key: Key,
    pub revision: Revision,
    pub kind: &'static str,
    pub cause: Arc<serde_json::Error>,
}

/// One object at one revision.
pub struct Entry {
    pub key: Key,
    pub revision: Revision,
    pub meta: Arc<Meta>,
    /// The object at its storage version, `metadata.resourceVersion` filled in.
    pub json: Bytes,
    slot: (u32, u32),
    used: AtomicBool,
    typed: Mutex<Option<Arc<dyn Any + Send + Sync>>>,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}@{}({} bytes)",
            self.key,
            self.revision,
            self.json.len()
        )
    }
}

impl Entry {
    /// `object` under `key`, stamped with `revision`.
    pub(crate) fn new(key: Key, revision: Revision, object: &Encoded) -> Self {
        Entry::stamped(key, revision, object.stamped(revision))
    }

    /// An object whose slot holds `revision` already.
    pub(crate) fn stamped(key: Key, revision: Revision, object: Encoded) -> Self {
        // Objects are at most MAX_OBJECT bytes, so offsets fit.
        let slot = (object.slot.start as u32, object.slot.end as u32);
        Entry {
            key,
            revision,
            meta: object.meta,
            json: object.json,
            slot,
            used: AtomicBool::new(false),
            typed: Mutex::new(None),
        }
    }

    /// What to put back to change nothing: the same object, ready for another revision.
    pub fn encoded(&self) -> Encoded {
        Encoded {
            json: self.json.clone(),
            slot: self.slot(),
            meta: self.meta.clone(),
        }
    }

    pub(crate) fn slot(&self) -> std::ops::Range<usize> {
        self.slot.0 as usize..self.slot.1 as usize
    }

    /// The object as its type. Decoded once while the cache has room.
    pub fn decode<K: Kind>(self: &Arc<Self>) -> Result<Arc<K>, Undecodable> {
        self.used.store(true, Ordering::Relaxed);
        if let Some(typed) = self.typed.lock().clone()
            && let Ok(typed) = typed.downcast::<K>()
        {
            return Ok(typed);
        }
        let decoded: Arc<K> =
            Arc::new(
                serde_json::from_slice(&self.json).map_err(|cause| Undecodable {
                    key: self.key.clone(),
                    revision: self.revision,
                    kind: K::row().kind,
                    cause: Arc::new(cause),
                })?,
            );
        if self.typed.lock().replace(decoded.clone()).is_none() {
            DECODED.lock().add(self);
        }
        Ok(decoded)
    }
}

static DECODED: Mutex<Decoded> = Mutex::new(Decoded {
    entries: VecDeque::new(),
    bytes: 0,
});

/// Which entries hold a typed form, oldest first; those used since get a second chance.
struct Decoded {
    entries: VecDeque<(Weak<Entry>, usize)>,
    bytes: usize,
}

impl Decoded {
    fn add(&mut self, entry: &Arc<Entry>) {
        let cost = entry.json.len() * DECODED_FACTOR + 256;
        self.entries.push_back((Arc::downgrade(entry), cost));
        self.bytes += cost;
        let mut chances = self.entries.len();
        while self.bytes > DECODED_BYTES
            && let Some((weak, cost)) = self.entries.pop_front()
        {
            match weak.upgrade() {
                Some(entry) if chances > 0 && entry.used.swap(false, Ordering::Relaxed) => {
                    chances -= 1;
                    self.entries.push_back((weak, cost));
                }
                Some(entry) => {
                    *entry.typed.lock() = None;
                    self.bytes -= cost;
                }
                None => self.bytes -= cost,
            }
        }
    }
}
