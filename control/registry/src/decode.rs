//! From JSON to a typed, normalised object, and what to say when it does not fit the type.
//!
//! Messages follow what upstream's decoder says (`Deployment in version "v1" cannot be handled as a Deployment: ...`);
//! the cause is ours, in Go's words where it has them, with the way to the field.

use caravel_api::{Row, quantity::Quantity};
use serde_json::Value;
use thiserror::Error;

use crate::empties;
use crate::strategy::Strategy;

/// Why a body is no object of the kind; becomes 400.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// Not JSON at all, or not an object.
    #[error(
        "the object provided is unrecognized (must be of type {kind}): couldn't get version/kind; json parse error: {cause}"
    )]
    Syntax { kind: &'static str, cause: String },
    /// JSON that does not fit the type.
    #[error("{kind} in version {version:?} cannot be handled as a {kind}: {cause}")]
    Type {
        kind: &'static str,
        version: &'static str,
        cause: String,
    },
    /// Another `kind` than the path's.
    #[error(
        "{found} in version {version:?} cannot be handled as a {kind}: converting ({found}) to ({kind}): unknown conversion"
    )]
    Kind {
        kind: &'static str,
        version: &'static str,
        found: String,
    },
    /// Another `apiVersion` than the path's.
    #[error(
        "the API version in the data ({found}) does not match the expected API version ({expected})"
    )]
    Version { found: String, expected: String },
    /// What lies in the store cannot be read.
    #[error("stored {kind} cannot be decoded: {cause}")]
    Stored { kind: &'static str, cause: String },
}

impl DecodeError {
    pub(crate) fn stored<K: Strategy>(cause: &serde_json::Error) -> Self {
        DecodeError::Stored {
            kind: K::row().kind,
            cause: cause.to_string(),
        }
    }
}

/// A request's body as a `K`.
pub(crate) fn body<K: Strategy>(json: &[u8]) -> Result<K, DecodeError> {
    let json = empties::strip(json);
    let object: K =
        serde_json::from_slice(&json).map_err(|cause| explain(K::row(), &json, &cause))?;
    checked(object)
}

/// Normalised, with quantities that can be read.
fn checked<K: Strategy>(mut object: K) -> Result<K, DecodeError> {
    for amount in object.amounts() {
        Quantity::parse(&amount.0).map_err(|cause| DecodeError::Type {
            kind: K::row().kind,
            version: K::row().version,
            cause: cause.to_string(),
        })?;
    }
    object.normalise();
    Ok(object)
}

/// A value (a patch's result) as a `K`.
pub(crate) fn value<K: Strategy>(mut value: Value) -> Result<K, DecodeError> {
    empties::strip_value(&mut value);
    let object: K = match K::deserialize(&value) {
        Ok(object) => object,
        // The value has no offsets; its text has, and they lead to the field. Only the failing request pays.
        Err(_) => return body(&serde_json::to_vec(&value).unwrap_or_default()),
    };
    checked(object)
}

fn explain(row: &'static Row, json: &[u8], cause: &serde_json::Error) -> DecodeError {
    if cause.is_syntax() || cause.is_eof() || cause.is_io() {
        return DecodeError::Syntax {
            kind: row.kind,
            cause: cause.to_string(),
        };
    }
    let text = cause.to_string();
    let text = text
        .rsplit_once(" at line ")
        .map_or(text.as_str(), |(text, _)| text);
    if let Some((found, expected)) = text
        .strip_prefix("invalid value: string \"")
        .and_then(|rest| rest.rsplit_once("\", expected "))
    {
        if expected == row.kind {
            return DecodeError::Kind {
                kind: row.kind,
                version: row.version,
                found: found.to_owned(),
            };
        }
        if expected == row.api_version() {
            return DecodeError::Version {
                found: found.to_owned(),
                expected: expected.to_owned(),
            };
        }
    }
    let path = path_at(json, offset(json, cause.line(), cause.column()));
    DecodeError::Type {
        kind: row.kind,
        version: row.version,
        cause: in_gos_words(row.kind, &path, text),
    }
}

/// serde's message as Go's decoder would say it.
fn in_gos_words(kind: &str, path: &str, text: &str) -> String {
    if let Some(at) = base64_offset(text) {
        return format!("illegal base64 data at input byte {at} ({path})");
    }
    if let Some((what, expected)) = text
        .strip_prefix("invalid type: ")
        .and_then(|rest| rest.rsplit_once(", expected "))
    {
        let what = match what.split([' ', '`']).next().unwrap_or_default() {
            "string" => "string",
            "integer" | "floating" => "number",
            "boolean" => "bool",
            "map" => "object",
            "sequence" => "array",
            other => other,
        };
        let expected = match expected {
            "a string" => "string",
            "a boolean" => "bool",
            "a sequence" => "[]",
            "a map" => "map",
            "i32" => "int32",
            "i64" => "int64",
            other => other.strip_prefix("a base64-encoded ").unwrap_or(other),
        };
        if path.is_empty() {
            return format!("json: cannot unmarshal {what} into Go value of type {expected}");
        }
        return format!(
            "json: cannot unmarshal {what} into Go struct field {kind}.{path} of type {expected}"
        );
    }
    format!("json: {path}: {text}")
}

