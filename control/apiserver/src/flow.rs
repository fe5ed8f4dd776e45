//! How many requests run at once, and who waits: a bounded number in flight, a bounded number waiting, for a bounded time; then 429.
//!
//! Long-running requests (watches, logs, exec) are not counted, as upstream. Administrators (`system:masters`) are never refused.

use caravel_api::ApiError;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Upstream's defaults of `--max-requests-inflight` + `--max-mutating-requests-inflight`.
const RUNNING: usize = 600;
const WAITING: usize = 4_000;
const PATIENCE: Duration = Duration::from_secs(15);

/// The gate.
pub(crate) struct Flow {
    running: Arc<Semaphore>,
    waiting: AtomicUsize,
}

impl Flow {
    pub(crate) fn new() -> Self {
        Self {
            running: Arc::new(Semaphore::new(RUNNING)),
            waiting: AtomicUsize::new(0),
        }
    }

    /// A place to run in. Dropping the permit frees it.
    pub(crate) async fn enter(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        if let Ok(permit) = self.running.clone().try_acquire_owned() {
            return Ok(permit);
        }
        let refused =
            || ApiError::too_many_requests("Too many requests, please try again later.", 1);
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= WAITING {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(refused());
        }
        let waited = tokio::time::timeout(PATIENCE, self.running.clone().acquire_owned()).await;
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        match waited {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(refused()),
        }
    }
}
