//! The one owner of the disk: takes jobs in the order they were sent, writes what waits together, flushes once for all
//! of it, and only then says so.
//!
//! Order is everything here: log before `committed` before anything that relies on it; nothing is called durable
//! before `flush` (which ends in fdatasync); after a failed write nothing more is tried, an fsync least of all.
//! Long work (writing objects behind, purging, installing a snapshot) goes in small steps between the jobs.

use std::io;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use caravel_api::Key;
use openraft::storage::IOFlushed;
use tokio::time::Instant;

use crate::backend::{Backend, StateOp};
use crate::entry::Entry;
use crate::guard::Guard;
use crate::keys::KeyError;
use crate::latency::Durations;
use crate::raft::{LogEntry, TypeConfig, Vote};
use crate::record::{self, Applied, names};
use crate::room::{Alarm, Room};
use crate::sabotage::{self, Sabotage};
use crate::seal::Sealer;
use crate::state::State;

mod behind;
mod handle;
mod queue;
pub(crate) mod reseal;

pub(crate) use behind::{Behind, COMMITTED_AFTER, Redone};
pub(crate) use handle::{IoHandle, Job, Reply, run};
pub(crate) use queue::queue;
use reseal::OldSeals;

/// Records removed or installed between two turns.
const STEP: usize = 512;
/// Bytes of objects installed between two turns.
const STEP_BYTES: usize = 1 << 20;
/// How often a full disk is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

pub(crate) enum Wait {
    ForJob,
    AtMost(Duration),
}

/// Whom to tell once this turn is flushed.
enum Done {
    Append(IOFlushed<TypeConfig>),
    Reply(Reply<()>),
    Chosen(Result<(), KeyError>, Reply<Result<(), KeyError>>),
}

impl Done {
    fn tell(self, result: io::Result<()>) {
        match self {
            Done::Append(callback) => callback.io_completed(result),
            // Whoever asked may have stopped waiting.
            Done::Reply(reply) => drop(reply.send(result)),
            Done::Chosen(chosen, reply) => drop(reply.send(result.map(|()| chosen))),
        }
    }
}

struct Install {
    state: Arc<State>,
    generation: u64,
    /// The last key written.
    after: Option<Key>,
    applied: Applied,
    reply: Reply<()>,
}

/// What a writer begins with, as found on the disk.
#[derive(Default)]
pub(crate) struct Resume {
    pub generation: u64,
    /// One past the last log index; 0 for an empty log.
    pub log_end: u64,
    /// Log records below this may still lie on the disk although purged.
    pub purged_below: u64,
    pub vote: Option<Vote>,
    /// Generations left by an interrupted installation.
    pub stale: Vec<u64>,
    /// Records of a key that was replaced.
    pub old: OldSeals,
    pub behind: Behind,
}

pub(crate) struct Writer {
    backend: Box<dyn Backend>,
    sealer: Arc<Sealer>,
    guard: Option<Guard>,
    generation: u64,
    log_end: u64,
    /// What of that the last flush made durable.
    flushed: u64,
    vote: Option<Vote>,
    records: Vec<(u64, Vec<u8>)>,
    behind: Behind,
    purge_below: Option<u64>,
    /// One past the last index that was purged, or is being purged.
    purged_below: u64,
    old: OldSeals,
    install: Option<Install>,
    stale: Vec<u64>,
    failed: Option<String>,
    stopping: bool,
    flushes: Arc<Durations>,
    appends: Arc<Durations>,
    alarm: Option<Alarm>,
}

impl Writer {
    pub fn new(
        backend: Box<dyn Backend>,
        sealer: Arc<Sealer>,
        guard: Option<Guard>,
        resume: Resume,
    ) -> Self {
        let writer = Writer {
            backend,
            sealer,
            guard,
            generation: resume.generation,
            log_end: resume.log_end,
            flushed: resume.log_end,
            vote: resume.vote,
            records: Vec::new(),
            behind: resume.behind,
            purge_below: (resume.purged_below > 0).then_some(resume.purged_below),
            purged_below: resume.purged_below,
            old: resume.old,
            install: None,
            stale: resume.stale,
            failed: None,
            stopping: false,
            flushes: Arc::default(),
            appends: Arc::default(),
            alarm: None,
        };
        writer.tell_old();
        writer
    }

