//! gRPC on the API's port: the same TLS, the same users, the same rules. A call's path is a non-resource URL for RBAC,
//! with the verb `post`.
//!
//! Open to everybody: health (as `/healthz` is) and joining, whose credential is a token of its own.

use crate::audit::{Outcome, Trail};
use crate::body::Body;
use crate::server::ApiServer;
use crate::stack::{self, Ask};
use caravel_api::ApiError;
use http::{Request, Response, header};
use http_body_util::BodyExt as _;
use tonic::{Code, Status};
use tower::ServiceExt as _;

/// Services that need no user.
const OPEN: &[&str] = &["/caravel.cluster.v1.Join/", "/grpc.health.v1.Health/"];

pub(crate) fn is_grpc(request: &Request<Body>) -> bool {
    let kind = request
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    kind.is_some_and(|kind| kind.starts_with("application/grpc"))
}

/// Answers a call.
pub(crate) async fn call(api: &ApiServer, mut request: Request<Body>) -> Response<Body> {
    let Some(routes) = api.grpc.clone() else {
        return refused(Status::unimplemented("this server offers no gRPC services"));
    };
    let path = request.uri().path();
    if !OPEN.iter().any(|service| path.starts_with(service)) {
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
