//! The strategic merge patch that brings a status to the API server: all that the node owns, nothing of others.
//!
//! Pure. What has become absent is sent as null; conditions merge by type, so that other owners' stay.

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use serde_json::{Value, json};

/// Fields that the node takes back when they become empty.
const CLEARED: [&str; 5] = [
    "message",
    "reason",
    "containerStatuses",
    "initContainerStatuses",
    "podIP",
];

pub(crate) fn patch(pod: &Pod, status: &PodStatus) -> Result<Value, serde_json::Error> {
    let mut value = serde_json::to_value(status)?;
    if let Value::Object(fields) = &mut value {
        for name in CLEARED {
            fields.entry(name).or_insert(Value::Null);
        }
        if let Some(Value::Array(conditions)) = fields.get_mut("conditions") {
            for condition in conditions.iter_mut().filter_map(Value::as_object_mut) {
                for name in ["reason", "message"] {
                    condition.entry(name).or_insert(Value::Null);
                }
            }
        }
        // Lists of addresses merge by address: an old one would stay beside the new.
        let known = pod.status.as_ref();
        let other =
            |old: Option<&String>, new: &Option<String>| old.is_some() && old != new.as_ref();
        for (list, changed) in [
            (
                "podIPs",
                other(known.and_then(|s| s.pod_ip.as_ref()), &status.pod_ip),
            ),
            (
                "hostIPs",
                other(known.and_then(|s| s.host_ip.as_ref()), &status.host_ip),
            ),
        ] {
            if changed && let Some(Value::Array(entries)) = fields.get_mut(list) {
                entries.push(json!({"$patch": "replace"}));
            }
        }
    }
    Ok(json!({"metadata": {"uid": pod.metadata.uid}, "status": value}))
}
