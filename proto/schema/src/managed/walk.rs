//! Walks over values with their types beside them: which fields there are, which differ, what merging makes of two,
//! and what is left when some are removed.
//!
//! Upstream: `structured-merge-diff/v6/typed` (`tofieldset.go`, `compare.go`, `merge.go`, `remove.go`). A value whose
//! form is not what its type says counts as a leaf; nothing here fails.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::set::Set;
use crate::tree::{ListKind, Schema, Shape, TypeRef};

/// What a value is to ownership.
enum Form<'v> {
    /// Owned as a whole.
    Leaf,
    Map(&'v Map<String, Value>),
    List(&'v [Value]),
}

fn form<'v>(value: &'v Value, ty: TypeRef<'_>) -> Form<'v> {
    match (ty.shape(), value) {
        (
            Shape::Struct { atomic: true, .. }
            | Shape::Map { atomic: true, .. }
            | Shape::Untyped { atomic: true },
            _,
        ) => Form::Leaf,
        (Shape::Struct { .. } | Shape::Map { .. } | Shape::Untyped { .. }, Value::Object(map)) => {
            Form::Map(map)
        }
        (
            Shape::List {
                kind: ListKind::Set | ListKind::Map(_),
                ..
            },
            Value::Array(items),
        ) => Form::List(items),
        _ => Form::Leaf,
    }
}

fn child<'a>(ty: TypeRef<'a>, key: &str) -> TypeRef<'a> {
    ty.child(key).unwrap_or_else(|| Schema::untyped())
}

fn is_named(ty: TypeRef<'_>, key: &str) -> bool {
    ty.field(key).is_some()
}

pub(crate) fn field_key(name: &str) -> String {
    let mut key = String::with_capacity(name.len() + 2);
    key.push_str("f:");
    key.push_str(name);
    key
}

/// The FieldsV1 key of a list's item: its keys for a list of maps, itself for a set, else its place.
fn item_key(item: &Value, index: usize, kind: &ListKind) -> String {
    match kind {
        ListKind::Set => format!("v:{item}"),
        ListKind::Map(keys) => {
            let mut found: Vec<(&str, &Value)> = keys
                .iter()
                .filter_map(|key| {
                    Some((&*key.name, item.get(&*key.name).or(key.default.as_ref())?))
                })
                .collect();
            if found.is_empty() {
                return format!("i:{index}");
            }
            found.sort_by_key(|(name, _)| *name);
            let mut text = String::from("k:{");
            for (place, (name, value)) in found.iter().enumerate() {
                if place > 0 {
                    text.push(',');
                }
                text.push_str(&format!("{}:{value}", Value::from(*name)));
            }
            text.push('}');
            text
        }
        ListKind::Atomic => format!("i:{index}"),
    }
}

/// Every field of a value (upstream's `ToFieldSet`): leaves, items of lists, keys of maps and empty objects.
pub(crate) fn field_set(value: &Value, ty: TypeRef<'_>) -> Set {
    let mut set = Set::default();
    match form(value, ty) {
        Form::Leaf => set.member = true,
        Form::Map(map) => {
            for (key, value) in map {
                let below = child(ty, key);
                let mut inner = field_set(value, below);
                let empty = value.is_null() || value.as_object().is_some_and(Map::is_empty);
                inner.member |= empty || !is_named(ty, key);
                set.put(field_key(key), inner);
            }
        }
        Form::List(items) => {
            for (index, item) in items.iter().enumerate() {
                let mut inner = field_set(item, ty.item());
                inner.member = true;
                set.put(item_key(item, index, ty.list_kind()), inner);
            }
        }
    }
    set
}

/// What became of each field.
#[derive(Debug, Default)]
pub(crate) struct Difference {
    pub added: Set,
    pub modified: Set,
    pub removed: Set,
}

impl Difference {
    pub(crate) fn is_empty(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }

    pub(crate) fn put(&mut self, key: &str, inner: Difference) {
        if !inner.added.is_empty() {
            self.added.children.insert(key.to_owned(), inner.added);
        }
        if !inner.modified.is_empty() {
            self.modified
                .children
                .insert(key.to_owned(), inner.modified);
        }
        if !inner.removed.is_empty() {
            self.removed.children.insert(key.to_owned(), inner.removed);
        }
    }

    fn leaf(old: Option<&Value>, new: Option<&Value>) -> Difference {
        let mut difference = Difference::default();
        match (old, new) {
            (None, Some(_)) => difference.added.member = true,
            (Some(_), None) => difference.removed.member = true,
            (Some(old), Some(new)) if !same(old, new) => difference.modified.member = true,
            _ => {}
        }
        difference
    }
}

/// Equality in which a number is its value, not its spelling.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => {
            a == b || (a.as_f64() == b.as_f64() && a.is_f64() != b.is_f64())
        }
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len()
                && a.iter()
                    .all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
        }
        _ => a == b,
    }
}

