//! Reads what selectors, garbage collection and indexes need from any object, custom ones too, and finds the one
//! slot in its JSON where the revision is spliced in.
//!
//! Never decodes a whole object and never panics on what it is given: bad JSON, or JSON nested deeper than
//! serde_json's limit (128), is an error.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::key::{Revision, Uid};

/// Why bytes are not an object.
#[derive(Debug, thiserror::Error)]
pub enum MetaError {
    #[error("reading the object's metadata: {0}")]
    Json(#[from] serde_json::Error),
    #[error("the object has no metadata")]
    NoMetadata,
}

/// All that is known about an object without decoding it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    pub name: String,
    /// Empty for cluster-scoped objects.
    pub namespace: String,
    pub uid: Uid,
    pub generation: i64,
    pub labels: BTreeMap<String, String>,
    pub owners: Vec<Owner>,
    pub finalizers: Vec<String>,
    pub created: Option<Timestamp>,
    /// `metadata.deletionTimestamp`.
    pub deletion: Option<Timestamp>,
    /// `spec.nodeName`, where it is a string.
    pub node: Option<String>,
}

impl Meta {
    /// The owner that manages this object, if any.
    pub fn controller(&self) -> Option<&Owner> {
        self.owners.iter().find(|owner| owner.controller)
    }

    pub fn is_terminating(&self) -> bool {
        self.deletion.is_some()
    }
}

/// One entry of `metadata.ownerReferences`.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Owner {
    #[serde(default)]
    pub api_version: String,
    #[serde(default)]
    pub kind: String,
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    pub uid: Uid,
    #[serde(default, deserialize_with = "null_is_default")]
    pub controller: bool,
    #[serde(default, deserialize_with = "null_is_default")]
    pub block_owner_deletion: bool,
}

/// An object's JSON with the place of its revision known.
#[derive(Clone, Debug)]
pub struct Encoded {
    pub json: Bytes,
    /// The bytes between the quotes of `metadata.resourceVersion`.
    pub slot: Range<usize>,
    pub meta: Arc<Meta>,
}

impl Encoded {
    /// Reads the metadata and finds the slot, inserting an empty `resourceVersion` where there is none.
    pub fn new(json: impl Into<Vec<u8>>) -> Result<Encoded, MetaError> {
        let mut json = json.into();
        let (meta, place) = read(&json)?;
        let slot = match place {
            Place::Text(range) => range,
            Place::Other(range) => {
                let start = range.start + 1;
                json.splice(range, *b"\"\"");
                start..start
            }
            Place::Missing { open, empty } => {
                let insert: &[u8] = if empty {
                    br#""resourceVersion":"""#
                } else {
                    br#""resourceVersion":"","#
                };
                json.splice(open + 1..open + 1, insert.iter().copied());
                let start = open + 1 + br#""resourceVersion":""#.len();
                start..start
            }
        };
        Ok(Encoded {
            json: Bytes::from(json),
            slot,
            meta: Arc::new(meta),
        })
    }

    /// The JSON with `revision` in its slot. One copy, no parse.
    pub fn at(&self, revision: Revision) -> Bytes {
        let digits = revision.to_string();
        let mut json = Vec::with_capacity(self.json.len() - self.slot.len() + digits.len());
        json.extend_from_slice(&self.json[..self.slot.start]);
        json.extend_from_slice(digits.as_bytes());
        json.extend_from_slice(&self.json[self.slot.end..]);
        Bytes::from(json)
    }

    /// This object at `revision`: the JSON spliced and the slot moved with it.
    pub fn stamped(&self, revision: Revision) -> Encoded {
        let json = self.at(revision);
        let end = self.slot.start + json.len() - (self.json.len() - self.slot.len());
        Encoded {
            json,
            slot: self.slot.start..end,
            meta: self.meta.clone(),
        }
    }
}

enum Place {
    Text(Range<usize>),
    Other(Range<usize>),
    Missing { open: usize, empty: bool },
}

