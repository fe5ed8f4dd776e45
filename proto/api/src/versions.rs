//! Kinds that are served in more than one version over one storage, converted at the edge.
//!
//! Follows upstream's conversions (`pkg/apis/events/v1/conversion.go`). What no row here names passes through.

use serde_json::{Map, Value};

use crate::kinds::Row;

/// (name in core/v1, name in events.k8s.io/v1)
const EVENT_FIELDS: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

/// An object of `row`'s version, as it is stored.
pub fn to_storage(row: &'static Row, object: &mut Value) {
    convert(row, row.storage_row(), object, |(core, events)| {
        (events, core)
    });
}

/// A stored object, as `row`'s version shows it.
pub fn from_storage(row: &'static Row, object: &mut Value) {
    convert(row, row, object, |(core, events)| (core, events));
}

type Rename = fn((&'static str, &'static str)) -> (&'static str, &'static str);

fn convert(row: &'static Row, target: &Row, object: &mut Value, rename: Rename) {
    if row.is_storage_version() {
        return;
    }
    let Value::Object(members) = object else {
        return;
    };
    members.insert("apiVersion".to_owned(), Value::String(target.api_version()));
    members.insert("kind".to_owned(), Value::String(target.kind.to_owned()));
    if row.storage == ("core", "events") {
        for pair in EVENT_FIELDS {
            let (from, to) = rename(pair);
            move_member(members, from, to);
        }
    }
}

fn move_member(members: &mut Map<String, Value>, from: &str, to: &str) {
    if let Some(value) = members.remove(from) {
        members.insert(to.to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::by_kind;
    use serde_json::json;

    #[test]
    fn events_convert_there_and_back() {
        let row = by_kind("events.k8s.io", "v1", "Event").unwrap();
        let new = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "a"}, "regarding": {"name": "p"}, "note": "n",
            "reportingController": "c", "deprecatedCount": 2, "reason": "R"});
        let mut object = new.clone();
        to_storage(row, &mut object);
        assert_eq!(
            object,
            json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "a"}, "involvedObject": {"name": "p"}, "message": "n",
                "reportingComponent": "c", "count": 2, "reason": "R"})
        );
        from_storage(row, &mut object);
        assert_eq!(object, new);
    }
}
