//! The v2 document as the protobuf message that kubectl asks for (`openapi.v2.Document` of gnostic).
//!
//! It is written straight from the JSON document: a message is its fields in a row, so that no generated types are
//! needed. Field numbers: `google/gnostic/openapiv2/OpenAPIv2.proto`. Extensions travel as YAML, which JSON is.

use prost::encoding::{WireType, encode_key, encode_varint};
use serde_json::{Map, Value};

/// A message under construction.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn bytes(&mut self, field: u32, bytes: &[u8]) -> &mut Self {
        encode_key(field, WireType::LengthDelimited, &mut self.0);
        encode_varint(bytes.len() as u64, &mut self.0);
        self.0.extend_from_slice(bytes);
        self
    }

    fn message(&mut self, field: u32, message: &Message) -> &mut Self {
        self.bytes(field, &message.0)
    }

    fn text(&mut self, field: u32, value: &Value) -> &mut Self {
        match value.as_str() {
            Some(text) if !text.is_empty() => self.bytes(field, text.as_bytes()),
            _ => self,
        }
    }

    fn flag(&mut self, field: u32, value: &Value) -> &mut Self {
        if value.as_bool() == Some(true) {
            encode_key(field, WireType::Varint, &mut self.0);
            encode_varint(1, &mut self.0);
        }
        self
    }

    fn texts(&mut self, field: u32, values: &Value) -> &mut Self {
        for value in values.as_array().into_iter().flatten() {
            self.text(field, value);
        }
        self
    }

    /// `repeated Named...{name, value}`
    fn named(&mut self, field: u32, map: &Value, write: impl Fn(&Value) -> Message) -> &mut Self {
        for (name, value) in map.as_object().into_iter().flatten() {
            let mut entry = Message::default();
            entry.bytes(1, name.as_bytes()).message(2, &write(value));
            self.message(field, &entry);
        }
        self
    }

    fn extensions(&mut self, field: u32, object: &Map<String, Value>) -> &mut Self {
        for (name, value) in object.iter().filter(|(name, _)| name.starts_with("x-")) {
            let mut entry = Message::default();
            entry.bytes(1, name.as_bytes()).message(2, &any(value));
            self.message(field, &entry);
        }
        self
    }
}

fn any(value: &Value) -> Message {
    let mut any = Message::default();
    any.bytes(2, value.to_string().as_bytes());
    any
}

/// Encodes a v2 document.
pub(super) fn encode(document: &Value) -> Vec<u8> {
    let mut info = Message::default();
    info.text(1, &document["info"]["title"])
        .text(2, &document["info"]["version"]);
    let mut paths = Message::default();
    paths.named(2, &document["paths"], path_item);
    let mut definitions = Message::default();
    definitions.named(1, &document["definitions"], schema);
    let mut whole = Message::default();
    whole
        .text(1, &document["swagger"])
        .message(2, &info)
        .message(8, &paths)
        .message(9, &definitions);
    whole.0
}

fn path_item(item: &Value) -> Message {
    let mut message = Message::default();
    for (field, method) in [
        (2, "get"),
        (3, "put"),
        (4, "post"),
        (5, "delete"),
        (8, "patch"),
    ] {
        if let Some(one) = item.get(method) {
            message.message(field, &operation(one));
        }
    }
    parameters(&mut message, 9, &item["parameters"]);
    message
}

fn operation(operation: &Value) -> Message {
    let mut message = Message::default();
    message
        .text(3, &operation["description"])
        .text(5, &operation["operationId"]);
    message
        .texts(6, &operation["produces"])
        .texts(7, &operation["consumes"]);
    parameters(&mut message, 8, &operation["parameters"]);
    let mut responses = Message::default();
    responses.named(1, &operation["responses"], |response| {
        let mut plain = Message::default();
        plain.text(1, &response["description"]);
        if let Some(one) = response.get("schema") {
            let mut item = Message::default();
            item.message(1, &schema(one));
            plain.message(2, &item);
        }
        let mut value = Message::default();
        value.message(1, &plain);
        value
    });
    message.message(9, &responses);
    if let Some(object) = operation.as_object() {
        message.extensions(13, object);
    }
    message
}

fn parameters(message: &mut Message, field: u32, list: &Value) {
    for parameter in list.as_array().into_iter().flatten() {
        let mut one = Message::default();
        match parameter["in"].as_str() {
            Some("body") => {
                let mut body = Message::default();
                body.text(1, &parameter["description"])
                    .text(2, &parameter["name"])
                    .text(3, &parameter["in"]);
                body.flag(4, &parameter["required"])
                    .message(5, &schema(&parameter["schema"]));
                one.message(1, &body);
            }
            place => {
                let is_query = place == Some("query");
                let mut plain = Message::default();
                plain
                    .flag(1, &parameter["required"])
                    .text(2, &parameter["in"]);
                plain
                    .text(3, &parameter["description"])
                    .text(4, &parameter["name"]);
                plain.text(if is_query { 6 } else { 5 }, &parameter["type"]);
                plain.flag(if is_query { 20 } else { 19 }, &parameter["uniqueItems"]);
                let mut kind = Message::default();
                kind.message(if is_query { 3 } else { 4 }, &plain);
                one.message(2, &kind);
            }
        }
        let mut item = Message::default();
        item.message(1, &one);
        message.message(field, &item);
    }
}

fn schema(value: &Value) -> Message {
    let mut message = Message::default();
    message
        .text(1, &value["$ref"])
        .text(2, &value["format"])
        .text(4, &value["description"]);
    if let Some(default) = value.get("default") {
        message.message(5, &any(default));
    }
    message
        .flag(16, &value["uniqueItems"])
        .texts(19, &value["required"]);
    if let Some(values) = value.get("additionalProperties") {
        let mut item = Message::default();
        item.message(1, &schema(values));
        message.message(21, &item);
    }
    if value["type"].is_string() {
        let mut kind = Message::default();
        kind.text(1, &value["type"]);
        message.message(22, &kind);
    }
    if let Some(items) = value.get("items") {
        let mut item = Message::default();
        item.message(1, &schema(items));
        message.message(23, &item);
    }
    if value.get("properties").is_some() {
        let mut properties = Message::default();
        properties.named(1, &value["properties"], schema);
        message.message(25, &properties);
    }
    if let Some(object) = value.as_object() {
        message.extensions(31, object);
    }
    message
}
