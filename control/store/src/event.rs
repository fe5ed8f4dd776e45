//! One change of one object, as watchers see it. Its frame is encoded once for all of them.
//!
//! Follows upstream's watch frames: `{"type":"ADDED","object":{..}}`, one per line; a deletion shows the last
//! object with the revision of the deletion.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use caravel_api::Revision;
use tokio::time::Instant;

use crate::entry::Entry;

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventKind {
    Added,
    Modified,
    Deleted,
}

impl EventKind {
    /// As upstream's watch frames spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            EventKind::Added => "ADDED",
            EventKind::Modified => "MODIFIED",
            EventKind::Deleted => "DELETED",
        }
    }
}

/// One change.
#[derive(Debug)]
pub struct Event {
    pub kind: EventKind,
    pub revision: Revision,
    /// The object after the change; for a deletion the last object, at the revision of the deletion.
    pub entry: Arc<Entry>,
    /// The object before the change.
    pub previous: Option<Arc<Entry>>,
    /// When this replica saw it; only for letting old events go.
    pub(crate) seen: Instant,
    frame: OnceLock<Bytes>,
}

impl Event {
    pub(crate) fn new(
        kind: EventKind,
        entry: Arc<Entry>,
        previous: Option<Arc<Entry>>,
        seen: Instant,
    ) -> Self {
        Event {
            kind,
            revision: entry.revision,
            entry,
            previous,
            seen,
            frame: OnceLock::new(),
        }
    }

    /// `{"type":..,"object":..}` and a newline, at the storage version. Encoded at the first call.
    pub fn frame(&self) -> Bytes {
        self.frame
            .get_or_init(|| frame(self.kind, &self.entry.json))
            .clone()
    }

    /// Memory that keeping this event may cost.
    pub(crate) fn cost(&self) -> usize {
        self.entry.json.len() * 2 + 512
    }
}

/// A watch frame around an object's JSON.
pub fn frame(kind: EventKind, object: &[u8]) -> Bytes {
    let parts: [&[u8]; 5] = [
        b"{\"type\":\"",
        kind.as_str().as_bytes(),
        b"\",\"object\":",
        object,
        b"}\n",
    ];
    Bytes::from(parts.concat())
}
