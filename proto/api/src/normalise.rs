//! One way to write each object, so that typed equality is upstream's semantic equality and encode after decode is a
//! fixed point: quantities canonical, what upstream omits when empty absent, times cut to the second.
//!
//! Works on the JSON of built-in kinds, by field name; custom resources are never normalised. Follows `omitempty` in
//! `k8s.io/api` (value fields; pointers keep their empty values).

use serde_json::{Map, Value};

use crate::kinds::Kind;
use crate::quantity;

/// Maps from names to names (or bytes): empty is absent, members are left alone.
const MAPS: &[&str] = &[
    "labels", "annotations", "matchLabels", "nodeSelector", "data", "binaryData", "stringData", "volumeAttributes", "options", "extra",
    "matchLabelKeys", "mismatchLabelKeys",
];
/// Maps from names to quantities.
const QUANTITY_MAPS: &[&str] = &["limits", "requests", "capacity", "allocatable", "overhead", "hard", "used", "allocatedResources"];
const QUANTITIES: &[&str] = &["sizeLimit", "divisor"];
/// Numbers and flags that upstream holds by value: zero and false are absent.
const ZERO_IS_ABSENT: &[&str] = &[
    "initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold", "minReadySeconds", "hostPort", "nodePort",
    "healthCheckNodePort", "observedGeneration", "hostNetwork", "hostPID", "hostIPC", "stdin", "stdinOnce", "tty", "paused", "unschedulable",
    "publishNotReadyAddresses", "updatedReplicas", "readyReplicas", "availableReplicas", "unavailableReplicas", "fullyLabeledReplicas",
];
/// Strings that upstream holds by pointer: empty is a value.
const EMPTY_TEXT_COUNTS: &[&str] = &[
    "storageClassName", "holderIdentity", "appProtocol", "ingressClassName", "loadBalancerClass", "value", "zone", "hostname", "nodeName",
    "volumeMode", "preferredHolder", "strategy",
];
/// Lists that upstream always writes.
const EMPTY_LIST_COUNTS: &[&str] = &["rules", "endpoints", "ports", "items", "accessModes", "containers"];
/// Microseconds count in these.
const MICRO_TIMES: &[&str] = &["eventTime", "acquireTime", "renewTime", "lastObservedTime"];

/// Normalises an object of a built-in kind in place. A fixed point; leaves alone what it does not understand
/// (validation names it).
pub fn value(object: &mut Value) {
    let kind = object.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
    if let Value::Object(members) = object {
        walk(members, &kind);
    }
}

/// As [`value`], for a typed object.
pub fn typed<K: Kind>(object: &K) -> Result<K, serde_json::Error> {
    let mut json = serde_json::to_value(object)?;
    value(&mut json);
    serde_json::from_value(json)
}

fn walk(members: &mut Map<String, Value>, kind: &str) {
    members.retain(|name, value| {
        let name = name.as_str();
        match value {
            Value::Null => return false,
            Value::Bool(false) => return !ZERO_IS_ABSENT.contains(&name),
            Value::Number(number) => return number.as_i64() != Some(0) || !ZERO_IS_ABSENT.contains(&name),
            Value::String(text) => {
                if text.is_empty() {
                    return EMPTY_TEXT_COUNTS.contains(&name) && !(name == "value") || (kind == "EndpointSlice" && name == "name");
                }
                if QUANTITIES.contains(&name) {
                    canonical(value);
                } else {
                    to_the_second(name, value);
                }
            }
            Value::Array(items) => {
                if items.is_empty() {
                    return EMPTY_LIST_COUNTS.contains(&name) && always_written(kind, name);
                }
                // FieldsV1 and the like are nobody's to change.
                if name != "managedFields" {
                    for item in items {
                        if let Value::Object(members) = item {
                            walk(members, kind);
                        }
                    }
                }
            }
            Value::Object(inner) => {
                if QUANTITY_MAPS.contains(&name) {
                    inner.values_mut().for_each(canonical);
                    return !inner.is_empty();
                }
                if MAPS.contains(&name) || (name == "selector" && kind == "Service") {
                    inner.retain(|_, value| !value.is_null());
                    return !inner.is_empty();
                }
                if name != "fieldsV1" {
                    walk(inner, kind);
                }
            }
            Value::Bool(true) => {}
        }
        true
    });
}

