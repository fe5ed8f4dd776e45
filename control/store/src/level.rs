//! The level: which entry formats and which meaning of them every member of the cluster understands.
//!
//! It is a number in the replicated state, 1 in a new cluster. Each program supports the levels from 1 to
//! [`Level::HIGHEST`]. A leader proposes only what the cluster's level knows; an entry of its own kind raises the level
//! once every member, voter or learner, was heard to support the higher one. It never goes down: an older program could
//! not read what was written since. Whoever meets what is above its own level stops and says so; it never skips.
//!
//! To change a format or what an entry means: a new level here, the old way kept for the levels below it.

use std::collections::BTreeMap;
use std::fmt;

use openraft::EntryPayload;
use tokio::sync::watch;

use crate::raft::{Batch, Command, LogEntry};
use crate::txn::{Change, Epoch};

/// The lowest entry format and semantics that every member supports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Level(pub u32);

impl Level {
    /// What every cluster begins with.
    pub const FIRST: Level = Level(1);
    /// An update may be told as what it changes of the object (`Change::Splice`), and the level can be read in what is
    /// stored.
    pub const SPLICES: Level = Level(2);
    /// What this program supports, with everything below.
    pub const HIGHEST: Level = Level::SPLICES;

    /// What a server supports that says `said`; servers of before levels were spoken of say nothing.
    #[must_use]
    pub fn told(said: u32) -> Level {
        Level(said.max(Level::FIRST.0))
    }
}

impl Default for Level {
    fn default() -> Self {
        Level::FIRST
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The order to raise the level. Under another reign than the one it was decided in it does nothing: the members may be
/// others by then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Raise {
    pub epoch: Epoch,
    pub to: Level,
}

/// Why the level was not raised.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RaiseError {
    #[error(
        "the level of the cluster stays at {level}: server {server} supports no more. Start the newer release there, or remove it"
    )]
    Unsupported { server: u64, level: Level },
    #[error("the level of the cluster stays as it is: server {0} did not say what it supports")]
    Unheard(u64),
    #[error("this server's leadership has ended")]
    Deposed,
    #[error("the outcome is unknown: the level may have been raised")]
    Unknown,
}

/// What cannot be done here because it is above what this program, or the cluster, knows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LevelError {
    #[error(
        "log entry {index} is of level {needs}, and this release supports levels up to {supports}. Start the release that the \
         other servers run, or a newer one"
    )]
    Newer {
        index: u64,
        needs: Level,
        supports: Level,
    },
    #[error(
        "log entry {index} is of level {needs}, and was proposed while the cluster was at level {level}"
    )]
    Early {
        index: u64,
        needs: Level,
        level: Level,
    },
    #[error(
        "the state is of level {needs}, and this release supports levels up to {supports}. Start the release that wrote it, or a \
         newer one"
    )]
    State { needs: Level, supports: Level },
}

impl From<LevelError> for std::io::Error {
    fn from(error: LevelError) -> Self {
        std::io::Error::new(std::io::ErrorKind::Unsupported, error)
    }
}

/// What whoever reads or applies `command` must support.
pub(crate) fn needs(command: &Command) -> Level {
    match command {
        Command::Raise(raise) => raise.to.max(Level::SPLICES),
        Command::Batch(batch) => batch_needs(batch),
    }
}

pub(crate) fn batch_needs(batch: &Batch) -> Level {
    let mut changes = batch.0.iter().flat_map(|one| &one.txn.changes);
    match changes.any(|change| matches!(change, Change::Splice { .. })) {
        true => Level::SPLICES,
        false => Level::FIRST,
    }
}

/// May a replica that supports `supports` have this entry in its log?
pub(crate) fn readable(entry: &LogEntry, supports: Level) -> Result<(), LevelError> {
    match entry_needs(entry) {
        needs if needs > supports => Err(LevelError::Newer {
            index: entry.log_id.index,
            needs,
            supports,
        }),
        _ => Ok(()),
    }
}

/// May this entry be applied by a replica that supports `supports` to a state of `level`?
pub(crate) fn applicable(
    entry: &LogEntry,
    level: Level,
    supports: Level,
) -> Result<(), LevelError> {
    readable(entry, supports)?;
    match &entry.payload {
        EntryPayload::Normal(command @ Command::Batch(_)) if needs(command) > level => {
            Err(LevelError::Early {
                index: entry.log_id.index,
                needs: needs(command),
                level,
            })
        }
        _ => Ok(()),
    }
}

