//! The three kinds of patch that are computed from the live object and the patch alone.
//!
//! They work on JSON values and never decode an object: what a patch makes of it is judged afterwards by the decoder
//! and the validation that a written object meets. Upstream: `k8s.io/apiserver/pkg/endpoints/handlers/patch.go`.

pub mod json;
pub mod merge;
pub mod strategic;

use thiserror::Error;

/// Why a patch was refused. `code()` is the HTTP status that upstream answers.
#[derive(Debug, Error, PartialEq)]
pub enum PatchError {
    /// The patch is not what its content type says: 400 BadRequest.
    #[error("{0}")]
    Malformed(String),
    /// The patch does not fit the object: 422 Invalid ("the server rejected our request due to an error in our request").
    #[error("{0}")]
    DoesNotFit(String),
    /// The patch asks for too much work: 413 RequestEntityTooLarge.
    #[error("{0}")]
    TooLarge(String),
}

impl PatchError {
    /// The HTTP status of the refusal.
    pub fn code(&self) -> u16 {
        match self {
            PatchError::Malformed(_) => 400,
            PatchError::DoesNotFit(_) => 422,
            PatchError::TooLarge(_) => 413,
        }
    }
}
