//! Where this crate leaves the async threads: hashing, unpacking and everything else that reads disks.
//!
//! A task's owner is whoever awaits it; nothing here is detached.

/// Runs `work` where blocking is allowed. A panic of `work` goes on in the caller.
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
