//! Strategic merge patch: lists merge by the key that their type names, and directives say what cannot be said by
//! merging (`$patch`, `$retainKeys`, `$setElementOrder/<list>`, `$deleteFromPrimitiveList/<list>`).
//!
//! Upstream: `k8s.io/apimachinery/pkg/util/strategicpatch/patch.go` (`StrategicMergeMapPatchUsingLookupPatchMeta`).

use serde_json::{Map, Value};

use super::PatchError;
use crate::tree::{Field, TypeRef};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const ORDER: &str = "$setElementOrder/";
const DELETE: &str = "$deleteFromPrimitiveList/";

type Object = Map<String, Value>;

/// Applies a strategic merge patch to an object of type `ty`.
pub fn apply(original: &Value, patch: &Value, ty: TypeRef<'_>) -> Result<Value, PatchError> {
    match (original, patch) {
        (Value::Object(original), Value::Object(patch)) => Ok(Value::Object(merge_map(
            original.clone(),
            patch.clone(),
            ty,
        )?)),
        (_, other) => Err(PatchError::Malformed(format!(
            "json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
            match other {
                Value::String(_) => "string",
                Value::Number(_) => "number",
                Value::Bool(_) => "bool",
                Value::Array(_) => "array",
                Value::Null | Value::Object(_) => "object",
            }
        ))),
    }
}

fn merge_map(
    mut original: Object,
    mut patch: Object,
    ty: TypeRef<'_>,
) -> Result<Object, PatchError> {
    match patch.remove(PATCH) {
        None => {}
        Some(directive) => match directive.as_str() {
            Some("replace") => return Ok(plain_object(patch)),
            Some("delete") => return Ok(Object::new()),
            Some("merge") => {}
            _ => return Err(bad_directive(&directive, &Value::Object(patch))),
        },
    }
    retain_keys(&mut original, &mut patch)?;
    order_lists(&mut original, &mut patch, ty)?;
    for (key, value) in patch {
        if let Some(list) = key.strip_prefix(DELETE) {
            if let Some(Value::Array(items)) = original.get_mut(list) {
                let gone = value.as_array().ok_or_else(|| bad_list(&key))?;
                items.retain(|item| !gone.contains(item));
            }
            continue;
        }
        if value.is_null() {
            original.remove(&key);
            continue;
        }
        let field = ty.field(&key);
        let merged = match (original.remove(&key), value) {
            (Some(Value::Object(old)), Value::Object(new))
                if !field.is_some_and(|field| field.replace) =>
            {
                let below = ty.child(&key).unwrap_or_else(|| crate::Schema::untyped());
                Value::Object(merge_map(old, new, below)?)
            }
            (Some(Value::Array(old)), Value::Array(new))
                if field.is_some_and(|field| field.merge) =>
            {
                Value::Array(merge_list(old, new, field, list_item(ty, &key))?)
            }
            (_, new) => plain(new),
        };
        original.insert(key, merged);
    }
    Ok(original)
}

fn list_item<'a>(ty: TypeRef<'a>, key: &str) -> TypeRef<'a> {
    ty.child(key)
        .map_or_else(|| crate::Schema::untyped(), TypeRef::item)
}

/// `$retainKeys` names the only keys that may stay.
fn retain_keys(original: &mut Object, patch: &mut Object) -> Result<(), PatchError> {
    let Some(keys) = patch.remove(RETAIN_KEYS) else {
        return Ok(());
    };
    let Value::Array(keys) = keys else {
        return Err(bad_list(RETAIN_KEYS));
    };
    let named =
        |key: &String| keys.iter().any(|one| one.as_str() == Some(key)) || key.starts_with('$');
    if !patch
        .iter()
        .filter(|(_, value)| !value.is_null())
        .all(|(key, _)| named(key))
    {
        return Err(PatchError::Malformed(
            "invalid patch format of retainKeys".into(),
        ));
    }
    original.retain(|key, _| named(key));
    Ok(())
}

