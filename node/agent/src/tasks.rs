//! The only place of this crate where tasks begin. Each has an owner: a `JoinSet` or `Tasks` that ends it.

use tokio::task::JoinSet;

/// Tasks of the daemon itself: they end with it.
#[derive(Default)]
pub(crate) struct Tasks(JoinSet<()>);

impl Tasks {
    pub fn start(&mut self, work: impl Future<Output = ()> + Send + 'static) {
        self.0.spawn(work);
    }

    /// Waits until all have ended.
    pub async fn ended(&mut self) {
        while self.0.join_next().await.is_some() {}
    }
}

/// A step of an actor, owned by its set.
pub(crate) fn step<T: Send + 'static>(
    set: &mut JoinSet<T>,
    work: impl Future<Output = T> + Send + 'static,
) -> tokio::task::AbortHandle {
    set.spawn(work)
}

/// Work that reads or writes disks.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only at the end of the runtime, when nobody waits for the answer any more.
            Err(_) => std::future::pending().await,
        },
    }
}