/// What differs between two values of one type (upstream's `Compare`).
pub(crate) fn compare(old: Option<&Value>, new: Option<&Value>, ty: TypeRef<'_>) -> Difference {
    let forms = (old.map(|old| form(old, ty)), new.map(|new| form(new, ty)));
    let mut difference = match forms {
        (None, None) => return Difference::default(),
        (None | Some(Form::Map(_)), None | Some(Form::Map(_))) => {
            let old_map = old.and_then(Value::as_object).filter(|map| !map.is_empty());
            let new_map = new.and_then(Value::as_object).filter(|map| !map.is_empty());
            if old_map.is_none() && new_map.is_none() {
                return Difference::leaf(old, new);
            }
            compare_maps(old_map, new_map, ty)
        }
        (None | Some(Form::List(_)), None | Some(Form::List(_))) => {
            let old_list = old
                .and_then(Value::as_array)
                .filter(|list| !list.is_empty());
            let new_list = new
                .and_then(Value::as_array)
                .filter(|list| !list.is_empty());
            if old_list.is_none() && new_list.is_none() {
                return Difference::leaf(old, new);
            }
            compare_lists(old_list, new_list, ty)
        }
        _ => return Difference::leaf(old, new),
    };
    difference.added.member |= old.is_none();
    difference.removed.member |= new.is_none();
    difference
}

pub(crate) fn compare_maps(
    old: Option<&Map<String, Value>>,
    new: Option<&Map<String, Value>>,
    ty: TypeRef<'_>,
) -> Difference {
    let mut difference = Difference::default();
    for (key, new_value) in new.into_iter().flatten() {
        let old_value = old.and_then(|old| old.get(key));
        let inner = compare(old_value, Some(new_value), child(ty, key));
        if !inner.is_empty() {
            difference.put(&field_key(key), inner);
        }
    }
    for (key, old_value) in old.into_iter().flatten() {
        if new.is_none_or(|new| !new.contains_key(key)) {
            difference.put(
                &field_key(key),
                compare(Some(old_value), None, child(ty, key)),
            );
        }
    }
    difference
}

fn compare_lists(
    old: Option<&Vec<Value>>,
    new: Option<&Vec<Value>>,
    ty: TypeRef<'_>,
) -> Difference {
    let kind = ty.list_kind();
    let mut difference = Difference::default();
    let keyed = |list: Option<&Vec<Value>>| -> Vec<String> {
        list.into_iter()
            .flatten()
            .enumerate()
            .map(|(index, item)| item_key(item, index, kind))
            .collect()
    };
    let (old_keys, new_keys) = (keyed(old), keyed(new));
    let old_items: HashMap<&str, &Value> = old_keys
        .iter()
        .map(String::as_str)
        .zip(old.into_iter().flatten())
        .collect();
    let new_items: HashSet<&str> = new_keys.iter().map(String::as_str).collect();
    for (key, item) in new_keys.iter().zip(new.into_iter().flatten()) {
        let inner = compare(old_items.get(key.as_str()).copied(), Some(item), ty.item());
        if !inner.is_empty() {
            difference.put(key, inner);
        }
    }
    for (key, item) in old_keys.iter().zip(old.into_iter().flatten()) {
        if !new_items.contains(key.as_str()) {
            difference.put(key, compare(Some(item), None, ty.item()));
        }
    }
    difference
}

/// `live` with `applied` merged in (upstream's `Merge`): what is applied wins, what is not stays.
pub(crate) fn merge(live: &Value, applied: &Value, ty: TypeRef<'_>) -> Value {
    match (form(live, ty), form(applied, ty)) {
        (Form::Map(live), Form::Map(applied)) => {
            let mut merged = live.clone();
            for (key, value) in applied {
                let value = match live.get(key) {
                    Some(live) => merge(live, value, child(ty, key)),
                    None => value.clone(),
                };
                merged.insert(key.clone(), value);
            }
            Value::Object(merged)
        }
        (Form::List(live), Form::List(applied)) => Value::Array(merge_lists(live, applied, ty)),
        _ => applied.clone(),
    }
}

/// The order is that of `applied`; items only in `live` keep their place among their neighbours.
fn merge_lists(live: &[Value], applied: &[Value], ty: TypeRef<'_>) -> Vec<Value> {
    let kind = ty.list_kind();
    let keys = |list: &[Value]| -> Vec<String> {
        list.iter()
            .enumerate()
            .map(|(index, item)| item_key(item, index, kind))
            .collect()
    };
    let (live_keys, applied_keys) = (keys(live), keys(applied));
    let live_items: HashMap<&str, &Value> =
        live_keys.iter().map(String::as_str).zip(live).collect();
    let in_applied: HashSet<&str> = applied_keys.iter().map(String::as_str).collect();
    let mut shared = applied_keys
        .iter()
        .map(String::as_str)
        .filter(|key| live_items.contains_key(key))
        .peekable();
    let mut done: HashSet<&str> = HashSet::new();
    let mut merged = Vec::with_capacity(live.len() + applied.len());
    let (mut left, mut right) = (0, 0);
    while left < live.len() || right < applied.len() {
        if left < live.len() {
            let key = live_keys[left].as_str();
            if !in_applied.contains(key) {
                merged.push(live[left].clone());
                left += 1;
                continue;
            }
            // Shared, but merged already or not next in the applied order: it comes when its turn does.
            let next = shared.peek().copied();
            if done.contains(key) || (right < applied.len() && next.is_some_and(|next| next != key))
            {
                left += 1;
                continue;
            }
        }
        if right < applied.len() {
            let key = applied_keys[right].as_str();
            merged.push(match live_items.get(key) {
                Some(live) => merge(live, &applied[right], ty.item()),
                None => applied[right].clone(),
            });
            done.insert(key);
            if shared.peek() == Some(&key) {
                shared.next();
            }
            right += 1;
        }
    }
    merged
}

