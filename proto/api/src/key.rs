//! Names of things: keys of the revision log, ranges of them, revisions, object names.
//!
//! A key is `/registry/<group or core>/<plural>/<namespace>/<name>`, without the namespace for cluster-scoped
//! kinds, as upstream's etcd layout. Never parse a key anywhere else.

use std::borrow::Borrow;
use std::fmt;
use std::num::ParseIntError;
use std::ops::Deref;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The first part of every key.
pub const ROOT: &str = "/registry/";

macro_rules! shared_str {
    ($(#[$doc:meta])* $Name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(from = "String", into = "String")]
        pub struct $Name(Arc<str>);

        impl $Name {
            pub fn new(text: impl Into<Arc<str>>) -> Self { $Name(text.into()) }
            pub fn as_str(&self) -> &str { &self.0 }
        }
        impl Default for $Name { fn default() -> Self { $Name(Arc::from("")) } }
        impl Deref for $Name { type Target = str; fn deref(&self) -> &str { &self.0 } }
        impl Borrow<str> for $Name { fn borrow(&self) -> &str { &self.0 } }
        impl AsRef<str> for $Name { fn as_ref(&self) -> &str { &self.0 } }
        impl AsRef<[u8]> for $Name { fn as_ref(&self) -> &[u8] { self.0.as_bytes() } }
        impl From<&str> for $Name { fn from(text: &str) -> Self { $Name(Arc::from(text)) } }
        impl From<String> for $Name { fn from(text: String) -> Self { $Name(Arc::from(text)) } }
        impl From<&String> for $Name { fn from(text: &String) -> Self { $Name(Arc::from(text.as_str())) } }
        impl From<$Name> for String { fn from(name: $Name) -> String { name.0.as_ref().to_owned() } }
        impl PartialEq<str> for $Name { fn eq(&self, other: &str) -> bool { &*self.0 == other } }
        impl PartialEq<&str> for $Name { fn eq(&self, other: &&str) -> bool { &*self.0 == *other } }
        impl PartialEq<String> for $Name { fn eq(&self, other: &String) -> bool { &*self.0 == other.as_str() } }
        impl fmt::Display for $Name { fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(&self.0) } }
        impl fmt::Debug for $Name { fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { fmt::Debug::fmt(&*self.0, f) } }
    };
}

shared_str! {
    /// Where one object lies in the revision log.
    Key
}
shared_str! {
    /// `metadata.uid`: unique over time and space, unlike a name.
    Uid
}
shared_str! {
    /// The name of a Node object.
    NodeName
}

impl Key {
    /// `/registry/<group>/<plural>/`: what rings, indexes and counts are kept by. The whole key when it is not of that form.
    pub fn kind_prefix(&self) -> &str {
        let mut slashes = self
            .0
            .bytes()
            .enumerate()
            .filter(|(_, byte)| *byte == b'/')
            .map(|(at, _)| at);
        match slashes.nth(3) {
            Some(at) => &self.0[..=at],
            None => &self.0,
        }
    }

    /// Namespace (empty for cluster-scoped kinds) and name, read off the end of the key.
    pub fn object(&self) -> ObjectName {
        let rest = &self.0[self.kind_prefix().len()..];
        match rest.split_once('/') {
            Some((namespace, name)) => ObjectName::new(namespace, name),
            None => ObjectName::new("", rest),
        }
    }
}

/// Keys from `start` (inclusive) to `end` (exclusive), in byte order.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct KeyRange {
    pub start: Key,
    pub end: Key,
}

impl KeyRange {
    /// Every key that begins with `prefix`.
    pub fn prefix(prefix: &str) -> Self {
        let mut end = prefix.to_owned();
        match end.pop() {
            // Prefixes end in '/'; '0' is the next byte. Other ASCII ends work the same way.
            Some(last) if last.is_ascii() && last < '\x7f' => end.push((last as u8 + 1) as char),
            _ => end = "\u{10ffff}".to_owned(),
        }
        KeyRange {
            start: Key::from(prefix),
            end: Key::from(end),
        }
    }

    /// Exactly one key.
    pub fn one(key: &Key) -> Self {
        KeyRange {
            start: key.clone(),
            end: Key::from(format!("{key}\0")),
        }
    }

    /// The whole log.
    pub fn all() -> Self {
        KeyRange::prefix(ROOT)
    }

    pub fn contains(&self, key: &Key) -> bool {
        self.start <= *key && *key < self.end
    }

    /// The same range, beginning at `start` (a continue token's key) when that lies further on.
    pub fn from_start(&self, start: Key) -> Self {
        KeyRange {
            start: start.max(self.start.clone()),
            end: self.end.clone(),
        }
    }
}

/// Namespace and name of an object; the namespace is empty for cluster-scoped kinds.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectName {
    pub namespace: String,
    pub name: String,
}

impl ObjectName {
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        ObjectName {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    pub fn cluster(name: impl Into<String>) -> Self {
        ObjectName::new("", name)
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// A point in the cluster's history; `resourceVersion` on the wire. Zero is "before everything".
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for Revision {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        text.parse().map(Revision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_tells_its_kind_and_its_object() {
        for (key, prefix, object) in [
            (
                "/registry/core/pods/default/web-1",
                "/registry/core/pods/",
                "default/web-1",
            ),
            (
                "/registry/core/nodes/node-1",
                "/registry/core/nodes/",
                "node-1",
            ),
            (
                "/registry/apps/deployments/a/b",
                "/registry/apps/deployments/",
                "a/b",
            ),
        ] {
            let key = Key::from(key);
            assert_eq!(key.kind_prefix(), prefix);
            assert_eq!(key.object().to_string(), object);
        }
        assert_eq!(Key::from("odd").kind_prefix(), "odd");
    }

    #[test]
    fn a_prefix_holds_its_own_keys_only() {
        let range = KeyRange::prefix("/registry/core/pods/a/");
        for (key, inside) in [
            ("/registry/core/pods/a/x", true),
            ("/registry/core/pods/a/\u{e9}", true),
            ("/registry/core/pods/ab/x", false),
            ("/registry/core/pods/a", false),
        ] {
            assert_eq!(range.contains(&Key::from(key)), inside, "{key}");
        }
        let one = KeyRange::one(&Key::from("/a/b"));
        assert!(one.contains(&Key::from("/a/b")) && !one.contains(&Key::from("/a/bc")));
    }
}
