//! `/portForward`: a client's connections to ports of a pod, dialled inside its network namespace.

use std::sync::Arc;

use caravel_streaming::{Dialled, Purpose, negotiate, run_port_forward};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;

use super::{Body, State, tasks, text};

pub(super) async fn answer(
    state: &Arc<State>,
    namespace: &str,
    pod: &str,
    mut request: Request<Incoming>,
) -> Response<Body> {
    let Some(view) = state.pods.get(namespace, pod) else {
        return text(StatusCode::NOT_FOUND, "pod does not exist");
    };
    let host_network = view.pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true);
    if view.netns.is_none() && !host_network {
        return text(
            StatusCode::INTERNAL_SERVER_ERROR,
            &format!("unable to do port forwarding: pod {pod} has no sandbox yet"),
        );
    }
    let accepted = match negotiate(request.headers(), Purpose::PortForward) {
        Ok(accepted) => accepted,
        Err(refused) => return text(refused.status, &refused.message),
    };
    let response = accepted
        .response()
        .map(|()| super::answer(StatusCode::OK, "text/plain", "").into_body());
    let upgrade = hyper::upgrade::on(&mut request);
    let netns = view.netns.clone();
    let name = format!("{pod}_{namespace}");
    tasks::session(async move {
        let dial = move |port: u16| -> Dialled { Box::pin(tasks::dial(netns.clone(), port)) };
        if let Err(error) = run_port_forward(upgrade, &accepted, &name, Arc::new(dial)).await {
            tracing::debug!(%error, "a port-forward session ended");
        }
    });
    response
}
