//! What the replicated log means, by the plainest program that could say it, and what must hold of every replica.
//!
//! Fed with what replicas have in their logs and have applied, in the order in which it is seen; knows nothing of how
//! they agree. Each `Err` is a broken promise, in a sentence.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hasher};

use caravel_api::{Encoded, Key, KeyRange, Revision};
use caravel_store::simulation::Payload;
use caravel_store::{Batch, Change, Command, Expect, Level, LogId, Splice, wire};

/// A term and a node.
pub type Reign = (u64, u64);
type Place = (Reign, u64);

fn place(id: &LogId) -> Place {
    ((id.leader_id.term, id.leader_id.node_id), id.index)
}

/// One change, as watchers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub key: Key,
    pub deleted: bool,
    /// What its author wrote; of a deletion, what was deleted.
    pub value: String,
}

struct Applied {
    id: Place,
    revision: u64,
    digest: u64,
}

/// What lies under a key.
struct Held {
    revision: u64,
    value: String,
    /// Of the digest.
    share: u64,
    json: Vec<u8>,
}

#[derive(Default)]
pub struct Model {
    /// By index.
    applied: Vec<Applied>,
    objects: BTreeMap<Key, Held>,
    level: Level,
    digest: u64,
    /// By revision, from 1.
    events: Vec<Event>,
    history: BTreeMap<Key, Vec<(u64, Option<String>)>>,
    values: BTreeSet<String>,
    /// Of each log entry ever seen: what it carries and which came before it.
    entries: BTreeMap<Place, (u64, Option<Place>)>,
    /// Of each reign: the life of the node that had it.
    leaders: BTreeMap<Reign, u64>,
    /// Acknowledged writes that are not in the log yet.
    owed: BTreeMap<u64, (Key, String)>,
    /// Values that are never to be seen, because their authors were told so.
    refused: BTreeSet<String>,
    /// The newest revision that any client was told of.
    pub told: u64,
    pub memberships: u64,
    pub deposed: u64,
    pub raises: u64,
    pub splices: u64,
}

/// A short name for some bytes.
pub fn digest(parts: &[&[u8]]) -> u64 {
    let mut hash = DefaultHasher::new();
    for part in parts {
        hash.write_usize(part.len());
        hash.write(part);
    }
    hash.finish()
}

/// An object's share of the digest of a state.
pub fn object_digest(key: &Key, revision: u64, json: &[u8]) -> u64 {
    digest(&[key.as_bytes(), &revision.to_be_bytes(), json])
}

fn payload_digest(payload: &Payload) -> u64 {
    match payload {
        Payload::Blank => 1,
        Payload::Normal(Command::Batch(batch)) => digest(&[b"batch", &wire::encode(batch)]),
        Payload::Normal(raise @ Command::Raise(_)) => {
            digest(&[b"raise", format!("{raise:?}").as_bytes()])
        }
        Payload::Membership(membership) => {
            digest(&[b"members", format!("{membership:?}").as_bytes()])
        }
    }
}

/// What an object of the load says of itself: its value, and the reign under which it was planned.
pub fn marks(json: &[u8]) -> (String, Option<Reign>) {
    let object: serde_json::Value = serde_json::from_slice(json).unwrap_or_default();
    let reign = object["reign"].as_str().and_then(|reign| {
        let (term, node) = reign.split_once('/')?;
        Some((term.parse().ok()?, node.parse().ok()?))
    });
    (
        object["value"].as_str().unwrap_or_default().to_owned(),
        reign,
    )
}

impl Model {
    /// A replica has this entry in its log, after `previous`.
    pub fn logged(
        &mut self,
        node: u64,
        previous: Option<&LogId>,
        id: &LogId,
        payload: &Payload,
    ) -> Result<(), String> {
        let (carries, previous) = (payload_digest(payload), previous.map(place));
        match self.entries.get_mut(&place(id)) {
            None => {
                self.entries.insert(place(id), (carries, previous));
                Ok(())
            }
            Some((known, _)) if *known != carries => Err(format!(
                "log matching: node {node} has another entry than others at {id}"
            )),
            Some((_, before)) => {
                if before.is_some() && previous.is_some() && *before != previous {
                    return Err(format!(
                        "log matching: before {id} node {node} has {previous:?}, another has {before:?}"
                    ));
                }
                *before = before.or(previous);
                Ok(())
            }
        }
    }

    /// A replica leads, in the `life`th life of its node. True if that is news.
    pub fn leads(&mut self, reign: Reign, life: u64) -> Result<bool, String> {
        match self.leaders.insert(reign, life) {
            None => Ok(true),
            Some(known) if known == life => Ok(false),
            Some(known) => Err(format!(
                "election safety: node {} leads in term {} in its life {life}, and did in its life {known}",
                reign.1, reign.0
            )),
        }
    }

