//! The verbs over HTTP: they read a request, call a recipe, and shape the answer. One file a verb or a family of them.

pub(crate) mod change;
pub(crate) mod list;
pub(crate) mod patch;
pub(crate) mod read;
pub(crate) mod watch;

use crate::body::{self, Body, ReadError};
use crate::negotiate::{self, Encoding};
use crate::options::{Validation, WriteOptions};
use crate::respond;
use crate::server::ApiServer;
use crate::shape::{self, Include};
use crate::stack::Ask;
use crate::write::{Target, Writer, Written};
use bytes::Bytes;
use caravel_api::{ApiError, Row};
use caravel_registry::Object;
use http::{Response, StatusCode};

/// Deepest nesting of a body that is looked at.
const DEPTH: usize = 120;

/// The writer that a request speaks for.
pub(crate) fn writer<'a>(
    api: &'a ApiServer,
    ask: &'a Ask,
    options: &'static str,
) -> Result<Writer<'a>, ApiError> {
    let options = WriteOptions::parse(&ask.query, ask.user_agent(), options)?;
    Ok(Writer {
        api,
        user: &ask.user,
        epoch: None,
        options,
    })
}

/// Reads a body as JSON bytes, whatever form it came in.
pub(crate) async fn json_body(ask: &Ask, body: Body) -> Result<Bytes, ApiError> {
    let encoding = negotiate::body_encoding(&ask.headers)
        .map_err(|_| ApiError::unsupported_media_type(respond::OFFERED))?;
    let bytes = read(body).await?;
    match encoding {
        Encoding::Json => Ok(bytes),
        Encoding::Yaml if bytes.is_empty() => Ok(bytes),
        Encoding::Yaml => yaml_to_json(&bytes),
        Encoding::Protobuf => protobuf_to_json(&bytes),
    }
}

/// A protobuf body as JSON bytes.
pub(crate) fn protobuf_to_json(bytes: &[u8]) -> Result<Bytes, ApiError> {
    let bad = |error: &dyn std::fmt::Display| {
        ApiError::bad_request(format!("the object provided is unrecognized: {error}"))
    };
    let value = crate::protobuf::to_json(bytes).map_err(|error| bad(&error))?;
    serde_json::to_vec(&value)
        .map(Bytes::from)
        .map_err(|error| bad(&error))
}

/// Reads a body's bytes.
pub(crate) async fn read(body: Body) -> Result<Bytes, ApiError> {
    body::read(body).await.map_err(|error| match error {
        error @ ReadError::TooLarge => ApiError::too_large(error),
        error @ ReadError::Slow => ApiError::new(408, "Timeout", error.to_string()),
        error @ ReadError::Cut(_) => ApiError::bad_request(error.to_string()),
    })
}

/// YAML (one document) as JSON bytes.
pub(crate) fn yaml_to_json(bytes: &[u8]) -> Result<Bytes, ApiError> {
    let bad = |error: &dyn std::fmt::Display| {
        ApiError::bad_request(format!(
            "the object provided is unrecognized: error converting YAML to JSON: {error}"
        ))
    };
    let value: serde_json::Value = serde_yaml_ng::from_slice(bytes).map_err(|error| bad(&error))?;
    serde_json::to_vec(&value)
        .map(Bytes::from)
        .map_err(|error| bad(&error))
}

/// Refuses nesting that no object has, before anything recursive sees it.
pub(crate) fn check_depth(json: &[u8]) -> Result<(), ApiError> {
    let (mut depth, mut text, mut escaped) = (0usize, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if text => escaped = true,
            b'"' => text = !text,
            b'{' | b'[' if !text => {
                depth += 1;
                if depth > DEPTH {
                    return Err(ApiError::bad_request(
                        "the object provided is unrecognized: exceeded max depth",
                    ));
                }
            }
            b'}' | b']' if !text => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

/// Decodes an object of a row's kind, and finds fields nobody knows: the second value is what to warn about.
pub(crate) fn decode(
    api: &ApiServer,
    row: &'static Row,
    json: &[u8],
    validation: Validation,
) -> Result<(Box<dyn Object>, Vec<String>), ApiError> {
    check_depth(json)?;
    let object = caravel_registry::resource(row)
        .decode(json)
        .map_err(|error| ApiError::bad_request(error.to_string()))?;
    if validation == Validation::Ignore {
        return Ok((object, Vec::new()));
    }
    let unknown = caravel_schema::unknown_fields(json, api.schema.of(row.definition));
    if unknown.is_empty() || validation == Validation::Warn {
        return Ok((object, unknown));
    }
    Err(ApiError::bad_request(format!(
        "{} in version {:?} cannot be handled as a {}: strict decoding error: {}",
        row.kind,
        row.version,
        row.kind,
        unknown.join(", ")
    )))
}

/// The answer to a write: the object, its warnings, 201 where it is new.
pub(crate) fn written(
    ask: &Ask,
    target: &Target,
    done: Written,
    more: Vec<String>,
) -> Result<Response<Body>, ApiError> {
    let status = if done.created {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    let mut warnings = more;
    warnings.extend(done.warnings);
    let include = Include::parse(ask.query.get("includeObject"))?;
    let json = shape::versioned(target.row, done.json)?;
    let json = shape::one(target.row, json, ask.accepted.shape, include)?;
    let mut response = respond::document(status, json, ask.accepted);
    respond::warn(&mut response, &warnings);
    Ok(response)
}
