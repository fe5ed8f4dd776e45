//! What probes and hooks do: run a command, ask by HTTP, open a connection, sleep.
//!
//! Bounded in time by the caller and in bytes here. Follows pkg/probe and pkg/kubelet/lifecycle, messages included.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction, LifecycleHandler};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::net::TcpStream;

use crate::world::World;

/// Output of a command that is kept, as upstream.
pub(crate) const OUTPUT: usize = 10 * 1024;
/// A hook ends with its container's grace period; this is for what has none.
const HOOK: Duration = Duration::from_secs(3600);
const CONNECT: Duration = Duration::from_secs(30);

/// Runs a lifecycle hook.
pub(crate) async fn run(
    world: &World,
    id: &str,
    container: &Container,
    ip: Option<IpAddr>,
    hook: &LifecycleHandler,
) -> Result<(), String> {
    if let Some(exec) = &hook.exec {
        let command = exec.command.clone().unwrap_or_default();
        let shown = command.join(" ");
        let out = world
            .runtime
            .exec_sync(id, command, HOOK, OUTPUT)
            .await
            .map_err(|e| e.to_string())?;
        return match out.code {
            0 => Ok(()),
            code => Err(format!(
                "command '{shown}' exited with {code}: {}",
                String::from_utf8_lossy(&out.output)
            )),
        };
    }
    if let Some(sleep) = &hook.sleep {
        tokio::time::sleep(Duration::from_secs(
            u64::try_from(sleep.seconds).unwrap_or(0),
        ))
        .await;
        return Ok(());
    }
    if let Some(get) = &hook.http_get {
        let (code, _) = http_get(container, ip, get, CONNECT).await?;
        return if (200..400).contains(&code) {
            Ok(())
        } else {
            Err(format!("HTTP hook failed with statuscode: {code}"))
        };
    }
    if let Some(tcp) = &hook.tcp_socket {
        return connect(container, tcp.host.as_deref(), ip, &tcp.port, CONNECT)
            .await
            .map(drop);
    }
    Err("invalid handler: it names no action".into())
}

/// Asks and returns the status code with the beginning of the body.
pub(crate) async fn http_get(
    container: &Container,
    ip: Option<IpAddr>,
    get: &HTTPGetAction,
    timeout: Duration,
) -> Result<(u16, String), String> {
    let path = get.path.as_deref().filter(|p| !p.is_empty()).unwrap_or("/");
    let path = if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    };
    let https = get
        .scheme
        .as_deref()
        .is_some_and(|s| s.eq_ignore_ascii_case("https"));
    let port = port(container, &get.port)?;
    let host = get
        .host
        .clone()
        .filter(|h| !h.is_empty())
        .or_else(|| ip.map(|ip| ip.to_string()))
        .ok_or("the pod has no address yet")?;
    let authority = if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    };
    let url = format!(
        "{}://{authority}{path}",
        if https { "https" } else { "http" }
    );
    let failed = |error: String| format!("Get \"{url}\": {error}");
    let mut request = http::Request::get(&path)
        .header(http::header::USER_AGENT, "kube-probe/1.37")
        .header(http::header::ACCEPT, "*/*");
    let mut has_host = false;
    for header in get.http_headers.iter().flatten() {
        has_host |= header.name.eq_ignore_ascii_case("host");
        request = request.header(&header.name, &header.value);
    }
    if !has_host {
        request = request.header(http::header::HOST, &authority);
    }
    let request = request
        .body(Empty::<Bytes>::new())
        .map_err(|e| failed(e.to_string()))?;
    let exchange = async {
        let stream = TcpStream::connect(&authority)
            .await
            .map_err(|e| failed(format!("dial tcp {authority}: connect: {}", plain(&e))))?;
        if https {
            let name = rustls::pki_types::ServerName::try_from(host.clone())
                .map_err(|e| failed(e.to_string()))?;
            let stream = crate::trusting::connector()
                .connect(name, stream)
                .await
                .map_err(|e| failed(e.to_string()))?;
            answer(TokioIo::new(stream), request).await.map_err(failed)
        } else {
            answer(TokioIo::new(stream), request).await.map_err(failed)
        }
    };
    match tokio::time::timeout(timeout, exchange).await {
        Ok(result) => result,
        Err(_) => Err(failed(
            "context deadline exceeded (Client.Timeout exceeded while awaiting headers)".into(),
        )),
    }
}

async fn answer<S>(stream: S, request: http::Request<Empty<Bytes>>) -> Result<(u16, String), String>
where
    S: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream)
        .await
        .map_err(|e| e.to_string())?;
    let exchange = async {
        let response = sender
            .send_request(request)
            .await
            .map_err(|e| e.to_string())?;
        let code = response.status().as_u16();
        let body = Limited::new(response.into_body(), OUTPUT)
            .collect()
            .await
            .map(|b| b.to_bytes())
            .unwrap_or_default();
        Ok((code, String::from_utf8_lossy(&body).into_owned()))
    };
    tokio::pin!(exchange);
    // The connection is driven here and ends with this function: no task is left behind.
    tokio::select! {
        biased;
        result = &mut exchange => result,
        ended = connection => match ended {
            Ok(()) => exchange.await,
            Err(error) => Err(error.to_string()),
        },
    }
}

pub(crate) async fn connect(
    container: &Container,
    host: Option<&str>,
    ip: Option<IpAddr>,
    to: &IntOrString,
    timeout: Duration,
) -> Result<TcpStream, String> {
    let port = port(container, to)?;
    let host = host
        .filter(|h| !h.is_empty())
        .map(str::to_owned)
        .or_else(|| ip.map(|ip| ip.to_string()))
        .ok_or("the pod has no address yet")?;
    let address = if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    };
    match tokio::time::timeout(timeout, TcpStream::connect(&address)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(format!("dial tcp {address}: connect: {}", plain(&error))),
        Err(_) => Err(format!("dial tcp {address}: i/o timeout")),
    }
}

/// A port by number, or by the name that the container gave it.
fn port(container: &Container, port: &IntOrString) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => name.parse::<i32>().ok().or_else(|| {
            container
                .ports
                .iter()
                .flatten()
                .find(|p| p.name.as_deref() == Some(name))
                .map(|p| p.container_port)
        }),
    };
    number
        .and_then(|n| u16::try_from(n).ok())
        .filter(|n| *n > 0)
        .ok_or_else(|| "couldn't find port".to_owned())
}

/// What the system said, in Go's words.
fn plain(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connection refused".into(),
        std::io::ErrorKind::HostUnreachable => "no route to host".into(),
        std::io::ErrorKind::NetworkUnreachable => "network is unreachable".into(),
        _ => error.to_string(),
    }
}
