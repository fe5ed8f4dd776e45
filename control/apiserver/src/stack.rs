//! What happens to every request, in order. [`run`] is the list; each step is one function.
//!
//! Upstream: apiserver/pkg/server/config.go (`DefaultBuildHandlerChain`). No step may hold a request longer than its deadline.

use crate::audit::{Outcome, Trail};
use crate::body::Body;
use crate::grpc;
use crate::info::RequestInfo;
use crate::negotiate::{self, Accepted};
use crate::query::Query;
use crate::respond;
use crate::router;
use crate::server::{ApiServer, Peer};
use crate::unread::Unread;
use crate::views::View;
use caravel_api::ApiError;
use caravel_auth::impersonation::{self, ImpersonationError};
use caravel_auth::{Attributes, Method, UserInfo};
use caravel_exporter::Observation;
use futures::FutureExt;
use http::{HeaderMap, HeaderValue, Request, Response, header};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// A request that is neither a watch nor another long-running one is answered within this.
const DEADLINE: Duration = Duration::from_secs(60);
/// Longest path and query.
const MAX_URI: usize = 64 * 1024;

/// A request on its way: what is known of it.
pub(crate) struct Ask {
    pub method: http::Method,
    pub info: RequestInfo,
    pub query: Query,
    pub headers: HeaderMap,
    pub user: UserInfo,
    pub accepted: Accepted,
    pub audit: HeaderValue,
    /// The name of what a create made.
    pub created: OnceLock<String>,
}

impl Ask {
    pub(crate) fn new(request: &Request<Body>) -> Self {
        let query = Query::parse(request.uri().query());
        let info = RequestInfo::parse(request.method(), request.uri().path(), &query);
        let id = given_id(request.headers())
            .map_or_else(|| uuid::Uuid::new_v4().to_string(), str::to_owned);
        Self {
            method: request.method().clone(),
            accepted: Accepted::default(),
            headers: request.headers().clone(),
            user: UserInfo::anonymous(),
            audit: HeaderValue::from_str(&id).unwrap_or(HeaderValue::from_static("")),
            info,
            query,
            created: OnceLock::new(),
        }
    }

    /// Watches, logs and upgraded connections last as long as they last.
    pub(crate) fn is_long_running(&self) -> bool {
        self.info.verb == "watch"
            || matches!(
                self.info.subresource.as_str(),
                "exec" | "attach" | "portforward" | "proxy"
            )
            || self.info.subresource == "log"
    }

    pub(crate) fn user_agent(&self) -> Option<&str> {
        self.headers
            .get(header::USER_AGENT)
            .and_then(|value| value.to_str().ok())
    }
}

/// Answers one request, whatever happens.
pub(crate) async fn handle(api: &Arc<ApiServer>, request: Request<Body>) -> Response<Body> {
    if grpc::is_grpc(&request) {
        return grpc::call(api, request).await;
    }
    let started = Instant::now();
    let mut ask = Ask::new(&request);
    let mut trail = Trail::begin(api.audit.as_ref(), &ask, &request);
    let (request, unread) = Unread::of(request);
    let outcome = AssertUnwindSafe(run(api, &mut ask, &mut trail, request))
        .catch_unwind()
        .await;
    let (mut response, outcome) = match outcome {
        Ok(Ok(response)) => (response, Outcome::Answered),
        Ok(Err(error)) => (
            respond::error(&error, ask.accepted),
            Outcome::Failed(Box::new(error)),
        ),
        Err(_) => {
            tracing::error!(path = %ask.info.path, user = %ask.user.name, "a request's handler panicked");
            let error = ApiError::internal(
                "This request caused apiserver to panic. Look in the logs for details.",
            );
            (respond::error(&error, ask.accepted), Outcome::Panicked)
        }
    };
    if negotiate::takes_gzip(&ask.headers) && ask.info.verb != "watch" {
        response = respond::gzip(response);
    }
    response.headers_mut().insert("audit-id", ask.audit.clone());
    record(api, &ask, &response, started);
    if let Some(name) = ask.created.get() {
        trail.created(name);
    }
    let response = trail
        .answered(response, outcome, ask.is_long_running())
        .await;
    unread.take().await;
    response
}

