//! A pod as the scheduler sees it: what it asks of a node, worked out once.
//!
//! Two views that are equal are the same to scheduling: a change of status or of a note wakes nobody.

use std::collections::BTreeMap;

use caravel_api::ObjectName;
use caravel_api::selector::Selector;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Toleration};

use crate::affinity::{NodeRules, PodRules, SpreadRule};
use crate::resources::{self, Amounts};

/// Pods name their scheduler; this is ours.
pub const SCHEDULER: &str = "default-scheduler";

#[derive(Clone, Debug, PartialEq)]
pub struct PodView {
    pub name: ObjectName,
    pub uid: String,
    pub labels: BTreeMap<String, String>,
    pub created: Option<Timestamp>,
    pub priority: i32,
    /// May it make others go?
    pub preempts: bool,
    pub node: Option<String>,
    pub terminating: bool,
    pub requests: Amounts,
    pub assumed_requests: Amounts,
    pub ports: Vec<HostPort>,
    pub nodes: NodeRules,
    pub tolerations: Vec<Toleration>,
    pub pods: PodRules,
    pub spread: Vec<SpreadRule>,
    /// The pods that do the same work (by services and owner), to be spread when the pod has no rule of its own.
    pub peers: Option<Selector>,
}

/// A port of the node that a container takes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    pub ip: String,
    pub protocol: String,
    pub port: i32,
}

impl HostPort {
    /// Two cannot be on one node. No address, or 0.0.0.0, is every address.
    pub fn conflicts(&self, other: &HostPort) -> bool {
        let any = |ip: &str| ip.is_empty() || ip == "0.0.0.0";
        self.port == other.port
            && self.protocol == other.protocol
            && (any(&self.ip) || any(&other.ip) || self.ip == other.ip)
    }
}

impl PodView {
    pub fn read(pod: &Pod) -> PodView {
        let metadata = &pod.metadata;
        let empty = Default::default();
        let spec = pod.spec.as_ref().unwrap_or(&empty);
        let namespace = metadata.namespace.clone().unwrap_or_default();
        let labels = metadata.labels.clone().unwrap_or_default();
        let containers = spec.containers.iter().chain(
            spec.init_containers
                .iter()
                .flatten()
                .filter(|container| container.restart_policy.as_deref() == Some("Always")),
        );
        let ports = containers
            .flat_map(|container| container.ports.iter().flatten())
            .filter_map(|port| {
                Some(HostPort {
                    ip: port.host_ip.clone().unwrap_or_default(),
                    protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                    port: port.host_port.filter(|port| *port > 0)?,
                })
            })
            .collect();
        PodView {
            uid: metadata.uid.clone().unwrap_or_default(),
            created: metadata.creation_timestamp.as_ref().map(|time| time.0),
            priority: spec.priority.unwrap_or(0),
            preempts: spec.preemption_policy.as_deref() != Some("Never"),
            node: spec.node_name.clone().filter(|node| !node.is_empty()),
            terminating: metadata.deletion_timestamp.is_some(),
            requests: resources::requests(spec),
            assumed_requests: resources::assumed_requests(spec),
            ports,
            nodes: NodeRules::read(spec),
            tolerations: spec.tolerations.clone().unwrap_or_default(),
            pods: PodRules::read(spec, &namespace),
            spread: SpreadRule::read_all(spec, &labels),
            peers: None,
            name: ObjectName::new(namespace, metadata.name.clone().unwrap_or_default()),
            labels,
        }
    }
}

impl PodView {
    /// Without what only a search for a node asks: there are many placed pods.
    pub fn placed(self) -> PodView {
        PodView {
            nodes: NodeRules::default(),
            tolerations: Vec::new(),
            spread: Vec::new(),
            peers: None,
            ..self
        }
    }
}

/// Does the pod wait for us?
pub fn is_ours(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    spec.scheduler_name.as_deref().unwrap_or(SCHEDULER) == SCHEDULER
        && spec.node_name.as_deref().is_none_or(str::is_empty)
        && spec.scheduling_gates.as_ref().is_none_or(Vec::is_empty)
        && pod.metadata.deletion_timestamp.is_none()
        && !is_finished(pod)
}

/// A finished pod holds nothing of its node.
pub fn is_finished(pod: &Pod) -> bool {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn who_is_ours() {
        let cases = [
            (json!({"spec": {"containers": []}}), true),
            (
                json!({"spec": {"containers": [], "schedulerName": "default-scheduler"}}),
                true,
            ),
            (
                json!({"spec": {"containers": [], "schedulerName": "mine"}}),
                false,
            ),
            (json!({"spec": {"containers": [], "nodeName": "n"}}), false),
            (
                json!({"spec": {"containers": [], "schedulingGates": [{"name": "g"}]}}),
                false,
            ),
            (
                json!({"spec": {"containers": []}, "metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}),
                false,
            ),
            (
                json!({"spec": {"containers": []}, "status": {"phase": "Failed"}}),
                false,
            ),
        ];
        for (pod, expected) in cases {
            let mut pod = pod;
            pod["apiVersion"] = "v1".into();
            pod["kind"] = "Pod".into();
            let read: Pod = serde_json::from_value(pod.clone()).unwrap();
            assert_eq!(is_ours(&read), expected, "{pod}");
        }
    }

    #[test]
    fn ports() {
        let port = |ip: &str, protocol: &str, port| HostPort {
            ip: ip.into(),
            protocol: protocol.into(),
            port,
        };
        let cases = [
            (port("", "TCP", 80), port("", "TCP", 80), true),
            (port("", "TCP", 80), port("1.1.1.1", "TCP", 80), true),
            (
                port("2.2.2.2", "TCP", 80),
                port("1.1.1.1", "TCP", 80),
                false,
            ),
            (port("", "UDP", 80), port("", "TCP", 80), false),
            (port("", "TCP", 81), port("", "TCP", 80), false),
        ];
        for (a, b, expected) in cases {
            assert_eq!(a.conflicts(&b), expected, "{a:?} {b:?}");
        }
    }
}