    /// What records are sealed with.
    pub fn sealer(&self) -> Arc<Sealer> {
        self.sealer.clone()
    }

    /// How long turns with new entries took, until those were on the disk.
    pub fn appends(&self) -> Arc<Durations> {
        self.appends.clone()
    }

    /// Lets go of the disk, of which nothing is changed.
    pub fn into_parts(self) -> (Box<dyn Backend>, Arc<Sealer>) {
        (self.backend, self.sealer)
    }

    /// How long flushes took.
    pub fn flushes(&self) -> Arc<Durations> {
        self.flushes.clone()
    }

    /// Did the last process end while it wrote objects?
    #[cfg(test)]
    pub fn has_behind(&self) -> bool {
        self.behind.wait().is_some()
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping
    }

    /// What is told of the room on the disk, which is the one of `dir`.
    pub fn watch_room(&mut self, dir: PathBuf) -> Alarm {
        self.alarm.insert(Alarm::new(dir)).clone()
    }

    /// May `jobs` be written? Whoever wants to end is not held up.
    fn has_room(&mut self, jobs: &[Job]) -> bool {
        if self.failed.is_some() {
            return true;
        }
        let room = self.backend.room();
        if let Some(alarm) = &self.alarm {
            alarm.set(room);
        }
        room != Room::None || jobs.iter().any(|job| matches!(job, Job::Shutdown { .. }))
    }

    pub fn wait(&self) -> Wait {
        if self.failed.is_some() {
            return Wait::ForJob;
        }
        if self
            .alarm
            .as_ref()
            .is_some_and(|alarm| alarm.text().is_some())
        {
            return Wait::AtMost(LOOK_AGAIN);
        }
        if self.has_steps() {
            return Wait::AtMost(Duration::ZERO);
        }
        let guard = self.guard.as_ref().and_then(Guard::due_in);
        match self.behind.wait().into_iter().chain(guard).min() {
            // What nobody waits for comes without a word meanwhile, and has waits of its own that begin when it is taken.
            Some(time) => Wait::AtMost(time.min(COMMITTED_AFTER)),
            None => Wait::ForJob,
        }
    }

    /// Does `jobs`, flushes once if any of them asked for it, and tells whom it concerns.
    pub fn turn(&mut self, jobs: Vec<Job>) {
        let begun = Instant::now();
        let mut done = Vec::new();
        let result = match &self.failed {
            Some(why) => {
                jobs.into_iter().for_each(|job| refuse(job, &mut done));
                Err(io::Error::other(why.clone()))
            }
            // sled panics where it should fail; whoever waits is told all the same.
            None => catch_unwind(AssertUnwindSafe(|| self.write(jobs, &mut done)))
                .unwrap_or_else(|_| Err(io::Error::other("the database panicked"))),
        };
        if let Err(error) = &result
            && self.failed.is_none()
        {
            self.fail(error);
        }
        if result.is_ok() && done.iter().any(|done| matches!(done, Done::Append(_))) {
            self.appends.add(begun.elapsed());
        }
        for done in done {
            done.tell(match &result {
                Ok(()) => Ok(()),
                Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
            });
        }
        if self.failed.is_none()
            && let Err(error) = self.witness()
        {
            self.fail(&error);
        }
    }

    fn fail(&mut self, error: &io::Error) {
        tracing::error!(%error, "writing to the store's disk failed; this server stops taking part");
        self.failed = Some(format!("the store's disk failed: {error}"));
    }

    /// A dropped job's callback never comes; so jobs after a failure are each told.
    fn write(&mut self, jobs: Vec<Job>, done: &mut Vec<Done>) -> io::Result<()> {
        let mut outcome = Ok(());
        let mut flush = false;
        for job in jobs {
            if outcome.is_ok() {
                outcome = self.take(job, done, &mut flush);
            } else {
                refuse(job, done);
            }
        }
        outcome?;
        self.write_log()?;
        if flush {
            self.flush()?;
        }
        Ok(())
    }

