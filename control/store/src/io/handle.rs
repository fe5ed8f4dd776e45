//! How the owner of the disk is given its work: the jobs, the ways to send them, and the loop of its thread.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use caravel_api::Key;
use openraft::storage::IOFlushed;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::Writer;
use super::queue::{Receiver, Sender};
use crate::entry::Entry;
use crate::keys::KeyError;
use crate::raft::{LogEntry, LogId, TypeConfig, Vote};
use crate::record::Applied;
use crate::state::State;
use crate::state::redo::Skipped;

/// Jobs taken in one turn.
const TURN: usize = 4096;

pub(crate) type Reply<T> = oneshot::Sender<io::Result<T>>;

pub(crate) enum Job {
    /// Log entries that continue the log; the callback is for when they are flushed.
    Append(Vec<LogEntry>, IOFlushed<TypeConfig>),
    Vote(Vote, Reply<()>),
    /// Written behind, with what was applied.
    Committed(LogId),
    Truncate {
        from: u64,
        reply: Reply<()>,
    },
    Purge {
        up_to: LogId,
        reply: Reply<()>,
    },
    /// What an applied entry changed; written behind.
    State {
        changed: Vec<(Key, Option<Arc<Entry>>)>,
        skipped: Vec<Skipped>,
        applied: Applied,
    },
    /// Replace the whole state.
    Install {
        state: Arc<State>,
        applied: Applied,
        reply: Reply<()>,
    },
    ReadLog {
        range: Range<u64>,
        reply: Reply<Vec<LogEntry>>,
    },
    /// Seal with another key from now on.
    ChooseKey {
        id: u32,
        reply: Reply<Result<(), KeyError>>,
    },
    Shutdown {
        reply: Reply<()>,
    },
}

impl Job {
    /// Nobody waits for it, and what comes after it brings it along.
    pub fn can_wait(&self) -> bool {
        matches!(self, Job::Committed(_) | Job::State { .. })
    }
}

/// Where jobs are sent. In tests without a disk they are done at once, by the sender.
#[derive(Clone)]
pub(crate) enum IoHandle {
    Thread(Arc<Sender>),
    Inline(Arc<Mutex<Writer>>),
    /// A task instead of a thread, for simulations.
    Task(tokio::sync::mpsc::UnboundedSender<Job>),
}

impl IoHandle {
    pub fn send(&self, job: Job) -> io::Result<()> {
        match self {
            IoHandle::Thread(jobs) => jobs.send(job).then_some(()).ok_or_else(stopped),
            IoHandle::Task(jobs) => jobs.send(job).map_err(|_| stopped()),
            IoHandle::Inline(writer) => {
                let mut writer = writer.lock();
                writer.turn(vec![job]);
                while writer.step() {}
                Ok(())
            }
        }
    }

    /// Sends a job and waits for its answer.
    pub async fn ask<T>(&self, job: impl FnOnce(Reply<T>) -> Job) -> io::Result<T> {
        let (reply, answer) = oneshot::channel();
        self.send(job(reply))?;
        answer.await.map_err(|_| stopped())?
    }
}

fn stopped() -> io::Error {
    io::Error::other("the store's disk thread has stopped")
}

/// The body of the `raft-io` thread.
pub(crate) fn run(mut writer: Writer, jobs: Receiver) {
    let mut waiting = Vec::new();
    while let Some(come) = jobs.take(&writer.wait(), TURN) {
        waiting.extend(come);
        if !writer.has_room(&waiting) {
            continue;
        }
        writer.turn(std::mem::take(&mut waiting));
        if writer.stopping {
            break;
        }
        writer.step();
    }
    writer.finish();
}
