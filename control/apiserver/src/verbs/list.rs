//! list: what a selection holds at one revision, a page at a time. The body is the stored objects joined by commas.
//! Upstream: apiserver/pkg/registry/generic/registry/store.go (`ListPredicate`), apiserver/pkg/storage/continue.go.

use crate::body::{Body, Listing};
use crate::freshness;
use crate::negotiate::Shape;
use crate::options::refuse;
use crate::query::Query;
use crate::respond;
use crate::selection::Selection;
use crate::server::ApiServer;
use crate::shape::{self, Include};
use crate::stack::Ask;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use caravel_api::{ApiError, FieldError, Key, KeyRange, Path, Revision, Row};
use caravel_store::{Entry, Snapshot};
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::sync::Arc;

const EXPIRED: &str = "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.";

/// What a continue token says: where to go on, and in which state (-1: whichever is current).
#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
struct Token {
    v: String,
    rv: i64,
    start: String,
}

impl Token {
    fn write(revision: i64, start: &str) -> String {
        let token = Self {
            v: "meta.k8s.io/v1".to_owned(),
            rv: revision,
            start: start.to_owned(),
        };
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).unwrap_or_default())
    }

    fn read(text: &str) -> Result<Self, ApiError> {
        let bad = |why: &str| ApiError::bad_request(format!("continue key is not valid: {why}"));
        let bytes = URL_SAFE_NO_PAD
            .decode(text.trim_end_matches('='))
            .map_err(|error| bad(&error.to_string()))?;
        let token: Self =
            serde_json::from_slice(&bytes).map_err(|error| bad(&error.to_string()))?;
        if token.v != "meta.k8s.io/v1" {
            return Err(bad("server does not recognize this encoded version"));
        }
        Ok(token)
    }
}

/// The range of keys that a collection's path names.
pub(crate) fn range(row: &'static Row, namespace: &str, selection: &Selection) -> KeyRange {
    let whole = row.prefix((!namespace.is_empty()).then_some(namespace));
    match selection.name() {
        Some(name) if !row.is_namespaced() || !namespace.is_empty() => {
            KeyRange::one(&row.key(namespace, name))
        }
        _ => whole,
    }
}

/// Answers a list.
pub(crate) async fn list(
    api: &ApiServer,
    ask: &Ask,
    row: &'static Row,
) -> Result<Response<Body>, ApiError> {
    let selection = Selection::parse(row, &ask.query)?;
    let whole = range(row, &ask.info.namespace, &selection);
    let limit = limit(&ask.query)?;
    let (snapshot, range) = state(api, ask, row, &whole).await?;
    let mut found: Vec<&Arc<Entry>> = Vec::new();
    let mut next = None;
    for entry in snapshot.list(&range) {
        if !selection.is_everything() && !selection.matches(entry) {
            continue;
        }
        if limit.is_some_and(|limit| found.len() >= limit) {
            next = Some(entry);
            break;
        }
        found.push(entry);
    }
    let mut meta = Map::new();
    meta.insert(
        "resourceVersion".to_owned(),
        snapshot.revision().to_string().into(),
    );
    if let Some(next) = next {
        api.pages.keep(&snapshot);
        let start = next
            .key
            .strip_prefix(row.prefix(None).start.as_str())
            .unwrap_or(&next.key);
        let token = Token::write(
            i64::try_from(snapshot.revision().0).unwrap_or(i64::MAX),
            start,
        );
        meta.insert("continue".to_owned(), token.into());
        if selection.is_everything() {
            let left = snapshot.count(&whole.from_start(next.key.clone()));
            meta.insert("remainingItemCount".to_owned(), left.into());
        }
    }
    let objects = found
        .into_iter()
        .map(|entry| shape::versioned(row, entry.json.clone()))
        .collect::<Result<Vec<_>, _>>()?;
    answer(ask, row, objects, Value::Object(meta))
}

fn answer(
    ask: &Ask,
    row: &'static Row,
    objects: Vec<Bytes>,
    meta: Value,
) -> Result<Response<Body>, ApiError> {
    let plain = ask.accepted.encoding == crate::negotiate::Encoding::Json && !ask.accepted.pretty;
    let listing = match ask.accepted.shape {
        Shape::Table => {
            let include = Include::parse(ask.query.get("includeObject"))?;
            let table = shape::table(row, &objects, meta, include, true)?;
            return Ok(respond::document(StatusCode::OK, table, ask.accepted));
        }
        Shape::Metadata | Shape::MetadataList => {
            let objects = objects
                .iter()
                .map(|object| shape::metadata(object))
                .collect::<Result<Vec<_>, _>>()?;
            joined(
                "PartialObjectMetadataList",
                "meta.k8s.io/v1",
                &meta,
                objects,
            )
        }
        Shape::Object | Shape::Discovery | Shape::DiscoveryBeta => joined(
            &format!("{}List", row.kind),
            &row.api_version(),
            &meta,
            objects,
        ),
    };
    if plain {
        return Ok(respond::stream(
            StatusCode::OK,
            "application/json",
            listing.boxed_unsync(),
        ));
    }
    Ok(respond::document(
        StatusCode::OK,
        listing.into_bytes(),
        ask.accepted,
    ))
}

