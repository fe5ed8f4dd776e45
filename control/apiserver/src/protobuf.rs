//! Bodies in Kubernetes' protobuf form, read into JSON: kubectl and client-go since 1.32 send built-in kinds so, and take JSON back.
//!
//! Driven by one table of field numbers (`protobuf/fields.tsv`); a field that the table does not know is skipped, as protobuf asks.
//! Depth and size are bounded; it never allocates more than a few times the body. Upstream: apimachinery/pkg/runtime/serializer/protobuf.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use caravel_api::time;
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::sync::OnceLock;

/// What every body begins with.
const MAGIC: &[u8] = b"k8s\0";
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
const DEPTH: usize = 64;

/// Why a body is no object.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum ProtobufError {
    #[error(
        "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]"
    )]
    Magic,
    #[error("the message ends in the middle of a field")]
    Cut,
    #[error("the message is nested too deeply")]
    Deep,
    #[error("a field has a wrong wire type")]
    Wire,
    #[error("no kind {0:?} in version {1:?} is known")]
    Unknown(String, String),
    #[error("a text is not UTF-8")]
    Text,
    #[error("embedded JSON: {0}")]
    Json(String),
}

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Bool,
    Int,
    Bytes,
    Double,
    Quantity,
    IntOrString,
    Time,
    MicroTime,
    /// A message around raw JSON (FieldsV1, RawExtension).
    Raw,
    /// A message around a list of texts (ExtraValue).
    Texts,
    Message(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    One,
    /// Left out of JSON when zero (`omitempty` on what is no pointer).
    Omitted,
    /// Its members belong to the message around it.
    Embedded,
    Repeated,
    Map,
}

struct Field {
    number: u64,
    name: &'static str,
    form: Form,
    kind: Kind,
}

type Table = HashMap<&'static str, Vec<Field>>;

fn table() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(|| {
        let lines = || {
            include_str!("protobuf/fields.tsv")
                .lines()
                .filter(|line| !line.starts_with('#'))
                .filter_map(|line| line.split_once('\t'))
        };
        let names: HashMap<&'static str, ()> = lines().map(|(name, _)| (name, ())).collect();
        lines()
            .map(|(message, fields)| {
                let package = message.rsplit_once('.').map_or("", |(package, _)| package);
                (
                    message,
                    fields
                        .split(';')
                        .filter_map(|field| parse(field, package, &names))
                        .collect(),
                )
            })
            .collect()
    })
}

fn parse(text: &'static str, package: &str, names: &HashMap<&'static str, ()>) -> Option<Field> {
    let mut parts = text.split(' ');
    let (number, name, what) = (parts.next()?.parse().ok()?, parts.next()?, parts.next()?);
    let form = match what.as_bytes().first()? {
        b'?' => Form::Omitted,
        b'^' => Form::Embedded,
        b'*' => Form::Repeated,
        b'<' => Form::Map,
        _ => Form::One,
    };
    let kind = match what.as_bytes().get(1)? {
        b's' => Kind::Text,
        b'b' => Kind::Bool,
        b'i' | b'u' => Kind::Int,
        b'y' => Kind::Bytes,
        b'd' => Kind::Double,
        b'Q' => Kind::Quantity,
        b'O' => Kind::IntOrString,
        b'T' => Kind::Time,
        b'U' => Kind::MicroTime,
        b'R' => Kind::Raw,
        b'V' => Kind::Texts,
        _ => {
            let reference = &what[2..];
            let full = reference.strip_prefix('.').map_or_else(
                || reference.to_owned(),
                |short| format!("{package}.{short}"),
            );
            Kind::Message(names.get_key_value(full.as_str())?.0)
        }
    };
    Some(Field {
        number,
        name,
        form,
        kind,
    })
}

