//! What is served, for clients that ask: `/api`, `/apis`, OpenAPI, and the keys that verify our tokens.
//!
//! Everything is derived from the table of kinds by `caravel_api::discovery` and `caravel_schema::openapi`; nothing is decided here.

use crate::body::Body;
use crate::negotiate::Shape;
use crate::respond;
use crate::server::ApiServer;
use crate::stack::Ask;
use bytes::Bytes;
use caravel_api::{ApiError, discovery};
use caravel_schema::openapi;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
const AGGREGATED_BETA: &str =
    "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";

/// Answers one of the discovery paths; `path` has no slash at its end.
pub(crate) fn page(api: &ApiServer, ask: &Ask, path: &str) -> Result<Response<Body>, ApiError> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let document = match parts.as_slice() {
        [] => paths(),
        ["api"] | ["apis"] if aggregated(ask).is_some() => {
            return Ok(aggregated_page(ask, parts[0] == "api"));
        }
        ["api"] => discovery::core_versions(&api.advertise),
        ["api", version] => {
            discovery::resource_list("", version).ok_or_else(ApiError::no_such_resource)?
        }
        ["apis"] => discovery::group_list(),
        ["apis", group] => discovery::group(group).ok_or_else(ApiError::no_such_resource)?,
        ["apis", group, version] => {
            discovery::resource_list(group, version).ok_or_else(ApiError::no_such_resource)?
        }
        ["openapi", "v2"] => return Ok(openapi_v2(ask)),
        ["openapi", "v3"] => return Ok(tagged(ask, openapi::v3_index(), "application/json")),
        ["openapi", "v3", rest @ ..] => {
            let found =
                openapi::v3_document(&rest.join("/")).ok_or_else(ApiError::no_such_resource)?;
            return Ok(tagged(ask, found, "application/json"));
        }
        _ => return Err(ApiError::no_such_resource()),
    };
    Ok(respond::document(
        StatusCode::OK,
        Bytes::from(document.to_string()),
        ask.accepted,
    ))
}

fn aggregated(ask: &Ask) -> Option<(&'static str, &'static str)> {
    match ask.accepted.shape {
        Shape::Discovery => Some(("v2", AGGREGATED)),
        Shape::DiscoveryBeta => Some(("v2beta1", AGGREGATED_BETA)),
        _ => None,
    }
}

fn aggregated_page(ask: &Ask, core: bool) -> Response<Body> {
    let (version, media) = aggregated(ask).unwrap_or(("v2", AGGREGATED));
    let body = Bytes::from(discovery::aggregated(core, version).to_string());
    let mut response = respond::plain(StatusCode::OK, media, body);
    response
        .headers_mut()
        .insert(header::VARY, HeaderValue::from_static("Accept"));
    response
}

/// A document that clients keep by its hash.
fn tagged(ask: &Ask, document: openapi::Document, media: &'static str) -> Response<Body> {
    let etag = format!("\"{}\"", document.etag);
    let known = ask
        .headers
        .get(header::IF_NONE_MATCH)
        .and_then(|value| value.to_str().ok());
    let unchanged = known.is_some_and(|known| {
        known
            .split(',')
            .any(|one| one.trim().trim_start_matches("W/") == etag)
    });
    let mut response = if unchanged {
        respond::plain(StatusCode::NOT_MODIFIED, media, Bytes::new())
    } else {
        respond::plain(StatusCode::OK, media, document.body)
    };
    if let Ok(value) = HeaderValue::from_str(&etag) {
        response.headers_mut().insert(header::ETAG, value);
    }
    // A client that names the hash in the address may keep the document for good.
    if ask
        .query
        .text("hash")
        .is_some_and(|hash| hash.eq_ignore_ascii_case(&document.etag))
    {
        response.headers_mut().insert(
            header::CACHE_CONTROL,
            HeaderValue::from_static("public, max-age=31536000, immutable"),
        );
    }
    response
        .headers_mut()
        .insert(header::VARY, HeaderValue::from_static("Accept"));
    response
}

fn openapi_v2(ask: &Ask) -> Response<Body> {
    let accepts = ask
        .headers
        .get(header::ACCEPT)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let protobuf = accepts.split(',').any(|media| {
        openapi::V2_PROTOBUF_ACCEPTED.contains(&media.split(';').next().unwrap_or_default().trim())
    });
    tagged(
        ask,
        openapi::v2_document(protobuf),
        if protobuf {
            openapi::V2_PROTOBUF
        } else {
            "application/json"
        },
    )
}

fn paths() -> Value {
    let mut paths: Vec<String> = [
        "/.well-known/openid-configuration",
        "/api",
        "/apis",
        "/healthz",
        "/livez",
        "/metrics",
        "/openapi/v2",
        "/openapi/v3",
        "/openid/v1/jwks",
        "/readyz",
        "/version",
    ]
    .iter()
    .map(ToString::to_string)
    .collect();
    for (group, version) in caravel_api::kinds::group_versions() {
        if group.is_empty() {
            paths.push(format!("/api/{version}"));
        } else {
            paths.push(format!("/apis/{group}"));
            paths.push(format!("/apis/{group}/{version}"));
        }
    }
    paths.sort();
    paths.dedup();
    json!({ "paths": paths })
}

/// What others need to check service-account tokens: public facts.
pub(crate) fn identity(api: &ApiServer, path: &str) -> Result<Response<Body>, ApiError> {
    let tokens = api.authority.tokens();
    let (document, media) = match path {
        "/.well-known/openid-configuration" => (
            caravel_auth::oidc::configuration(tokens, None),
            "application/json",
        ),
        "/openid/v1/jwks" => (
            caravel_auth::oidc::key_set(tokens),
            "application/jwk-set+json",
        ),
        _ => return Err(ApiError::no_such_resource()),
    };
    let mut response = respond::plain(StatusCode::OK, media, Bytes::from(document.to_string()));
    response.headers_mut().insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("public, max-age=3600"),
    );
    Ok(response)
}
