//! get: one object, served as it lies.

use crate::body::Body;
use crate::respond;
use crate::server::ApiServer;
use crate::shape::{self, Include};
use crate::stack::Ask;
use crate::write::Target;
use caravel_api::ApiError;
use http::{Response, StatusCode};

/// Answers a get. One server sees every acknowledged write at once, so its own snapshot is current.
pub(crate) fn get(api: &ApiServer, ask: &Ask, target: &Target) -> Result<Response<Body>, ApiError> {
    let snapshot = api.store.snapshot();
    let entry = snapshot
        .entry(&target.key())
        .ok_or_else(|| ApiError::not_found(target.row, &target.name))?;
    let json = shape::versioned(target.row, entry.json.clone())?;
    let include = Include::parse(ask.query.get("includeObject"))?;
    let json = shape::one(target.row, json, ask.accepted.shape, include)?;
    Ok(respond::document(StatusCode::OK, json, ask.accepted))
}
