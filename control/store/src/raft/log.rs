//! The Raft log as openraft sees it: its end in memory, the rest on the disk behind the writer.
//!
//! What is appended can be read at once; that it is durable is said by the writer, after its flush. Nothing here
//! waits for a disk except what must (votes, truncations, purges, reads of old entries).

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{EntryPayload, OptionalSend, RaftLogReader};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{Command, LogEntry, LogId, TypeConfig, Vote};
use crate::io::{IoHandle, Job};
use crate::level::{self, Level};
use crate::sabotage::{self, Sabotage};

/// Bytes of entries handed out at once for replication, at least one entry.
const READ_BYTES: usize = 1 << 20;

/// What is known of the log without asking the disk.
pub(crate) struct Tail {
    pub vote: Option<Vote>,
    pub committed: Option<LogId>,
    pub purged: Option<LogId>,
    pub last: Option<LogId>,
    /// The newest entries, without a hole up to `last`.
    pub entries: BTreeMap<u64, (LogEntry, usize)>,
    pub bytes: usize,
    /// Sizes of all entries after `purged`, for bounding the log in bytes.
    pub sizes: BTreeMap<u64, u32>,
    pub total: u64,
    pub limit: usize,
}

impl Tail {
    pub fn push(&mut self, entry: LogEntry) {
        let cost = cost(&entry);
        let index = entry.log_id.index;
        self.last = Some(entry.log_id);
        self.bytes += cost;
        self.total += cost as u64;
        self.sizes
            .insert(index, u32::try_from(cost).unwrap_or(u32::MAX));
        self.entries.insert(index, (entry, cost));
        while self.bytes > self.limit && self.entries.len() > 1 {
            if let Some((_, (_, cost))) = self.entries.pop_first() {
                self.bytes -= cost;
            }
        }
    }

    fn truncate(&mut self, from: u64) {
        for (_, (_, cost)) in self.entries.split_off(&from) {
            self.bytes -= cost;
        }
        self.total -= self
            .sizes
            .split_off(&from)
            .values()
            .map(|size| u64::from(*size))
            .sum::<u64>();
    }

    fn purge(&mut self, up_to: LogId) {
        let kept = self.entries.split_off(&(up_to.index + 1));
        self.bytes -= std::mem::replace(&mut self.entries, kept)
            .values()
            .map(|(_, cost)| cost)
            .sum::<usize>();
        let kept = self.sizes.split_off(&(up_to.index + 1));
        self.total -= std::mem::replace(&mut self.sizes, kept)
            .values()
            .map(|size| u64::from(*size))
            .sum::<u64>();
        self.purged = self.purged.max(Some(up_to));
        self.last = self.last.max(Some(up_to));
    }

    /// The last index that must go for the log to have at most `bytes`, if any.
    pub fn purge_point(&self, bytes: u64) -> Option<u64> {
        let mut over = self.total.checked_sub(bytes).filter(|over| *over > 0)?;
        let mut point = None;
        for (index, size) in &self.sizes {
            point = Some(*index);
            match over.checked_sub(u64::from(*size)) {
                Some(left) if left > 0 => over = left,
                _ => break,
            }
        }
        point
    }
}

fn cost(entry: &LogEntry) -> usize {
    match &entry.payload {
        EntryPayload::Normal(Command::Batch(batch)) => {
            128 + batch
                .0
                .iter()
                .map(|proposal| proposal.txn.cost() + 64)
                .sum::<usize>()
        }
        EntryPayload::Blank
        | EntryPayload::Normal(Command::Raise(_))
        | EntryPayload::Membership(_) => 128,
    }
}

/// openraft's log storage and its readers.
#[derive(Clone)]
pub(crate) struct LogStore {
    pub tail: Arc<Mutex<Tail>>,
    io: IoHandle,
    /// What is above it never gets into this log.
    supports: Level,
}

impl LogStore {
    pub fn new(tail: Tail, io: IoHandle, supports: Level) -> Self {
        LogStore {
            tail: Arc::new(Mutex::new(tail)),
            io,
            supports,
        }
    }

    async fn read(&self, from: u64, to: u64) -> io::Result<Vec<LogEntry>> {
        let (mut old, new) = {
            let tail = self.tail.lock();
            let from = from.max(
                tail.sizes
                    .first_key_value()
                    .map_or(u64::MAX, |(first, _)| *first),
            );
            let to = to.min(tail.last.map_or(0, |last| last.index + 1));
            if from >= to {
                return Ok(Vec::new());
            }
            let memory = tail
                .entries
                .first_key_value()
                .map_or(to, |(index, _)| *index);
            let new: Vec<_> = tail
                .entries
                .range(from..to)
                .map(|(_, (entry, _))| entry.clone())
                .collect();
            (from..to.min(memory), new)
        };
        if old.start >= old.end {
            return Ok(new);
        }
        let wanted = (old.end - old.start) as usize;
        let mut entries = self
            .io
            .ask(|reply| Job::ReadLog {
                range: std::mem::take(&mut old),
                reply,
            })
            .await?;
        if entries.len() != wanted
            && self
                .tail
                .lock()
                .purged
                .is_none_or(|purged| purged.index < from)
        {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "the log has a hole: {} of {wanted} entries from {from}",
                    entries.len()
                ),
            ));
        }
        entries.extend(new);
        Ok(entries)
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<LogEntry>, io::Error> {
        let from = match range.start_bound() {
            Bound::Included(index) => *index,
            Bound::Excluded(index) => index + 1,
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(index) => index + 1,
            Bound::Excluded(index) => *index,
            Bound::Unbounded => u64::MAX,
        };
        self.read(from, to).await
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.tail.lock().vote)
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<LogEntry>, io::Error> {
        let end = {
            let tail = self.tail.lock();
            let mut bytes = 0;
            let mut until = start;
            for (index, size) in tail.sizes.range(start..end) {
                bytes += *size as usize;
                if bytes > READ_BYTES && until > start {
                    break;
                }
                until = index + 1;
            }
            until
        };
        self.read(start, end).await
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let tail = self.tail.lock();
        Ok(LogState {
            last_purged_log_id: tail.purged,
            last_log_id: tail.last,
        })
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let vote = *vote;
        if sabotage::on(Sabotage::EarlyVote) {
            self.tail.lock().vote = Some(vote);
            return self.io.send(Job::Vote(vote, oneshot::channel().0));
        }
        self.io.ask(|reply| Job::Vote(vote, reply)).await?;
        self.tail.lock().vote = Some(vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        let Some(committed) = committed else {
            return Ok(());
        };
        self.tail.lock().committed = Some(committed);
        self.io.send(Job::Committed(committed))
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        let tail = self.tail.lock();
        Ok(tail.committed.min(tail.last))
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: IOFlushed<TypeConfig>,
    ) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = LogEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<LogEntry> = entries.into_iter().collect();
        for entry in &entries {
            level::readable(entry, self.supports)?;
        }
        {
            let mut tail = self.tail.lock();
            for entry in &entries {
                tail.push(entry.clone());
            }
        }
        self.io.send(Job::Append(entries, callback))
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let from = last_log_id.map_or(0, |id| id.index + 1);
        {
            let mut tail = self.tail.lock();
            tail.truncate(from);
            tail.last = tail.last.min(last_log_id);
        }
        self.io.ask(|reply| Job::Truncate { from, reply }).await
    }

    async fn purge(&mut self, up_to: LogId) -> Result<(), io::Error> {
        self.tail.lock().purge(up_to);
        self.io.ask(|reply| Job::Purge { up_to, reply }).await
    }
}
