//! The entries of `metadata.managedFields`: read, changed, capped, sorted, written.
//!
//! Upstream: `managedfields/internal/managedfields.go` and `capmanagers.go`.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::Writer;
use super::set::Set;

/// Upstream's `DefaultMaxUpdateManagers`: older entries of updates melt into one.
const MAX_UPDATE_MANAGERS: usize = 10;
/// Upstream's name of what they melt into.
const ANCIENT: &str = "ancient-changes";

/// One manager's fields.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub manager: String,
    pub apply: bool,
    pub api_version: String,
    pub subresource: String,
    pub time: String,
    pub fields: Set,
}

impl Entry {
    pub(crate) fn new(writer: &Writer<'_>, apply: bool, fields: Set) -> Entry {
        Entry {
            manager: writer.manager.to_owned(),
            apply,
            api_version: writer.api_version.to_owned(),
            subresource: writer.subresource.to_owned(),
            time: seconds(writer.now),
            fields,
        }
    }

    /// Is this the same manager doing the same thing? One who applies stays the same across versions.
    pub(crate) fn belongs_to(&self, other: &Entry) -> bool {
        self.manager == other.manager
            && self.apply == other.apply
            && self.subresource == other.subresource
            && (self.apply || self.api_version == other.api_version)
    }

    fn decode(value: &Value) -> Option<Entry> {
        let text = |name: &str| {
            value
                .get(name)
                .and_then(Value::as_str)
                .unwrap_or("")
                .to_owned()
        };
        let operation = text("operation");
        if operation != "Apply" && operation != "Update" {
            return None;
        }
        Some(Entry {
            manager: text("manager"),
            apply: operation == "Apply",
            api_version: text("apiVersion"),
            subresource: text("subresource"),
            time: text("time"),
            fields: Set::decode(value.get("fieldsV1").unwrap_or(&Value::Null)),
        })
    }

    fn encode(&self) -> Value {
        let mut entry = Map::new();
        let mut text = |name: &str, value: &str| {
            if !value.is_empty() {
                entry.insert(name.into(), value.into());
            }
        };
        text("manager", &self.manager);
        text("operation", if self.apply { "Apply" } else { "Update" });
        text("apiVersion", &self.api_version);
        text("time", &self.time);
        text("fieldsType", "FieldsV1");
        text("subresource", &self.subresource);
        entry.insert("fieldsV1".into(), self.fields.encode());
        Value::Object(entry)
    }
}

/// RFC 3339 to the second, as upstream writes times.
fn seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// `metadata.managedFields` as it stands in an object.
pub(crate) fn of(object: &Value) -> Option<&Value> {
    object.get("metadata")?.get("managedFields")
}

/// Reads a list of entries; `None` when one of them cannot be understood.
pub(crate) fn decode(list: Option<&Value>) -> Option<Vec<Entry>> {
    match list {
        None | Some(Value::Null) => Some(Vec::new()),
        Some(Value::Array(entries)) => entries.iter().map(Entry::decode).collect(),
        Some(_) => None,
    }
}

/// Did the writer ask to forget who owns what? (`managedFields: []` or `[{}]`)
pub(crate) fn is_reset(list: Option<&Value>) -> bool {
    list.is_some_and(|list| *list == json!([]) || *list == json!([{}]))
}

/// Writes the entries into the object, in upstream's order; none leave no field.
pub(crate) fn store(object: &mut Value, mut entries: Vec<Entry>) {
    entries.retain(|entry| !entry.fields.is_empty());
    cap(&mut entries);
    entries.sort_by(|a, b| {
        let key = |entry: &Entry| {
            (
                !entry.apply,
                entry.time.clone(),
                entry.manager.clone(),
                entry.api_version.clone(),
                entry.subresource.clone(),
            )
        };
        key(a).cmp(&key(b))
    });
    let list: Vec<Value> = entries.iter().map(Entry::encode).collect();
    put(object, (!list.is_empty()).then_some(Value::Array(list)));
}

/// Sets or removes `metadata.managedFields`.
pub(crate) fn put(object: &mut Value, list: Option<Value>) {
    let Some(object) = object.as_object_mut() else {
        return;
    };
    match list {
        Some(list) => {
            if let Some(metadata) = object
                .entry("metadata")
                .or_insert_with(|| json!({}))
                .as_object_mut()
            {
                metadata.insert("managedFields".into(), list);
            }
        }
        None => {
            if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
                metadata.remove("managedFields");
            }
        }
    }
}

/// Melts the oldest updates into one entry per version when there are too many.
fn cap(entries: &mut Vec<Entry>) {
    let mut updates: Vec<usize> = (0..entries.len())
        .filter(|index| !entries[*index].apply)
        .collect();
    if updates.len() <= MAX_UPDATE_MANAGERS {
        return;
    }
    updates.sort_by(|a, b| entries[*a].time.cmp(&entries[*b].time));
    let mut excess = updates.len() - MAX_UPDATE_MANAGERS;
    let mut gone = Vec::new();
    for index in updates {
        if excess == 0 {
            break;
        }
        let mut old = entries[index].clone();
        if old.manager == ANCIENT {
            continue;
        }
        old.manager = ANCIENT.into();
        old.subresource = String::new();
        match entries.iter_mut().find(|entry| entry.belongs_to(&old)) {
            Some(bucket) => {
                bucket.fields.union(&old.fields);
                bucket.time = bucket.time.clone().max(old.time);
                gone.push(index);
                excess -= 1;
            }
            // The first to melt becomes the bucket itself, so it saves nothing.
            None => entries[index] = old,
        }
    }
    gone.sort_unstable();
    for index in gone.into_iter().rev() {
        entries.remove(index);
    }
}
