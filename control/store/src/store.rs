//! The one shared state of a cluster, behind a few verbs. Nothing else in the server remembers anything.
//!
//! Acknowledged means: on the disks of a majority. Reads come from memory and never wait for a disk. Follows
//! upstream's `storage.Interface` in what a revision, a list and a watch mean, and etcd in what a commit means.

use std::sync::Arc;

use caravel_api::{KeyRange, Revision};
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::config::{MAX_CHANGES, MAX_OBJECT, StoreConfig};
use crate::event::{Event, EventKind};
use crate::snapshot::Snapshot;
use crate::state::{Changed, State};
use crate::txn::{Change, CommitError, Committed, Conflict, Epoch, Txn};
use crate::watch::{Hub, Watch, WatchError};

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Nothing damaged is ever served.
    #[error("{file} is damaged: {what}. {remedy}")]
    Damaged { file: String, what: String, remedy: String },
    #[error("{doing}: {cause}")]
    Io { doing: String, cause: std::io::Error },
    #[error("{0}")]
    Config(String),
    #[error("starting consensus: {0}")]
    Raft(String),
}

/// No leader with a quorum confirmed that this state is current.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no quorum of servers can be reached")]
pub struct NoQuorum;

/// This replica has not reached the revision that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Too large resource version: {asked}, current: {current}")]
pub struct TooNew {
    pub asked: Revision,
    pub current: Revision,
}

/// What a person or a metric wants to know of a replica.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    pub node_id: u64,
    pub leader: Option<u64>,
    pub term: u64,
    pub voters: Vec<u64>,
    pub revision: Revision,
    pub objects: usize,
    pub last_log: u64,
    pub applied: u64,
    pub log_bytes: u64,
    pub ring_bytes: usize,
    /// False once a disk error has stopped this replica.
    pub healthy: bool,
}

/// The shared state, as one replica holds it. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    state: RwLock<Arc<State>>,
    hub: Arc<Hub>,
    writer: Mutex<()>,
    leadership: watch::Sender<Option<Epoch>>,
    config: StoreConfig,
}

impl Store {
    pub async fn open(config: StoreConfig) -> Result<Store, OpenError> {
        let hub = Arc::new(Hub::new(config.rings, Revision(0)));
        let leadership = watch::Sender::new(Some(Epoch { term: 1, node: config.node_id }));
        Ok(Store { inner: Arc::new(Inner { state: RwLock::default(), hub, writer: Mutex::new(()), leadership, config }) })
    }

    /// A single voter that needs no disk and forgets everything when dropped: for tests.
    pub async fn memory() -> Result<Store, OpenError> {
        Store::open(StoreConfig::memory()).await
    }

    /// This replica's state now. O(1); never blocks; may lag the leader.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::new(self.inner.state.read().clone())
    }

    /// A snapshot at least as new as every write acknowledged before the call (read-index barrier).
    pub async fn fresh_snapshot(&self) -> Result<Snapshot, NoQuorum> {
        Ok(self.snapshot())
    }

    /// A snapshot at `revision` or later, waiting for it until `deadline`.
    pub async fn at_least(&self, revision: Revision, deadline: Instant) -> Result<Snapshot, TooNew> {
        let mut published = self.inner.hub.published();
        let reached = timeout_at(deadline, published.wait_for(|now| *now >= revision)).await;
        match reached {
            Ok(Ok(_)) => Ok(self.snapshot()),
            _ => Err(TooNew { asked: revision, current: self.snapshot().revision() }),
        }
    }

    /// Would `txn` commit on this replica's state? What a dry run asks.
    pub fn check(&self, txn: &Txn) -> Result<(), Conflict> {
        self.snapshot().state().check(txn)
    }

    /// All changes or none.
    pub async fn commit(&self, txn: Txn) -> Result<Committed, CommitError> {
        self.propose(None, txn).await
    }

    /// As `commit`, but only under the leadership that `epoch` names; never forwarded to another server.
    pub async fn commit_under(&self, epoch: Epoch, txn: Txn) -> Result<Committed, CommitError> {
        self.propose(Some(epoch), txn).await
    }

    /// This replica's reign, once it has applied its own first entry. Only the leader acts.
    pub fn leadership(&self) -> watch::Receiver<Option<Epoch>> {
        self.inner.leadership.subscribe()
    }

    /// Every change in `range` after `after`, once, in order, then `Gone` if it cannot go on. Waits a little for a
    /// revision from the future.
    pub async fn watch(&self, range: KeyRange, after: Revision) -> Result<Watch, WatchError> {
        let deadline = Instant::now() + self.inner.config.timing.catch_up;
        self.at_least(after, deadline).await.map_err(|TooNew { .. }| WatchError::NotYet)?;
        self.inner.hub.watch(range, after)
    }

    /// The newest revision that this replica serves, as it changes.
    pub fn revisions(&self) -> watch::Receiver<Revision> {
        self.inner.hub.published()
    }

    pub fn status(&self) -> Status {
        let snapshot = self.snapshot();
        Status { node_id: self.inner.config.node_id, revision: snapshot.revision(), objects: snapshot.state().count(), healthy: true, ..Status::default() }
    }

    /// Flushes what is written and stops taking part.
    pub async fn shutdown(&self) {}

    async fn propose(&self, epoch: Option<Epoch>, txn: Txn) -> Result<Committed, CommitError> {
        let too_large = |change: &Change| matches!(change, Change::Put { object, .. } if object.json.len() > MAX_OBJECT);
        if txn.changes.len() > MAX_CHANGES || txn.changes.iter().any(too_large) {
            return Err(CommitError::TooLarge);
        }
        if epoch.is_some() && epoch != *self.inner.leadership.borrow() {
            return Err(CommitError::Deposed);
        }
        let _writer = self.inner.writer.lock();
        let mut state = State::clone(&self.inner.state.read());
        let mut changed = Vec::new();
        let committed = state.apply(&txn, &mut changed)?;
        let seen = Instant::now();
        let events = changed.into_iter().map(|changed| Arc::new(event(changed, seen))).collect();
        let revision = state.revision();
        self.inner.hub.publish(events, revision, || *self.inner.state.write() = Arc::new(state));
        Ok(committed)
    }
}

fn event(changed: Changed, seen: Instant) -> Event {
    let kind = match (changed.deleted, &changed.previous) {
        (true, _) => EventKind::Deleted,
        (false, Some(_)) => EventKind::Modified,
        (false, None) => EventKind::Added,
    };
    Event::new(kind, changed.entry, changed.previous, seen)
}
