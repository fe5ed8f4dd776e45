//! Where threads and tasks of the lab begin. Each ends with the call that started it, or with the process.

use std::future::Future;

/// Runs `work` on a thread of its own and waits: the thread's namespaces are not the caller's.
pub(crate) fn on_own_thread<T: Send>(work: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .spawn_scoped(scope, work)?
            .join()
            .map_err(|_| anyhow::anyhow!("a thread of the lab panicked"))
    })
}

/// One connection or query of the balancer. The balancer's process is the owner; its number of tasks is bounded by the caller.
pub(crate) fn serve(work: impl Future<Output = ()> + Send + 'static) {
    drop(tokio::spawn(work));
}
