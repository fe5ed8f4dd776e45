//! Who owns which field: `metadata.managedFields`, kept by every write, and server-side apply, which is built on it.
//!
//! Ownership is computed from values and their types alone; nothing here reads a clock (the writer brings the time).
//! Upstream: `k8s.io/apimachinery/pkg/util/managedfields`, `sigs.k8s.io/structured-merge-diff/v6`.

use jiff::Timestamp;
use serde_json::Value;
use thiserror::Error;

use crate::tree::TypeRef;

mod apply;
mod entries;
mod set;
mod track;
mod walk;

#[cfg(test)]
mod tests;

/// Who writes, as it will stand in `managedFields`.
#[derive(Clone, Copy, Debug)]
pub struct Writer<'a> {
    /// `fieldManager`, else the client's name from its user agent.
    pub manager: &'a str,
    /// The version at which the object was sent, e.g. `apps/v1`.
    pub api_version: &'a str,
    /// `""` for the object itself, else `status`, `scale`...
    pub subresource: &'a str,
    /// When.
    pub now: Timestamp,
}

/// Why an apply was refused.
#[derive(Debug, Error, PartialEq)]
pub enum ApplyError {
    /// Other managers own what was applied: 409 Conflict with the message and one cause (type `FieldManagerConflict`) each.
    #[error("{message}")]
    Conflict {
        message: String,
        causes: Vec<ConflictCause>,
    },
    /// The applied configuration cannot be understood: 400 or 422.
    #[error("{0}")]
    Malformed(String),
}

/// One field that belongs to somebody else.
#[derive(Debug, PartialEq)]
pub struct ConflictCause {
    /// `conflict with "one" using v1`
    pub message: String,
    /// `.data.a`
    pub field: String,
}

/// Notes in `new.metadata.managedFields` what the writer changed. For create (`old` absent), update, and every patch
/// but apply. Call it on the object as it will be stored (after defaulting), before its resourceVersion is set.
/// What the client sent as managedFields is still in `new`: an empty list asks to forget all ownership.
pub fn track_update(old: Option<&Value>, new: &mut Value, ty: TypeRef<'_>, writer: &Writer<'_>) {
    track::update(old, new, ty, writer);
}

/// Server-side apply: merges `applied` into `live`, removes what the manager applied before and no longer does, and
/// keeps ownership. `live` absent creates. The result is not yet defaulted or validated; one that changes nothing is
/// `live` itself, so that the write can be left out.
pub fn apply(
    live: Option<&Value>,
    applied: &Value,
    ty: TypeRef<'_>,
    writer: &Writer<'_>,
    force: bool,
) -> Result<Value, ApplyError> {
    apply::apply(live, applied, ty, writer, force)
}