/// `value` without the members of `gone` (upstream's `RemoveItems`); `None` when nothing is left of an object or list.
pub(crate) fn remove(value: &Value, gone: &Set, ty: TypeRef<'_>) -> Option<Value> {
    match form(value, ty) {
        Form::Leaf => Some(value.clone()),
        Form::Map(map) => {
            let mut left = Map::new();
            for (key, value) in map {
                match gone.children.get(&field_key(key)) {
                    None => {
                        left.insert(key.clone(), value.clone());
                    }
                    Some(gone) if gone.member => {}
                    Some(gone) => {
                        if let Some(value) = remove(value, gone, child(ty, key)) {
                            left.insert(key.clone(), value);
                        }
                    }
                }
            }
            (!left.is_empty()).then_some(Value::Object(left))
        }
        Form::List(items) => {
            let mut left = Vec::new();
            for (index, item) in items.iter().enumerate() {
                match gone.children.get(&item_key(item, index, ty.list_kind())) {
                    None => left.push(item.clone()),
                    Some(gone) if gone.member => {}
                    Some(gone) => left.extend(remove(item, gone, ty.item())),
                }
            }
            (!left.is_empty()).then_some(Value::Array(left))
        }
    }
}

/// The set with every named field on the way to a member made a member too (upstream's `EnsureNamedFieldsAreMembers`).
pub(crate) fn with_named(set: &Set, ty: TypeRef<'_>) -> Set {
    let mut full = Set {
        member: set.member,
        children: Default::default(),
    };
    for (key, inner) in &set.children {
        let (named, below) = match key.strip_prefix("f:") {
            Some(name) => (is_named(ty, name), child(ty, name)),
            None => (false, ty.item()),
        };
        let mut inner = with_named(inner, below);
        inner.member |= named;
        full.children.insert(key.clone(), inner);
    }
    full
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn ty(name: &str) -> TypeRef<'static> {
        Schema::get().of(name)
    }

    #[test]
    fn fields_of_a_pod() {
        let pod = json!({
            "metadata": {"labels": {"app": "x"}},
            "spec": {
                "containers": [{"name": "c", "image": "i", "command": ["a"], "ports": [{"containerPort": 80}], "securityContext": {}}],
                "nodeSelector": {"a": "b"},
            },
        });
        assert_eq!(
            field_set(&pod, ty("io.k8s.api.core.v1.Pod")).encode(),
            json!({
                "f:metadata": {"f:labels": {"f:app": {}}},
                "f:spec": {
                    "f:containers": {"k:{\"name\":\"c\"}": {
                        ".": {}, "f:name": {}, "f:image": {}, "f:command": {},
                        "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}},
                        "f:securityContext": {},
                    }},
                    "f:nodeSelector": {},
                },
            })
        );
    }

    #[test]
    fn lists_keep_their_order() {
        let list =
            |names: &[&str]| -> Value { names.iter().map(|name| json!({"name": name})).collect() };
        let cases: &[(&[&str], &[&str], &[&str])] = &[
            (&["a", "b"], &["b", "a"], &["b", "a"]),
            (&["a", "b", "c"], &["a", "c"], &["a", "b", "c"]),
            (&["a"], &["b"], &["a", "b"]),
            (&["a", "b"], &["b", "x"], &["a", "b", "x"]),
            (&[], &["x"], &["x"]),
        ];
        let containers = ty("io.k8s.api.core.v1.PodSpec")
            .child("containers")
            .unwrap();
        for (live, applied, expected) in cases {
            assert_eq!(
                merge(&list(live), &list(applied), containers),
                list(expected),
                "{live:?} + {applied:?}"
            );
        }
    }

    #[test]
    fn differences() {
        let old = json!({"data": {"a": "1", "b": "2"}});
        let new = json!({"data": {"a": "1", "b": "3", "c": "4"}, "immutable": true});
        let difference = compare(Some(&old), Some(&new), ty("io.k8s.api.core.v1.ConfigMap"));
        assert_eq!(
            difference.added.encode(),
            json!({"f:data": {"f:c": {}}, "f:immutable": {}})
        );
        assert_eq!(difference.modified.encode(), json!({"f:data": {"f:b": {}}}));
        let back = compare(
            Some(&new),
            Some(&json!({})),
            ty("io.k8s.api.core.v1.ConfigMap"),
        );
        assert_eq!(
            back.removed.encode(),
            json!({"f:data": {".": {}, "f:a": {}, "f:b": {}, "f:c": {}}, "f:immutable": {}})
        );
    }
}
