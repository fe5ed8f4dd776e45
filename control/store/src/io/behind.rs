//! Writing objects behind the acknowledgement, the newest of each key only.
//!
//! The log has everything already, so this takes its time: what gathered is written in small steps between the jobs, and
//! then the record of what was applied, up to which all of it is there. A process that ends in the middle leaves objects of
//! two ages; the next one redoes the log over them up to the end of that writing (`state::redo`), which `meta` names together
//! with what it cannot tell from the log. What is little is written in one step, and leaves nothing to redo.

use std::collections::{BTreeMap, btree_map};
use std::io;
use std::mem::take;
use std::sync::Arc;
use std::time::Duration;

use caravel_api::Key;
use tokio::time::Instant;

use super::Writer;
use crate::backend::StateOp;
use crate::config::WriteBehind;
use crate::entry::Entry;
use crate::raft::LogId;
use crate::record::{self, Applied, Redo, names};
use crate::room::Room;
use crate::state::redo::Skipped;

/// So many steps at most to write what waits: they grow with it, lest it grows without end.
const STEPS: usize = 64;
/// And so many where nothing more comes: at the default pace, some seconds.
const PACED_STEPS: usize = 512;
/// What takes no more steps than this is written in one.
const LITTLE: usize = 4;
/// What had no effect is remembered only so far before objects are written.
const SKIPPED: usize = 1024;
/// The longest record that says what to redo: sled puts longer values where no sync of ours reaches.
const RECORD: usize = 64 << 10;
/// A start has the log applied so far without hearing of a leader; less than that it may lack what it needs to find one.
pub(crate) const COMMITTED_AFTER: Duration = Duration::from_millis(100);

/// What waits to be written, and what is being written.
#[derive(Default)]
pub(crate) struct Behind {
    limits: WriteBehind,
    changed: BTreeMap<Key, Option<Arc<Entry>>>,
    bytes: usize,
    skipped: Vec<Skipped>,
    applied: Option<Applied>,
    since: Option<Instant>,
    committed: Option<(LogId, Instant)>,
    writing: Option<Writing>,
    /// How far the objects on the disk are whole.
    written: Option<LogId>,
    /// Entries up to this may go once the objects no longer need them.
    purge: Option<LogId>,
}

struct Writing {
    rest: btree_map::IntoIter<Key, Option<Arc<Entry>>>,
    /// Of all of it.
    bytes: usize,
    applied: Applied,
    /// Not before then, unless a flush takes the last step along sooner: what is written together, a commit waits for.
    next: Instant,
}

/// What a state on a disk lacked, after its log was redone over it.
#[derive(Default)]
pub(crate) struct Redone {
    pub changed: BTreeMap<Key, Option<Arc<Entry>>>,
    pub skipped: Vec<Skipped>,
    pub applied: Option<Applied>,
}

impl Behind {
    pub fn new(limits: WriteBehind, written: Option<LogId>, redone: Redone) -> Self {
        Behind {
            limits,
            bytes: redone.changed.values().map(cost).sum(),
            changed: redone.changed,
            skipped: redone.skipped,
            since: redone.applied.is_some().then(Instant::now),
            applied: redone.applied,
            committed: None,
            writing: None,
            written,
            purge: None,
        }
    }

    pub fn commit(&mut self, id: LogId) {
        let since = self.committed.map_or_else(Instant::now, |(_, since)| since);
        self.committed = Some((id, since));
    }

    fn committed_in(&self) -> Option<Duration> {
        self.committed
            .map(|(_, since)| COMMITTED_AFTER.saturating_sub(since.elapsed()))
    }

    pub fn add(
        &mut self,
        changed: Vec<(Key, Option<Arc<Entry>>)>,
        skipped: Vec<Skipped>,
        applied: Applied,
    ) {
        for (key, entry) in changed {
            self.bytes += cost(&entry);
            if let Some(older) = self.changed.insert(key, entry) {
                self.bytes -= cost(&older);
            }
        }
        self.skipped.extend(skipped);
        self.applied = Some(applied);
        self.since.get_or_insert_with(Instant::now);
    }

    /// What was written so far is on the disk.
    pub fn flushed(&mut self) {
        if let Some(writing) = &mut self.writing {
            writing.next = Instant::now();
        }
    }

    /// When there is something to do: at once, after some time, or not before something comes.
    pub fn wait(&self) -> Option<Duration> {
        self.objects_in()
            .into_iter()
            .chain(self.committed_in())
            .min()
    }

    fn objects_in(&self) -> Option<Duration> {
        let much = self.bytes > self.limits.bytes || self.skipped.len() > SKIPPED;
        match &self.writing {
            _ if much => Some(Duration::ZERO),
            Some(writing) => Some(writing.next.saturating_duration_since(Instant::now())),
            None if self.since.is_some() && self.purge > self.written => Some(Duration::ZERO),
            None => Some(self.limits.after.saturating_sub(self.since?.elapsed())),
        }
    }
}

fn cost(entry: &Option<Arc<Entry>>) -> usize {
    entry.as_ref().map_or(64, |entry| entry.json.len() + 64)
}

