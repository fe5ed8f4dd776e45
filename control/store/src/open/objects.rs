//! Reading back the objects: as of their applied record, or, where a process ended while it wrote them, as of the end of
//! that writing.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use openraft::EntryPayload;

use super::invalid;
use crate::backend::Backend;
use crate::io::reseal::OldSeals;
use crate::io::{Redone, open_log_entry};
use crate::level::{self, Level};
use crate::raft::{Command, LogId};
use crate::record::{self, Redo};
use crate::seal::Sealer;
use crate::state::State;
use crate::state::redo::Skipped;

/// Log entries read at once.
const TOGETHER: u64 = 256;

pub(super) fn load_applied(
    backend: &mut dyn Backend,
    sealer: &Sealer,
    generation: u64,
    old: &mut OldSeals,
) -> io::Result<record::Applied> {
    let Some(sealed) = backend.applied(generation)? else {
        return Ok(record::Applied::default());
    };
    old.see(sealer.is_old(&sealed));
    let opened = sealer
        .open("applied", b"", sealed)
        .map_err(|error| invalid(error.to_string()))?;
    record::read_applied(&opened).map_err(|error| io::Error::new(error.kind(), error.to_string()))
}

/// The state as of its applied record, or as of the end of what was being written over it.
pub(super) fn load_state(
    backend: &mut dyn Backend,
    sealer: &Sealer,
    generation: u64,
    (applied, redo): (&record::Applied, Option<Redo>),
    supports: Level,
    old: &mut OldSeals,
) -> io::Result<(State, Redone)> {
    let redo = redo.filter(|redo| redo.until.log_id > applied.log_id);
    let end = redo.as_ref().map_or(applied, |redo| &redo.until);
    level::holdable(end.level, supports)?;
    let mut state = State::default();
    state.raise(end.level);
    backend.scan_state(generation, &mut |key, sealed| {
        let name = key.clone();
        let bad = |error: &dyn std::fmt::Display| invalid(format!("its object {name}: {error}"));
        old.see(sealer.is_old(&sealed));
        let opened = sealer
            .open("state", key.as_bytes(), sealed)
            .map_err(|error| bad(&error))?;
        let entry = record::read_object(key, &opened)
            .map_err(|error| io::Error::new(error.kind(), format!("its object {name}: {error}")))?;
        if entry.revision > end.revision {
            return Err(bad(&"it is newer than the state it belongs to"));
        }
        state.load(Arc::new(entry));
        Ok(())
    })?;
    state.set_revision(applied.revision);
    let redone = match redo {
        Some(redo) => redo_log(backend, sealer, &mut state, applied.log_id, redo)?,
        None => Redone::default(),
    };
    let end = redone.applied.as_ref().unwrap_or(applied);
    if (state.count() as u64, state.revision()) != (end.count, end.revision) {
        return Err(invalid(format!(
            "it has {} objects at revision {}, but {} at {} were written",
            state.count(),
            state.revision(),
            end.count,
            end.revision
        )));
    }
    Ok((state, redone))
}

/// Does again what the entries after `from` did, up to where objects were being written.
fn redo_log(
    backend: &mut dyn Backend,
    sealer: &Sealer,
    state: &mut State,
    from: Option<LogId>,
    redo: Redo,
) -> io::Result<Redone> {
    let end = redo.until.log_id.map_or(0, |id| id.index + 1);
    let skipped: BTreeSet<Skipped> = redo.skipped.iter().copied().collect();
    let mut touched = BTreeSet::new();
    let mut next = from.map_or(0, |id| id.index + 1);
    tracing::info!(
        from = next,
        end,
        "objects were being written: their log is redone"
    );
    while next < end {
        let first = next;
        for (index, sealed) in backend.read_log(first, end.min(first + TOGETHER))? {
            if index != next {
                break;
            }
            next += 1;
            let entry = open_log_entry(sealer, index, sealed)?;
            let EntryPayload::Normal(Command::Batch(batch)) = entry.payload else {
                continue;
            };
            for (proposal, number) in batch.0.iter().zip(0..) {
                let has_none = |change| {
                    skipped.contains(&Skipped {
                        index,
                        proposal: number,
                        change,
                    })
                };
                if !has_none(None) {
                    let redone = state.redo(&proposal.txn, |at| has_none(Some(at)), &mut touched);
                    redone.map_err(|error| invalid(error.to_string()))?;
                }
            }
        }
        if next == first {
            return Err(invalid(format!("its log lacks entry {next}")));
        }
    }
    let changed = touched.into_iter();
    let changed = changed.map(|key| {
        let entry = state.get(&key).cloned();
        (key, entry)
    });
    Ok(Redone {
        changed: changed.collect(),
        skipped: redo.skipped,
        applied: Some(redo.until),
    })
}