fn read(json: &[u8]) -> Result<(Meta, Place), MetaError> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let outline = Outline::deserialize(&mut deserializer)?;
    deserializer.end()?;
    let metadata = outline.metadata.ok_or(MetaError::NoMetadata)?;
    // What `Wire` does not name it passes over without a depth limit; this holds it to serde_json's.
    let _: Skip = serde_json::from_str(metadata.get())?;
    let wire: Wire = serde_json::from_str(metadata.get())?;
    let offset = |raw: &RawValue| raw.get().as_ptr() as usize - json.as_ptr() as usize;
    let place = match wire.resource_version {
        Some(raw) => {
            let (start, length) = (offset(raw), raw.get().len());
            if raw.get().starts_with('"') && length >= 2 {
                Place::Text(start + 1..start + length - 1)
            } else {
                Place::Other(start..start + length)
            }
        }
        None => Place::Missing {
            open: offset(metadata),
            empty: metadata.get()[1..].trim_start().starts_with('}'),
        },
    };
    let meta = Meta {
        name: wire.name,
        namespace: wire.namespace,
        uid: wire.uid,
        generation: wire.generation,
        labels: wire.labels,
        owners: wire.owner_references,
        finalizers: wire.finalizers,
        created: wire.creation_timestamp,
        deletion: wire.deletion_timestamp,
        node: outline.node,
    };
    Ok((meta, place))
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire<'a> {
    #[serde(default, deserialize_with = "null_is_default")]
    name: String,
    #[serde(default, deserialize_with = "null_is_default")]
    namespace: String,
    #[serde(default, deserialize_with = "null_is_default")]
    uid: Uid,
    #[serde(default, deserialize_with = "null_is_default")]
    generation: i64,
    #[serde(default, deserialize_with = "null_is_default")]
    labels: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "null_is_default")]
    owner_references: Vec<Owner>,
    #[serde(default, deserialize_with = "null_is_default")]
    finalizers: Vec<String>,
    #[serde(default)]
    creation_timestamp: Option<Timestamp>,
    #[serde(default)]
    deletion_timestamp: Option<Timestamp>,
    // A bare `Option<&RawValue>` would take `null` for absent, and a second value would be inserted beside it.
    #[serde(borrow, default, deserialize_with = "present")]
    resource_version: Option<&'a RawValue>,
}

fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

fn null_is_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// The top level of an object: its metadata as raw text and `spec.nodeName`.
struct Outline<'a> {
    metadata: Option<&'a RawValue>,
    node: Option<String>,
}

impl<'de> Deserialize<'de> for Outline<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Top;
        impl<'de> Visitor<'de> for Top {
            type Value = Outline<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Outline<'de>, A::Error> {
                let mut outline = Outline {
                    metadata: None,
                    node: None,
                };
                while let Some(name) = map.next_key::<MemberName>()? {
                    match name {
                        MemberName::Metadata => {
                            let raw: &RawValue = map.next_value()?;
                            if !raw.get().starts_with('{') {
                                return Err(A::Error::custom("metadata is not an object"));
                            }
                            if outline.metadata.replace(raw).is_some() {
                                return Err(A::Error::duplicate_field("metadata"));
                            }
                        }
                        MemberName::Spec => outline.node = map.next_value::<NodeOfSpec>()?.0,
                        _ => {
                            map.next_value::<Skip>()?;
                        }
                    }
                }
                Ok(outline)
            }
        }
        deserializer.deserialize_map(Top)
    }
}

/// The few member names that matter; reading them so avoids an allocation per member.
enum MemberName {
    Metadata,
    Spec,
    NodeName,
    Other,
}

impl<'de> Deserialize<'de> for MemberName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;
        impl Visitor<'_> for Names {
            type Value = MemberName;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a member name")
            }

            fn visit_str<E>(self, name: &str) -> Result<MemberName, E> {
                Ok(match name {
                    "metadata" => MemberName::Metadata,
                    "spec" => MemberName::Spec,
                    "nodeName" => MemberName::NodeName,
                    _ => MemberName::Other,
                })
            }
        }
        deserializer.deserialize_str(Names)
    }
}

/// Walks over a value without keeping it. Unlike `IgnoredAny` it recurses, so serde_json's depth limit holds.
struct Skip;

/// A value that is kept only where it is a string.
struct MaybeText(Option<String>);

/// `nodeName` of an object; anything else that stands for a spec has none.
struct NodeOfSpec(Option<String>);

macro_rules! any_value {
    ($Target:ident, $nothing:expr, text: $text:expr, map: $map:expr) => {
        impl<'de> Deserialize<'de> for $Target {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Any;
                impl<'de> Visitor<'de> for Any {
                    type Value = $Target;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("a JSON value")
                    }
                    fn visit_bool<E>(self, _: bool) -> Result<$Target, E> {
                        Ok($nothing)
                    }
                    fn visit_i64<E>(self, _: i64) -> Result<$Target, E> {
                        Ok($nothing)
                    }
                    fn visit_u64<E>(self, _: u64) -> Result<$Target, E> {
                        Ok($nothing)
                    }
                    fn visit_f64<E>(self, _: f64) -> Result<$Target, E> {
                        Ok($nothing)
                    }
                    fn visit_unit<E>(self) -> Result<$Target, E> {
                        Ok($nothing)
                    }
                    fn visit_str<E>(self, text: &str) -> Result<$Target, E> {
                        let keep: fn(&str) -> $Target = $text;
                        Ok(keep(text))
                    }
                    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<$Target, A::Error> {
                        while seq.next_element::<Skip>()?.is_some() {}
                        Ok($nothing)
                    }
                    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<$Target, A::Error> {
                        let mut found = None;
                        while let Some(name) = map.next_key::<MemberName>()? {
                            match name {
                                MemberName::NodeName => found = map.next_value::<MaybeText>()?.0,
                                _ => {
                                    map.next_value::<Skip>()?;
                                }
                            }
                        }
                        let keep: fn(Option<String>) -> $Target = $map;
                        Ok(keep(found))
                    }
                }
                deserializer.deserialize_any(Any)
            }
        }
    };
}