/// One field off the wire.
enum Raw<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn varint(&mut self) -> Result<u64, ProtobufError> {
        let mut value = 0u64;
        for (index, byte) in self.0.iter().enumerate().take(10) {
            value |= u64::from(byte & 0x7f) << (7 * index as u32).min(63);
            if byte & 0x80 == 0 {
                self.0 = &self.0[index + 1..];
                return Ok(value);
            }
        }
        Err(ProtobufError::Cut)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], ProtobufError> {
        if length > self.0.len() {
            return Err(ProtobufError::Cut);
        }
        let (taken, rest) = self.0.split_at(length);
        self.0 = rest;
        Ok(taken)
    }

    fn next(&mut self) -> Result<Option<(u64, Raw<'a>)>, ProtobufError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Raw::Number(self.varint()?),
            1 => Raw::Number(u64::from_le_bytes(
                self.take(8)?.try_into().map_err(|_| ProtobufError::Cut)?,
            )),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| ProtobufError::Cut)?;
                Raw::Bytes(self.take(length)?)
            }
            5 => Raw::Number(u64::from(u32::from_le_bytes(
                self.take(4)?.try_into().map_err(|_| ProtobufError::Cut)?,
            ))),
            _ => return Err(ProtobufError::Wire),
        };
        Ok(Some((tag >> 3, value)))
    }
}

fn bytes<'a>(raw: &Raw<'a>) -> Result<&'a [u8], ProtobufError> {
    match raw {
        Raw::Bytes(bytes) => Ok(bytes),
        Raw::Number(_) => Err(ProtobufError::Wire),
    }
}

fn text(raw: &Raw<'_>) -> Result<String, ProtobufError> {
    std::str::from_utf8(bytes(raw)?)
        .map(str::to_owned)
        .map_err(|_| ProtobufError::Text)
}

/// Integers travel as two's complement in 64 bits, also the 32-bit ones.
fn integer(raw: &Raw<'_>) -> Result<i64, ProtobufError> {
    match raw {
        Raw::Number(number) => Ok(number.cast_signed()),
        Raw::Bytes(_) => Err(ProtobufError::Wire),
    }
}

/// An object's bytes as JSON.
pub(crate) fn to_json(body: &[u8]) -> Result<Value, ProtobufError> {
    let mut envelope = Reader(body.strip_prefix(MAGIC).ok_or(ProtobufError::Magic)?);
    let (mut api_version, mut kind, mut object) = (String::new(), String::new(), &[][..]);
    while let Some((number, raw)) = envelope.next()? {
        match number {
            1 => {
                let mut meta = Reader(bytes(&raw)?);
                while let Some((number, raw)) = meta.next()? {
                    match number {
                        1 => api_version = text(&raw)?,
                        2 => kind = text(&raw)?,
                        _ => {}
                    }
                }
            }
            2 => object = bytes(&raw)?,
            _ => {}
        }
    }
    let fields = definition(&api_version, &kind)
        .ok_or_else(|| ProtobufError::Unknown(kind.clone(), api_version.clone()))?;
    let mut members = Map::new();
    message(object, fields, &mut members, 0)?;
    members.insert("apiVersion".to_owned(), api_version.into());
    members.insert("kind".to_owned(), kind.into());
    Ok(Value::Object(members))
}

fn definition(api_version: &str, kind: &str) -> Option<&'static [Field]> {
    let (group, version) = caravel_api::kinds::split_api_version(api_version);
    let directory = if group.is_empty() {
        "core"
    } else {
        group.split('.').next().unwrap_or_default()
    };
    let own = table().get(format!("io.k8s.api.{directory}.{version}.{kind}").as_str());
    own.or_else(|| table().get(format!("{META}.{kind}").as_str()))
        .map(Vec::as_slice)
}

