//! Signals that end a daemon.

use tokio::signal::unix::{SignalKind, signal};

/// Done at the first SIGTERM or SIGINT. A second one ends the process at once, as the system does by default.
pub async fn terminated() {
    let (Ok(mut term), Ok(mut int)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) else {
        tracing::error!("signals cannot be received; only SIGKILL ends this process");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    tracing::info!("asked to end");
}

/// Runs `work` on a thread of its own and waits: what it does to its namespaces ends with it.
pub fn on_own_thread<T: Send + Default>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| scope.spawn(work).join().unwrap_or_default())
}

/// Cancels `token` when `end` is done. The task ends with the process.
pub fn cancel_after(
    end: impl Future<Output = ()> + Send + 'static,
    token: tokio_util::sync::CancellationToken,
) {
    drop(tokio::spawn(async move {
        end.await;
        token.cancel();
    }));
}
