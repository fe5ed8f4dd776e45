//! The peers' port as a task that ends with the server, and the looks at leaders that broke off.

use crate::client::GrpcTransport;
use crate::incoming::{Incoming, KEEP};
use crate::line::Lines;
use crate::membership::Membership;
use crate::service::PeerService;
use crate::tls::PeerTls;
use caravel_store::Store;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Server;

/// As the client's.
const PING: Duration = Duration::from_secs(1);
const PONG: Duration = Duration::from_secs(2);
const WINDOW: u32 = 8 << 20;

/// The running port. Ends when dropped.
pub struct Served {
    tasks: JoinSet<()>,
    looks: Looks,
    stop: CancellationToken,
}

/// Tasks that calls leave behind. They end with the port.
#[derive(Clone)]
pub(crate) struct Looks {
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Looks {
    pub fn new(stop: CancellationToken) -> Self {
        Self {
            tasks: TaskTracker::new(),
            stop,
        }
    }

    /// Outside a runtime, or in one that is shutting down, there is nothing to look for.
    pub fn begin(&self, look: impl Future<Output = ()> + Send + 'static) {
        if let Ok(runtime) = Handle::try_current() {
            let look = self.stop.clone().run_until_cancelled_owned(look);
            self.tasks.spawn_on(look, &runtime);
        }
    }

    #[cfg(test)]
    pub fn count(&self) -> usize {
        self.tasks.len()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Served {
    /// Stops hearing others, and waits for what is under way.
    pub async fn stop(mut self) {
        self.stop.cancel();
        self.looks.tasks.close();
        let all = async {
            while self.tasks.join_next().await.is_some() {}
            self.looks.tasks.wait().await;
        };
        if tokio::time::timeout(PONG, all).await.is_err() {
            tracing::debug!("calls of other servers were cut off");
        }
    }
}

/// Serves the peers' port on `listener`.
///
/// # Errors
/// A certificate or key that cannot be used.
pub fn serve(
    listener: TcpListener,
    tls: &PeerTls,
    store: &Store,
    transport: Arc<GrpcTransport>,
) -> Result<Served, tonic::transport::Error> {
    let incoming = Arc::new(Incoming::default());
    let stop = CancellationToken::new();
    let looks = Looks::new(stop.clone());
    let service = PeerService {
        membership: Membership::new(store.clone(), transport),
        peer: store.peer(),
        incoming: incoming.clone(),
        lines: Lines::new(store.peer(), looks.clone()),
    };
    let router = Server::builder()
        .tls_config(tls.serving())?
        .http2_keepalive_interval(Some(PING))
        .http2_keepalive_timeout(Some(PONG))
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .add_service(service.into_server());
    let mut tasks = JoinSet::new();
    let ended = stop.clone();
    tasks.spawn(async move {
        // The server's own setting does not reach connections that it is handed. Without it an answer waits for the other
        // side's delayed acknowledgement, 40 ms.
        let connections = TcpListenerStream::new(listener).map(|connection| {
            connection.and_then(|stream| stream.set_nodelay(true).map(|()| stream))
        });
        let served = router
            .serve_with_incoming_shutdown(connections, ended.cancelled_owned())
            .await;
        if let Err(error) = served {
            tracing::error!(%error, "the peers' port ended");
        }
    });
    let ended = stop.clone();
    tasks.spawn(async move {
        while ended
            .run_until_cancelled(tokio::time::sleep(KEEP))
            .await
            .is_some()
        {
            incoming.expire();
        }
    });
    Ok(Served { tasks, looks, stop })
}