/// Merges the lists whose order the patch gives, and orders them.
fn order_lists(
    original: &mut Object,
    patch: &mut Object,
    ty: TypeRef<'_>,
) -> Result<(), PatchError> {
    let directives: Vec<String> = patch
        .keys()
        .filter(|key| key.starts_with(ORDER))
        .cloned()
        .collect();
    for directive in directives {
        let order = patch.remove(&directive).unwrap_or_default();
        let Value::Array(order) = order else {
            return Err(bad_list(&directive));
        };
        let name = &directive[ORDER.len()..];
        let field = ty.field(name);
        let key = field.map_or("", |field| &field.merge_key);
        let before = match original.get(name) {
            Some(Value::Array(list)) => Some(list.clone()),
            _ => None,
        };
        let deletions = patch.remove(&format!("{DELETE}{name}"));
        let merged = match (before.clone(), patch.remove(name)) {
            (Some(old), Some(Value::Array(new))) => {
                check_order(&new, &order, key, name)?;
                merge_list(old, new, field, list_item(ty, name))?
            }
            (None, Some(Value::Array(new))) => {
                check_order(&new, &order, key, name)?;
                plain_list(new)
            }
            (_, Some(Value::Null)) => {
                original.remove(name);
                continue;
            }
            (_, Some(_)) => return Err(bad_list(name)),
            (Some(old), None) => old,
            (None, None) => continue,
        };
        let gone = deletions
            .as_ref()
            .and_then(Value::as_array)
            .map_or(&[][..], Vec::as_slice);
        let merged = merged
            .into_iter()
            .filter(|item| !gone.contains(item))
            .collect();
        original.insert(
            name.to_owned(),
            Value::Array(in_order(merged, &order, &before.unwrap_or_default(), key)),
        );
    }
    Ok(())
}

/// What the patch adds or changes must be in the order that it asks for.
fn check_order(patch: &[Value], order: &[Value], key: &str, name: &str) -> Result<(), PatchError> {
    let mut rest = order.iter();
    for item in patch.iter().filter(|item| item.get(PATCH).is_none()) {
        if !rest.any(|next| is_same(next, item, key)) {
            return Err(PatchError::Malformed(format!(
                "The order in patch list:\n{}\n doesn't match {ORDER}{name} list:\n{}\n",
                Value::from(patch),
                Value::from(order)
            )));
        }
    }
    Ok(())
}

fn merge_list(
    original: Vec<Value>,
    patch: Vec<Value>,
    field: Option<&Field>,
    item: TypeRef<'_>,
) -> Result<Vec<Value>, PatchError> {
    let key = field.map_or("", |field| &*field.merge_key);
    if original.is_empty() && patch.is_empty() {
        return Ok(original);
    }
    if !original.iter().chain(&patch).any(Value::is_object) {
        let mut merged: Vec<Value> = Vec::new();
        for value in original.iter().chain(&patch) {
            if !merged.contains(value) {
                merged.push(value.clone());
            }
        }
        return Ok(in_order(merged, &patch, &original, ""));
    }
    if key.is_empty() {
        let name = field.map_or("", |field| &*field.name);
        return Err(PatchError::Malformed(format!(
            "cannot merge lists without merge key for {name}"
        )));
    }
    let mut merged = original.clone();
    let mut plain_patch = Vec::new();
    let mut replace = false;
    for value in patch {
        match value.get(PATCH).map(|directive| {
            (
                directive.clone(),
                directive.as_str().unwrap_or("").to_owned(),
            )
        }) {
            None => plain_patch.push(value),
            Some((_, directive)) if directive == "replace" => {
                replace = true;
                // Upstream's own form is an element that is only the directive; with more, the rest is an item.
                let mut value = value;
                if let Some(object) = value.as_object_mut() {
                    object.remove(PATCH);
                    if !object.is_empty() {
                        plain_patch.push(value);
                    }
                }
            }
            Some((_, directive)) if directive == "delete" => {
                if value.get(key).is_none() {
                    return Err(no_merge_key(&value, key));
                }
                merged.retain(|old| !is_same(old, &value, key));
            }
            Some((_, directive)) if directive == "merge" => plain_patch.push(value),
            Some((directive, _)) => return Err(bad_directive(&directive, &value)),
        }
    }
    if replace {
        return Ok(plain_list(plain_patch));
    }
    for value in &plain_patch {
        if value.get(key).is_none() {
            return Err(no_merge_key(value, key));
        }
        match merged.iter_mut().find(|old| is_same(old, value, key)) {
            Some(Value::Object(old)) => {
                let Value::Object(new) = value else {
                    return Err(no_merge_key(value, key));
                };
                *old = merge_map(std::mem::take(old), new.clone(), item)?;
            }
            _ => merged.push(plain(value.clone())),
        }
    }
    Ok(in_order(merged, &plain_patch, &original, key))
}