/// A list document around objects.
pub(crate) fn joined(kind: &str, api_version: &str, meta: &Value, objects: Vec<Bytes>) -> Listing {
    let head = format!(
        "{{\"kind\":\"{kind}\",\"apiVersion\":\"{api_version}\",\"metadata\":{meta},\"items\":["
    );
    Listing::new(head.into(), objects, Bytes::from_static(b"]}\n"))
}

fn limit(query: &Query) -> Result<Option<usize>, ApiError> {
    let limit = query.number("limit").map_err(|text| {
        ApiError::bad_request(format!(
            "strconv.ParseInt: parsing {text:?}: invalid syntax"
        ))
    })?;
    Ok(limit
        .and_then(|limit| usize::try_from(limit).ok())
        .filter(|limit| *limit > 0))
}

/// The state that a list is about, by `resourceVersion`, `resourceVersionMatch` and `continue`.
async fn state(
    api: &ApiServer,
    ask: &Ask,
    row: &'static Row,
    whole: &KeyRange,
) -> Result<(Snapshot, KeyRange), ApiError> {
    let query = &ask.query;
    let version = query.text("resourceVersion");
    let wanted = query.text("resourceVersionMatch");
    let token = query.text("continue");
    validate(version, wanted, token)?;
    if let Some(token) = token {
        let token = Token::read(token)?;
        if version.is_some_and(|version| version != "0") {
            return Err(ApiError::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        let start = Key::from(format!("{}{}", row.prefix(None).start, token.start));
        if !whole.contains(&start) {
            return Err(ApiError::bad_request(
                "continue key is not valid: it does not belong to this list",
            ));
        }
        let range = whole.from_start(start);
        if token.rv < 0 {
            return Ok((freshness::current(&api.store).await?, range));
        }
        let revision = Revision(token.rv.unsigned_abs());
        let kept = api
            .pages
            .at(revision)
            .or_else(|| Some(api.store.snapshot()).filter(|now| now.revision() == revision));
        return kept
            .map(|snapshot| (snapshot, range))
            .ok_or_else(|| expired(&token.start));
    }
    let snapshot = match version {
        None => freshness::current(&api.store).await?,
        Some("0") => api.store.snapshot(),
        Some(text) => {
            let revision: Revision = parse(text)?;
            let snapshot = freshness::at_least(&api.store, revision).await?;
            let exact = wanted == Some("Exact")
                || (wanted.is_none() && query.number("limit").ok().flatten().unwrap_or(0) > 0);
            if exact && snapshot.revision() != revision {
                api.pages.at(revision).ok_or_else(|| {
                    ApiError::gone(format!(
                        "The resourceVersion for the provided list is too old. ({revision})"
                    ))
                })?
            } else {
                snapshot
            }
        }
    };
    Ok((snapshot, whole.clone()))
}

/// `resourceVersion` as a number.
pub(crate) fn parse(text: &str) -> Result<Revision, ApiError> {
    text.parse().map_err(|_| {
        ApiError::bad_request(format!(
            "Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax"
        ))
    })
}

fn validate(
    version: Option<&str>,
    wanted: Option<&str>,
    token: Option<&str>,
) -> Result<(), ApiError> {
    let path = Path::new("resourceVersionMatch");
    let Some(wanted) = wanted else { return Ok(()) };
    let mut errors = Vec::new();
    if token.is_some() {
        errors.push(FieldError::forbidden(
            &path,
            "resourceVersionMatch is forbidden when continue is provided",
        ));
    }
    if version.is_none() {
        errors.push(FieldError::forbidden(
            &path,
            "resourceVersionMatch is forbidden unless resourceVersion is provided",
        ));
    }
    if !matches!(wanted, "Exact" | "NotOlderThan") {
        errors.push(FieldError::not_supported(
            &path,
            wanted,
            &["Exact", "NotOlderThan"],
        ));
    }
    if wanted == "Exact" && version == Some("0") {
        errors.push(FieldError::forbidden(
            &path,
            "resourceVersionMatch \"Exact\" is forbidden for resourceVersion \"0\"",
        ));
    }
    refuse("ListOptions", errors)
}

/// 410 with a token by which the rest can still be had, inconsistently.
fn expired(start: &str) -> ApiError {
    let mut error = ApiError::gone(EXPIRED);
    // `ApiError` carries no list metadata; the token travels as a cause so that a person can still use it.
    let cause = k8s_openapi::apimachinery::pkg::apis::meta::v1::StatusCause {
        field: Some("metadata.continue".to_owned()),
        message: Some(Token::write(-1, start)),
        reason: Some("ContinueExpired".to_owned()),
    };
    error
        .details
        .get_or_insert_default()
        .causes
        .get_or_insert_default()
        .push(cause);
    error
}

/// The body of an answer that lists what was deleted.
pub(crate) fn of(row: &'static Row, revision: Revision, objects: Vec<Bytes>) -> Bytes {
    joined(
        &format!("{}List", row.kind),
        &row.api_version(),
        &json!({ "resourceVersion": revision.to_string() }),
        objects,
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens() {
        let text = Token::write(7, "default/a");
        assert_eq!(
            Token::read(&text).unwrap(),
            Token {
                v: "meta.k8s.io/v1".into(),
                rv: 7,
                start: "default/a".into()
            }
        );
        assert_eq!(Token::read("???").unwrap_err().code, 400);
    }
}
