//! An empty list or map says the same as none: upstream's types leave both out (`omitempty`), so what is decoded must
//! not tell them apart, or an object would differ from itself after a round trip.
//!
//! Struct members stay: `emptyDir: {}` and `podSelector: {}` mean something. The usual body has no empties and costs
//! one scan.

use std::borrow::Cow;

use serde_json::Value;

/// Members that hold maps in `k8s.io/api`; an empty object under any other name is a struct.
const MAPS: &[&str] = &[
    "allocatable",
    "allocatedResources",
    "annotations",
    "binaryData",
    "capacity",
    "data",
    "deprecatedTopology",
    "labels",
    "limits",
    "matchLabels",
    "nodeSelector",
    "overhead",
    "requests",
    "stringData",
    "volumeAttributes",
];

/// `json` without members that are empty lists or maps. What is not JSON comes back as it is.
pub fn strip(json: &[u8]) -> Cow<'_, [u8]> {
    if !has_empties(json) {
        return Cow::Borrowed(json);
    }
    match serde_json::from_slice::<Value>(json) {
        Ok(mut value) => {
            strip_value(&mut value);
            Cow::Owned(serde_json::to_vec(&value).unwrap_or_else(|_| json.to_vec()))
        }
        Err(_) => Cow::Borrowed(json),
    }
}

/// As [`strip`], in place.
pub fn strip_value(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|name, member| match member {
                Value::Array(items) => !items.is_empty(),
                Value::Object(inner) => !(inner.is_empty() && MAPS.contains(&name.as_str())),
                _ => true,
            });
            members.values_mut().for_each(strip_value);
        }
        Value::Array(items) => items.iter_mut().for_each(strip_value),
        _ => {}
    }
}

/// Is there a `[]` or `{}` outside of strings?
fn has_empties(json: &[u8]) -> bool {
    let mut at = 0;
    while at < json.len() {
        match json[at] {
            b'"' => {
                at += 1;
                // Most of a big body is text.
                while let Some(step) =
                    memchr::memchr2(b'"', b'\\', json.get(at..).unwrap_or_default())
                {
                    at += step;
                    if json[at] == b'"' {
                        break;
                    }
                    at += 2;
                }
            }
            b'[' | b'{' => {
                let rest = &json[at + 1..];
                let next = rest.iter().find(|byte| !byte.is_ascii_whitespace());
                if matches!(next, Some(b']' | b'}')) {
                    return true;
                }
            }
            _ => {}
        }
        at += 1;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empties_go_and_structs_stay() {
        for (json, want) in [
            (
                r#"{"a":[],"labels":{},"emptyDir":{}}"#,
                r#"{"emptyDir":{}}"#,
            ),
            (r#"{"a":[ ],"x":{"limits":{ }}}"#, r#"{"x":{}}"#),
            (r#"{"a":"[]","b":"\"{}"}"#, r#"{"a":"[]","b":"\"{}"}"#),
            (r#"{"list":[{"args":[]}]}"#, r#"{"list":[{}]}"#),
            (
                r#"{"rules":[{"apiGroups":[""]}]}"#,
                r#"{"rules":[{"apiGroups":[""]}]}"#,
            ),
        ] {
            assert_eq!(
                std::str::from_utf8(&strip(json.as_bytes())).unwrap(),
                want,
                "{json}"
            );
        }
        assert!(matches!(strip(br#"{"a":[1]}"#), Cow::Borrowed(_)));
        assert_eq!(&*strip(b"{[}"), b"{[}");
    }
}