/// The list.
async fn run(
    api: &Arc<ApiServer>,
    ask: &mut Ask,
    trail: &mut Trail,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    admit(api, ask, trail, &request)?;
    in_touch(api, ask)?;
    negotiate_form(ask)?;
    let _running = if ask.is_long_running() {
        None
    } else {
        Some(api.flow.enter(&ask.user, &ask.info).await?)
    };
    let _counted = (!ask.is_long_running()).then(|| {
        api.metrics.in_flight(!matches!(
            ask.method,
            http::Method::GET | http::Method::HEAD
        ))
    });
    if ask.is_long_running() {
        return router::route(api, ask, request).await;
    }
    tokio::time::timeout(DEADLINE, router::route(api, ask, request))
        .await
        .map_err(|_| ApiError::timeout("request did not complete within the allotted timeout", 0))?
}

/// A server that has lost its cluster would answer from long ago; health, metrics and version tell of itself.
fn in_touch(api: &ApiServer, ask: &Ask) -> Result<(), ApiError> {
    let of_itself = ["/livez", "/readyz", "/healthz", "/metrics", "/version"];
    if *api.store.contact().borrow() || of_itself.iter().any(|own| ask.info.path.starts_with(own)) {
        return Ok(());
    }
    Err(ApiError::unavailable(
        "this server is not in touch with a majority of the servers; ask another",
    ))
}

/// Who asks, and whether they may.
pub(crate) fn admit(
    api: &ApiServer,
    ask: &mut Ask,
    trail: &mut Trail,
    request: &Request<Body>,
) -> Result<(), ApiError> {
    limit_uri(request)?;
    authenticate(api, ask, request)?;
    trail.user(&ask.user);
    impersonate(api, ask, trail)?;
    authorize(api, ask, trail)
}

fn limit_uri(request: &Request<Body>) -> Result<(), ApiError> {
    let length = request
        .uri()
        .path_and_query()
        .map_or(0, |text| text.as_str().len());
    if length > MAX_URI {
        Err(ApiError::new(
            414,
            "RequestURITooLong",
            "the request URI is too long",
        ))
    } else {
        Ok(())
    }
}

pub(crate) fn authenticate(
    api: &ApiServer,
    ask: &mut Ask,
    request: &Request<Body>,
) -> Result<(), ApiError> {
    let peer = request.extensions().get::<Peer>();
    let certificates = peer.map(|peer| &*peer.certificates).unwrap_or_default();
    // A caller in this process may bring its identity; nothing that came over a socket can.
    if let Some(user) = request.extensions().get::<UserInfo>() {
        ask.user = user.clone();
        return Ok(());
    }
    let proxied = ask.headers.contains_key("x-remote-user");
    if let Some(user) = peer.filter(|_| !proxied).and_then(Peer::known) {
        ask.user = user;
        ask.headers.remove(header::AUTHORIZATION);
        return Ok(());
    }
    let snapshot = api.store.snapshot();
    match api
        .authenticator
        .authenticate(&ask.headers, certificates, &View(&snapshot))
    {
        Ok(Some(found)) => {
            if let Some(peer) = peer.filter(|_| found.method == Method::Certificate) {
                peer.remember(&found.user);
            }
            ask.user = found.user;
        }
        Ok(None) => {}
        Err(error) => {
            tracing::info!(%error, path = %ask.info.path, "unauthenticated");
            return Err(ApiError::unauthorized());
        }
    }
    ask.headers.remove(header::AUTHORIZATION);
    Ok(())
}

fn impersonate(api: &ApiServer, ask: &mut Ask, trail: &mut Trail) -> Result<(), ApiError> {
    let refused = |error: ImpersonationError| match error {
        ImpersonationError::Forbidden(message) => ApiError::new(403, "Forbidden", message),
        error @ (ImpersonationError::NoUser(_) | ImpersonationError::Unreadable(_)) => {
            ApiError::internal(error)
        }
    };
    let Some(wanted) = impersonation::requested(&ask.headers).map_err(refused)? else {
        return Ok(());
    };
    let snapshot = api.store.snapshot();
    ask.user = impersonation::impersonate(&ask.user, wanted, &View(&snapshot)).map_err(refused)?;
    trail.impersonates(&ask.user);
    Ok(())
}

