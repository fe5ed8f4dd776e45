//! Requests to a node's own port: logs, exec, attach, port-forward and the node proxy.
//!
//! The connection is TLS with the API server's client certificate, one per request; an upgraded one is tunnelled as bytes, so
//! this side knows neither SPDY nor WebSocket. Connecting has a deadline. Upstream: pkg/registry/core/pod/rest, .../node/strategy.go.

use crate::body::{Body, BoxError, empty};
use crate::tasks;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Node;
use rustls::pki_types::ServerName;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;

const CONNECT: Duration = Duration::from_secs(10);
const HEAD: Duration = Duration::from_secs(30);
const PORT: u16 = 10250;

/// Why a node could not be asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KubeletError {
    #[error("no preferred addresses found; known addresses: []")]
    NoAddress,
    #[error("dial tcp {0}:{1}: {2}")]
    Dial(String, u16, #[source] std::io::Error),
    #[error("dial tcp {0}:{1}: i/o timeout")]
    Timeout(String, u16),
    #[error("request to node {0}: {1}")]
    Request(String, #[source] BoxError),
}

/// How a node's kubelet port is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub host: String,
    pub port: u16,
}

/// The address of a node: its InternalIP, else its ExternalIP or Hostname.
pub(crate) fn endpoint(node: &Node) -> Result<Endpoint, KubeletError> {
    let status = node.status.as_ref();
    let addresses = status
        .and_then(|status| status.addresses.as_deref())
        .unwrap_or_default();
    let host = ["InternalIP", "ExternalIP", "Hostname"]
        .iter()
        .find_map(|kind| addresses.iter().find(|address| address.type_ == *kind))
        .map(|address| address.address.clone())
        .ok_or(KubeletError::NoAddress)?;
    let port = status
        .and_then(|status| status.daemon_endpoints.as_ref())
        .and_then(|endpoints| endpoints.kubelet_endpoint.as_ref())
        .and_then(|endpoint| u16::try_from(endpoint.port).ok())
        .filter(|port| *port != 0)
        .unwrap_or(PORT);
    Ok(Endpoint { host, port })
}

/// Sends a request to the node and gives its response back, body streamed.
pub(crate) async fn send(
    tls: Arc<rustls::ClientConfig>,
    node: &Endpoint,
    request: Request<Body>,
) -> Result<Response<hyper::body::Incoming>, KubeletError> {
    let Endpoint { host, port } = node.clone();
    let dial = async {
        let stream = TcpStream::connect((host.as_str(), port)).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(host.clone()).map_err(std::io::Error::other)?;
        tokio_rustls::TlsConnector::from(tls)
            .connect(name, stream)
            .await
    };
    let stream = tokio::time::timeout(CONNECT, dial)
        .await
        .map_err(|_| KubeletError::Timeout(host.clone(), port))?
        .map_err(|error| KubeletError::Dial(host.clone(), port, error))?;
    let failed = |error: hyper::Error| KubeletError::Request(host.clone(), error.into());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(failed)?;
    tasks::drive(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "connection to node ended");
        }
    });
    tokio::time::timeout(HEAD, sender.send_request(request))
        .await
        .map_err(|_| KubeletError::Timeout(host.clone(), port))?
        .map_err(failed)
}

/// Headers that belong to one connection and are not passed on (except by an upgrade).
const HOP: [header::HeaderName; 6] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
];

fn passed_on(headers: &HeaderMap, upgrade: bool) -> HeaderMap {
    let mut out = headers.clone();
    for name in HOP {
        if !(upgrade && name == header::CONNECTION) {
            out.remove(name);
        }
    }
    if !upgrade {
        out.remove(header::UPGRADE);
    }
    // The caller's credentials end here: the node is spoken to as the API server.
    out.remove(header::AUTHORIZATION);
    out.remove(header::HOST);
    let impersonation: Vec<_> = out
        .keys()
        .filter(|name| name.as_str().starts_with("impersonate-"))
        .cloned()
        .collect();
    for name in impersonation {
        out.remove(name);
    }
    out
}

