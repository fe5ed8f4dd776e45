//! JSON patch (RFC 6902), bounded in operations and in what its copies may add.
//!
//! Upstream: `jsonpatch` as used by `patch.go` (`maxJSONPatchOperations`, `AccumulatedCopySizeLimit`).

use json_patch::PatchOperation;
use serde_json::Value;

use super::PatchError;

/// Upstream's `maxJSONPatchOperations`.
const MAX_OPERATIONS: usize = 10_000;
/// What all copies of one patch may add together, in bytes of JSON (upstream: 1.5 MiB request limit x 2).
const MAX_COPIED: usize = 3 * 1024 * 1024;

/// Applies a JSON patch. All operations or none: `original` is not changed.
pub fn apply(original: &Value, patch: &[u8]) -> Result<Value, PatchError> {
    let operations: Vec<PatchOperation> = serde_json::from_slice(patch)
        .map_err(|error| PatchError::Malformed(format!("error decoding patch: {error}")))?;
    if operations.len() > MAX_OPERATIONS {
        return Err(PatchError::TooLarge(format!(
            "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
            operations.len()
        )));
    }
    let mut patched = original.clone();
    let mut copied = 0;
    for operation in &operations {
        if let PatchOperation::Copy(copy) = operation {
            copied += patched
                .pointer(copy.from.as_str())
                .map_or(0, |value| value.to_string().len());
            if copied > MAX_COPIED {
                return Err(PatchError::DoesNotFit(format!(
                    "Unable to complete the copy, the accumulated size increase of copy is {copied}, exceeding the limit {MAX_COPIED}"
                )));
            }
        }
        json_patch::patch_unsafe(&mut patched, std::slice::from_ref(operation))
            .map_err(|error| PatchError::DoesNotFit(explain(operation, &error.to_string())))?;
    }
    Ok(patched)
}

/// The words of the Go library, which people search for.
fn explain(operation: &PatchOperation, error: &str) -> String {
    match operation {
        PatchOperation::Test(test) => format!("testing value {} failed: test failed", test.path),
        PatchOperation::Remove(remove) => format!(
            "remove operation does not apply: doc is missing path: {}: missing value",
            remove.path
        ),
        PatchOperation::Replace(replace) => format!(
            "replace operation does not apply: doc is missing key: {}: missing value",
            replace.path
        ),
        PatchOperation::Add(add) => format!(
            "add operation does not apply: doc is missing path: \"{}\": missing value",
            add.path
        ),
        PatchOperation::Move(_) | PatchOperation::Copy(_) => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn operations() {
        let cases = [
            (
                json!({"a": 1}),
                json!([{"op": "add", "path": "/b", "value": [1]}]),
                Ok(json!({"a": 1, "b": [1]})),
            ),
            (
                json!({"a": [1]}),
                json!([{"op": "add", "path": "/a/-", "value": 2}]),
                Ok(json!({"a": [1, 2]})),
            ),
            (
                json!({"a": 1}),
                json!([{"op": "remove", "path": "/a"}]),
                Ok(json!({})),
            ),
            (
                json!({"a": 1}),
                json!([{"op": "replace", "path": "/a", "value": 2}, {"op": "test", "path": "/a", "value": 2}]),
                Ok(json!({"a": 2})),
            ),
            (
                json!({"a": 1}),
                json!([{"op": "move", "from": "/a", "path": "/b"}]),
                Ok(json!({"b": 1})),
            ),
            (
                json!({"a": 1}),
                json!([{"op": "test", "path": "/a", "value": 3}]),
                Err(422),
            ),
            (json!({}), json!([{"op": "remove", "path": "/a"}]), Err(422)),
            (json!({}), json!({"op": "remove"}), Err(400)),
        ];
        for (original, patch, expected) in cases {
            let patched =
                apply(&original, patch.to_string().as_bytes()).map_err(|error| error.code());
            assert_eq!(patched, expected, "{original} with {patch}");
        }
    }

    #[test]
    fn copies_are_bounded() {
        let mut operations = vec![json!({"op": "add", "path": "/a", "value": ["x".repeat(100)]})];
        operations.extend((0..40).map(|_| json!({"op": "copy", "from": "/a", "path": "/a/-"})));
        let refused = apply(&json!({}), json!(operations).to_string().as_bytes()).unwrap_err();
        assert_eq!(refused.code(), 422);
    }
}
