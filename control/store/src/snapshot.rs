//! An immutable view of the whole state at one revision. Taking one is O(1), keeping one keeps its objects.
//!
//! Controllers, scheduler and API read the same copy; there are no caches besides it.

use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

use caravel_api::{Key, KeyRange, Kind, ObjectName, Revision, Uid};

use crate::entry::{Entry, Undecodable};
use crate::state::{State, single_kind};

/// The state at one revision.
#[derive(Clone)]
pub struct Snapshot {
    state: Arc<State>,
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Snapshot({} objects at {})",
            self.state.count(),
            self.revision()
        )
    }
}

impl Snapshot {
    pub(crate) fn new(state: Arc<State>) -> Self {
        Snapshot { state }
    }

    pub(crate) fn shared(&self) -> Arc<State> {
        self.state.clone()
    }

    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    pub fn revision(&self) -> Revision {
        self.state.revision()
    }

    pub fn entry(&self, key: &Key) -> Option<Arc<Entry>> {
        self.state.get(key).cloned()
    }

    /// Entries of `range` in key order.
    pub fn list<'a>(&'a self, range: &KeyRange) -> impl Iterator<Item = &'a Arc<Entry>> + use<'a> {
        let bounds = (
            Bound::Included(range.start.clone()),
            Bound::Excluded(range.end.clone()),
        );
        // A bound pair that is the wrong way round is an empty range, not a panic.
        let empty = range.start >= range.end;
        let one = single_kind(range).map(|prefix| self.state.kind(prefix).into_iter());
        let several = one
            .is_none()
            .then(|| self.state.kinds().map(|(_, objects)| objects));
        one.into_iter()
            .flatten()
            .chain(several.into_iter().flatten())
            .filter(move |_| !empty)
            .flat_map(move |objects| {
                objects
                    .range::<_, Key>(bounds.clone())
                    .map(|(_, entry)| entry)
            })
    }

    /// How many objects there are of each resource, as `pods` or `deployments.apps`.
    pub fn counts(&self) -> Vec<(String, usize)> {
        let named = |prefix: &str| {
            let mut parts = prefix.trim_matches('/').split('/').skip(1);
            let (group, resource) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
            match group {
                "core" => resource.to_owned(),
                group => format!("{resource}.{group}"),
            }
        };
        self.state
            .kinds()
            .filter(|(_, objects)| !objects.is_empty())
            .map(|(prefix, objects)| (named(prefix), objects.len()))
            .collect()
    }

    /// How many entries `range` has. O(1) for a whole kind.
    pub fn count(&self, range: &KeyRange) -> usize {
        match single_kind(range) {
            Some(prefix) if *range == KeyRange::prefix(prefix) => {
                self.state.kind(prefix).map_or(0, |objects| objects.len())
            }
            _ => self.list(range).count(),
        }
    }

    /// One object. What is there and cannot be read is an error, never `None`.
    pub fn get<K: Kind>(&self, name: &ObjectName) -> Result<Option<Arc<K>>, Undecodable> {
        self.state
            .get(&K::row().key(&name.namespace, &name.name))
            .map(Entry::decode)
            .transpose()
    }

    /// All objects of a kind, or those of one namespace, in key order.
    pub fn all<K: Kind>(
        &self,
        namespace: Option<&str>,
    ) -> impl Iterator<Item = Result<Arc<K>, Undecodable>> + use<'_, K> {
        self.list(&K::row().prefix(namespace)).map(Entry::decode)
    }

    /// Dependents of an owner, of every kind.
    pub fn owned_by(&self, owner: &str) -> impl Iterator<Item = &Arc<Entry>> + use<'_> {
        self.state
            .owned_by(&Uid::from(owner))
            .filter_map(|key| self.state.get(key))
    }

    /// The object that has this uid, of whatever kind.
    pub fn by_uid(&self, uid: &str) -> Option<Arc<Entry>> {
        self.state.get(self.state.key_of(&Uid::from(uid))?).cloned()
    }

    /// What `spec.nodeName` binds to a node.
    pub fn on_node(&self, node: &str) -> impl Iterator<Item = &Arc<Entry>> + use<'_> {
        self.state
            .on_node(node)
            .filter_map(|key| self.state.get(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::NotDone;
    use crate::txn::{Change, Committed, Conflict, Expect, Txn};
    use caravel_api::Encoded;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};
    use std::collections::BTreeMap;

    const KINDS: [&str; 3] = [
        "/registry/apps/deployments/",
        "/registry/core/pods/",
        "/registry/core/nodes/",
    ];

    fn key(random: &mut StdRng) -> Key {
        let kind = KINDS[random.random_range(0..3)];
        let namespace = ["", "a/", "b/", "ab/"][if kind.ends_with("nodes/") {
            0
        } else {
            random.random_range(1..4)
        }];
        Key::from(format!("{kind}{namespace}n{}", random.random_range(0..6)))
    }

    fn object(random: &mut StdRng) -> Encoded {
        let (uid, owner, node) = (
            random.random_range(0..50),
            random.random_range(0..5),
            random.random_range(0..4),
        );
        let owners: Vec<String> = (0..random.random_range(0..3))
            .map(|n| {
                format!(
                    r#"{{"apiVersion":"v1","kind":"X","name":"x","uid":"o{}"}}"#,
                    owner + n
                )
            })
            .collect();
        Encoded::new(format!(r#"{{"metadata":{{"uid":"u{uid}","ownerReferences":[{}]}},"spec":{{"nodeName":"n{node}"}}}}"#, owners.join(","))).unwrap()
    }

    /// The state beside the plainest model of it: a map and scans.
    #[test]
    fn it_is_a_map_with_true_indexes() {
        for seed in 0..20 {
            let random = &mut StdRng::seed_from_u64(seed);
            let mut state = State::default();
            let mut model: BTreeMap<Key, (Revision, Encoded)> = BTreeMap::new();
            let mut revision = 0;
            for _ in 0..300 {
                let mut txn = Txn::new();
                for _ in 0..random.random_range(1..4) {
                    let key = key(random);
                    let held = model
                        .get(&key)
                        .map_or(Revision(0), |(revision, _)| *revision);
                    let expect = match random.random_range(0..10) {
                        0 => Expect::Absent,
                        1 => Expect::At(Revision(random.random_range(0..100))),
                        2..6 if held.0 > 0 => Expect::At(held),
                        _ => Expect::Any,
                    };
                    txn = txn.with(match random.random_range(0..4) {
                        0 => Change::Delete { key, expect },
                        1 => Change::Check { key, expect },
                        _ => Change::Put {
                            key,
                            expect,
                            object: object(random),
                        },
                    });
                }
                let held = |model: &BTreeMap<Key, (Revision, Encoded)>, key: &Key| {
                    model
                        .get(key)
                        .map_or(Revision(0), |(revision, _)| *revision)
                };
                let broken = txn.changes.iter().find(|change| match change.expect() {
                    Expect::Any => false,
                    Expect::Absent => model.contains_key(change.key()),
                    Expect::At(revision) => {
                        revision.0 == 0 || held(&model, change.key()) != revision
                    }
                });
                let expected = match broken {
                    Some(change) => Err(Conflict {
                        key: change.key().clone(),
                        revision: held(&model, change.key()),
                    }),
                    None => {
                        let mut revisions = Vec::new();
                        for change in &txn.changes {
                            match change {
                                Change::Check { key, .. } => revisions.push(held(&model, key)),
                                Change::Splice { .. } => unreachable!("none is made above"),
                                Change::Delete { key, .. } if model.remove(key).is_none() => {
                                    revisions.push(Revision(0))
                                }
                                Change::Delete { .. } | Change::Put { .. } => {
                                    revision += 1;
                                    revisions.push(Revision(revision));
                                }
                            }
                            if let Change::Put { key, object, .. } = change {
                                model.insert(key.clone(), (Revision(revision), object.clone()));
                            }
                        }
                        Ok(Committed {
                            revision: Revision(revision),
                            revisions,
                        })
                    }
                };
                // Told as what they change, updates do the same.
                let mut other = state.clone();
                let spliced = state.splice(txn.clone());
                let found = state.apply(&txn, &mut Vec::new());
                assert_eq!(other.apply(&spliced, &mut Vec::new()), found);
                assert_eq!(other.digest(), state.digest(), "seed {seed}");
                assert_eq!(found, expected.map_err(NotDone::Conflict), "seed {seed}");
            }
            compare(&Snapshot::new(Arc::new(state)), &model, random);
        }
    }

    fn compare(
        snapshot: &Snapshot,
        model: &BTreeMap<Key, (Revision, Encoded)>,
        random: &mut StdRng,
    ) {
        let keys = |entries: Vec<&Arc<Entry>>| {
            entries
                .into_iter()
                .map(|entry| entry.key.clone())
                .collect::<Vec<_>>()
        };
        let wanted = |holds: &dyn Fn(&Key, &Encoded) -> bool| {
            model
                .iter()
                .filter(|(key, (_, object))| holds(key, object))
                .map(|(key, _)| key.clone())
                .collect::<Vec<_>>()
        };
        for n in 0..7 {
            let (owner, node) = (format!("o{n}"), format!("n{n}"));
            assert_eq!(
                keys(snapshot.owned_by(&owner).collect()),
                wanted(&|_, object| object.meta.owners.iter().any(|of| *of.uid == *owner))
            );
            assert_eq!(
                keys(snapshot.on_node(&node).collect()),
                wanted(&|_, object| object.meta.node.as_deref() == Some(&node))
            );
        }
        let mut ranges: Vec<KeyRange> = KINDS.iter().map(|kind| KeyRange::prefix(kind)).collect();
        ranges.extend([
            KeyRange::all(),
            KeyRange::prefix("/registry/core/"),
            KeyRange::prefix("/registry/core/pods/a/"),
        ]);
        for _ in 0..20 {
            ranges.push(KeyRange {
                start: key(random),
                end: key(random),
            });
            ranges.push(KeyRange::prefix(KINDS[1]).from_start(key(random)));
        }
        for range in ranges {
            let inside = wanted(&|key, _| range.contains(key));
            assert_eq!(keys(snapshot.list(&range).collect()), inside, "{range:?}");
            assert_eq!(snapshot.count(&range), inside.len());
        }
        for (key, (revision, object)) in model {
            let entry = snapshot.entry(key).unwrap();
            assert_eq!(
                (entry.revision, &entry.json),
                (*revision, &object.at(*revision))
            );
        }
        assert_eq!(snapshot.state().after(None).count(), model.len());
    }
}