impl Writer {
    /// Writes some of what waits, if it is time.
    pub(super) fn step_behind(&mut self) -> io::Result<()> {
        if self.behind.committed_in() == Some(Duration::ZERO) {
            self.write_committed()?;
        }
        if self.behind.objects_in() != Some(Duration::ZERO) {
            return Ok(());
        }
        match self.behind.writing {
            Some(_) => self.write_some(),
            None => self.begin_behind(),
        }
    }

    fn write_some(&mut self) -> io::Result<()> {
        let all = self
            .behind
            .writing
            .as_ref()
            .map_or(0, |writing| writing.bytes);
        let grown = (self.behind.bytes / STEPS).max(all / PACED_STEPS);
        let most = self.behind.limits.step.max(grown);
        let mut bytes = 0;
        let mut ops: Vec<StateOp> = Vec::new();
        while bytes < most
            && let Some(writing) = &mut self.behind.writing
            && let Some((key, entry)) = writing.rest.next()
        {
            bytes += cost(&entry);
            ops.push(self.object(key, entry));
        }
        if !ops.is_empty() {
            if let Some(writing) = &mut self.behind.writing {
                writing.next = Instant::now() + self.behind.limits.pace;
            }
            return self.backend.state(self.generation, ops, None);
        }
        match self.behind.writing.take() {
            Some(writing) => self.end_behind(Vec::new(), &writing.applied),
            None => Ok(()),
        }
    }

    /// All of it, now, if the disk has room: the log has it, too.
    pub(super) fn write_behind(&mut self) -> io::Result<()> {
        if self.backend.room() != Room::Enough {
            return Ok(());
        }
        while self.behind.writing.is_some() {
            self.write_some()?;
        }
        self.begin_behind()?;
        while self.behind.writing.is_some() {
            self.write_some()?;
        }
        Ok(())
    }

    /// What gathered until now is what is written from now on.
    fn begin_behind(&mut self) -> io::Result<()> {
        let behind = &mut self.behind;
        behind.since = None;
        let (bytes, changed) = (take(&mut behind.bytes), take(&mut behind.changed));
        let skipped = take(&mut behind.skipped);
        let applied = behind.applied.take();
        let little = bytes <= LITTLE * behind.limits.step;
        self.write_committed()?;
        let Some(applied) = applied else {
            return Ok(());
        };
        let redo = Redo {
            generation: self.generation,
            until: applied,
            skipped,
        };
        let record = record::redo(&redo);
        if little || record.len() > RECORD {
            let ops = changed.into_iter();
            let ops = ops.map(|(key, entry)| self.object(key, entry)).collect();
            return self.end_behind(ops, &redo.until);
        }
        self.put_meta(names::REDO, &record)?;
        self.behind.writing = Some(Writing {
            rest: changed.into_iter(),
            bytes,
            applied: redo.until,
            next: Instant::now(),
        });
        Ok(())
    }

    fn write_committed(&mut self) -> io::Result<()> {
        match self.behind.committed.take() {
            Some((id, _)) => self.put_meta(names::COMMITTED, &record::log_id(&id)),
            None => Ok(()),
        }
    }

    fn end_behind(&mut self, ops: Vec<StateOp>, applied: &Applied) -> io::Result<()> {
        let sealed = self.sealer.seal("applied", b"", &record::applied(applied));
        self.backend.state(self.generation, ops, Some(&sealed))?;
        self.behind.written = applied.log_id;
        self.purge_waiting()
    }

    /// Another state is on the disk, whole as of `applied`.
    pub(super) fn replace_behind(&mut self, applied: Option<LogId>) -> io::Result<()> {
        let purge = self.behind.purge;
        self.behind = Behind::new(self.behind.limits, applied, Redone::default());
        self.behind.purge = purge;
        self.purge_waiting()
    }

    fn purge_waiting(&mut self) -> io::Result<()> {
        match self.behind.purge {
            Some(up_to) if self.behind.purge <= self.behind.written => self.purge(up_to),
            Some(_) | None => Ok(()),
        }
    }

    /// Entries up to `up_to` are no longer needed; true if they may go now. Else they go when the objects have what they changed.
    pub(super) fn may_purge(&mut self, up_to: LogId) -> bool {
        let now = Some(up_to) <= self.behind.written;
        if !now {
            self.behind.purge = self.behind.purge.max(Some(up_to));
        }
        now
    }

    /// Lets entries go that the objects on the disk have.
    pub(super) fn purge(&mut self, up_to: LogId) -> io::Result<()> {
        if self.behind.purge <= Some(up_to) {
            self.behind.purge = None;
        }
        self.put_meta(names::PURGED, &record::log_id(&up_to))?;
        self.purge_below = self.purge_below.max(Some(up_to.index + 1));
        self.purged_below = self.purged_below.max(up_to.index + 1);
        self.log_end = self.log_end.max(up_to.index + 1);
        Ok(())
    }

    fn object(&self, key: Key, entry: Option<Arc<Entry>>) -> StateOp {
        let record = entry.map(|entry| self.seal_object(&entry));
        (key, record)
    }
}