    fn take(&mut self, job: Job, done: &mut Vec<Done>, flush: &mut bool) -> io::Result<()> {
        match job {
            Job::Append(entries, callback) => {
                done.push(Done::Append(callback));
                *flush = true;
                for entry in entries {
                    let index = entry.log_id.index;
                    let sealed =
                        self.sealer
                            .seal("log", &index.to_be_bytes(), &record::log_entry(&entry));
                    self.records.push((index, sealed));
                    self.log_end = index + 1;
                }
            }
            Job::Vote(vote, reply) => {
                done.push(Done::Reply(reply));
                *flush = true;
                self.write_log()?;
                self.put_meta(names::VOTE, &record::vote(&vote))?;
                self.vote = Some(vote);
            }
            Job::Committed(id) => self.behind.commit(id),
            Job::Truncate { from, reply } => {
                done.push(Done::Reply(reply));
                *flush = true;
                self.write_log()?;
                if let Some(guard) = &mut self.guard {
                    guard.lower(from)?;
                }
                self.backend.truncate(from)?;
                self.log_end = self.log_end.min(from);
                self.flushed = self.flushed.min(from);
                self.old.log_below = self.old.log_below.min(from);
                self.tell_old();
            }
            Job::Purge { up_to, reply } => {
                done.push(Done::Reply(reply));
                *flush = true;
                self.write_log()?;
                // What the purged entries changed must be on the disk before they are not.
                if self.may_purge(up_to) {
                    self.purge(up_to)?;
                }
            }
            Job::State {
                changed,
                skipped,
                applied,
            } => self.behind.add(changed, skipped, applied),
            Job::Install {
                state,
                applied,
                reply,
            } => {
                if let Some(old) = self.install.take() {
                    self.stale.push(old.generation);
                    Done::Reply(old.reply).tell(Err(io::Error::other(
                        "another snapshot was installed instead",
                    )));
                }
                let generation = 1 + self
                    .backend
                    .generations()?
                    .into_iter()
                    .max()
                    .unwrap_or(0)
                    .max(self.generation);
                self.install = Some(Install {
                    state,
                    generation,
                    after: None,
                    applied,
                    reply,
                });
            }
            Job::ReadLog { range, reply } => {
                self.write_log()?;
                let entries = self.read_log(range);
                drop(reply.send(entries));
            }
            Job::ChooseKey { id, reply } => {
                *flush = true;
                self.choose_key(id, reply, done)?;
            }
            Job::Shutdown { reply } => {
                done.push(Done::Reply(reply));
                *flush = true;
                self.stopping = true;
                self.write_log()?;
                self.write_behind()?;
            }
        }
        Ok(())
    }

    fn read_log(&mut self, range: Range<u64>) -> io::Result<Vec<LogEntry>> {
        let records = self.backend.read_log(range.start, range.end)?;
        records
            .into_iter()
            .map(|(index, sealed)| open_log_entry(&self.sealer, index, sealed))
            .collect()
    }

    /// A little of the work that is not urgent; true if there is more.
    pub fn step(&mut self) -> bool {
        if self.failed.is_some() {
            return false;
        }
        let step = catch_unwind(AssertUnwindSafe(|| self.try_step()))
            .unwrap_or_else(|_| Err(io::Error::other("the database panicked")));
        match step {
            Ok(more) => more,
            Err(error) => {
                self.fail(&error);
                false
            }
        }
    }

    fn try_step(&mut self) -> io::Result<bool> {
        self.step_behind()?;
        if let Some(below) = self.purge_below
            && self.backend.purge(below, STEP)?
        {
            self.purge_below = None;
        }
        if self.install.is_some() {
            self.step_install()?;
        }
        self.step_reseal()?;
        if let Some(generation) = self.stale.last().copied()
            && self.backend.drop_state(generation, STEP)?
        {
            self.stale.pop();
        }
        // A burst syncs it now and then; this is for the end of one.
        if let Some(guard) = self.guard.as_mut().filter(|guard| guard.is_due()) {
            guard.sync()?;
        }
        Ok(self.has_steps())
    }

    /// Is there work that is not urgent and need not wait?
    fn has_steps(&self) -> bool {
        self.behind.wait() == Some(Duration::ZERO)
            || self.purge_below.is_some()
            || self.install.is_some()
            || self.old.state.is_some()
            || !self.stale.is_empty()
    }

