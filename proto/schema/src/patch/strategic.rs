//! Strategic merge patch.

use serde_json::Value;

use super::PatchError;
use crate::tree::TypeRef;

/// Applies a strategic merge patch to an object of type `ty`.
pub fn apply(original: &Value, _patch: &Value, _ty: TypeRef<'_>) -> Result<Value, PatchError> {
    let _ = original;
    Err(PatchError::DoesNotFit("strategic merge patch is not available yet".into()))
}