/// The items that the patch names in its order, the others where they stood among them.
fn in_order(merged: Vec<Value>, order: &[Value], before: &[Value], key: &str) -> Vec<Value> {
    let place =
        |list: &[Value], item: &Value| list.iter().position(|other| is_same(other, item, key));
    let (mut named, mut others): (Vec<Value>, Vec<Value>) = merged
        .into_iter()
        .partition(|item| place(order, item).is_some());
    named.sort_by_key(|item| place(order, item));
    others.sort_by_key(|item| place(before, item).unwrap_or(usize::MAX));
    let mut result = Vec::with_capacity(named.len() + others.len());
    let (mut named, mut others) = (named.into_iter().peekable(), others.into_iter().peekable());
    loop {
        let other_first = match (others.peek(), named.peek()) {
            (None, None) => return result,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some(other), Some(named)) => {
                matches!((place(before, other), place(before, named)), (Some(other), Some(named)) if other < named)
            }
        };
        result.extend(if other_first {
            others.next()
        } else {
            named.next()
        });
    }
}

fn is_same(a: &Value, b: &Value, key: &str) -> bool {
    if key.is_empty() {
        a == b
    } else {
        a.get(key).is_some() && a.get(key) == b.get(key)
    }
}

/// A value from a patch as it stands in an object: without directives and nulls.
fn plain(value: Value) -> Value {
    match value {
        Value::Object(object) => Value::Object(plain_object(object)),
        Value::Array(items) => Value::Array(plain_list(items)),
        other => other,
    }
}

fn plain_object(object: Object) -> Object {
    let directive = |key: &str| {
        key == PATCH || key == RETAIN_KEYS || key.starts_with(ORDER) || key.starts_with(DELETE)
    };
    object
        .into_iter()
        .filter(|(key, value)| !directive(key) && !value.is_null())
        .map(|(key, value)| (key, plain(value)))
        .collect()
}

fn plain_list(items: Vec<Value>) -> Vec<Value> {
    let dropped = |item: &Value| {
        let directive = item.get(PATCH).and_then(Value::as_str);
        directive == Some("delete")
            || (directive == Some("replace")
                && item.as_object().is_some_and(|item| item.len() == 1))
    };
    items
        .into_iter()
        .filter(|item| !dropped(item))
        .map(plain)
        .collect()
}

fn bad_directive(directive: &Value, map: &Value) -> PatchError {
    PatchError::Malformed(format!("unknown patch type: {directive} in map: {map}"))
}

fn bad_list(name: &str) -> PatchError {
    PatchError::Malformed(format!("expected a list under {name}"))
}

