//! What a pod's status says to those who count pods.
//!
//! Follows `pkg/api/v1/pod/util.go` and `pkg/controller/controller_utils.go`.

use caravel_api::{Uid, time};
use caravel_store::{Snapshot, Undecodable};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use std::sync::Arc;

use caravel_api::Kind;

pub fn phase(pod: &Pod) -> &str {
    pod.status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        .unwrap_or("Pending")
}

pub fn is_terminal(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Counts towards the replicas of its controller.
pub fn is_active(pod: &Pod) -> bool {
    !is_terminal(pod) && pod.metadata.deletion_timestamp.is_none()
}

pub fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status
        .as_ref()?
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_.as_str() == kind)
}

pub fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|condition| condition.status == "True")
}

/// Since when the pod is ready.
pub fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let condition = condition(pod, "Ready").filter(|condition| condition.status == "True")?;
    condition.last_transition_time.as_ref().map(|time| time.0)
}

/// When a ready pod becomes available; `None` for one that is not ready.
pub fn available_at(pod: &Pod, min_ready_seconds: i32) -> Option<Timestamp> {
    if min_ready_seconds == 0 {
        return is_ready(pod).then_some(Timestamp::MIN);
    }
    ready_since(pod).map(|since| time::after(since, i64::from(min_ready_seconds)))
}

/// Pods that have `owner` among their owners, whatever they look like.
pub fn owned_by(cluster: &Snapshot, owner: &Uid) -> Result<Vec<Arc<Pod>>, Undecodable> {
    let prefix = Pod::row().prefix(None).start;
    cluster
        .owned_by(owner)
        .filter(|entry| entry.key.kind_prefix() == prefix.as_str())
        .map(|entry| entry.decode::<Pod>())
        .collect()
}
