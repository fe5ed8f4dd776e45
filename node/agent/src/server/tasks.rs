//! The server's tasks: one per connection, one per streaming session, all ended with the server; and the thread on
//! which a pod's network namespace is entered.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::identity::Caller;
use super::{HANDSHAKE, HEADERS, MOST_CONNECTIONS, State, handle};

const DIAL: Duration = Duration::from_secs(10);

pub(super) async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    state: Arc<State>,
    shutdown: CancellationToken,
) {
    let room = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let accepted = async {
            // The semaphore is never closed.
            let permit = room.clone().acquire_owned().await.ok()?;
            Some((permit, listener.accept().await))
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            Some((permit, result)) = accepted => match result {
                Ok((stream, _)) => {
                    let (acceptor, state) = (acceptor.clone(), state.clone());
                    connections.spawn(async move {
                        serve(stream, acceptor, state).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    // Out of descriptors, most likely: give it a moment rather than spin.
                    tracing::warn!(%error, "accepting a connection to the node's API");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
}

async fn serve(stream: TcpStream, acceptor: TlsAcceptor, state: Arc<State>) {
    let _ = stream.set_nodelay(true);
    let tls = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(error)) => return tracing::debug!(%error, "TLS handshake"),
        Err(_) => return,
    };
    let caller = tls
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|chain| chain.first())
        .and_then(|leaf| Caller::of_certificate(leaf));
    let service = service_fn(move |request| {
        let (state, caller) = (state.clone(), caller.clone());
        async move { Ok::<_, std::convert::Infallible>(handle(state, caller, request).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        .serve_connection(TokioIo::new(tls), service)
        .with_upgrades();
    if let Err(error) = connection.await {
        tracing::debug!(%error, "connection to the node's API");
    }
}

/// A streaming session: ends with its client, or with what it carries.
pub(super) fn session(work: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(work);
}

/// Connects to a loopback port inside a pod's network namespace (the machine's own without one). On a thread that
/// ends afterwards: a thread of the runtime must never change its namespace.
pub(super) async fn dial(netns: Option<PathBuf>, port: u16) -> Result<TcpStream, String> {
    let (send, receive) = oneshot::channel();
    let work = move || {
        let _ = send.send(dial_here(netns, port));
    };
    std::thread::Builder::new()
        .name("port-forward".into())
        .spawn(work)
        .map_err(|error| error.to_string())?;
    let stream = receive
        .await
        .map_err(|_| "the dialling thread ended".to_owned())??;
    TcpStream::from_std(stream).map_err(|error| error.to_string())
}

fn dial_here(netns: Option<PathBuf>, port: u16) -> Result<std::net::TcpStream, String> {
    if let Some(netns) = netns {
        let namespace = std::fs::File::open(&netns)
            .map_err(|error| format!("open the pod's network namespace: {error}"))?;
        nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET)
            .map_err(|errno| format!("enter the pod's network namespace: {errno}"))?;
    }
    let mut last = String::new();
    for address in [
        SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        SocketAddr::from((Ipv6Addr::LOCALHOST, port)),
    ] {
        match std::net::TcpStream::connect_timeout(&address, DIAL) {
            Ok(stream) => {
                let ready = stream
                    .set_nonblocking(true)
                    .and_then(|()| stream.set_nodelay(true));
                return ready.map(|()| stream).map_err(|error| error.to_string());
            }
            // The first address is the one that people mean.
            Err(error) if last.is_empty() => {
                last = format!("dial tcp4 {address}: connect: {}", reason(&error))
            }
            Err(_) => {}
        }
    }
    Err(last)
}

/// The kernel's words without Rust's error number.
fn reason(error: &std::io::Error) -> String {
    let text = error.to_string().to_lowercase();
    text.split(" (os error")
        .next()
        .unwrap_or_default()
        .to_owned()
}
