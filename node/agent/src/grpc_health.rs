//! `grpc` probes: one call of grpc.health.v1.Health/Check over plain HTTP/2.
//!
//! Upstream: pkg/probe/grpc. The two messages are small enough to be written by hand.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::core::v1::{Container, GRPCAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::handler;

const SERVING: u8 = 1;

pub(crate) async fn check(
    container: &Container,
    ip: Option<IpAddr>,
    action: &GRPCAction,
    timeout: Duration,
) -> Result<(), String> {
    let exchange = async {
        let stream =
            handler::connect(container, None, ip, &IntOrString::Int(action.port), timeout).await?;
        call(
            TokioIo::new(stream),
            &format!(
                "{}:{}",
                ip.map(|i| i.to_string()).unwrap_or_default(),
                action.port
            ),
            action.service.as_deref().unwrap_or_default(),
        )
        .await
    };
    tokio::time::timeout(timeout, exchange)
        .await
        .unwrap_or_else(|_| {
            Err(format!(
                "timeout: health rpc did not complete within {}s",
                timeout.as_secs()
            ))
        })
}

async fn call(
    stream: TokioIo<tokio::net::TcpStream>,
    authority: &str,
    service: &str,
) -> Result<(), String> {
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), stream)
            .await
            .map_err(|e| e.to_string())?;
    let request = http::Request::post(format!("http://{authority}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "kube-probe/1.37")
        .body(Full::new(message(service)))
        .map_err(|e| e.to_string())?;
    let exchange = async {
        let response = sender
            .send_request(request)
            .await
            .map_err(|e| e.to_string())?;
        let head = response.headers().get("grpc-status").cloned();
        let body = response
            .into_body()
            .collect()
            .await
            .map_err(|e| e.to_string())?;
        let status = head.or_else(|| body.trailers().and_then(|t| t.get("grpc-status").cloned()));
        match status.as_ref().and_then(|s| s.to_str().ok()) {
            Some("0") => judge(&body.to_bytes()),
            Some("12") => Err(
                "this server does not implement the grpc health protocol (grpc.health.v1.Health)"
                    .into(),
            ),
            other => Err(format!(
                "health rpc failed: grpc-status {}",
                other.unwrap_or("absent")
            )),
        }
    };
    tokio::pin!(exchange);
    tokio::select! {
        biased;
        result = &mut exchange => result,
        ended = connection => match ended {
            Ok(()) => exchange.await,
            Err(error) => Err(error.to_string()),
        },
    }
}

/// `HealthCheckRequest{service}` in gRPC's frame.
fn message(service: &str) -> Bytes {
    let mut body = Vec::new();
    let service = &service.as_bytes()[..service.len().min(127)];
    if !service.is_empty() {
        body.extend_from_slice(&[0x0a, u8::try_from(service.len()).unwrap_or(127)]);
        body.extend_from_slice(service);
    }
    let mut frame = vec![0, 0, 0, 0, u8::try_from(body.len()).unwrap_or(u8::MAX)];
    frame.extend_from_slice(&body);
    frame.into()
}

/// `HealthCheckResponse{status}`: anything but SERVING is unhealthy.
fn judge(frame: &[u8]) -> Result<(), String> {
    let status = match frame.get(5..) {
        Some([0x08, status, ..]) => *status,
        _ => 0,
    };
    let name = match status {
        SERVING => return Ok(()),
        2 => "NOT_SERVING",
        3 => "SERVICE_UNKNOWN",
        _ => "UNKNOWN",
    };
    Err(format!("service unhealthy (responded with \"{name}\")"))
}
