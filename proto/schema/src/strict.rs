//! Fields nobody knows and keys given twice, found in one pass over the bytes of a request.
//!
//! Upstream: `sigs.k8s.io/json` strict decoding: `unknown field "spec.foo"`, `duplicate field "spec.replicas"`. A field
//! nobody knows is named once, whatever is in it. Nothing is decoded here and no value is kept.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt::{self, Write};

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::tree::{Shape, TypeRef};

/// What is reported at most; a body full of errors is not answered with as long a list.
const MAX_FOUND: usize = 100;

/// What a strict decoder would refuse, in the order in which it is met. Bytes that are no JSON yield what was found
/// up to there: the decoder proper refuses them.
pub fn unknown_fields(bytes: &[u8], ty: TypeRef<'_>) -> Vec<String> {
    let mut found = Found::default();
    let mut json = serde_json::Deserializer::from_slice(bytes);
    // An error here is the decoder's to tell.
    let _ = Walk {
        ty,
        found: &mut found,
    }
    .deserialize(&mut json);
    found.errors
}

#[derive(Default)]
struct Found {
    path: String,
    errors: Vec<String>,
}

impl Found {
    fn report(&mut self, what: &str, key: &str) {
        if self.errors.len() < MAX_FOUND {
            let dot = if self.path.is_empty() { "" } else { "." };
            self.errors
                .push(format!("{what} field \"{}{dot}{key}\"", self.path));
        }
    }

    fn enter(&mut self, key: &str) -> usize {
        let before = self.path.len();
        if before > 0 {
            self.path.push('.');
        }
        self.path.push_str(key);
        before
    }
}

struct Walk<'a, 'f> {
    ty: TypeRef<'a>,
    found: &'f mut Found,
}

impl<'de> DeserializeSeed<'de> for Walk<'_, '_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match self.ty.shape() {
            Shape::Scalar => deserializer.deserialize_ignored_any(IgnoredAny).map(|_| ()),
            _ => deserializer.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for Walk<'_, '_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any JSON")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        let mut seen_fields = 0u128;
        let mut seen_keys: HashSet<String> = HashSet::new();
        while let Some(Key(key)) = map.next_key::<Key<'de>>()? {
            let below = match self.ty.shape() {
                Shape::Struct { fields, .. } => {
                    match fields.binary_search_by(|field| (*field.name).cmp(&key)) {
                        Err(_) => {
                            self.found.report("unknown", &key);
                            map.next_value::<IgnoredAny>()?;
                            continue;
                        }
                        Ok(index) => {
                            // No type has more than 128 fields (checked by a test).
                            let bit = 1u128 << (index & 127);
                            if seen_fields & bit != 0 {
                                self.found.report("duplicate", &key);
                            }
                            seen_fields |= bit;
                            self.ty.field_type(&fields[index])
                        }
                    }
                }
                Shape::Map { value, .. } => {
                    self.twice(&mut seen_keys, &key);
                    self.ty.at(*value)
                }
                _ => {
                    self.twice(&mut seen_keys, &key);
                    self.ty
                }
            };
            let before = self.found.enter(&key);
            map.next_value_seed(Walk {
                ty: below,
                found: self.found,
            })?;
            self.found.path.truncate(before);
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let below = match self.ty.shape() {
            Shape::Untyped { .. } => self.ty,
            _ => self.ty.item(),
        };
        let before = self.found.path.len();
        let mut index = 0;
        loop {
            // Writing to a String cannot fail.
            let _ = write!(self.found.path, "[{index}]");
            let next = list.next_element_seed(Walk {
                ty: below,
                found: self.found,
            })?;
            self.found.path.truncate(before);
            if next.is_none() {
                return Ok(());
            }
            index += 1;
        }
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

/// A key as it stands in the bytes, where it has no escapes.
#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

impl Walk<'_, '_> {
    fn twice(&mut self, seen: &mut HashSet<String>, key: &str) {
        if !seen.insert(key.to_owned()) {
            self.found.report("duplicate", key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Schema;

    #[test]
    fn reports() {
        let cases: &[(&str, &str, &[&str])] = &[
            (
                "io.k8s.api.core.v1.Pod",
                r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"x","labels":{"a":"b"}},"spec":{"containers":[{"name":"c"}]}}"#,
                &[],
            ),
            (
                "io.k8s.api.core.v1.Pod",
                r#"{"spec":{"restartPolice":{"x":[{}]},"containers":[{"name":"a"},{"imag":"x"}]}}"#,
                &[
                    "unknown field \"spec.restartPolice\"",
                    "unknown field \"spec.containers[1].imag\"",
                ],
            ),
            (
                "io.k8s.api.apps.v1.Deployment",
                r#"{"spec":{"replicas":1,"replicas":2},"foo":1}"#,
                &["duplicate field \"spec.replicas\"", "unknown field \"foo\""],
            ),
            (
                "io.k8s.api.core.v1.ConfigMap",
                r#"{"data":{"a":"1","a":"2"},"metadata":{"nam":"x"}}"#,
                &[
                    "duplicate field \"data.a\"",
                    "unknown field \"metadata.nam\"",
                ],
            ),
            ("io.k8s.api.core.v1.ConfigMap", r#"{"data":{"a""#, &[]),
            (
                "io.k8s.api.apps.v1.ControllerRevision",
                r#"{"data":{"spec":{"anything":[1,{"a":null}]}},"revision":1}"#,
                &[],
            ),
            (
                "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition",
                r#"{"spec":{"versions":[{"schema":{"openAPIV3Schema":{"properties":{"a":{"items":{"type":"string"},"default":{"x":1}}}}}}]}}"#,
                &[],
            ),
        ];
        for (definition, body, expected) in cases {
            assert_eq!(
                unknown_fields(body.as_bytes(), Schema::get().of(definition)),
                *expected,
                "{body}"
            );
        }
    }

    #[test]
    fn every_type_fits_the_bit_set() {
        assert!(Schema::get().widest() <= 128);
    }
}
