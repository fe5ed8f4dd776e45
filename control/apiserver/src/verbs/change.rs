//! create, replace, delete and deletecollection: from the body to the recipe to the answer.

use super::{decode, json_body, protobuf_to_json, read, writer, written, yaml_to_json};
use crate::body::Body;
use crate::freshness;
use crate::negotiate::{self, Encoding};
use crate::respond;
use crate::selection::Selection;
use crate::server::ApiServer;
use crate::shape;
use crate::stack::Ask;
use crate::verbs::list;
use crate::write::{Current, DeleteOptions, Part, Target, Written};
use bytes::Bytes;
use caravel_api::{ApiError, Row};
use futures::{StreamExt, TryStreamExt};
use http::{Response, StatusCode};
use serde_json::json;

/// Deletions of one collection under way at once.
const PARALLEL: usize = 64;

/// Answers a POST to a collection.
pub(crate) async fn create(
    api: &ApiServer,
    ask: &Ask,
    target: Target,
    body: Body,
) -> Result<Response<Body>, ApiError> {
    let writer = writer(api, ask, "CreateOptions")?;
    let json = json_body(ask, body).await?;
    let (object, warnings) = decode(api, target.row, &json, writer.options.validation)?;
    let done = writer.create(target.clone(), object, true).await?;
    let _ = ask.created.set(done.name.clone());
    written(ask, &target, done, warnings)
}

/// Answers a PUT of an object or of its status.
pub(crate) async fn replace(
    api: &ApiServer,
    ask: &Ask,
    target: &Target,
    body: Body,
) -> Result<Response<Body>, ApiError> {
    let writer = writer(api, ask, "UpdateOptions")?;
    let json = json_body(ask, body).await?;
    let (object, warnings) = decode(api, target.row, &json, writer.options.validation)?;
    if object.meta().name.as_deref().is_none_or(str::is_empty) {
        return Err(ApiError::bad_request(format!(
            "the name of the object (based on URL) was undeterminable: name must be provided ({})",
            target.name
        )));
    }
    let part = if target.subresource == "status" {
        Part::Status
    } else {
        Part::Main
    };
    let done = writer
        .update(target, part, |_: &Current<'_>| Ok(object.clone_object()))
        .await?;
    written(ask, target, done, warnings)
}

async fn delete_options(ask: &Ask, body: Body) -> Result<DeleteOptions, ApiError> {
    let bytes = read(body).await?;
    let json = if bytes.is_empty() {
        bytes
    } else {
        match negotiate::body_encoding(&ask.headers) {
            Ok(Encoding::Json) => bytes,
            Ok(Encoding::Yaml) => yaml_to_json(&bytes)?,
            Ok(Encoding::Protobuf) => protobuf_to_json(&bytes)?,
            Err(_) => return Err(ApiError::unsupported_media_type(respond::OFFERED)),
        }
    };
    DeleteOptions::parse(&json, &ask.query)
}

/// Kinds whose deletion is answered with the object even when it is gone at once, as upstream.
const SHOWN: &[&str] = &["pods", "services", "serviceaccounts"];

/// Answers a DELETE of one object.
pub(crate) async fn delete(
    api: &ApiServer,
    ask: &Ask,
    target: &Target,
    body: Body,
) -> Result<Response<Body>, ApiError> {
    let options = delete_options(ask, body).await?;
    let mut writer = writer(api, ask, "DeleteOptions")?;
    writer.options.dry_run |= options.dry_run;
    let done = writer.delete(target, &options).await?;
    answer_deleted(ask, target, done)
}

pub(crate) fn answer_deleted(
    ask: &Ask,
    target: &Target,
    done: Written,
) -> Result<Response<Body>, ApiError> {
    if !done.deleted || SHOWN.contains(&target.row.plural) {
        return written(ask, target, done, Vec::new());
    }
    let uid = uid_of(&done.json);
    let status = json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": { "name": target.name, "group": target.row.group, "kind": target.row.plural, "uid": uid },
    });
    Ok(respond::document(
        StatusCode::OK,
        Bytes::from(status.to_string()),
        ask.accepted,
    ))
}

fn uid_of(json: &[u8]) -> String {
    caravel_api::Encoded::new(json.to_vec())
        .map(|encoded| encoded.meta.uid.to_string())
        .unwrap_or_default()
}

/// Answers a DELETE of a collection: everything that is selected now, each as if deleted by itself.
pub(crate) async fn delete_collection(
    api: &ApiServer,
    ask: &Ask,
    row: &'static Row,
    body: Body,
) -> Result<Response<Body>, ApiError> {
    let options = delete_options(ask, body).await?;
    let mut writer = writer(api, ask, "DeleteOptions")?;
    writer.options.dry_run |= options.dry_run;
    let selection = Selection::parse(row, &ask.query)?;
    let snapshot = freshness::current(&api.store).await?;
    let range = list::range(row, &ask.info.namespace, &selection);
    let targets: Vec<Target> = snapshot
        .list(&range)
        .filter(|entry| selection.matches(entry))
        .map(|entry| Target {
            row,
            namespace: entry.meta.namespace.clone(),
            name: entry.meta.name.clone(),
            subresource: "",
        })
        .collect();
    let (writer, options) = (&writer, &options);
    let deleted: Vec<Bytes> = futures::stream::iter(targets)
        .map(|target| async move {
            match writer.delete(&target, options).await {
                Ok(done) => shape::versioned(row, done.json).map(Some),
                Err(error) if error.is_not_found() => Ok(None),
                Err(error) => Err(error),
            }
        })
        .buffered(PARALLEL)
        .try_filter_map(|found| async move { Ok(found) })
        .try_collect()
        .await?;
    let body = list::of(row, api.store.snapshot().revision(), deleted);
    Ok(respond::document(StatusCode::OK, body, ask.accepted))
}