fn no_merge_key(map: &Value, key: &str) -> PatchError {
    PatchError::Malformed(format!(
        "map: {map} does not contain declared merge key: {key}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Schema;
    use serde_json::json;

    const POD: &str = "io.k8s.api.core.v1.PodSpec";
    const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
    const DEPLOYMENT: &str = "io.k8s.api.apps.v1.DeploymentSpec";

    #[test]
    fn examples() {
        let cases = [
            (
                "a new container goes first, as upstream's task page shows",
                POD,
                json!({"containers": [{"name": "a", "image": "nginx"}]}),
                json!({"containers": [{"name": "b", "image": "redis"}]}),
                json!({"containers": [{"name": "b", "image": "redis"}, {"name": "a", "image": "nginx"}]}),
            ),
            (
                "an item merges by its key",
                POD,
                json!({"containers": [{"name": "a", "image": "x", "args": ["1"]}, {"name": "b", "image": "y"}]}),
                json!({"containers": [{"name": "b", "image": "z"}]}),
                json!({"containers": [{"name": "a", "image": "x", "args": ["1"]}, {"name": "b", "image": "z"}]}),
            ),
            (
                "a list without a strategy is replaced",
                POD,
                json!({"tolerations": [{"key": "a"}], "nodeSelector": {"x": "y"}}),
                json!({"tolerations": [{"key": "b"}], "nodeSelector": {"z": "w"}}),
                json!({"tolerations": [{"key": "b"}], "nodeSelector": {"x": "y", "z": "w"}}),
            ),
            (
                "delete one item",
                POD,
                json!({"containers": [{"name": "a"}, {"name": "b"}]}),
                json!({"containers": [{"name": "a", "$patch": "delete"}]}),
                json!({"containers": [{"name": "b"}]}),
            ),
            (
                "replace a list",
                POD,
                json!({"containers": [{"name": "a"}, {"name": "b"}]}),
                json!({"containers": [{"name": "c"}, {"$patch": "replace"}]}),
                json!({"containers": [{"name": "c"}]}),
            ),
            (
                "replace a map",
                META,
                json!({"labels": {"a": "1", "b": "2"}}),
                json!({"labels": {"$patch": "replace", "c": "3"}}),
                json!({"labels": {"c": "3"}}),
            ),
            (
                "the order asked for",
                POD,
                json!({"containers": [{"name": "a", "image": "1"}, {"name": "server"}, {"name": "b", "image": "2"}]}),
                json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}], "containers": [{"name": "a", "image": "9"}]}),
                json!({"containers": [{"name": "server"}, {"name": "b", "image": "2"}, {"name": "a", "image": "9"}]}),
            ),
            (
                "an order over a list that the patch leaves alone",
                POD,
                json!({"containers": [{"name": "a"}, {"name": "b"}]}),
                json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}),
                json!({"containers": [{"name": "b"}, {"name": "a"}]}),
            ),
            (
                "delete from a primitive list, in order",
                META,
                json!({"finalizers": ["a", "b", "c"]}),
                json!({"$deleteFromPrimitiveList/finalizers": ["b"], "$setElementOrder/finalizers": ["c", "a", "d"], "finalizers": ["d"]}),
                json!({"finalizers": ["c", "a", "d"]}),
            ),
            (
                "primitive lists unite",
                META,
                json!({"finalizers": ["a"]}),
                json!({"finalizers": ["b", "a"]}),
                json!({"finalizers": ["b", "a"]}),
            ),
            (
                "retain keys",
                DEPLOYMENT,
                json!({"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}),
                json!({"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}),
                json!({"strategy": {"type": "Recreate"}}),
            ),
            (
                "null removes, and is not written",
                META,
                json!({"labels": {"a": "1", "b": "2"}}),
                json!({"labels": {"a": null, "z": null}, "annotations": {"x": null, "y": "1"}}),
                json!({"labels": {"b": "2"}, "annotations": {"y": "1"}}),
            ),
        ];
        for (name, definition, original, patch, expected) in cases {
            assert_eq!(
                apply(&original, &patch, Schema::get().of(definition)),
                Ok(expected),
                "{name}"
            );
        }
    }

    #[test]
    fn refusals() {
        let cases = [
            (
                json!({"containers": [{"image": "x"}]}),
                "does not contain declared merge key: name",
            ),
            (
                json!({"containers": [{"name": "x", "$patch": "burn"}]}),
                "unknown patch type: \"burn\"",
            ),
            (
                json!({"$retainKeys": ["a"], "b": 1}),
                "invalid patch format of retainKeys",
            ),
        ];
        for (patch, message) in cases {
            let error = apply(
                &json!({"containers": [{"name": "x"}]}),
                &patch,
                Schema::get().of(POD),
            )
            .unwrap_err();
            assert!(error.to_string().contains(message), "{error}");
        }
    }
}
