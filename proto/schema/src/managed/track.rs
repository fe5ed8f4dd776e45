//! Ownership after a create, an update or a patch: whoever changes a field owns it, alone.
//!
//! Upstream: `structured-merge-diff/v6/merge/update.go` (`Update`), `managedfields/internal/stripmeta.go`.

use serde_json::{Map, Value};

use super::Writer;
use super::entries::{self, Entry};
use super::set::Set;
use super::walk::{self, Difference, field_key};
use crate::tree::{Shape, TypeRef};

/// What nobody owns: identity and what the server itself keeps.
pub(super) const SERVERS_OWN: &[&str] = &[
    "name",
    "namespace",
    "creationTimestamp",
    "selfLink",
    "uid",
    "clusterName",
    "generation",
    "managedFields",
    "resourceVersion",
];

/// Parts that a Go object has even when it is empty: their first appearance is not a change of theirs.
const ALWAYS_THERE: &[&str] = &[
    "metadata",
    "spec",
    "status",
    "template",
    "strategy",
    "updateStrategy",
    "jobTemplate",
];

/// See [`super::track_update`].
pub(super) fn update(old: Option<&Value>, new: &mut Value, ty: TypeRef<'_>, writer: &Writer<'_>) {
    let Some(managers) = starting_point(old, new, writer) else {
        // Nothing is managed: it is not begun by an update, but an explicit reset empties the list.
        entries::put(new, None);
        return;
    };
    let difference = difference(old, new, ty, writer.subresource);
    if difference.is_empty() && old.is_some() {
        let unchanged = old.and_then(entries::of);
        if unchanged.is_some_and(|list| entries::decode(Some(list)).as_ref() == Some(&managers)) {
            let unchanged = unchanged.cloned();
            entries::put(new, unchanged);
        } else {
            entries::store(new, managers);
        }
        return;
    }
    entries::store(new, take_over(managers, difference, writer));
}

/// The entries that this write builds on; `None` when ownership of the object is not tracked.
fn starting_point(old: Option<&Value>, new: &Value, writer: &Writer<'_>) -> Option<Vec<Entry>> {
    let sent = entries::of(new);
    let live = || {
        old.and_then(|old| entries::decode(entries::of(old)))
            .unwrap_or_default()
    };
    let managers = if !writer.subresource.is_empty() {
        live()
    } else if entries::is_reset(sent) {
        Vec::new()
    } else {
        entries::decode(sent)
            .filter(|sent| !sent.is_empty())
            .unwrap_or_else(live)
    };
    (old.is_none() || !managers.is_empty()).then_some(managers)
}

fn take_over(mut managers: Vec<Entry>, difference: Difference, writer: &Writer<'_>) -> Vec<Entry> {
    let Difference {
        added,
        modified,
        removed,
    } = difference;
    let mut changed = added;
    changed.union(&modified);
    for manager in &mut managers {
        manager.fields.subtract(&changed);
        manager.fields.subtract(&removed);
    }
    managers.retain(|manager| !manager.fields.is_empty());
    if !changed.is_empty() {
        let mine = Entry::new(writer, false, changed);
        match managers.iter_mut().find(|entry| entry.belongs_to(&mine)) {
            Some(entry) => {
                entry.fields.union(&mine.fields);
                entry.time = mine.time;
            }
            None => managers.push(mine),
        }
    }
    managers
}

/// What a write changed of what can be owned.
pub(super) fn difference(
    old: Option<&Value>,
    new: &Value,
    ty: TypeRef<'_>,
    subresource: &str,
) -> Difference {
    let empty = Map::new();
    let new = new.as_object().unwrap_or(&empty);
    let old_map = old.and_then(Value::as_object);
    let mut whole = Difference::default();
    let keys = new.keys().chain(
        old_map
            .into_iter()
            .flat_map(Map::keys)
            .filter(|key| !new.contains_key(key.as_str())),
    );
    for key in keys {
        if key == "apiVersion" || key == "kind" || is_reset(key, subresource) {
            continue;
        }
        let below = ty.child(key).unwrap_or_else(|| crate::Schema::untyped());
        let (was, is) = (old_map.and_then(|old| old.get(key)), new.get(key));
        let mut part = if key == "metadata" {
            metadata(was, is, below)
        } else {
            walk::compare(was, is, below)
        };
        if old.is_none() {
            not_new(&mut part.added, key, below);
        }
        whole.put(&field_key(key), part);
    }
    whole
}

/// The part of an object that a write to this subresource cannot change, and so does not own.
pub(super) fn is_reset(key: &str, subresource: &str) -> bool {
    match subresource {
        "" => key == "status",
        "status" => key == "spec",
        _ => false,
    }
}

fn metadata(old: Option<&Value>, new: Option<&Value>, ty: TypeRef<'_>) -> Difference {
    let mut whole = Difference::default();
    let (old, new) = (
        old.and_then(Value::as_object),
        new.and_then(Value::as_object),
    );
    let keys = new.into_iter().flat_map(Map::keys).chain(
        old.into_iter()
            .flat_map(Map::keys)
            .filter(|key| new.is_none_or(|new| !new.contains_key(key.as_str()))),
    );
    for key in keys.filter(|key| !SERVERS_OWN.contains(&key.as_str())) {
        let below = ty.child(key).unwrap_or_else(|| crate::Schema::untyped());
        let inner = walk::compare(
            old.and_then(|old| old.get(key)),
            new.and_then(|new| new.get(key)),
            below,
        );
        whole.put(&field_key(key), inner);
    }
    whole
}

/// Forgets that parts appeared which are always there.
fn not_new(added: &mut Set, key: &str, ty: TypeRef<'_>) {
    let Shape::Struct { fields, .. } = ty.shape() else {
        return;
    };
    if !ALWAYS_THERE.contains(&key) || added.children.is_empty() {
        return;
    }
    added.member = false;
    for field in fields {
        let Some(inner) = added.children.get_mut(&field_key(&field.name)) else {
            continue;
        };
        let below = ty.field_type(field);
        if matches!(below.shape(), Shape::List { .. })
            && field.required
            && !inner.children.is_empty()
        {
            inner.member = false;
        }
        not_new(inner, &field.name, below);
    }
}

/// Takes out what nobody owns.
pub(super) fn strip(set: &mut Set, subresource: &str) {
    for key in ["apiVersion", "kind", "status", "spec"] {
        if key == "apiVersion" || key == "kind" || is_reset(key, subresource) {
            set.children.remove(&field_key(key));
        }
    }
    if let Some(metadata) = set.children.get_mut("f:metadata") {
        metadata.member = false;
        for key in SERVERS_OWN {
            metadata.children.remove(&field_key(key));
        }
        if metadata.is_empty() {
            set.children.remove("f:metadata");
        }
    }
}
