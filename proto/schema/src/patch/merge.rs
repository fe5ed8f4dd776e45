//! JSON merge patch (RFC 7386): null removes, objects merge, everything else replaces.

use serde_json::Value;

/// Applies a merge patch.
pub fn apply(original: &Value, patch: &Value) -> Value {
    let mut patched = original.clone();
    json_patch::merge(&mut patched, patch);
    patched
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn merges() {
        let original = json!({"a": {"b": 1, "c": 2}, "l": [1, 2]});
        let patched = apply(&original, &json!({"a": {"b": null, "d": 3}, "l": [3]}));
        assert_eq!(patched, json!({"a": {"c": 2, "d": 3}, "l": [3]}));
    }
}