fn message(
    wire: &[u8],
    fields: &[Field],
    members: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), ProtobufError> {
    if depth > DEPTH {
        return Err(ProtobufError::Deep);
    }
    let mut reader = Reader(wire);
    while let Some((number, raw)) = reader.next()? {
        let Some(field) = fields.iter().find(|field| field.number == number) else {
            continue;
        };
        match field.form {
            Form::Embedded => {
                if let Kind::Message(name) = field.kind {
                    message(bytes(&raw)?, of(name), members, depth + 1)?;
                }
            }
            Form::One => {
                if let Some(value) = value(field.kind, &raw, depth)? {
                    members.insert(field.name.to_owned(), value);
                }
            }
            Form::Omitted => {
                let value = value(field.kind, &raw, depth)?;
                if let Some(value) = value.filter(|value| !is_zero(value)) {
                    members.insert(field.name.to_owned(), value);
                }
            }
            Form::Repeated => {
                let list = members
                    .entry(field.name)
                    .or_insert_with(|| Value::Array(Vec::new()));
                if let (Value::Array(list), Some(value)) = (list, value(field.kind, &raw, depth)?) {
                    list.push(value);
                }
            }
            Form::Map => {
                let (key, value) = entry(field.kind, bytes(&raw)?, depth)?;
                let map = members
                    .entry(field.name)
                    .or_insert_with(|| Value::Object(Map::new()));
                if let Value::Object(map) = map {
                    map.insert(key, value);
                }
            }
        }
    }
    Ok(())
}

fn of(name: &str) -> &'static [Field] {
    table().get(name).map(Vec::as_slice).unwrap_or_default()
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::String(text) => text.is_empty(),
        Value::Bool(truth) => !truth,
        Value::Number(number) => number.as_i64() == Some(0),
        _ => false,
    }
}

fn entry(kind: Kind, wire: &[u8], depth: usize) -> Result<(String, Value), ProtobufError> {
    let (mut key, mut found) = (String::new(), None);
    let mut reader = Reader(wire);
    while let Some((number, raw)) = reader.next()? {
        match number {
            1 => key = text(&raw)?,
            2 => found = value(kind, &raw, depth)?,
            _ => {}
        }
    }
    let empty = || match kind {
        Kind::Message(_) => Value::Object(Map::new()),
        Kind::Texts => Value::Array(Vec::new()),
        Kind::Int => 0.into(),
        Kind::Bool => false.into(),
        _ => "".into(),
    };
    Ok((key, found.unwrap_or_else(empty)))
}

/// A value as JSON; `None` is a time that was never set.
fn value(kind: Kind, raw: &Raw<'_>, depth: usize) -> Result<Option<Value>, ProtobufError> {
    Ok(Some(match kind {
        Kind::Text => text(raw)?.into(),
        Kind::Bool => (integer(raw)? != 0).into(),
        Kind::Int => integer(raw)?.into(),
        Kind::Bytes => STANDARD.encode(bytes(raw)?).into(),
        Kind::Double => match raw {
            Raw::Number(bits) => f64::from_bits(*bits).into(),
            Raw::Bytes(_) => return Err(ProtobufError::Wire),
        },
        Kind::Quantity => inner_text(bytes(raw)?, 1)?.into(),
        Kind::IntOrString => int_or_string(bytes(raw)?)?,
        Kind::Time | Kind::MicroTime => match timestamp(bytes(raw)?)? {
            Some(at) if kind == Kind::Time => time::rfc3339(at).into(),
            Some(at) => time::rfc3339_micro(at).into(),
            None => return Ok(None),
        },
        Kind::Raw => {
            let json = inner_bytes(bytes(raw)?, 1)?;
            if json.is_empty() {
                return Ok(None);
            }
            serde_json::from_slice(json).map_err(|error| ProtobufError::Json(error.to_string()))?
        }
        Kind::Texts => {
            let (mut list, mut reader) = (Vec::new(), Reader(bytes(raw)?));
            while let Some((number, raw)) = reader.next()? {
                if number == 1 {
                    list.push(Value::from(text(&raw)?));
                }
            }
            Value::Array(list)
        }
        Kind::Message(name) => {
            let mut members = Map::new();
            message(bytes(raw)?, of(name), &mut members, depth + 1)?;
            Value::Object(members)
        }
    }))
}

