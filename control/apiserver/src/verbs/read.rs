//! get: one object, served as it lies. Without a resourceVersion it shows every write acknowledged before, whichever server is
//! asked; with one, a state at least as new; with 0, whatever this server has. Upstream: apiserver/pkg/storage/cacher.go, Get.

use crate::body::Body;
use crate::freshness;
use crate::respond;
use crate::server::ApiServer;
use crate::shape::{self, Include};
use crate::stack::Ask;
use crate::verbs::list;
use crate::write::Target;
use caravel_api::ApiError;
use caravel_store::Snapshot;
use http::{Response, StatusCode};

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
        None => freshness::current(store).await,
        Some("0") => Ok(store.snapshot()),
        Some(text) => freshness::at_least(store, list::parse(text)?).await,
    }
}