fn authorize(api: &ApiServer, ask: &Ask, trail: &mut Trail) -> Result<(), ApiError> {
    if ask.user.is_master() {
        trail.decided(true, "");
        return Ok(());
    }
    let info = &ask.info;
    let fields: Vec<(String, String)> = ask
        .query
        .text("fieldSelector")
        .and_then(|text| caravel_api::selector::parse_fields(text).ok())
        .unwrap_or_default()
        .into_iter()
        .filter(|field| field.equal)
        .map(|field| (field.path, field.value))
        .collect();
    let attributes = if info.is_resource {
        Attributes {
            user: &ask.user,
            verb: &info.verb,
            group: &info.group,
            version: &info.version,
            resource: &info.resource,
            subresource: &info.subresource,
            namespace: &info.namespace,
            name: &info.name,
            path: "",
            fields: &fields,
        }
    } else {
        Attributes::path(&ask.user, &info.verb, &info.path)
    };
    let snapshot = api.store.snapshot();
    let decision = api.authorizer.authorize(&attributes, &View(&snapshot));
    trail.decided(decision.is_allowed(), decision.reason());
    if decision.is_allowed() {
        return Ok(());
    }
    let mut error = if info.is_resource {
        ApiError::forbidden_because(&info.group, &info.resource, &info.name, "")
    } else {
        ApiError::forbidden_path(&ask.user.name, &info.verb, &info.path)
    };
    error.message = attributes.forbidden_message(decision.reason());
    Err(error)
}

fn negotiate_form(ask: &mut Ask) -> Result<(), ApiError> {
    let agent = ask.user_agent().unwrap_or_default();
    let person =
        agent.starts_with("curl") || agent.starts_with("Wget") || agent.starts_with("Mozilla/");
    let pretty = ask
        .query
        .get("pretty")
        .map_or(person, |_| ask.query.flag("pretty"));
    match negotiate::accept(&ask.headers, pretty) {
        Some(accepted) => ask.accepted = accepted,
        // What is no API object (metrics, health, OpenAPI, proxies) speaks for itself.
        None if !ask.info.is_resource
            || matches!(
                ask.info.subresource.as_str(),
                "log" | "proxy" | "exec" | "attach" | "portforward"
            ) => {}
        None => return Err(ApiError::not_acceptable(respond::OFFERED)),
    }
    Ok(())
}

fn record(api: &ApiServer, ask: &Ask, response: &Response<Body>, started: Instant) {
    let info = &ask.info;
    let known = info.is_resource
        && caravel_api::kinds::by_resource(&info.group, &info.version, &info.resource).is_some();
    let verb = match (info.verb.as_str(), info.is_resource) {
        ("create", true) => "POST",
        ("update", true) => "PUT",
        ("patch", true) if is_apply(&ask.headers) => "APPLY",
        ("patch", true) => "PATCH",
        ("list", _) => "LIST",
        ("watch", _) => "WATCH",
        ("delete", _) => "DELETE",
        ("deletecollection", _) => "DELETECOLLECTION",
        ("get", _) => "GET",
        _ => "OTHER",
    };
    let scope = match (known, info.name.is_empty(), info.namespace.is_empty()) {
        (false, ..) => "",
        (true, false, _) => "resource",
        (true, true, false) => "namespace",
        (true, true, true) => "cluster",
    };
    // Names that nobody serves must not make metrics grow without bound.
    let label = |text: &'_ str| {
        if known {
            text.to_owned()
        } else {
            String::new()
        }
    };
    let (group, version, resource) = (
        label(&info.group),
        label(&info.version),
        label(&info.resource),
    );
    let row = caravel_api::kinds::by_resource(&info.group, &info.version, &info.resource);
    let subresource = row
        .and_then(|row| row.subresource(&info.subresource))
        .map_or("", |sub| sub.name);
    api.metrics.observe(&Observation {
        verb,
        group: &group,
        version: &version,
        resource: &resource,
        subresource,
        scope,
        code: response.status().as_u16(),
        dry_run: ask.query.text("dryRun") == Some("All"),
        took: started.elapsed(),
    });
}

/// A proxy in front may have given the request its id.
fn given_id(headers: &HeaderMap) -> Option<&str> {
    let id = headers.get("audit-id")?.to_str().ok()?;
    (!id.is_empty() && id.len() <= 64).then_some(id)
}

fn is_apply(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|kind| kind.starts_with("application/apply-patch"))
}