fn inner_bytes(wire: &[u8], wanted: u64) -> Result<&[u8], ProtobufError> {
    let (mut found, mut reader) = (&[][..], Reader(wire));
    while let Some((number, raw)) = reader.next()? {
        if number == wanted {
            found = bytes(&raw)?;
        }
    }
    Ok(found)
}

fn inner_text(wire: &[u8], wanted: u64) -> Result<String, ProtobufError> {
    text(&Raw::Bytes(inner_bytes(wire, wanted)?))
}

fn int_or_string(wire: &[u8]) -> Result<Value, ProtobufError> {
    let (mut is_text, mut number_value, mut text_value, mut reader) =
        (false, 0, String::new(), Reader(wire));
    while let Some((number, raw)) = reader.next()? {
        match number {
            1 => is_text = integer(&raw)? == 1,
            2 => number_value = integer(&raw)?,
            3 => text_value = text(&raw)?,
            _ => {}
        }
    }
    Ok(if is_text {
        text_value.into()
    } else {
        number_value.into()
    })
}

fn timestamp(wire: &[u8]) -> Result<Option<jiff::Timestamp>, ProtobufError> {
    let (mut seconds, mut nanos, mut reader) = (0, 0, Reader(wire));
    while let Some((number, raw)) = reader.next()? {
        match number {
            1 => seconds = integer(&raw)?,
            2 => nanos = integer(&raw)?,
            _ => {}
        }
    }
    if seconds == 0 && nanos == 0 {
        return Ok(None);
    }
    let nanos = i32::try_from(nanos).map_err(|_| ProtobufError::Wire)?;
    jiff::Timestamp::new(seconds, nanos)
        .map(Some)
        .map_err(|_| ProtobufError::Wire)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2, u8::try_from(content.len()).unwrap()];
        out.extend(content);
        out
    }

    fn body(api_version: &str, kind: &str, object: &[u8]) -> Vec<u8> {
        let meta = [field(1, api_version.as_bytes()), field(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), field(1, &meta), field(2, object)].concat()
    }

    #[test]
    fn an_object_becomes_json() {
        let entry = [field(1, b"x"), field(2, b"y")].concat();
        let meta = [field(1, b"a"), field(3, b""), field(8, b"")].concat();
        let config = [field(1, &meta), field(2, &entry)].concat();
        let read = to_json(&body("v1", "ConfigMap", &config)).unwrap();
        assert_eq!(
            read,
            json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "a" }, "data": { "x": "y" } })
        );

        let probe = [
            field(1, &field(3, &field(1, &[8, 0, 16, 80]))),
            vec![2 << 3, 5],
        ]
        .concat();
        let container = [field(1, b"c"), field(10, &probe)].concat();
        let pod = field(2, &field(2, &container));
        let read = to_json(&body("v1", "Pod", &pod)).unwrap();
        let got = &read["spec"]["containers"][0]["livenessProbe"];
        assert_eq!(
            *got,
            json!({ "tcpSocket": { "port": 80 }, "initialDelaySeconds": 5 })
        );
    }

    #[test]
    fn what_is_broken_is_refused() {
        assert_eq!(to_json(b"{}"), Err(ProtobufError::Magic));
        assert_eq!(
            to_json(&body("v1", "Nothing", b"")),
            Err(ProtobufError::Unknown("Nothing".into(), "v1".into()))
        );
        assert_eq!(
            to_json(&body("v1", "ConfigMap", &[10, 200])),
            Err(ProtobufError::Cut)
        );
        assert_eq!(
            to_json(&body("v1", "ConfigMap", &[0xff; 11])),
            Err(ProtobufError::Cut)
        );
    }

    #[test]
    fn every_message_of_the_table_is_known() {
        let unknown: Vec<_> = include_str!("protobuf/fields.tsv")
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.split_once('\t'))
            .filter(|(name, fields)| {
                fields.split(';').filter(|field| !field.is_empty()).count() != of(name).len()
            })
            .map(|(name, _)| name)
            .filter(|name| !name.starts_with(META))
            .collect();
        assert_eq!(unknown, Vec::<&str>::new());
    }
}
