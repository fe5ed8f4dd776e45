//! The replicated state: an ordered, persistent map from key to entry, and the indexes derived from it.
//!
//! `apply` is a pure function of the state and the transaction: no clock, no randomness, and on the state that the others have
//! it cannot fail. A
//! clone is O(1), which is what makes snapshots free. Indexes are rebuilt at load and never stored.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::ops::Bound;
use std::sync::Arc;

use caravel_api::{Encoded, Key, KeyRange, Revision, Uid};
use imbl::{OrdMap, OrdSet};

use crate::entry::Entry;
use crate::level::Level;
use crate::splice::Splice;
use crate::txn::{Change, Committed, Conflict, Expect, Txn};

pub(crate) mod redo;

pub(crate) type Objects = OrdMap<Key, Arc<Entry>>;

/// Everything the cluster remembers, at one revision.
#[derive(Clone, Default)]
pub struct State {
    revision: Revision,
    level: Level,
    /// By kind prefix, so that a kind's count is O(1) and comparisons stay among its own keys.
    kinds: OrdMap<Arc<str>, Objects>,
    by_uid: OrdMap<Uid, Key>,
    by_owner: OrdSet<(Uid, Key)>,
    by_node: OrdSet<(Arc<str>, Key)>,
    count: usize,
    /// Of all objects' JSON.
    bytes: u64,
}

/// What one change did to one key, for watchers and for the disk.
pub(crate) struct Changed {
    pub entry: Arc<Entry>,
    pub previous: Option<Arc<Entry>>,
    pub deleted: bool,
}

/// Why a transaction changed nothing.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotDone {
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// What it changes is not what its author saw at that very revision: this replica has another state than the others.
    #[error(
        "{0} is not what others have at its revision: this replica's state differs from theirs"
    )]
    Differs(Key),
}

impl State {
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Which entries may be applied to it.
    pub fn level(&self) -> Level {
        self.level
    }

    /// Never goes down.
    pub(crate) fn raise(&mut self, to: Level) {
        self.level = self.level.max(to);
    }

