//! A set of field paths, kept as the tree that `FieldsV1` is on the wire.
//!
//! The keys are FieldsV1's own (`f:name`, `k:{"name":"web"}`, `v:"x"`, `i:3`), so that reading and writing an entry
//! costs next to nothing. A path is in the set when its node is a `member`; having children does not make it one.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// A node of the tree; as a root, the set itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Set {
    pub member: bool,
    pub children: BTreeMap<String, Set>,
}

impl Set {
    pub(crate) fn is_empty(&self) -> bool {
        !self.member && self.children.is_empty()
    }

    /// Puts a subtree under a key; an empty one leaves no trace.
    pub(crate) fn put(&mut self, key: String, child: Set) {
        if !child.is_empty() {
            self.children.insert(key, child);
        }
    }

    /// From FieldsV1; what is not understood is left out.
    pub(crate) fn decode(fields: &Value) -> Set {
        let mut set = Set::default();
        let Some(map) = fields.as_object() else {
            return set;
        };
        for (key, below) in map {
            if key == "." {
                set.member = true;
                continue;
            }
            let mut child = Set::decode(below);
            // A leaf stands for itself: `{"f:a":{}}` holds the path `.a`.
            child.member |= child.children.is_empty();
            set.children.insert(key.clone(), child);
        }
        set
    }

    /// To FieldsV1.
    pub(crate) fn encode(&self) -> Value {
        let mut map = Map::new();
        if self.member && !self.children.is_empty() {
            map.insert(".".into(), Value::Object(Map::new()));
        }
        for (key, child) in &self.children {
            map.insert(key.clone(), child.encode());
        }
        Value::Object(map)
    }

    pub(crate) fn union(&mut self, other: &Set) {
        self.member |= other.member;
        for (key, theirs) in &other.children {
            match self.children.get_mut(key) {
                Some(ours) => ours.union(theirs),
                None => {
                    self.children.insert(key.clone(), theirs.clone());
                }
            }
        }
    }

    /// Takes the members of `other` out, path by path.
    pub(crate) fn subtract(&mut self, other: &Set) {
        self.member &= !other.member;
        for (key, theirs) in &other.children {
            if let Some(ours) = self.children.get_mut(key) {
                ours.subtract(theirs);
                if ours.is_empty() {
                    self.children.remove(key);
                }
            }
        }
    }

    pub(crate) fn minus(mut self, other: &Set) -> Set {
        self.subtract(other);
        self
    }

    pub(crate) fn intersection(&self, other: &Set) -> Set {
        let mut both = Set {
            member: self.member && other.member,
            children: BTreeMap::new(),
        };
        for (key, ours) in &self.children {
            if let Some(theirs) = other.children.get(key) {
                both.put(key.clone(), ours.intersection(theirs));
            }
        }
        both
    }

    /// Every member as people read it: `.spec.containers[name="web"].image`.
    pub(crate) fn paths(&self) -> Vec<String> {
        fn walk(set: &Set, path: &str, found: &mut Vec<String>) {
            if set.member {
                found.push(path.to_owned());
            }
            for (key, child) in &set.children {
                walk(child, &format!("{path}{}", readable(key)), found);
            }
        }
        let mut found = Vec::new();
        walk(self, "", &mut found);
        found
    }
}

fn readable(key: &str) -> String {
    match key.split_at_checked(2) {
        Some(("f:", name)) => format!(".{name}"),
        Some(("v:", value)) => format!("[={value}]"),
        Some(("i:", index)) => format!("[{index}]"),
        Some(("k:", keys)) => match serde_json::from_str::<BTreeMap<String, Value>>(keys) {
            Ok(keys) => {
                let keys: Vec<String> = keys
                    .iter()
                    .map(|(name, value)| format!("{name}={value}"))
                    .collect();
                format!("[{}]", keys.join(","))
            }
            Err(_) => format!("[{keys}]"),
        },
        _ => format!(".{key}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn wire_form_and_algebra() {
        let a = json!({"f:data": {".": {}, "f:x": {}, "f:y": {}}, "f:list": {"k:{\"name\":\"a\"}": {".": {}, "f:v": {}}}});
        let b = json!({"f:data": {"f:y": {}, "f:z": {}}});
        let (a_set, b_set) = (Set::decode(&a), Set::decode(&b));
        assert_eq!(a_set.encode(), a);
        assert_eq!(
            a_set.intersection(&b_set).encode(),
            json!({"f:data": {"f:y": {}}})
        );
        assert_eq!(
            a_set.clone().minus(&b_set).encode(),
            json!({"f:data": {".": {}, "f:x": {}}, "f:list": a["f:list"]})
        );
        let mut both = a_set.clone();
        both.union(&b_set);
        assert_eq!(
            both.encode()["f:data"],
            json!({".": {}, "f:x": {}, "f:y": {}, "f:z": {}})
        );
        assert_eq!(
            a_set.paths(),
            [
                ".data",
                ".data.x",
                ".data.y",
                ".list[name=\"a\"]",
                ".list[name=\"a\"].v"
            ]
        );
    }
}