/// The byte at which base64 is broken, where that is what a message says.
fn base64_offset(text: &str) -> Option<usize> {
    if let Some(rest) = text
        .strip_prefix("Invalid symbol ")
        .or_else(|| text.strip_prefix("Invalid last symbol "))
    {
        let digits = rest.split_once("offset ")?.1;
        return digits.trim_end_matches('.').parse().ok();
    }
    (text.starts_with("Invalid padding") || text.starts_with("Invalid input length")).then_some(0)
}

/// Line and column (from 1) as an offset.
fn offset(json: &[u8], line: usize, column: usize) -> usize {
    let start: usize = json
        .split_inclusive(|byte| *byte == b'\n')
        .take(line.saturating_sub(1))
        .map(<[u8]>::len)
        .sum();
    (start + column).min(json.len())
}

/// Which member lies at this offset: `spec.containers[0].name`.
fn path_at(json: &[u8], end: usize) -> String {
    enum Step {
        Member(String),
        Item(usize),
    }
    let mut way: Vec<Step> = Vec::new();
    let mut last = String::new();
    let mut at = 0;
    while at < end {
        match json[at] {
            b'"' => {
                let start = at + 1;
                at = start;
                while at < json.len() && json[at] != b'"' {
                    at += if json[at] == b'\\' { 2 } else { 1 };
                }
                last = String::from_utf8_lossy(&json[start..at.min(json.len())]).into_owned();
            }
            b':' => {
                if let Some(Step::Member(name)) = way.last_mut() {
                    *name = std::mem::take(&mut last);
                }
            }
            b'{' if at + 1 < end => way.push(Step::Member(String::new())),
            b'[' if at + 1 < end => way.push(Step::Item(0)),
            // The parser notices a wrong scalar only after it: what closes last still belongs to it.
            b'}' | b']' if at + 1 < end => {
                way.pop();
            }
            b',' if at + 1 < end => {
                if let Some(Step::Item(index)) = way.last_mut() {
                    *index += 1;
                }
            }
            _ => {}
        }
        at += 1;
    }
    let mut path = String::new();
    for step in way {
        match step {
            Step::Member(name) if name.is_empty() => {}
            Step::Member(name) => {
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(&name);
            }
            Step::Item(index) => path.push_str(&format!("[{index}]")),
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::{apps::v1::Deployment, core::v1::Secret};

    #[test]
    fn refusals_say_where_and_what() {
        let deployment = |json: &str| body::<Deployment>(json.as_bytes()).unwrap_err().to_string();
        for (json, want) in [
            (
                r#"{"spec":{"replicas":"3"}}"#,
                r#"Deployment in version "v1" cannot be handled as a Deployment: json: cannot unmarshal string into Go struct field Deployment.spec.replicas of type int32"#,
            ),
            (
                r#"{"spec":{"template":{"spec":{"containers":[{"name":"a"},{"name":5,"image":"x"}]}}}}"#,
                r#"Deployment in version "v1" cannot be handled as a Deployment: json: cannot unmarshal number into Go struct field Deployment.spec.template.spec.containers[1].name of type string"#,
            ),
            (
                r#"{"spec":7}"#,
                r#"Deployment in version "v1" cannot be handled as a Deployment: json: cannot unmarshal number into Go struct field Deployment.spec of type DeploymentSpec"#,
            ),
        ] {
            assert_eq!(deployment(json), want);
        }
        assert!(deployment("{").starts_with("the object provided is unrecognized"));
        for (json, want) in [
            (
                "[1]",
                "json: cannot unmarshal array into Go value of type Deployment",
            ),
            (
                r#"{"spec":{"replicas":[1]}}"#,
                "json: cannot unmarshal array into Go struct field Deployment.spec.replicas of type int32",
            ),
        ] {
            assert!(deployment(json).ends_with(want), "{}", deployment(json));
        }
        for (json, want) in [
            (
                r#"{"kind":"Pod"}"#,
                r#"Pod in version "v1" cannot be handled as a Deployment"#,
            ),
            (
                r#"{"apiVersion":"v1"}"#,
                "the API version in the data (v1) does not match the expected API version (apps/v1)",
            ),
        ] {
            assert!(deployment(json).starts_with(want), "{}", deployment(json));
        }
        let secret = body::<Secret>(br#"{"kind":"Secret","data":{"user":"not base64!"}}"#)
            .unwrap_err()
            .to_string();
        assert!(
            secret.contains("illegal base64 data at input byte 3"),
            "{secret}"
        );
        let value = value::<Deployment>(serde_json::json!({"spec": {"replicas": "3"}}))
            .unwrap_err()
            .to_string();
        assert!(value.contains("Deployment.spec.replicas"), "{value}");
    }
}
