//! The standard health service: what `/readyz` says, for each service and (the empty name) for the server.
//!
//! Computed when it is asked, so that it cannot lag. Protocol: grpc.health.v1, which asks for NOT_FOUND of a service
//! nobody has (`Check`) and SERVICE_UNKNOWN of one (`Watch`).

use super::{SERVICES, server};
use crate::health::is_ready;
use crate::server::ApiServer;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

/// How often a watch looks.
const LOOK: Duration = Duration::from_millis(500);

#[derive(Clone)]
pub(crate) struct HealthService;

fn is_known(service: &str) -> bool {
    service.is_empty() || SERVICES.contains(&service)
}

fn status(api: &ApiServer, service: &str) -> ServingStatus {
    match (is_known(service), is_ready(api)) {
        (false, _) => ServingStatus::ServiceUnknown,
        (true, true) => ServingStatus::Serving,
        (true, false) => ServingStatus::NotServing,
    }
}

struct Watching {
    api: Arc<ApiServer>,
    service: String,
    last: Option<ServingStatus>,
    tick: Interval,
}

impl Watching {
    async fn next(mut self) -> Option<(Result<HealthCheckResponse, Status>, Self)> {
        let ending = self.api.ending.clone();
        loop {
            if self.last.is_some() && ending.is_cancelled() {
                return None;
            }
            // The last word is that nothing is served any more.
            ending.run_until_cancelled(self.tick.tick()).await;
            let now = status(&self.api, &self.service);
            if self.last.replace(now) != Some(now) {
                let response = HealthCheckResponse { status: now.into() };
                return Some((Ok(response), self));
            }
        }
    }
}

#[tonic::async_trait]
impl Health for HealthService {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let api = server(&request)?;
        let service = request.into_inner().service;
        if !is_known(&service) {
            return Err(Status::not_found("there is no such service"));
        }
        Ok(Response::new(HealthCheckResponse {
            status: status(&api, &service).into(),
        }))
    }

    type WatchStream = BoxStream<'static, Result<HealthCheckResponse, Status>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let api = server(&request)?;
        let mut tick = interval(LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let watching = Watching {
            api,
            service: request.into_inner().service,
            last: None,
            tick,
        };
        Ok(Response::new(
            stream::unfold(watching, Watching::next).boxed(),
        ))
    }
}