any_value!(Skip, Skip, text: |_| Skip, map: |_| Skip);
any_value!(MaybeText, MaybeText(None), text: |text| MaybeText(Some(text.to_owned())), map: |_| MaybeText(None));
any_value!(NodeOfSpec, NodeOfSpec(None), text: |_| NodeOfSpec(None), map: NodeOfSpec);

#[cfg(test)]
mod tests {
    use super::*;

    fn spliced(json: &str) -> String {
        let encoded = Encoded::new(json).unwrap();
        let stamped = encoded.stamped(Revision(12345));
        assert_eq!(&stamped.json[stamped.slot.clone()], b"12345");
        String::from_utf8(encoded.at(Revision(42)).to_vec()).unwrap()
    }

    #[test]
    fn the_revision_goes_into_its_slot() {
        for (json, expected) in [
            (
                r#"{"metadata":{}}"#,
                r#"{"metadata":{"resourceVersion":"42"}}"#,
            ),
            (
                r#"{"metadata":{ } }"#,
                r#"{"metadata":{"resourceVersion":"42" } }"#,
            ),
            (
                r#"{"metadata":{"name":"a"},"x":1}"#,
                r#"{"metadata":{"resourceVersion":"42","name":"a"},"x":1}"#,
            ),
            (
                r#"{"a":{"metadata":{}},"metadata":{"resourceVersion":"7"}}"#,
                r#"{"a":{"metadata":{}},"metadata":{"resourceVersion":"42"}}"#,
            ),
            (
                r#"{"metadata":{"resourceVersion":null}}"#,
                r#"{"metadata":{"resourceVersion":"42"}}"#,
            ),
            (
                r#"{"metadata":{"resourceVersion": 12 }}"#,
                r#"{"metadata":{"resourceVersion": "42" }}"#,
            ),
            (
                r#"{"metadata":{"resourceVersion":""}}"#,
                r#"{"metadata":{"resourceVersion":"42"}}"#,
            ),
            (
                r#"{"metadata":{"annotations":{"resourceVersion":"x"},"name":"a"}}"#,
                r#"{"metadata":{"resourceVersion":"42","annotations":{"resourceVersion":"x"},"name":"a"}}"#,
            ),
        ] {
            assert_eq!(spliced(json), expected);
        }
    }

    #[test]
    fn the_metadata_of_any_kind_is_read() {
        let encoded = Encoded::new(
            r#"{"spec":{"nodeName":"n1","x":[1,{"nodeName":2}]},"metadata":{"name":"a","namespace":"b","uid":"u","generation":3,
            "labels":{"k":"v"},"finalizers":null,"creationTimestamp":"2026-01-02T03:04:05Z","deletionTimestamp":null,
            "ownerReferences":[{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"r","uid":"o","controller":true}],"managedFields":[{"fieldsV1":{"f:a":{}}}]}}"#,
        )
        .unwrap();
        let meta = &encoded.meta;
        assert_eq!(
            (
                meta.name.as_str(),
                meta.namespace.as_str(),
                &*meta.uid,
                meta.generation
            ),
            ("a", "b", "u", 3)
        );
        assert_eq!(meta.node.as_deref(), Some("n1"));
        assert_eq!(
            meta.controller().map(|owner| owner.name.as_str()),
            Some("r")
        );
        assert_eq!(meta.created.unwrap().to_string(), "2026-01-02T03:04:05Z");
        assert!(!meta.is_terminating());
        assert_eq!(
            Encoded::new(r#"{"metadata":{},"spec":{"nodeName":7}}"#)
                .unwrap()
                .meta
                .node,
            None
        );
        assert_eq!(
            Encoded::new(r#"{"metadata":{},"spec":"text"}"#)
                .unwrap()
                .meta
                .node,
            None
        );
    }

    #[test]
    fn what_is_no_object_is_refused() {
        let deep = |open: &str, close: &str| {
            format!(
                r#"{{"metadata":{{}},"spec":{}{}}}"#,
                open.repeat(10_000),
                close.repeat(10_000)
            )
        };
        for bad in [
            "",
            "null",
            "[]",
            "{",
            "{}",
            r#"{"metadata":null}"#,
            r#"{"metadata":[]}"#,
            r#"{"metadata":{},"metadata":{}}"#,
            r#"{"metadata":{"resourceVersion":"1","resourceVersion":"2"}}"#,
            r#"{"metadata":{"labels":{"a":1}}}"#,
            r#"{"metadata":{}} x"#,
            &deep("[", "]"),
            &deep(r#"{"a":"#, "}").replace(":}", ":1}"),
        ] {
            assert!(Encoded::new(bad).is_err(), "{}", &bad[..bad.len().min(60)]);
        }
        let deep = format!(
            r#"{{"metadata":{{"managedFields":{}{}}}}}"#,
            "[".repeat(10_000),
            "]".repeat(10_000)
        );
        assert!(Encoded::new(deep).is_err());
    }
}
