//! The background work of streaming connections: each ends with its connection.

use tokio::sync::watch;
use tokio::task::AbortHandle;

/// Runs until the client goes, then says so.
pub(crate) fn until_gone(
    work: impl Future<Output = ()> + Send + 'static,
    went: watch::Sender<bool>,
) -> AbortHandle {
    half(async move {
        work.await;
        let _ = went.send(true);
    })
}

/// One half of a connection, or one forwarded connection.
pub(crate) fn half(work: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
    tokio::spawn(work).abort_handle()
}