    pub fn reigns(&self) -> u64 {
        self.leaders.len() as u64
    }

    /// One past the last index that anybody is known to have applied.
    pub fn end(&self) -> u64 {
        self.applied.len() as u64
    }

    pub fn revision(&self) -> u64 {
        self.events.len() as u64
    }

    /// The next entry was applied by some replica, for the first time.
    pub fn apply(&mut self, id: &LogId, payload: &Payload) -> Result<(), String> {
        if id.index != self.end() {
            return Err(format!("entry {id} was applied before {}", self.end()));
        }
        let reign = place(id).0;
        match payload {
            Payload::Blank => {}
            Payload::Membership(_) => self.memberships += 1,
            Payload::Normal(Command::Raise(raise)) => {
                if (raise.epoch.term, raise.epoch.node) == reign && raise.to > self.level {
                    self.level = raise.to;
                    self.raises += 1;
                }
            }
            Payload::Normal(Command::Batch(Batch(proposals))) => {
                for proposal in proposals.iter() {
                    let planned = proposal.epoch.map(|epoch| (epoch.term, epoch.node));
                    if planned.is_some_and(|planned| planned != reign) {
                        self.deposed += 1;
                        continue;
                    }
                    if self.holds(&proposal.txn.changes) {
                        for change in &proposal.txn.changes {
                            self.change(id, reign, change)?;
                        }
                    }
                }
            }
        }
        self.applied.push(Applied {
            id: place(id),
            revision: self.revision(),
            digest: self.digest,
        });
        Ok(())
    }

    fn holds(&self, changes: &[Change]) -> bool {
        changes.iter().all(|change| {
            let held = self.objects.get(change.key()).map(|held| held.revision);
            match change.expect() {
                Expect::Any => true,
                Expect::Absent => held.is_none(),
                Expect::At(revision) => held == Some(revision.0),
            }
        })
    }

    /// What an update makes of the object that is there.
    fn spliced(&mut self, id: &LogId, key: &Key, splice: &Splice) -> Result<Encoded, String> {
        self.splices += 1;
        if self.level < Level::SPLICES {
            return Err(format!("a splice at {id}, and the level is {}", self.level));
        }
        let old = self.objects.get(key).map_or(&[][..], |held| &held.json);
        let (head, tail) = (splice.head as usize, splice.tail as usize);
        if head + tail > old.len() {
            return Err(format!("the splice of {key} at {id} fits no object"));
        }
        let json = [&old[..head], &splice.middle, &old[old.len() - tail..]].concat();
        Encoded::new(json).map_err(|error| format!("the splice of {key} at {id}: {error}"))
    }

    fn change(&mut self, id: &LogId, reign: Reign, change: &Change) -> Result<(), String> {
        let (key, written) = match change {
            Change::Check { .. } => return Ok(()),
            Change::Put { key, object, .. } => (key, Some(object.clone())),
            Change::Delete { key, .. } => (key, None),
            Change::Splice { key, splice, .. } => (key, Some(self.spliced(id, key, splice)?)),
        };
        let revision = self.revision() + 1;
        let before = self.objects.remove(key);
        if let Some(held) = &before {
            self.digest = self.digest.wrapping_sub(held.share);
        }
        let value = match (&written, before) {
            (None, None) => return Ok(()),
            (None, Some(held)) => held.value,
            (Some(object), _) => {
                let json = object.at(Revision(revision));
                let (value, planned) = marks(&json);
                if planned.is_some_and(|planned| planned != reign) {
                    return Err(format!(
                        "a loop's write planned under {planned:?} was accepted under {reign:?}: {value} at {id}"
                    ));
                }
                if self.refused.contains(&value) {
                    return Err(format!(
                        "{value} was written at {id}, and its author was told that nothing happened"
                    ));
                }
                if !self.values.insert(value.clone()) {
                    return Err(format!("{value} was written a second time, at {id}"));
                }
                let share = object_digest(key, revision, &json);
                self.digest = self.digest.wrapping_add(share);
                let held = Held {
                    revision,
                    value: value.clone(),
                    share,
                    json: json.to_vec(),
                };
                self.objects.insert(key.clone(), held);
                value
            }
        };
        let deleted = written.is_none();
        self.history
            .entry(key.clone())
            .or_default()
            .push((revision, (!deleted).then(|| value.clone())));
        if let Some((promised, by)) = self.owed.remove(&revision)
            && (promised != *key || by != value)
        {
            return Err(lost(revision, &promised, &by));
        }
        self.events.push(Event {
            key: key.clone(),
            deleted,
            value,
        });
        Ok(())
    }

