//! What a run proves: every check over what clients were told, and the figures that a person wants to see.

use crate::history::{Action, History, Operation, Outcome, Time};
use crate::linear::{self, Violation};
use crate::watchers::{Seen, Watched};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

mod restored;

#[derive(Debug, Default)]
pub struct Verdict {
    pub operations: usize,
    pub acknowledged: usize,
    pub refused: usize,
    pub unknown: usize,
    /// Acknowledged writes that the objects do not show at the end.
    pub lost: usize,
    /// Acknowledged writes that were later than the backup which the cluster was restored from.
    pub given_up: usize,
    /// Consistent reads of a value that had been overwritten, and the overwriting acknowledged, before they began.
    pub stale: usize,
    pub keys: usize,
    /// From each fault to the return of the first write that began after it, in milliseconds; `None`: there was none.
    pub recoveries: Vec<Option<u64>>,
    pub watch: WatchFigures,
    /// Anything that must not be, in sentences. Empty: all is well.
    pub wrong: Vec<String>,
}

#[derive(Debug, Default)]
pub struct WatchFigures {
    pub watchers: usize,
    pub events: usize,
    pub relists: usize,
}

impl Verdict {
    /// Of another life of the same cluster.
    fn add(&mut self, other: Self) {
        self.operations += other.operations;
        self.acknowledged += other.acknowledged;
        self.refused += other.refused;
        self.unknown += other.unknown;
        self.lost += other.lost;
        self.given_up += other.given_up;
        self.stale += other.stale;
        self.keys += other.keys;
        self.wrong.extend(other.wrong);
    }
}

pub fn judge(history: &History) -> Verdict {
    let mut verdict = match &history.restored {
        None => judge_one(history, u64::MAX),
        Some(restored) => {
            let (before, after) = restored::apart(history, restored);
            let mut verdict = judge_one(&before, restored.revision);
            verdict.add(judge_one(&after, u64::MAX));
            restored::kept(&history.end, restored, &mut verdict.wrong);
            verdict
        }
    };
    let faults = history.marks.iter().filter(|mark| mark.fault);
    verdict.recoveries = faults
        .map(|mark| recovery(&history.operations, mark.at))
        .collect();
    verdict
}

/// One life of a cluster. Of what was acknowledged, that up to revision `held` must be there at its end, and no more.
fn judge_one(history: &History, held: u64) -> Verdict {
    let operations = &history.operations;
    let writes = || operations.iter().filter(|one| one.action != Action::Read);
    let count = |outcome: Outcome| writes().filter(|one| one.outcome == outcome).count();
    let mut verdict = Verdict {
        operations: operations.len(),
        acknowledged: writes().filter(|one| one.acknowledged().is_some()).count(),
        refused: count(Outcome::Refused),
        unknown: count(Outcome::Unknown),
        stale: stale(operations),
        ..Verdict::default()
    };
    kept(history, held, &mut verdict);
    ordered(operations, &mut verdict.wrong);
    if verdict.stale > 0 {
        verdict
            .wrong
            .push(format!("{} stale consistent reads", verdict.stale));
    }
    let mut by_key: BTreeMap<&str, Vec<Operation>> = BTreeMap::new();
    for one in operations {
        by_key.entry(&one.key).or_default().push(one.clone());
    }
    verdict.keys = by_key.len();
    for (key, operations) in by_key {
        match linear::check(&operations) {
            Ok(()) => {}
            Err(Violation::None(stuck)) => verdict.wrong.push(format!(
                "not linearizable: {key}, no order explains {stuck:?}"
            )),
            Err(Violation::Undecided) => verdict
                .wrong
                .push(format!("not decided whether {key} is linearizable")),
        }
    }
    verdict
}

/// Every acknowledged write is in its object's history, and nothing is there twice, or refused.
fn kept(history: &History, held: u64, verdict: &mut Verdict) {
    let end: BTreeMap<&str, &[String]> = history
        .end
        .iter()
        .map(|object| (object.key.as_str(), &object.values[..]))
        .collect();
    for (key, values) in &end {
        let mut once = BTreeSet::new();
        for value in values.iter().filter(|value| !once.insert(*value)) {
            verdict
                .wrong
                .push(format!("{value} was written to {key} twice"));
        }
    }
    for one in &history.operations {
        let Some(value) = one.value() else { continue };
        let is_there = end
            .get(one.key.as_str())
            .is_some_and(|values| values.iter().any(|v| v == value));
        match one.outcome {
            Outcome::Done { revision, .. } if revision > held => {
                verdict.given_up += 1;
                if is_there {
                    let wrong = format!("later than the backup, and yet it is there: {one:?}");
                    verdict.wrong.push(wrong);
                }
            }
            Outcome::Done { .. } if !is_there => {
                verdict.lost += 1;
                verdict.wrong.push(format!("lost: {one:?}"));
            }
            Outcome::Refused | Outcome::Conflict | Outcome::Absent if is_there => {
                verdict
                    .wrong
                    .push(format!("refused, and yet it happened: {one:?}"));
            }
            _ => {}
        }
    }
}

/// Revisions grow with time, over all objects: what begins after an acknowledgement has a higher one.
fn ordered(operations: &[Operation], wrong: &mut Vec<String>) {
    let mut highest = 0;
    for (one, write) in in_time(operations) {
        match (write, one.acknowledged()) {
            (Step::Returned, Some(revision)) => highest = highest.max(revision),
            // Kept in order of return below: a write knows what had returned when it began.
            (Step::Invoked, Some(revision)) if revision <= highest => {
                wrong.push(format!(
                    "revision {highest} was acknowledged before this began: {one:?}"
                ));
            }
            _ => {}
        }
    }
}

