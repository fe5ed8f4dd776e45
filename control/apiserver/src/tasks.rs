//! Every task the API server spawns: the accept loop's connections, the tunnels of upgraded ones, the audit log's writer.
//!
//! Each connection has a handshake deadline, deadlines for its first request, for a request's head and for being idle, a bounded
//! number of streams, and ends on shutdown after a short grace. The number of connections is bounded by a semaphore.

use crate::activity::Activity;
use crate::audit;
use crate::body::BoxError;
use crate::server::{ApiServer, Peer};
use http_body_util::BodyExt;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const MAX_CONNECTIONS: usize = 16_384;
const MAX_STREAMS: u32 = 250;
const HANDSHAKE: Duration = Duration::from_secs(10);
const HEAD: Duration = Duration::from_secs(20);
/// A connection on which nothing was asked for so long is closed, as upstream's.
const IDLE: Duration = Duration::from_secs(90);
/// Header lines of a request: a proxy that impersonates sends one a group.
const MAX_HEADERS: usize = 1_000;
/// How long open requests may finish after shutdown began.
const GRACE: Duration = Duration::from_secs(5);

/// Accepts connections until `shutdown`, then lets open requests finish for a moment.
pub(crate) async fn serve(
    api: Arc<ApiServer>,
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    shutdown: CancellationToken,
) {
    let acceptor = tokio_rustls::TlsAcceptor::from(tls);
    let limit = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let tracker = TaskTracker::new();
    loop {
        let permit = tokio::select! {
            () = shutdown.cancelled() => break,
            permit = limit.clone().acquire_owned() => permit,
        };
        let Ok(permit) = permit else { break };
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, mostly: waiting a little beats spinning.
                tracing::warn!(%error, "accept connection");
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        let (api, acceptor, shutdown) = (api.clone(), acceptor.clone(), shutdown.clone());
        tracker.spawn(async move {
            if let Err(error) = connection(api, stream, address, acceptor, shutdown).await {
                tracing::debug!(%error, %address, "connection ended");
            }
            drop(permit);
        });
    }
    // From here on a client is refused, and goes to another server, instead of waiting for a handshake.
    drop(listener);
    api.ending.cancel();
    tracker.close();
    if tokio::time::timeout(GRACE + Duration::from_secs(1), tracker.wait())
        .await
        .is_err()
    {
        tracing::warn!("connections were still open at the end of the grace period");
    }
    if let Some(audit) = &api.audit {
        audit.flush().await;
    }
}

async fn connection(
    api: Arc<ApiServer>,
    stream: TcpStream,
    address: SocketAddr,
    acceptor: tokio_rustls::TlsAcceptor,
    shutdown: CancellationToken,
) -> Result<(), BoxError> {
    stream.set_nodelay(true)?;
    let stream = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await??;
    let certificates = stream
        .get_ref()
        .1
        .peer_certificates()
        .map(<[_]>::to_vec)
        .unwrap_or_default();
    let peer = Peer::new(Some(address), certificates);
    let activity = Arc::new(Activity::new());
    let asked = activity.clone();
    let service =
        hyper::service::service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
            let (api, open) = (api.clone(), Activity::open(&asked));
            request.extensions_mut().insert(peer.clone());
            let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
            async move {
                let response = api.handle(request).await;
                Ok::<_, std::convert::Infallible>(response.map(|body| open.until_sent(body)))
            }
        });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(256 * 1024)
        .max_headers(MAX_HEADERS)
        .pipeline_flush(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(64 * 1024)
        .initial_stream_window_size(1024 * 1024)
        .initial_connection_window_size(4 * 1024 * 1024)
        .max_send_buf_size(512 * 1024)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20));
    let serving = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(serving);
    tokio::select! {
        done = serving.as_mut() => return done,
        () = shutdown.cancelled() => serving.as_mut().graceful_shutdown(),
        () = activity.idle(HEAD, IDLE) => {
            // Who has not asked anything yet may not even know how: there is nothing to finish.
            if !activity.asked() {
                return Ok(());
            }
            serving.as_mut().graceful_shutdown();
        }
    }
    tokio::time::timeout(GRACE, serving).await?
}

/// Copies bytes both ways between a client's upgraded connection and a node's, until either ends.
pub(crate) fn tunnel(client: hyper::upgrade::OnUpgrade, node: hyper::upgrade::OnUpgrade) {
    tokio::spawn(async move {
        let both = tokio::time::timeout(HANDSHAKE, futures::future::try_join(client, node)).await;
        let (client, node) = match both {
            Ok(Ok(both)) => both,
            Ok(Err(error)) => return tracing::debug!(%error, "upgrade connection"),
            Err(_) => return tracing::debug!("upgrade connection: not within {HANDSHAKE:?}"),
        };
        let (mut client, mut node) = (TokioIo::new(client), TokioIo::new(node));
        if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut node).await {
            tracing::debug!(%error, "tunnel ended");
        }
    });
}

/// Drives one connection to a node until it ends.
pub(crate) fn drive(work: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(work);
}

/// Writes audit records until the server is gone; a thread, for disks block.
pub(crate) fn audit(writer: audit::Writer) -> std::io::Result<()> {
    std::thread::Builder::new()
        .name("audit-log".to_owned())
        .spawn(|| writer.run())
        .map(drop)
}