    /// Objects of all kinds.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Bytes of all objects as JSON.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn get(&self, key: &Key) -> Option<&Arc<Entry>> {
        self.kinds.get(key.kind_prefix())?.get(key)
    }

    pub(crate) fn kinds(&self) -> impl Iterator<Item = (&Arc<str>, &Objects)> {
        self.kinds.iter()
    }

    pub(crate) fn kind(&self, prefix: &str) -> Option<&Objects> {
        self.kinds.get(prefix)
    }

    /// Every entry after a key, in the order of kinds and then keys (not of keys alone).
    pub(crate) fn after(&self, key: Option<&Key>) -> impl Iterator<Item = &Arc<Entry>> + use<'_> {
        let first: Option<Arc<str>> = key.map(|key| Arc::from(key.kind_prefix()));
        let within = first
            .as_ref()
            .zip(key.cloned())
            .and_then(|(prefix, key)| Some((self.kinds.get(prefix)?, key)));
        let rest_of_kind = within.into_iter().flat_map(|(objects, key)| {
            objects.range((Bound::Excluded(key), Bound::<Key>::Unbounded))
        });
        let from = first.map_or(Bound::Unbounded, Bound::Excluded);
        let rest = self
            .kinds
            .range((from, Bound::<Arc<str>>::Unbounded))
            .flat_map(|(_, objects)| objects.iter());
        rest_of_kind.chain(rest).map(|(_, entry)| entry)
    }

    pub(crate) fn key_of(&self, uid: &Uid) -> Option<&Key> {
        self.by_uid.get(uid)
    }

    pub(crate) fn owned_by(&self, owner: &Uid) -> impl Iterator<Item = &Key> + use<'_> {
        let owner = owner.clone();
        self.by_owner
            .range((owner.clone(), Key::default())..)
            .take_while(move |(of, _)| *of == owner)
            .map(|(_, key)| key)
    }

    pub(crate) fn on_node(&self, node: &str) -> impl Iterator<Item = &Key> + use<'_> {
        let node: Arc<str> = Arc::from(node);
        self.by_node
            .range((node.clone(), Key::default())..)
            .take_while(move |(of, _)| *of == node)
            .map(|(_, key)| key)
    }

    /// Would `txn` commit on this state?
    pub fn check(&self, txn: &Txn) -> Result<(), Conflict> {
        for change in &txn.changes {
            let revision = self
                .get(change.key())
                .map_or(Revision(0), |entry| entry.revision);
            let holds = match change.expect() {
                Expect::Absent => revision == Revision(0),
                Expect::At(expected) => revision == expected && revision != Revision(0),
                Expect::Any => true,
            };
            if !holds {
                return Err(Conflict {
                    key: change.key().clone(),
                    revision,
                });
            }
        }
        Ok(())
    }

    /// All of `txn`, or the first expectation that did not hold. What changed is appended to `changed`.
    pub(crate) fn apply(
        &mut self,
        txn: &Txn,
        changed: &mut Vec<Changed>,
    ) -> Result<Committed, NotDone> {
        self.check(txn)?;
        let mut spliced = self.spliced(txn)?.into_iter();
        let mut revisions = Vec::with_capacity(txn.changes.len());
        for change in &txn.changes {
            let found = || {
                self.get(change.key())
                    .map_or(Revision(0), |entry| entry.revision)
            };
            revisions.push(match change {
                Change::Check { .. } => found(),
                Change::Put { key, object, .. } => self.put(key, object, changed),
                Change::Splice { key, .. } => {
                    let object = spliced
                        .next()
                        .ok_or_else(|| NotDone::Differs(key.clone()))?;
                    self.put(key, &object, changed)
                }
                Change::Delete { key, .. } => match self.remove(key) {
                    None => Revision(0),
                    Some(previous) => {
                        self.revision.0 += 1;
                        let entry =
                            Arc::new(Entry::new(key.clone(), self.revision, &previous.encoded()));
                        changed.push(Changed {
                            entry,
                            previous: Some(previous),
                            deleted: true,
                        });
                        self.revision
                    }
                },
            });
        }
        Ok(Committed {
            revision: self.revision,
            revisions,
        })
    }

    fn put(&mut self, key: &Key, object: &Encoded, changed: &mut Vec<Changed>) -> Revision {
        self.revision.0 += 1;
        let entry = Arc::new(Entry::new(key.clone(), self.revision, object));
        let previous = self.insert(entry.clone());
        changed.push(Changed {
            entry,
            previous,
            deleted: false,
        });
        self.revision
    }

    /// The objects that the splices of `txn` make of those that are there, in order. All of its expectations hold.
    fn spliced(&self, txn: &Txn) -> Result<Vec<Encoded>, NotDone> {
        let splices = txn.changes.iter().filter_map(|change| match change {
            Change::Splice { key, splice, .. } => Some((key, splice)),
            Change::Put { .. } | Change::Delete { .. } | Change::Check { .. } => None,
        });
        let made = splices.map(|(key, splice)| {
            self.get(key)
                .and_then(|old| splice.onto(&old.json))
                .and_then(|json| Encoded::new(json).ok())
                .ok_or_else(|| NotDone::Differs(key.clone()))
        });
        made.collect()
    }

    /// The same as `txn`, with updates told as what they change, where that is much less.
    pub(crate) fn splice(&self, mut txn: Txn) -> Txn {
        for change in &mut txn.changes {
            let Change::Put {
                key,
                expect: Expect::At(at),
                object,
            } = change
            else {
                continue;
            };
            let old = self.get(key).filter(|old| old.revision == *at);
            if let Some(splice) = old.and_then(|old| Splice::between(&old.json, &object.json)) {
                *change = Change::Splice {
                    key: key.clone(),
                    at: *at,
                    splice,
                };
            }
        }
        txn
    }

    /// A short name for all that is in it: two replicas that applied the same entries have the same. Reads everything.
    pub fn digest(&self) -> u64 {
        let mut hash = DefaultHasher::new();
        (self.level, self.revision.0).hash(&mut hash);
        for entry in self.after(None) {
            (entry.key.as_bytes(), entry.revision.0, &entry.json).hash(&mut hash);
        }
        hash.finish()
    }

    /// Puts an entry read back from disk or from another replica.
    pub(crate) fn load(&mut self, entry: Arc<Entry>) {
        self.insert(entry);
    }

    /// Takes out a whole range, before anybody has seen this state.
    pub(crate) fn forget(&mut self, range: &KeyRange) {
        let keys: Vec<Key> = self
            .after(None)
            .filter(|entry| range.contains(&entry.key))
            .map(|entry| entry.key.clone())
            .collect();
        for key in keys {
            self.remove(&key);
        }
    }

    /// Sets the counter, after loading.
    pub(crate) fn set_revision(&mut self, revision: Revision) {
        self.revision = revision;
    }

    fn insert(&mut self, entry: Arc<Entry>) -> Option<Arc<Entry>> {
        let prefix = entry.key.kind_prefix();
        let previous = match self.kinds.get_mut(prefix) {
            Some(objects) => objects.insert(entry.key.clone(), entry.clone()),
            None => {
                self.kinds.insert(
                    Arc::from(prefix),
                    OrdMap::unit(entry.key.clone(), entry.clone()),
                );
                None
            }
        };
        self.bytes += entry.json.len() as u64;
        match &previous {
            Some(previous) => {
                self.bytes -= previous.json.len() as u64;
                self.reindex(previous, &entry);
            }
            None => {
                self.count += 1;
                self.index(&entry);
            }
        }
        previous
    }

    fn remove(&mut self, key: &Key) -> Option<Arc<Entry>> {
        let previous = self.kinds.get_mut(key.kind_prefix())?.remove(key)?;
        self.count -= 1;
        self.bytes -= previous.json.len() as u64;
        self.unindex(&previous);
        Some(previous)
    }

    /// Most writes change none of what is indexed; then nothing is touched.
    fn reindex(&mut self, old: &Entry, new: &Entry) {
        let same_owners = old.meta.owners.len() == new.meta.owners.len()
            && old
                .meta
                .owners
                .iter()
                .zip(&new.meta.owners)
                .all(|(old, new)| old.uid == new.uid);
        if old.meta.uid != new.meta.uid || old.meta.node != new.meta.node || !same_owners {
            self.unindex(old);
            self.index(new);
        }
    }

    fn index(&mut self, entry: &Entry) {
        let key = || entry.key.clone();
        if !entry.meta.uid.is_empty() {
            self.by_uid.insert(entry.meta.uid.clone(), key());
        }
        for owner in &entry.meta.owners {
            self.by_owner.insert((owner.uid.clone(), key()));
        }
        if let Some(node) = entry.meta.node.as_deref().filter(|node| !node.is_empty()) {
            self.by_node.insert((Arc::from(node), key()));
        }
    }

    fn unindex(&mut self, entry: &Entry) {
        if self.by_uid.get(&entry.meta.uid) == Some(&entry.key) {
            self.by_uid.remove(&entry.meta.uid);
        }
        for owner in &entry.meta.owners {
            self.by_owner
                .remove(&(owner.uid.clone(), entry.key.clone()));
        }
        if let Some(node) = entry.meta.node.as_deref() {
            self.by_node
                .remove(&(Arc::<str>::from(node), entry.key.clone()));
        }
    }
}

/// The one kind that `range` lies in, if it does not span several.
pub(crate) fn single_kind(range: &KeyRange) -> Option<&str> {
    let prefix = range.start.kind_prefix();
    let whole = prefix.bytes().filter(|byte| *byte == b'/').count() == 4 && prefix.ends_with('/');
    (whole && range.end <= KeyRange::prefix(prefix).end).then_some(prefix)
}
