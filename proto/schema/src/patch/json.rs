//! JSON patch (RFC 6902), bounded in operations, in what its copies may add, and in depth.
//!
//! Upstream: `jsonpatch` as used by `patch.go` (`maxJSONPatchOperations`, `AccumulatedCopySizeLimit`).

use json_patch::PatchOperation;
use serde_json::Value;

use super::PatchError;

/// Upstream's `maxJSONPatchOperations`.
const MAX_OPERATIONS: usize = 10_000;
/// What all copies of one patch may add together, in bytes of JSON (upstream: 1.5 MiB request limit x 2).
const MAX_COPIED: usize = 3 * 1024 * 1024;

/// What a decoder reads; moving an object into another again and again must not build what nothing can read.
const MAX_DEPTH: usize = 127;
/// How often the whole object is measured; a patch that needs it oftener plays with depth.
const MAX_MEASURED: usize = 64;

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
    // No less than the true depth; worked out anew only when it may be too much.
    let mut at_most = depth(&patched);
    let mut measured = 0;
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
        at_most = at_most.max(deepest(operation, at_most));
        if at_most > MAX_DEPTH {
            at_most = depth(&patched);
            measured += 1;
        }
        if at_most > MAX_DEPTH || measured > MAX_MEASURED {
            return Err(PatchError::DoesNotFit(format!(
                "the patched object is nested deeper than {MAX_DEPTH} levels"
            )));
        }
    }
    Ok(patched)
}

/// How deep the document can be where the operation put something.
fn deepest(operation: &PatchOperation, before: usize) -> usize {
    let levels = |path: &str| path.matches('/').count();
    match operation {
        PatchOperation::Add(add) => levels(add.path.as_str()) + depth(&add.value),
        PatchOperation::Replace(replace) => levels(replace.path.as_str()) + depth(&replace.value),
        PatchOperation::Move(moved) => {
            levels(moved.path.as_str()) + before - levels(moved.from.as_str()).min(before)
        }
        PatchOperation::Copy(copy) => {
            levels(copy.path.as_str()) + before - levels(copy.from.as_str()).min(before)
        }
        PatchOperation::Remove(_) | PatchOperation::Test(_) => 0,
    }
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Object(object) => 1 + object.values().map(depth).max().unwrap_or(0),
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        _ => 0,
    }
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
    fn depth_is_bounded() {
        let nest = |times: usize| {
            let one = [
                json!({"op": "move", "from": "/a", "path": "/t"}),
                json!({"op": "add", "path": "/a", "value": {}}),
                json!({"op": "move", "from": "/t", "path": "/a/x"}),
            ];
            let operations: Vec<Value> = (0..times).flat_map(|_| one.clone()).collect();
            apply(&json!({"a": {}}), json!(operations).to_string().as_bytes())
        };
        assert_eq!(depth(&nest(100).unwrap()), 102);
        assert_eq!(nest(3000).unwrap_err().code(), 422);
    }

    #[test]
    fn copies_are_bounded() {
        let mut operations = vec![json!({"op": "add", "path": "/a", "value": ["x".repeat(100)]})];
        operations.extend((0..40).map(|_| json!({"op": "copy", "from": "/a", "path": "/a/-"})));
        let refused = apply(&json!({}), json!(operations).to_string().as_bytes()).unwrap_err();
        assert_eq!(refused.code(), 422);
    }
}