fn always_written(kind: &str, name: &str) -> bool {
    matches!(
        (kind, name),
        ("Role" | "ClusterRole", "rules") | ("EndpointSlice", "endpoints" | "ports") | (_, "containers")
    )
}

fn canonical(value: &mut Value) {
    let text = match &*value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return,
    };
    if let Ok(canonical) = quantity::canonical(&text) {
        *value = Value::String(canonical);
    }
}

fn to_the_second(name: &str, value: &mut Value) {
    let is_time = name.ends_with("Time") || name.ends_with("Timestamp") || name.ends_with("At");
    if !is_time || MICRO_TIMES.contains(&name) {
        return;
    }
    if let Value::String(text) = value
        && let Ok(at) = text.parse::<jiff::Timestamp>()
    {
        *text = crate::time::rfc3339(at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    #[test]
    fn there_is_one_way_to_write_an_object() {
        for (object, normal) in [
            (
                json!({"kind": "Pod", "metadata": {"name": "a", "labels": {}, "annotations": {"k": ""}, "creationTimestamp": "2026-01-02T03:04:05.6Z"},
                    "spec": {"containers": [{"name": "c", "args": [], "resources": {"limits": {"cpu": 0.5, "memory": "1024Mi"}, "requests": {}}, "stdin": false,
                    "livenessProbe": {"initialDelaySeconds": 0}, "env": [{"name": "E", "value": ""}]}], "volumes": [{"name": "v", "emptyDir": {}}], "hostNetwork": false,
                    "terminationGracePeriodSeconds": 0, "automountServiceAccountToken": false, "hostname": null}}),
                json!({"kind": "Pod", "metadata": {"name": "a", "annotations": {"k": ""}, "creationTimestamp": "2026-01-02T03:04:05Z"},
                    "spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "500m", "memory": "1Gi"}}, "livenessProbe": {}, "env": [{"name": "E"}]}],
                    "volumes": [{"name": "v", "emptyDir": {}}], "terminationGracePeriodSeconds": 0, "automountServiceAccountToken": false}}),
            ),
            (json!({"kind": "Service", "spec": {"selector": {}}}), json!({"kind": "Service", "spec": {}})),
            (json!({"kind": "Deployment", "spec": {"selector": {}, "replicas": 0}}), json!({"kind": "Deployment", "spec": {"selector": {}, "replicas": 0}})),
            (json!({"kind": "EndpointSlice", "endpoints": [], "ports": [{"name": "", "port": 1}]}), json!({"kind": "EndpointSlice", "endpoints": [], "ports": [{"name": "", "port": 1}]})),
            (json!({"kind": "ConfigMap", "data": {"a": "", "b": "0.5"}}), json!({"kind": "ConfigMap", "data": {"a": "", "b": "0.5"}})),
            (json!({"kind": "Lease", "spec": {"renewTime": "2026-01-02T03:04:05.600000Z"}}), json!({"kind": "Lease", "spec": {"renewTime": "2026-01-02T03:04:05.600000Z"}})),
        ] {
            let mut once = object;
            value(&mut once);
            assert_eq!(once, normal);
            value(&mut once);
            assert_eq!(once, normal, "a fixed point");
        }
    }

    #[test]
    fn typed_objects_come_out_equal_however_they_were_written() {
        let one: Pod = serde_json::from_value(json!({"metadata": {"labels": {}}, "spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "0.5"}}}]}})).unwrap();
        let other: Pod = serde_json::from_value(json!({"metadata": {}, "spec": {"containers": [{"name": "c", "args": [], "resources": {"limits": {"cpu": "500m"}}}]}})).unwrap();
        assert_ne!(one, other);
        assert_eq!(typed(&one).unwrap(), typed(&other).unwrap());
    }
}
