//! The shapes in which objects are shown: as they lie, as rows of a Table, or their metadata only.
//! Upstream: apiserver/pkg/endpoints/handlers/response.go.

use crate::negotiate::Shape;
use bytes::{BufMut, Bytes, BytesMut};
use caravel_api::{ApiError, Row, table};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

/// What of each object a Table row carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Include {
    None,
    Metadata,
    Object,
}

impl Include {
    /// `includeObject` of the query.
    pub(crate) fn parse(text: Option<&str>) -> Result<Self, ApiError> {
        match text.unwrap_or_default() {
            "None" => Ok(Self::None),
            "" | "Metadata" => Ok(Self::Metadata),
            "Object" => Ok(Self::Object),
            other => Err(ApiError::bad_request(format!(
                "unrecognized includeObject value: {other:?}"
            ))),
        }
    }
}

#[derive(Deserialize)]
struct Outline<'a> {
    #[serde(borrow)]
    metadata: Option<&'a RawValue>,
}

/// `PartialObjectMetadata` of an object.
pub(crate) fn metadata(object: &[u8]) -> Result<Bytes, ApiError> {
    let outline: Outline<'_> = serde_json::from_slice(object).map_err(ApiError::internal)?;
    let mut out = BytesMut::with_capacity(object.len().min(2048));
    out.put_slice(br#"{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","metadata":"#);
    out.put_slice(outline.metadata.map_or("{}", RawValue::get).as_bytes());
    out.put_u8(b'}');
    Ok(out.freeze())
}

/// One row of a Table.
fn row_of(
    row: &'static Row,
    object: &Bytes,
    include: Include,
    now: jiff::Timestamp,
) -> Result<Value, ApiError> {
    let value: Value = serde_json::from_slice(object).map_err(ApiError::internal)?;
    let cells = table::cells(row, &value, now);
    let shown = match include {
        Include::None => None,
        Include::Metadata => Some(json!({
            "kind": "PartialObjectMetadata",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": value.get("metadata").cloned().unwrap_or_else(|| json!({})),
        })),
        Include::Object => Some(value),
    };
    let mut out = json!({ "cells": cells });
    if let (Some(map), Some(shown)) = (out.as_object_mut(), shown) {
        map.insert("object".to_owned(), shown);
    }
    Ok(out)
}

/// A Table of objects. `list` is the list's metadata; `columns` is false for watch events after the first.
pub(crate) fn table(
    row: &'static Row,
    objects: &[Bytes],
    list: Value,
    include: Include,
    columns: bool,
) -> Result<Bytes, ApiError> {
    let columns: Vec<Value> = if columns {
        table::columns(row)
            .iter()
            .map(table::Column::definition)
            .collect()
    } else {
        Vec::new()
    };
    let now = caravel_api::time::now();
    let rows = objects
        .iter()
        .map(|object| row_of(row, object, include, now))
        .collect::<Result<Vec<_>, _>>()?;
    let out = json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": list,
        "columnDefinitions": columns,
        "rows": rows,
    });
    serde_json::to_vec(&out)
        .map(Bytes::from)
        .map_err(ApiError::internal)
}

/// One object in a shape. A list shape for one object is an error of the client (406), found earlier.
pub(crate) fn one(
    row: &'static Row,
    object: Bytes,
    shape: Shape,
    include: Include,
) -> Result<Bytes, ApiError> {
    match shape {
        Shape::Table => {
            let version = revision_of(&object);
            table(
                row,
                &[object],
                json!({ "resourceVersion": version }),
                include,
                true,
            )
        }
        Shape::Metadata => metadata(&object),
        Shape::Object | Shape::MetadataList | Shape::Discovery | Shape::DiscoveryBeta => Ok(object),
    }
}

/// A stored object in the version of `row`; bytes pass through where that is the stored one.
pub(crate) fn versioned(row: &'static Row, json: Bytes) -> Result<Bytes, ApiError> {
    if row.is_storage_version() {
        return Ok(json);
    }
    let mut value: Value = serde_json::from_slice(&json).map_err(ApiError::internal)?;
    caravel_api::versions::from_storage(row, &mut value);
    serde_json::to_vec(&value)
        .map(Bytes::from)
        .map_err(ApiError::internal)
}

/// `metadata.resourceVersion` of an object.
pub(crate) fn revision_of(object: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Version {
        metadata: Option<Inner>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Inner {
        resource_version: Option<String>,
    }
    serde_json::from_slice::<Version>(object)
        .ok()
        .and_then(|version| version.metadata)
        .and_then(|inner| inner.resource_version)
        .unwrap_or_default()
}
