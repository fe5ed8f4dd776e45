//! The server's long-running parts, each a task that ends with the server.

use crate::backups;
use crate::config::ServerConfig;
use crate::hand::ApiHand;
use crate::level;
use crate::quorum::Quorum;
use crate::rotation;
use caravel_apiserver::ApiServer;
use caravel_controllers::Settings;
use caravel_peers::GrpcTransport;
use caravel_peers::membership::Membership;
use caravel_store::Store;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How long the parts may take to end.
const GRACE: Duration = Duration::from_secs(10);

/// Everything that runs.
pub(crate) struct Running {
    tasks: JoinSet<&'static str>,
    stop: CancellationToken,
}

impl Running {
    pub(crate) fn new(stop: CancellationToken) -> Self {
        Self {
            tasks: JoinSet::new(),
            stop,
        }
    }

    pub(crate) fn api(
        &mut self,
        api: Arc<ApiServer>,
        listener: TcpListener,
        tls: Arc<rustls::ServerConfig>,
    ) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            api.serve(listener, tls, stop).await;
            "api"
        });
    }

    pub(crate) fn controllers(&mut self, store: Store, hand: Arc<ApiHand>, settings: Settings) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            caravel_controllers::run(store, hand, settings, stop).await;
            "controllers"
        });
    }

    pub(crate) fn scheduler(&mut self, store: Store, hand: Arc<ApiHand>) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            caravel_scheduler::run(store, hand, stop).await;
            "scheduler"
        });
    }

    /// Saves backups by the clock.
    pub(crate) fn backups(&mut self, store: Store, config: &ServerConfig) {
        if config.snapshot_hours == 0 {
            return;
        }
        let (stop, dir) = (self.stop.clone(), config.snapshots());
        let every = Duration::from_secs(config.snapshot_hours * 3600);
        let keep = config.snapshot_retention.max(1);
        self.tasks.spawn(async move {
            stop.run_until_cancelled(backups::keep_saving(store, dir, every, keep))
                .await;
            "backups"
        });
    }

    /// Follows what the servers agree on about their keys.
    pub(crate) fn rotation(&mut self, membership: Membership) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            stop.run_until_cancelled(rotation::follow(membership)).await;
            "rotation of keys"
        });
    }

    /// Raises the level of log entries once all members support more.
    pub(crate) fn level(&mut self, membership: Membership) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            stop.run_until_cancelled(level::follow(membership)).await;
            "level of log entries"
        });
    }

    /// Ends the server when it can no longer take part.
    pub(crate) fn quorum(&mut self, store: Store, transport: Arc<GrpcTransport>) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            let failed = stop.run_until_cancelled(Quorum::failure(store, transport));
            if let Some(why) = failed.await {
                tracing::error!("{why}");
            }
            "quorum"
        });
    }

    /// Waits for the order to stop, or for a part that ends unasked; then for all of them, for a while.
    pub(crate) async fn until_stopped(mut self) -> anyhow::Result<()> {
        let unasked = tokio::select! {
            // The order to stop comes first: parts end by it at the same moment.
            biased;
            () = self.stop.cancelled() => None,
            ended = self.tasks.join_next() => ended,
        };
        self.stop.cancel();
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(GRACE, all).await.is_err() {
            tracing::warn!("some parts of the server did not end in time and were dropped");
        }
        match unasked {
            None => Ok(()),
            Some(Ok(part)) => anyhow::bail!("the {part} ended unasked"),
            Some(Err(error)) => {
                Err(anyhow::Error::new(error).context("a part of the server failed"))
            }
        }
    }
}
