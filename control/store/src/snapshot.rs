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
        write!(f, "Snapshot({} objects at {})", self.state.count(), self.revision())
    }
}

impl Snapshot {
    pub(crate) fn new(state: Arc<State>) -> Self {
        Snapshot { state }
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
        let bounds = (Bound::Included(range.start.clone()), Bound::Excluded(range.end.clone()));
        // A bound pair that is the wrong way round is an empty range, not a panic.
        let empty = range.start >= range.end;
        let one = single_kind(range).map(|prefix| self.state.kind(prefix).into_iter());
        let several = one.is_none().then(|| self.state.kinds().map(|(_, objects)| objects));
        one.into_iter()
            .flatten()
            .chain(several.into_iter().flatten())
            .filter(move |_| !empty)
            .flat_map(move |objects| objects.range::<_, Key>(bounds.clone()).map(|(_, entry)| entry))
    }

    /// How many entries `range` has. O(1) for a whole kind.
    pub fn count(&self, range: &KeyRange) -> usize {
        match single_kind(range) {
            Some(prefix) if *range == KeyRange::prefix(prefix) => self.state.kind(prefix).map_or(0, |objects| objects.len()),
            _ => self.list(range).count(),
        }
    }

    /// One object. What is there and cannot be read is an error, never `None`.
    pub fn get<K: Kind>(&self, name: &ObjectName) -> Result<Option<Arc<K>>, Undecodable> {
        self.state.get(&K::row().key(&name.namespace, &name.name)).map(Entry::decode).transpose()
    }

    /// All objects of a kind, or those of one namespace, in key order.
    pub fn all<K: Kind>(&self, namespace: Option<&str>) -> impl Iterator<Item = Result<Arc<K>, Undecodable>> + use<'_, K> {
        self.list(&K::row().prefix(namespace)).map(Entry::decode)
    }

    /// Dependents of an owner, of every kind.
    pub fn owned_by(&self, owner: &str) -> impl Iterator<Item = &Arc<Entry>> + use<'_> {
        self.state.owned_by(&Uid::from(owner)).filter_map(|key| self.state.get(key))
    }

    /// The object that has this uid, of whatever kind.
    pub fn by_uid(&self, uid: &str) -> Option<Arc<Entry>> {
        self.state.get(self.state.key_of(&Uid::from(uid))?).cloned()
    }

    /// What `spec.nodeName` binds to a node.
    pub fn on_node(&self, node: &str) -> impl Iterator<Item = &Arc<Entry>> + use<'_> {
        self.state.on_node(node).filter_map(|key| self.state.get(key))
    }
}