    fn step_install(&mut self) -> io::Result<()> {
        let Some(mut install) = self.install.take() else {
            return Ok(());
        };
        let mut ops: Vec<StateOp> = Vec::new();
        let mut bytes = 0;
        let mut last = None;
        for entry in install.state.after(install.after.as_ref()) {
            if ops.len() >= STEP || bytes >= STEP_BYTES {
                break;
            }
            bytes += entry.json.len();
            ops.push((entry.key.clone(), Some(self.seal_object(entry))));
            last = Some(entry.key.clone());
        }
        if last.is_some() {
            self.backend.state(install.generation, ops, None)?;
            install.after = last;
            self.install = Some(install);
            return Ok(());
        }
        // All of it is there: one pointer switches to it.
        let applied = self
            .sealer
            .seal("applied", b"", &record::applied(&install.applied));
        self.backend
            .state(install.generation, Vec::new(), Some(&applied))?;
        self.flush()?;
        self.put_meta(names::GENERATION, &record::number(install.generation))?;
        self.flush()?;
        self.stale
            .push(std::mem::replace(&mut self.generation, install.generation));
        self.replace_behind(install.applied.log_id)?;
        self.reseal_from_start();
        Done::Reply(install.reply).tell(Ok(()));
        Ok(())
    }

    fn write_log(&mut self) -> io::Result<()> {
        if self.records.is_empty() {
            Ok(())
        } else {
            self.backend.append(std::mem::take(&mut self.records))
        }
    }

    fn seal_object(&self, entry: &Entry) -> Vec<u8> {
        self.sealer
            .seal("state", entry.key.as_bytes(), &record::object(entry))
    }

    fn put_meta(&mut self, name: &str, record: &[u8]) -> io::Result<()> {
        self.backend
            .put_meta(name, &self.sealer.seal("meta", name.as_bytes(), record))
    }

    fn flush(&mut self) -> io::Result<()> {
        let begun = Instant::now();
        if !sabotage::on(Sabotage::SkipFlush) {
            self.backend.flush()?;
        }
        self.flushes.add(begun.elapsed());
        self.flushed = self.log_end;
        self.behind.flushed();
        // A vote is not answered before both files hold it.
        match &self.guard {
            Some(guard) if guard.testimony().vote != self.vote => self.witness(),
            Some(_) | None => Ok(()),
        }
    }

    /// Tells the guard what is flushed. Nobody waits for it: until it knows, it claims less.
    fn witness(&mut self) -> io::Result<()> {
        match &mut self.guard {
            Some(guard) => guard.advance(self.flushed, self.vote),
            None => Ok(()),
        }
    }

    /// The last flush of an owner that ends.
    pub(crate) fn finish(&mut self) {
        if self.failed.is_none() {
            let result = self
                .write_log()
                .and_then(|()| self.write_behind())
                .and_then(|()| self.flush())
                .and_then(|()| self.witness());
            let synced = result.and_then(|()| self.guard.as_mut().map_or(Ok(()), Guard::sync));
            if let Err(error) = synced {
                tracing::error!(%error, "the last flush of the store failed");
            }
        }
    }
}

/// The entry in a sealed log record, which must be the one its place says.
pub(crate) fn open_log_entry(sealer: &Sealer, index: u64, sealed: Vec<u8>) -> io::Result<LogEntry> {
    let bad = |what: String| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("log entry {index}: {what}"),
        )
    };
    let record = sealer
        .open("log", &index.to_be_bytes(), sealed)
        .map_err(|error| bad(error.to_string()))?;
    let entry = record::read_log_entry(&record)
        .map_err(|error| io::Error::new(error.kind(), format!("log entry {index}: {error}")))?;
    if entry.log_id.index == index {
        Ok(entry)
    } else {
        Err(bad("it belongs elsewhere".into()))
    }
}

fn refuse(job: Job, done: &mut Vec<Done>) {
    match job {
        Job::Append(_, callback) => done.push(Done::Append(callback)),
        Job::Vote(_, reply)
        | Job::Truncate { reply, .. }
        | Job::Purge { reply, .. }
        | Job::Install { reply, .. }
        | Job::Shutdown { reply } => done.push(Done::Reply(reply)),
        // The receiver sees the dropped reply.
        Job::ReadLog { .. } | Job::ChooseKey { .. } | Job::Committed(_) | Job::State { .. } => {}
    }
}