    /// What the level is once everything known is applied.
    pub fn level(&self) -> Level {
        self.level
    }

    /// A replica says that it has applied everything up to `id`, and is at `revision` with this digest.
    pub fn state(&self, node: u64, id: &LogId, revision: u64, digest: u64) -> Result<(), String> {
        let Some(known) = self.applied.get(id.index as usize) else {
            return Err(format!(
                "node {node} has applied {id}, and nobody has seen what"
            ));
        };
        if known.id != place(id) {
            return Err(format!(
                "state machine safety: node {node} has applied {id} where another has applied {:?}",
                known.id
            ));
        }
        if (known.revision, known.digest) != (revision, digest) {
            return Err(format!(
                "node {node} is at revision {revision} after {id}, with state {digest:016x}; it should be at {} with {:016x}",
                known.revision, known.digest
            ));
        }
        Ok(())
    }

    /// A write was acknowledged.
    pub fn acknowledged(&mut self, revision: u64, key: &Key, value: &str) -> Result<(), String> {
        self.told = self.told.max(revision);
        match self.events.get(revision as usize - 1) {
            Some(event) if event.key == *key && event.value == value => Ok(()),
            Some(_) => Err(lost(revision, key, value)),
            None => match self.owed.insert(revision, (key.clone(), value.to_owned())) {
                None => Ok(()),
                Some(_) => Err(format!(
                    "two writes were acknowledged as revision {revision}"
                )),
            },
        }
    }

    /// The author of `value` was told that nothing happened, or will.
    pub fn denied(&mut self, value: &str) -> Result<(), String> {
        if self.values.contains(value) {
            return Err(format!(
                "{value} was written, and its author was told that nothing happened"
            ));
        }
        self.refused.insert(value.to_owned());
        Ok(())
    }

    /// What `key` held at a revision that has been applied.
    pub fn value_at(&self, key: &Key, revision: u64) -> Option<&str> {
        let history = self.history.get(key)?;
        let until = history.partition_point(|(at, _)| *at <= revision);
        history[..until].last()?.1.as_deref()
    }

    /// A consistent read began when clients had been told of `floor`, and saw `value` at `revision`.
    pub fn read(
        &mut self,
        node: u64,
        floor: u64,
        revision: u64,
        key: &Key,
        value: Option<&str>,
    ) -> Result<(), String> {
        if revision < floor {
            return Err(format!(
                "a consistent read on node {node} saw revision {revision}, and {floor} was known before it began"
            ));
        }
        self.told = self.told.max(revision);
        if revision > self.revision() || self.value_at(key, revision) != value {
            return Err(format!(
                "a read on node {node} saw {value:?} in {key} at revision {revision}, which has {:?}",
                self.value_at(key, revision)
            ));
        }
        Ok(())
    }

    /// A watch of `range` that was at `after` saw nothing else up to `event` at `revision` (or up to `revision`).
    pub fn watched(
        &self,
        range: &KeyRange,
        after: u64,
        revision: u64,
        event: Option<&Event>,
    ) -> Result<(), String> {
        let clipped = |revision: u64| usize::try_from(revision).unwrap_or(usize::MAX);
        if revision < after || (event.is_some() && revision == after) {
            return Err(format!(
                "watch contract: an event of revision {revision} came after one of {after}"
            ));
        }
        if revision > self.revision() {
            return Err(format!(
                "watch contract: revision {revision} was seen before it was there"
            ));
        }
        let skipped = self.events[clipped(after)..clipped(revision)]
            .iter()
            .zip(after + 1..)
            .find(|(past, at)| range.contains(&past.key) && !(event.is_some() && *at == revision));
        if let Some((past, at)) = skipped {
            return Err(format!(
                "watch contract: after {after} came {revision}, and {past:?} of {at} never did"
            ));
        }
        match event {
            Some(event) if self.events[clipped(revision) - 1] != *event => Err(format!(
                "watch contract: {revision} is {:?} and was seen as {event:?}",
                self.events[clipped(revision) - 1]
            )),
            _ => Ok(()),
        }
    }

    /// At the end everything acknowledged is there.
    pub fn settled(&self) -> Result<(), String> {
        match self.owed.first_key_value() {
            None => Ok(()),
            Some((revision, (key, value))) => Err(lost(*revision, key, value)),
        }
    }
}

fn lost(revision: u64, key: &Key, value: &str) -> String {
    format!("lost write: {value} in {key} was acknowledged as revision {revision}")
}

#[cfg(test)]
#[path = "model_tests.rs"]
mod tests;