/// Whether the client wants to leave HTTP.
pub(crate) fn wants_upgrade(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| {
            value
                .split(',')
                .any(|token| token.trim().eq_ignore_ascii_case("upgrade"))
        })
}

/// Passes a request on to the node at `target` (path and query) and its answer back; a switch of protocols becomes a tunnel.
pub(crate) async fn forward(
    tls: Arc<rustls::ClientConfig>,
    node: &Endpoint,
    target: &str,
    mut original: Request<Body>,
) -> Result<Response<Body>, KubeletError> {
    let bad = |error: http::Error| KubeletError::Request(node.host.clone(), error.into());
    let upgrade = wants_upgrade(original.headers());
    let client = upgrade.then(|| hyper::upgrade::on(&mut original));
    let mut headers = passed_on(original.headers(), upgrade);
    let host = if node.host.contains(':') {
        format!("[{}]:{}", node.host, node.port)
    } else {
        format!("{}:{}", node.host, node.port)
    };
    if let Ok(host) = HeaderValue::from_str(&host) {
        headers.insert(header::HOST, host);
    }
    let mut request = Request::builder()
        .method(original.method().clone())
        .uri(target)
        .body(())
        .map_err(bad)?;
    *request.headers_mut() = headers;
    let body = if upgrade {
        empty()
    } else {
        original.into_body()
    };
    let mut response = send(tls, node, request.map(|()| body)).await?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let Some(client) = client else {
            return Err(KubeletError::Request(
                node.host.clone(),
                "the node switched protocols unasked".into(),
            ));
        };
        tasks::tunnel(client, hyper::upgrade::on(&mut response));
        let (parts, _) = response.into_parts();
        return Ok(Response::from_parts(parts, empty()));
    }
    let (mut parts, body) = response.into_parts();
    for name in HOP {
        parts.headers.remove(name);
    }
    Ok(Response::from_parts(
        parts,
        body.map_err(Into::into).boxed_unsync(),
    ))
}

/// A plain GET, as log reading does.
pub(crate) async fn get(
    tls: Arc<rustls::ClientConfig>,
    node: &Endpoint,
    target: &str,
) -> Result<Response<hyper::body::Incoming>, KubeletError> {
    let bad = |error: BoxError| KubeletError::Request(node.host.clone(), error);
    let uri: Uri = target
        .parse()
        .map_err(|error: http::uri::InvalidUri| bad(error.into()))?;
    let request = Request::builder()
        .method(Method::GET)
        .uri(uri)
        .header(header::HOST, format!("{}:{}", node.host, node.port))
        .body(empty())
        .map_err(|error| bad(error.into()))?;
    send(tls, node, request).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_of_a_node() {
        let node: Node = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "n"},
            "status": {"addresses": [{"type": "Hostname", "address": "n"}, {"type": "InternalIP", "address": "10.0.0.7"}],
                       "daemonEndpoints": {"kubeletEndpoint": {"Port": 10350}}}
        }))
        .unwrap();
        assert_eq!(
            endpoint(&node).unwrap(),
            Endpoint {
                host: "10.0.0.7".into(),
                port: 10350
            }
        );
        assert!(matches!(
            endpoint(&Node::default()),
            Err(KubeletError::NoAddress)
        ));
    }

    #[test]
    fn credentials_do_not_travel() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("authorization", "Bearer x"),
            ("connection", "Upgrade"),
            ("upgrade", "SPDY/3.1"),
            ("impersonate-user", "bob"),
            ("x-stream-protocol-version", "v5"),
        ] {
            headers.insert(name, value.parse().unwrap());
        }
        let names = |upgrade| {
            let mut names: Vec<_> = passed_on(&headers, upgrade)
                .keys()
                .map(ToString::to_string)
                .collect();
            names.sort();
            names
        };
        assert_eq!(
            names(true),
            ["connection", "upgrade", "x-stream-protocol-version"]
        );
        assert_eq!(names(false), ["x-stream-protocol-version"]);
    }
}
