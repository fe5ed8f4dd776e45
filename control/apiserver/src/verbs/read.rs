//! get: one object, served as it lies. Without a resourceVersion it shows every write acknowledged before, whichever server is
//! asked; with one, a state at least as new; with 0, whatever this server has. Upstream: apiserver/pkg/storage/cacher.go, Get.

use crate::body::Body;
use crate::respond;
use crate::server::ApiServer;
use crate::shape::{self, Include};
use crate::stack::Ask;
use crate::verbs::list;
use crate::write::{CATCH_UP, Target, no_quorum};
use caravel_api::ApiError;
use caravel_store::Snapshot;
use http::{Response, StatusCode};
use tokio::time::Instant;

/// Answers a get.
pub(crate) async fn get(
    api: &ApiServer,
    ask: &Ask,
    target: &Target,
) -> Result<Response<Body>, ApiError> {
    let snapshot = snapshot(api, ask).await?;
    let entry = snapshot
        .entry(&target.key())
        .ok_or_else(|| ApiError::not_found(target.row, &target.name))?;
    let json = shape::versioned(target.row, entry.json.clone())?;
    let include = Include::parse(ask.query.get("includeObject"))?;
    let json = shape::one(target.row, json, ask.accepted.shape, include)?;
    Ok(respond::document(StatusCode::OK, json, ask.accepted))
}

/// A state that is as new as the request asks for.
pub(crate) async fn snapshot(api: &ApiServer, ask: &Ask) -> Result<Snapshot, ApiError> {
    let store = &api.store;
    match ask.query.text("resourceVersion") {
        None => store.fresh_snapshot().await.map_err(no_quorum),
        Some("0") => Ok(store.snapshot()),
        Some(text) => store
            .at_least(list::parse(text)?, Instant::now() + CATCH_UP)
            .await
            .map_err(|error| ApiError::too_new(error.asked, error.current)),
    }
}
