//! A replica on a disk that lives in memory, is as slow as it is told and can lose power at any moment: for
//! simulations on a paused clock. Never used by a server.
//!
//! The disk keeps what was flushed and, as a log-structured database does, some beginning of what was written since.
//! Everything else of the replica is the real thing.

mod disk;

use std::sync::Arc;
use std::time::Duration;

use openraft::alias::EntryPayloadOf;
use parking_lot::Mutex;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{sleep, timeout};

pub use self::disk::Disk;
use crate::config::StoreConfig;
use crate::io::{Job, Wait, Writer};
use crate::open::{OpenError, open_disk};
use crate::raft::transport::Transport;
use crate::raft::{LogId, TypeConfig, Vote};
use crate::seal::KeyRing;
use crate::store::{Owner, Store};

/// How long the next turn of writing takes, up to and with its flush.
pub type Latency = Arc<dyn Fn() -> Duration + Send + Sync>;

/// What an entry of the log carries.
pub type Payload = EntryPayloadOf<TypeConfig>;

/// Where a replica is in its log.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    /// The vote on its disk.
    pub vote: Option<Vote>,
    pub purged: Option<LogId>,
    pub last: Option<LogId>,
    /// What its state is of.
    pub applied: Option<LogId>,
}

impl Store {
    /// Opens one replica on a simulated disk. `config.backend` and its directories mean nothing here.
    ///
    /// # Errors
    /// As [`Store::open_with`].
    pub async fn open_simulated(
        config: StoreConfig,
        transport: Arc<dyn Transport>,
        disk: &Disk,
        latency: Latency,
    ) -> Result<Store, OpenError> {
        let found = open_disk(&config, Box::new(disk.powered()), KeyRing::fixed())?;
        Store::start(config, found, transport, Owner::Task(latency)).await
    }

    /// Where this replica is in its log.
    #[must_use]
    pub fn place(&self) -> Place {
        let applied = *self.served().applied.borrow();
        let tail = self.log().tail.lock();
        Place {
            vote: tail.vote,
            purged: tail.purged,
            last: tail.last,
            applied,
        }
    }

    /// The entries from `from` on that this replica has in memory, in order.
    #[must_use]
    pub fn entries(&self, from: u64) -> Vec<(LogId, Payload)> {
        let tail = self.log().tail.lock();
        tail.entries
            .range(from..)
            .map(|(_, (entry, _))| (entry.log_id, entry.payload.clone()))
            .collect()
    }
}

/// What the state was after each entry that a replica applied: the entry's index and [`crate::State::digest`], in order. Costs a
/// reading of the whole state for each.
#[derive(Clone, Debug, Default)]
pub struct Digests(Arc<Mutex<Vec<(u64, u64)>>>);

impl Digests {
    pub(crate) fn add(&self, index: u64, digest: u64) {
        self.0.lock().push((index, digest));
    }

    /// All so far.
    #[must_use]
    pub fn all(&self) -> Vec<(u64, u64)> {
        self.0.lock().clone()
    }
}

/// The body of the disk thread, as a task.
pub(crate) async fn run(mut writer: Writer, mut jobs: UnboundedReceiver<Job>, latency: Latency) {
    loop {
        let first = match writer.wait() {
            Wait::ForJob => Some(jobs.recv().await),
            Wait::AtMost(time) => timeout(time, jobs.recv()).await.ok(),
        };
        let mut waiting = Vec::new();
        match first {
            Some(Some(job)) => waiting.push(job),
            Some(None) => return,
            None => {}
        }
        while let Ok(job) = jobs.try_recv() {
            waiting.push(job);
        }
        if !waiting.is_empty() {
            sleep(latency()).await;
            writer.turn(waiting);
        }
        if writer.is_stopping() {
            return writer.finish();
        }
        writer.step();
    }
}