/// What whoever has this entry in its log must support.
pub(crate) fn entry_needs(entry: &LogEntry) -> Level {
    match &entry.payload {
        EntryPayload::Normal(command) => needs(command),
        EntryPayload::Blank | EntryPayload::Membership(_) => Level::FIRST,
    }
}

/// May a state of `level` be held by a replica that supports `supports`?
pub(crate) fn holdable(level: Level, supports: Level) -> Result<(), LevelError> {
    match level > supports {
        true => Err(LevelError::State {
            needs: level,
            supports,
        }),
        false => Ok(()),
    }
}

/// The level that a cluster of these members can be raised to, if it is higher than its own.
///
/// # Errors
/// A member that was not heard, or one that holds back others which support more.
pub(crate) fn higher(
    level: Level,
    members: impl Iterator<Item = u64>,
    reports: &BTreeMap<u64, Level>,
) -> Result<Option<Level>, RaiseError> {
    let mut least: Option<(Level, u64)> = None;
    let mut most = level;
    for id in members {
        let supports = *reports.get(&id).ok_or(RaiseError::Unheard(id))?;
        most = most.max(supports);
        if least.is_none_or(|(known, _)| supports < known) {
            least = Some((supports, id));
        }
    }
    match least {
        Some((to, _)) if to > level => Ok(Some(to)),
        Some((_, server)) if most > level => Err(RaiseError::Unsupported { server, level }),
        _ => Ok(None),
    }
}

/// Why this replica stopped by its own decision: it was sent something that it does not know.
#[derive(Clone, Debug, Default)]
pub(crate) struct Halt(watch::Sender<Option<String>>);

impl Halt {
    /// The first reason stays.
    pub fn now(&self, why: String) {
        self.0.send_if_modified(|known| match known {
            Some(_) => false,
            None => {
                tracing::error!("{why}");
                *known = Some(why);
                true
            }
        });
    }

    pub fn is_halted(&self) -> bool {
        self.0.borrow().is_some()
    }

    /// Returns once there is a reason.
    pub async fn reason(&self) -> String {
        let mut halted = self.0.subscribe();
        let reason = halted.wait_for(Option::is_some).await;
        // The sender lives as long as `self`.
        reason.ok().and_then(|why| why.clone()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_rises_once_all_members_support_it() {
        let reports = |all: &[(u64, u32)]| -> BTreeMap<u64, Level> {
            all.iter().map(|(id, level)| (*id, Level(*level))).collect()
        };
        let held = |server, level| {
            Err(RaiseError::Unsupported {
                server,
                level: Level(level),
            })
        };
        type Case = (
            &'static str,
            u32,
            &'static [u64],
            &'static [(u64, u32)],
            Result<Option<Level>, RaiseError>,
        );
        let cases: [Case; 8] = [
            ("alone", 1, &[1], &[(1, 2)], Ok(Some(Level(2)))),
            (
                "all of three",
                1,
                &[1, 2, 3],
                &[(1, 2), (2, 2), (3, 2)],
                Ok(Some(Level(2))),
            ),
            (
                "several at once",
                1,
                &[1, 2],
                &[(1, 4), (2, 3)],
                Ok(Some(Level(3))),
            ),
            (
                "one supports less",
                1,
                &[1, 2, 3],
                &[(1, 2), (2, 1), (3, 2)],
                held(2, 1),
            ),
            (
                "one is silent",
                1,
                &[1, 2, 3],
                &[(1, 2), (3, 2)],
                Err(RaiseError::Unheard(2)),
            ),
            (
                "one that is no member does not count",
                1,
                &[1],
                &[(1, 2), (9, 1)],
                Ok(Some(Level(2))),
            ),
            ("nothing to raise", 2, &[1, 2], &[(1, 2), (2, 2)], Ok(None)),
            (
                "it never goes down",
                2,
                &[1, 2],
                &[(1, 1), (2, 1)],
                Ok(None),
            ),
        ];
        for (name, level, members, said, expected) in cases {
            let found = higher(Level(level), members.iter().copied(), &reports(said));
            assert_eq!(found, expected, "{name}");
        }
    }
}
