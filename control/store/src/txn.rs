//! What may be asked of the revision log: changes that happen together or not at all, and what each expects.
//!
//! A `Txn` carries everything its decision depended on: keys it read but did not change are `Check`s. Nothing
//! here knows how a transaction is agreed on. Follows etcd's compare-then-put, with a revision per changed object.

use caravel_api::{Encoded, Key, Revision};
use serde::{Deserialize, Serialize};

use crate::splice::Splice;

/// All of these changes, or none.
#[derive(Clone, Debug, Default)]
pub struct Txn {
    pub changes: Vec<Change>,
}

/// One step of a transaction.
#[derive(Clone, Debug)]
pub enum Change {
    Put {
        key: Key,
        expect: Expect,
        object: Encoded,
    },
    Delete {
        key: Key,
        expect: Expect,
    },
    /// What the decision depended on and did not change.
    Check {
        key: Key,
        expect: Expect,
    },
    /// A `Put` on what was there at revision `at`, as what it changes of it. Made of one by the store itself, from level
    /// 2 on.
    Splice {
        key: Key,
        at: Revision,
        splice: Splice,
    },
}

/// What a key must hold for the transaction to happen. Compared with the state before the transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    Absent,
    At(Revision),
    Any,
}

impl Txn {
    pub fn new() -> Self {
        Txn::default()
    }

    /// Put `object` where nothing is yet.
    pub fn create(key: Key, object: Encoded) -> Self {
        Txn::new().with(Change::Put {
            key,
            expect: Expect::Absent,
            object,
        })
    }

    /// Replace what was read at `revision`.
    pub fn update(key: Key, revision: Revision, object: Encoded) -> Self {
        Txn::new().with(Change::Put {
            key,
            expect: Expect::At(revision),
            object,
        })
    }

    /// Remove what was read at `revision`.
    pub fn delete(key: Key, revision: Revision) -> Self {
        Txn::new().with(Change::Delete {
            key,
            expect: Expect::At(revision),
        })
    }

    #[must_use]
    pub fn with(mut self, change: Change) -> Self {
        self.changes.push(change);
        self
    }

    #[must_use]
    pub fn with_all(mut self, changes: impl IntoIterator<Item = Change>) -> Self {
        self.changes.extend(changes);
        self
    }

    /// Bytes that this transaction takes in the log, about.
    pub(crate) fn cost(&self) -> usize {
        self.changes
            .iter()
            .map(|change| change.key().len() + change.carries() + 32)
            .sum()
    }
}

impl Change {
    pub fn key(&self) -> &Key {
        match self {
            Change::Put { key, .. }
            | Change::Delete { key, .. }
            | Change::Check { key, .. }
            | Change::Splice { key, .. } => key,
        }
    }

    pub fn expect(&self) -> Expect {
        match self {
            Change::Put { expect, .. }
            | Change::Delete { expect, .. }
            | Change::Check { expect, .. } => *expect,
            Change::Splice { at, .. } => Expect::At(*at),
        }
    }

    /// Bytes of objects in it.
    fn carries(&self) -> usize {
        match self {
            Change::Put { object, .. } => object.json.len(),
            Change::Splice { splice, .. } => splice.middle.len(),
            Change::Delete { .. } | Change::Check { .. } => 0,
        }
    }
}

/// What a committed transaction did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committed {
    /// The log's revision after the transaction.
    pub revision: Revision,
    /// One per change, in order: the object's new revision, or for a `Check` (and the deletion of what was not
    /// there) the revision that was found, 0 if absent.
    pub revisions: Vec<Revision>,
}

/// A transaction's expectation did not hold: what the key really holds (revision 0: nothing).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key} is at revision {revision}, which is not what the transaction expected")]
pub struct Conflict {
    pub key: Key,
    pub revision: Revision,
}

/// One leader's reign: writes under it are refused once another has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch {
    pub term: u64,
    pub node: u64,
}

/// Why a transaction was not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// An expectation did not hold; the revision is what the key holds (0: nothing). Nothing was changed.
    #[error("{0} is at revision {1}, which is not what the transaction expected")]
    Conflict(Key, Revision),
    /// It may have happened. It becomes 504 and is never retried by us.
    #[error("the outcome of the write is unknown: it may have been committed")]
    Unknown,
    /// No leader with a quorum could be reached. Nothing was changed.
    #[error("no quorum of servers can be reached")]
    NoQuorum,
    /// Too many writes are under way. Nothing was changed; try again later.
    #[error("too many writes are under way")]
    Busy,
    /// The leader's disk is full; the text names it. Nothing was changed.
    #[error("{0}")]
    Full(String),
    /// The object is larger than the store keeps. Nothing was changed.
    #[error("the object is larger than {limit} bytes", limit = crate::MAX_OBJECT)]
    TooLarge,
    /// The epoch of `commit_under` is over. Nothing was changed.
    #[error("this server's leadership has ended")]
    Deposed,
}

impl From<Conflict> for CommitError {
    fn from(conflict: Conflict) -> Self {
        CommitError::Conflict(conflict.key, conflict.revision)
    }
}