/// Reads that show an older revision than one acknowledged before they began.
fn stale(operations: &[Operation]) -> usize {
    let mut newest: BTreeMap<&str, u64> = BTreeMap::new();
    let mut stale = 0;
    for (one, step) in in_time(operations) {
        let newest = newest.entry(&one.key).or_default();
        match (step, &one.action, &one.outcome) {
            (Step::Returned, _, Outcome::Done { revision, .. }) => {
                *newest = (*newest).max(*revision)
            }
            (Step::Invoked, Action::Read, Outcome::Done { revision, .. }) => {
                stale += usize::from(*revision < *newest)
            }
            (Step::Invoked, Action::Read, Outcome::Absent) => stale += usize::from(*newest > 0),
            _ => {}
        }
    }
    stale
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Invoked,
    Returned,
}

fn in_time(operations: &[Operation]) -> impl Iterator<Item = (&Operation, Step)> {
    let mut steps: Vec<(Time, Step, usize)> = Vec::new();
    for (i, one) in operations.iter().enumerate() {
        steps.push((one.invoked, Step::Invoked, i));
        steps.push((one.returned, Step::Returned, i));
    }
    steps.sort_unstable();
    steps.into_iter().map(|(_, step, i)| (&operations[i], step))
}

fn recovery(operations: &[Operation], fault: Time) -> Option<u64> {
    let after = operations
        .iter()
        .filter(|one| one.invoked >= fault && one.acknowledged().is_some());
    after.map(|one| (one.returned - fault) / 1_000_000).min()
}

/// The watch contract: each change once, in order, none left out but where 410 said so.
pub fn judge_watches(watched: &Watched, history: &History, behind: usize, verdict: &mut Verdict) {
    let mut truth: BTreeSet<u64> = watched.changes.lock().keys().copied().collect();
    truth.extend(
        history
            .operations
            .iter()
            .filter_map(Operation::acknowledged),
    );
    for one in &history.operations {
        let seen = watched.changes.lock();
        let seen = one.acknowledged().and_then(|revision| seen.get(&revision));
        if seen.is_some_and(|(key, value)| *key != one.key || Some(value.as_str()) != one.value()) {
            verdict
                .wrong
                .push(format!("watchers saw {seen:?} at the revision of {one:?}"));
        }
    }
    verdict.wrong.extend(watched.odd.lock().iter().cloned());
    verdict.watch.watchers = watched.watchers.len();
    for (watcher, seen) in watched.watchers.iter().enumerate() {
        let seen = seen.lock();
        verdict.watch.events += seen
            .iter()
            .filter(|one| matches!(one, Seen::Change(_)))
            .count();
        verdict.watch.relists += seen
            .iter()
            .filter(|one| matches!(one, Seen::Listed(_)))
            .count()
            .saturating_sub(1);
        let told = history
            .restored
            .as_ref()
            .map(|restored| restored::told(&seen, restored));
        for why in [Some(watch_contract(&seen, &truth)), told]
            .into_iter()
            .flatten()
            .filter_map(Result::err)
        {
            verdict.wrong.push(format!("watcher {watcher}: {why}"));
        }
    }
    if behind > 0 {
        verdict
            .wrong
            .push(format!("{behind} watchers never saw the last write"));
    }
}

/// `truth`: the revisions of all changes there were.
pub fn watch_contract(seen: &[Seen], truth: &BTreeSet<u64>) -> Result<(), String> {
    let mut at = None;
    for one in seen {
        at = Some(match (*one, at) {
            // A list leaves out what lies between, and may not go back.
            (Seen::Listed(revision), Some(last)) if revision < last => {
                return Err(format!("listed revision {revision} after {last}"));
            }
            (Seen::Listed(revision), _) => revision,
            (_, None) => return Err("events before a list".to_owned()),
            (Seen::Change(revision), Some(last)) => {
                if revision <= last {
                    return Err(format!("revision {revision} came after {last}"));
                }
                if let Some(missed) = truth.range(last + 1..revision).next() {
                    return Err(format!(
                        "revision {missed} never came: {revision} follows {last}"
                    ));
                }
                revision
            }
            (Seen::Bookmark(revision), Some(last)) => {
                if revision < last {
                    return Err(format!("a bookmark for {revision} came after {last}"));
                }
                if let Some(missed) = truth.range(last + 1..revision + 1).next() {
                    return Err(format!(
                        "revision {missed} never came before the bookmark {revision}"
                    ));
                }
                revision
            }
        });
    }
    Ok(())
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let linear = self.wrong.iter().all(|w| !w.contains("linearizable"));
        write!(
            f,
            "{} operations on {} keys; writes: {} acknowledged, {} refused, {} unknown; lost {}; stale reads {}; linearizable {}",
            self.operations,
            self.keys,
            self.acknowledged,
            self.refused,
            self.unknown,
            self.lost,
            self.stale,
            if linear { "yes" } else { "NO" }
        )?;
        if self.given_up > 0 {
            write!(f, "; {} later than the backup", self.given_up)?;
        }
        let mut times: Vec<u64> = self.recoveries.iter().flatten().copied().collect();
        times.sort_unstable();
        if let Some(max) = times.last() {
            let p50 = times[times.len() / 2];
            write!(
                f,
                "; {} times without a leader, next write accepted after p50 {p50} ms, max {max} ms",
                times.len()
            )?;
        }
        let watch = &self.watch;
        if watch.watchers > 0 {
            write!(
                f,
                "; {} watchers saw {} events, {} re-lists",
                watch.watchers, watch.events, watch.relists
            )?;
        }
        for wrong in self.wrong.iter().take(10) {
            write!(f, "\n     WRONG: {wrong}")?;
        }
        if self.wrong.len() > 10 {
            write!(f, "\n     ... and {} more", self.wrong.len() - 10)?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "verdict_tests.rs"]
mod tests;
