//! Where a request goes: a page of the server's own, or a verb of a row of the table of kinds.
//!
//! It decides by attributes only; nothing here reads a body or the store.

use crate::body::{Body, full};
use crate::respond;
use crate::server::ApiServer;
use crate::stack::Ask;
use crate::write::Target;
use crate::{discovery, health, node_proxy, reviews, subresource, verbs};
use caravel_api::{ApiError, Row, kinds};
use http::{Method, Request, Response, StatusCode};
use std::sync::Arc;

/// Answers an authorized request.
pub(crate) async fn route(
    api: &Arc<ApiServer>,
    ask: &Ask,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    if ask.info.is_resource {
        return resource(api, ask, request).await;
    }
    if !matches!(ask.method, Method::GET | Method::HEAD | Method::OPTIONS) {
        return Err(ApiError::method_not_allowed_here());
    }
    page(api, ask)
}

/// Pages that are no resources.
fn page(api: &ApiServer, ask: &Ask) -> Result<Response<Body>, ApiError> {
    let path = ask.info.path.trim_end_matches('/');
    let first = path
        .trim_start_matches('/')
        .split('/')
        .next()
        .unwrap_or_default();
    match first {
        "" | "api" | "apis" | "openapi" if path != "/openid" => discovery::page(api, ask, path),
        "version" if path == "/version" => Ok(health::version(ask)),
        "healthz" | "livez" | "readyz" => health::check(api, ask, path),
        "metrics" if path == "/metrics" => health::metrics(api),
        ".well-known" | "openid" => discovery::identity(api, path),
        _ => Err(ApiError::no_such_resource()),
    }
}

/// (group, plural, what its users are told), as upstream's life-cycle markers have it.
const DEPRECATED: &[(&str, &str, &str)] = &[(
    "",
    "endpoints",
    "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice",
)];

async fn resource(
    api: &Arc<ApiServer>,
    ask: &Ask,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    let info = &ask.info;
    let deprecated = DEPRECATED
        .iter()
        .find(|(group, plural, _)| *group == info.group && *plural == info.resource);
    let mut answer = served(api, ask, request).await;
    if let (Ok(response), Some((.., text))) = (&mut answer, deprecated) {
        respond::warn(response, &[(*text).to_owned()]);
    }
    answer
}

async fn served(
    api: &Arc<ApiServer>,
    ask: &Ask,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    let info = &ask.info;
    let row = kinds::by_resource(&info.group, &info.version, &info.resource)
        .ok_or_else(ApiError::no_such_resource)?;
    if !row.is_namespaced() && !info.namespace.is_empty() && row.plural != "namespaces" {
        return Err(ApiError::no_such_resource());
    }
    if row.is_namespaced()
        && info.namespace.is_empty()
        && !matches!(info.verb.as_str(), "list" | "watch")
        && !(row.plural.ends_with("reviews") && info.verb == "create")
    {
        return Err(ApiError::method_not_allowed_here());
    }
    if !row.is_stored() {
        return match (info.verb.as_str(), row.plural) {
            ("create", "bindings") => {
                subresource::binding(
                    api,
                    ask,
                    kinds::by_resource("", "v1", "pods").ok_or_else(ApiError::no_such_resource)?,
                    request.into_body(),
                )
                .await
            }
            ("create", _) => reviews::answer(api, ask, row, request.into_body()).await,
            _ => Err(ApiError::method_not_allowed(row, &info.verb)),
        };
    }
    if info.subresource.is_empty() {
        whole(api, ask, row, request).await
    } else {
        part(api, ask, row, request).await
    }
}

async fn whole(
    api: &Arc<ApiServer>,
    ask: &Ask,
    row: &'static Row,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    let info = &ask.info;
    if !row.has_verb(&info.verb) {
        return Err(ApiError::method_not_allowed(row, &info.verb));
    }
    let target = target(ask, row, "");
    let body = request.into_body();
    match info.verb.as_str() {
        "get" => verbs::read::get(api, ask, &target).await,
        "list" => verbs::list::list(api, ask, row).await,
        "watch" => verbs::watch::watch(api, ask, row).await,
        "create" if info.name.is_empty() => verbs::change::create(api, ask, target, body).await,
        "update" | "patch" if info.name.is_empty() => Err(ApiError::method_not_allowed_here()),
        "update" => verbs::change::replace(api, ask, &target, body).await,
        "patch" => verbs::patch::patch(api, ask, &target, body).await,
        "delete" => verbs::change::delete(api, ask, &target, body).await,
        "deletecollection" => verbs::change::delete_collection(api, ask, row, body).await,
        _ => Err(ApiError::method_not_allowed_here()),
    }
}

async fn part(
    api: &Arc<ApiServer>,
    ask: &Ask,
    row: &'static Row,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    let info = &ask.info;
    let sub = row
        .subresource(&info.subresource)
        .ok_or_else(ApiError::no_such_resource)?;
    let connects = matches!(sub.name, "exec" | "attach" | "portforward" | "proxy");
    if !connects && !sub.verbs.contains(&info.verb.as_str()) {
        return Err(ApiError::method_not_allowed(row, &info.verb));
    }
    if info.name.is_empty() {
        return Err(ApiError::no_such_resource());
    }
    let target = target(ask, row, sub.name);
    match (sub.name, info.verb.as_str()) {
        ("log", _) => node_proxy::log(api, ask, &target).await,
        ("exec" | "attach" | "portforward", _) => {
            node_proxy::stream(api, ask, &target, request).await
        }
        ("proxy", _) => node_proxy::proxy(api, ask, &target, request).await,
        ("status", "get") => verbs::read::get(api, ask, &target).await,
        ("status", "update") => {
            verbs::change::replace(api, ask, &target, request.into_body()).await
        }
        ("status", "patch") => verbs::patch::patch(api, ask, &target, request.into_body()).await,
        ("finalize", _) => subresource::finalize(api, ask, &target, request.into_body()).await,
        ("binding", _) => subresource::binding(api, ask, row, request.into_body()).await,
        ("eviction", _) => subresource::evict(api, ask, &target, request.into_body()).await,
        ("scale", verb) => subresource::scale(api, ask, &target, verb, request.into_body()).await,
        ("token", _) => subresource::token(api, ask, &target, request.into_body()).await,
        _ => Err(ApiError::not_implemented(format!(
            "the subresource {}/{} is not offered yet",
            row.plural, sub.name
        ))),
    }
}

fn target(ask: &Ask, row: &'static Row, subresource: &'static str) -> Target {
    let namespace = if row.is_namespaced() {
        ask.info.namespace.clone()
    } else {
        String::new()
    };
    Target {
        row,
        namespace,
        name: ask.info.name.clone(),
        subresource,
    }
}

/// Plain text.
pub(crate) fn text(status: StatusCode, text: impl Into<bytes::Bytes>) -> Response<Body> {
    let mut response = respond::stream(status, "text/plain; charset=utf-8", full(text));
    response.headers_mut().insert(
        "x-content-type-options",
        http::HeaderValue::from_static("nosniff"),
    );
    response
}
