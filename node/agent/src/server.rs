//! The node's own HTTPS server, port 10250: logs, exec, attach, port-forward, statistics, health.
//!
//! Callers show a client certificate of the cluster's CA or a token; only the API server and whom it says may
//! are answered. Answers about pods come from [`Pods`] and the runtime; nothing is changed here.
//! Paths, parameters and sentences follow `pkg/kubelet/server`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use caravel_exporter::Registry;
use caravel_runtime::Runtime;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use tokio_util::sync::CancellationToken;

use crate::Pods;

pub(crate) mod access;
#[cfg(test)]
mod admission_tests;
mod attributes;
mod cadvisor;
mod commands;
mod forwarding;
mod identity;
mod log_reading;
mod network_use;
mod query;
mod resource_metrics;
mod summary;
mod tasks;
mod tls;

pub(crate) use access::Access;
use identity::Caller;
use query::Query;

pub(crate) type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// Connections at one time; more wait to be accepted.
const MOST_CONNECTIONS: usize = 512;
const HANDSHAKE: Duration = Duration::from_secs(10);
const HEADERS: Duration = Duration::from_secs(30);

/// What the server answers from.
pub(crate) struct State {
    pub node: String,
    pub pods: Pods,
    pub runtime: Arc<dyn Runtime>,
    pub access: Arc<dyn Access>,
    pub metrics: Registry,
    pub summary: summary::Rates,
    /// A path on the file system that holds pods.
    pub disk: PathBuf,
}

impl State {
    pub fn new(
        node: String,
        pods: Pods,
        runtime: Arc<dyn Runtime>,
        access: Arc<dyn Access>,
        metrics: Registry,
        disk: PathBuf,
    ) -> Self {
        Self {
            node,
            pods,
            runtime,
            access,
            metrics,
            summary: summary::Rates::default(),
            disk,
        }
    }
}

/// PEM.
pub(crate) struct Certificates<'a> {
    pub cert: &'a str,
    pub key: &'a str,
    pub client_ca: &'a str,
}

/// Serves until `shutdown`. Sessions that run then are ended.
///
/// # Errors
/// Certificates that cannot be read, or an address that cannot be listened on.
pub(crate) async fn serve(
    listen: SocketAddr,
    certificates: Certificates<'_>,
    state: State,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let acceptor = tls::acceptor(&certificates)?;
    let listener = tokio::net::TcpListener::bind(listen)
        .await
        .with_context(|| format!("listen on {listen} for the node's API"))?;
    tasks::accept(listener, acceptor, Arc::new(state), shutdown).await;
    Ok(())
}

/// One request: who, may they, then the handler by the first part of the path.
pub(crate) async fn handle(
    state: Arc<State>,
    certificate: Option<Caller>,
    request: Request<Incoming>,
) -> Response<Body> {
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    match admit(&state, certificate, &request).await {
        Ok(()) => {}
        Err(refusal) => return refusal,
    }
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let read_only = matches!(method, Method::GET | Method::HEAD);
    match parts.as_slice() {
        ["healthz"] if read_only => text(StatusCode::OK, "ok"),
        ["healthz", "ping" | "syncloop" | "log"] if read_only => text(StatusCode::OK, "ok"),
        ["pods"] if read_only => pods(&state),
        ["metrics"] if read_only => metrics(&state),
        ["metrics", "resource"] if read_only => resource_metrics::answer(&state).await,
        ["metrics", "cadvisor"] if read_only => cadvisor::answer(&state).await,
        ["stats", "summary"] if read_only => summary::answer(&state).await,
        ["containerLogs", namespace, pod, container] if read_only => {
            log_reading::answer(&state, namespace, pod, container, &query).await
        }
        ["exec", namespace, pod, container] | ["exec", namespace, pod, _, container] => {
            commands::exec(&state, (namespace, pod, container), &query, request).await
        }
        ["attach", namespace, pod, container] | ["attach", namespace, pod, _, container] => {
            commands::attach(&state, (namespace, pod, container), &query, request).await
        }
        ["portForward", namespace, pod] | ["portForward", namespace, pod, _] => {
            forwarding::answer(&state, namespace, pod, request).await
        }
        [
            "healthz" | "pods" | "metrics" | "stats" | "containerLogs",
            ..,
        ] if !read_only => text(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed"),
        _ => text(StatusCode::NOT_FOUND, "404 page not found\n"),
    }
}

async fn admit(
    state: &State,
    certificate: Option<Caller>,
    request: &Request<Incoming>,
) -> Result<(), Response<Body>> {
    let unauthorised = || text(StatusCode::UNAUTHORIZED, "Unauthorized");
    let broken = |error: access::AccessError| {
        tracing::warn!(%error, "a request to this node could not be judged");
        text(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string())
    };
    let caller = match (certificate, identity::bearer(request.headers())) {
        (Some(caller), _) => caller,
        (None, Some(token)) => state
            .access
            .authenticate(token)
            .await
            .map_err(broken)?
            .ok_or_else(unauthorised)?,
        (None, None) => return Err(unauthorised()),
    };
    if caller.is_api_server() {
        return Ok(());
    }
    let attributes = attributes::of(&state.node, request.method(), request.uri().path());
    if state
        .access
        .authorize(&caller, &attributes)
        .await
        .map_err(broken)?
    {
        return Ok(());
    }
    Err(text(
        StatusCode::FORBIDDEN,
        &attributes.refusal(&caller.name),
    ))
}

fn pods(state: &State) -> Response<Body> {
    let items: Vec<_> = state
        .pods
        .list()
        .iter()
        .map(|view| view.pod.clone())
        .collect();
    json(
        &serde_json::json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}),
    )
}

fn metrics(state: &State) -> Response<Body> {
    match state.metrics.text() {
        Ok(bytes) => answer(StatusCode::OK, caravel_exporter::TEXT, bytes),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

pub(crate) fn text(status: StatusCode, body: &str) -> Response<Body> {
    answer(status, "text/plain; charset=utf-8", body.to_owned())
}

pub(crate) fn json(value: &serde_json::Value) -> Response<Body> {
    answer(StatusCode::OK, "application/json", value.to_string())
}

pub(crate) fn answer(
    status: StatusCode,
    kind: &'static str,
    body: impl Into<Bytes>,
) -> Response<Body> {
    let body = Full::new(body.into())
        .map_err(|never| match never {})
        .boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}
