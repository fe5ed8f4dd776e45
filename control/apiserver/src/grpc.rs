//! gRPC on the API's port: the same TLS, the same users, the same rules. A call's path is a non-resource URL for RBAC,
//! with the verb `post`.
//!
//! Open to everybody: health (as `/healthz` is) and joining, whose credential is a token of its own. Objects are let
//! through too: each of their calls becomes a request over HTTP, which is asked the same questions.

mod health;
mod objects;

use crate::audit::{Outcome, Trail};
use crate::body::Body;
use crate::server::{ApiServer, Peer};
use crate::stack::{self, Ask};
use caravel_api::ApiError;
use caravel_rpc::cluster::v1::DESCRIPTION;
use caravel_rpc::cluster::v1::objects_server::ObjectsServer;
use http::{HeaderMap, HeaderName, Request, Response, header};
use http_body_util::BodyExt as _;
use std::sync::Arc;
use tonic::service::Routes;
use tonic::{Code, Status};
use tonic_health::pb::health_server::HealthServer;
use tower::ServiceExt as _;

/// Services that need no user.
const OPEN: &[&str] = &["/caravel.cluster.v1.Join/", "/grpc.health.v1.Health/"];
/// Whose calls are let in one by one, as what they become.
const OBJECTS: &str = "/caravel.cluster.v1.Objects/";
/// Everything that is told of, by health and by reflection.
const SERVICES: &[&str] = &[
    "caravel.cluster.v1.Cluster",
    "caravel.cluster.v1.Join",
    "caravel.cluster.v1.Objects",
    "grpc.health.v1.Health",
];

/// Who makes a call, as it shows itself.
#[derive(Clone)]
struct Caller {
    peer: Option<Peer>,
    /// Its credentials, what it impersonates and what it calls itself.
    headers: HeaderMap,
}

impl Caller {
    fn of(request: &Request<Body>) -> Self {
        let passed = |name: &HeaderName| {
            [header::AUTHORIZATION, header::USER_AGENT].contains(name)
                || name.as_str().starts_with("impersonate-")
                || name.as_str().starts_with("x-remote-")
                || name.as_str() == "audit-id"
        };
        let headers = request.headers().iter();
        Self {
            peer: request.extensions().get().cloned(),
            headers: headers
                .filter(|(name, _)| passed(name))
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
        }
    }
}

/// `routes` with the services that every server has: objects, health, reflection.
pub(crate) fn with_own(routes: Routes) -> Result<Routes, tonic_reflection::server::Error> {
    let reflection = || {
        let builder = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTION)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
        SERVICES
            .iter()
            .fold(builder, |builder, name| builder.with_service_name(*name))
    };
    Ok(routes
        .add_service(ObjectsServer::new(objects::ObjectsService))
        .add_service(HealthServer::new(health::HealthService))
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?))
}

/// The server that a call came to.
fn server<T>(request: &tonic::Request<T>) -> Result<Arc<ApiServer>, Status> {
    let api = request.extensions().get::<Arc<ApiServer>>().cloned();
    api.ok_or_else(|| Status::internal("the call came to no server"))
}

pub(crate) fn is_grpc(request: &Request<Body>) -> bool {
    let kind = request
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    kind.is_some_and(|kind| kind.starts_with("application/grpc"))
}

/// Answers a call.
pub(crate) async fn call(api: &Arc<ApiServer>, mut request: Request<Body>) -> Response<Body> {
    let Some(routes) = api.grpc.clone() else {
        return refused(Status::unimplemented("this server offers no gRPC services"));
    };
    request.extensions_mut().insert(api.clone());
    let path = request.uri().path();
    if path.starts_with(OBJECTS) {
        let caller = Caller::of(&request);
        request.extensions_mut().insert(caller);
    } else if !OPEN.iter().any(|service| path.starts_with(service)) {
        let mut ask = Ask::new(&request);
        let mut trail = Trail::begin(api.audit.as_ref(), &ask, &request);
        let admitted = stack::admit(api, &mut ask, &mut trail, &request);
        if let Err(error) = admitted {
            let response = refused(status(&error));
            let outcome = Outcome::Failed(Box::new(error));
            return trail.answered(response, outcome, false).await;
        }
        trail.began().await;
        request.extensions_mut().insert(ask.user);
    } else {
        // Who has a credential may be known by it: a node that renews its certificates shows the old one.
        let mut ask = Ask::new(&request);
        if stack::authenticate(api, &mut ask, &request).is_ok() {
            request.extensions_mut().insert(ask.user);
        }
    }
    let request = request.map(tonic::body::Body::new);
    match routes.oneshot(request).await {
        Ok(response) => response.map(|body| body.map_err(Into::into).boxed_unsync()),
        Err(never) => match never {},
    }
}

fn refused(status: Status) -> Response<Body> {
    let response: Response<tonic::body::Body> = status.into_http();
    response.map(|body| body.map_err(Into::into).boxed_unsync())
}

fn status(error: &ApiError) -> Status {
    let code = match error.code {
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        429 => Code::ResourceExhausted,
        _ => Code::Internal,
    };
    Status::new(code, error.message.clone())
}
