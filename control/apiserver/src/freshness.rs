//! How new the state is that a request is answered from, and the errors of one that is not new enough.
//!
//! `current` shows every write acknowledged before, whichever server is asked; `at_least` waits a little for a revision. Upstream:
//! apiserver/pkg/storage/cacher (`waitUntilFreshAndBlock`, 3 s).

use caravel_api::{ApiError, Revision};
use caravel_store::{NoQuorum, Snapshot, Store};
use std::time::Duration;
use tokio::time::Instant;

const CATCH_UP: Duration = Duration::from_secs(3);

/// # Errors
/// 503 while no leader can be found.
pub(crate) async fn current(store: &Store) -> Result<Snapshot, ApiError> {
    store.fresh_snapshot().await.map_err(no_quorum)
}

/// # Errors
/// 504 with a hint when to retry, if this server does not reach it in time.
pub(crate) async fn at_least(store: &Store, revision: Revision) -> Result<Snapshot, ApiError> {
    store
        .at_least(revision, Instant::now() + CATCH_UP)
        .await
        .map_err(|error| ApiError::too_new(error.asked, error.current))
}

pub(crate) fn no_quorum(error: NoQuorum) -> ApiError {
    ApiError::unavailable(error.to_string())
}
