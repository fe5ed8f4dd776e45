//! Whether this machine takes a pod that is bound to it: a last look before anything is made for it. Pure.
//!
//! Who binds may be wrong (a pod that names its node itself, two schedulers), so the node counts for itself. A refused
//! pod has failed for good. Reasons and messages follow pkg/kubelet/lifecycle/predicate.go.

mod placement;
mod requests;

use std::collections::BTreeMap;

use caravel_api::Quantity;
use k8s_openapi::api::core::v1::{Container, Node, Pod};

pub(crate) use requests::Requests;

/// Why a pod is not taken: `status.reason`, and what its event says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub reason: String,
    pub message: String,
}

impl Refusal {
    fn predicate(name: &str, why: &str) -> Self {
        Self {
            reason: name.to_owned(),
            message: format!("Predicate {name} failed: {why}"),
        }
    }

    /// A newer Node may say otherwise: its labels and taints are others' to change.
    pub fn depends_on_node(&self) -> bool {
        matches!(self.reason.as_str(), "NodeAffinity" | "TaintToleration")
    }
}

/// `others`: the pods that this node has taken and that have not ended.
pub(crate) fn admit(pod: &Pod, node: &Node, others: &[&Pod]) -> Result<(), Refusal> {
    let spec = pod.spec.clone().unwrap_or_default();
    if let Some(os) = spec.os.as_ref().filter(|os| os.name != "linux") {
        tracing::debug!(os = os.name, "a pod for another system");
        return Err(Refusal {
            reason: "PodOSNotSupported".into(),
            message: "Failed to admit pod as the OS field doesn't match node OS".into(),
        });
    }
    fits(pod, node, others)?;
    if !placement::allowed(&spec, node) {
        return Err(Refusal::predicate(
            "NodeAffinity",
            "node(s) didn't match Pod's node affinity/selector",
        ));
    }
    let taken: Vec<_> = others.iter().flat_map(|other| host_ports(other)).collect();
    if host_ports(pod)
        .iter()
        .any(|port| taken.iter().any(|other| port.conflicts(other)))
    {
        return Err(Refusal::predicate(
            "NodePorts",
            "node(s) didn't have free ports for the requested pod ports",
        ));
    }
    if !placement::tolerated(&spec, node) {
        return Err(Refusal::predicate(
            "TaintToleration",
            "node(s) had taints that the pod didn't tolerate",
        ));
    }
    Ok(())
}

fn fits(pod: &Pod, node: &Node, others: &[&Pod]) -> Result<(), Refusal> {
    let allocatable = node
        .status
        .as_ref()
        .and_then(|status| status.allocatable.clone())
        .unwrap_or_default();
    let capacity: BTreeMap<&str, i64> = allocatable
        .iter()
        .filter_map(|(name, text)| {
            let quantity = Quantity::parse(&text.0).ok()?;
            Some((name.as_str(), requests::amount(name, &quantity)))
        })
        .collect();
    let pods = i64::try_from(others.len()).unwrap_or(i64::MAX);
    if let Some(most) = capacity.get("pods").filter(|most| pods >= **most) {
        return Err(short("pods", 1, pods, *most));
    }
    let mut used = Requests::default();
    for other in others {
        used.add(&Requests::of(other));
    }
    for (name, asked) in Requests::of(pod).iter() {
        let known = capacity.get(name);
        // A resource of the cluster rather than of this machine.
        if asked == 0 || (known.is_none() && name.contains('/')) {
            continue;
        }
        let (most, used) = (known.copied().unwrap_or(0), used.get(name));
        if asked > most.saturating_sub(used) {
            return Err(short(name, asked, used, most));
        }
    }
    Ok(())
}

fn short(name: &str, requested: i64, used: i64, capacity: i64) -> Refusal {
    Refusal {
        reason: format!("OutOf{name}"),
        message: format!(
            "Node didn't have enough resource: {name}, requested: {requested}, used: {used}, capacity: {capacity}"
        ),
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct HostPort {
    protocol: String,
    ip: String,
    port: i32,
}

impl HostPort {
    fn conflicts(&self, other: &Self) -> bool {
        let everywhere = |ip: &str| ip.is_empty() || ip == "0.0.0.0";
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip == other.ip || everywhere(&self.ip) || everywhere(&other.ip))
    }
}

fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let spec = pod.spec.as_ref();
    let sidecar = |c: &&Container| c.restart_policy.as_deref() == Some("Always");
    let containers = spec.into_iter().flat_map(|s| {
        let sidecars = s.init_containers.iter().flatten().filter(sidecar);
        s.containers.iter().chain(sidecars)
    });
    containers
        .flat_map(|c| c.ports.iter().flatten())
        .filter_map(|port| {
            Some(HostPort {
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".into()),
                ip: port.host_ip.clone().unwrap_or_default(),
                port: port.host_port.filter(|port| *port > 0)?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(spec: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap()
    }

    fn asking(requests: Value) -> Pod {
        pod(json!({"containers": [{"name": "c", "resources": {"requests": requests}}]}))
    }

    fn on_port(port: i32, ip: &str) -> Pod {
        pod(
            json!({"containers": [{"name": "c", "ports": [{"containerPort": 1, "hostPort": port, "hostIP": ip}]}]}),
        )
    }

    fn node() -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": "n1", "labels": {"disk": "ssd", "cores": "8"}},
            "spec": {"taints": [{"key": "gone", "effect": "NoExecute"}, {"key": "full", "effect": "NoSchedule"}]},
            "status": {"allocatable": {"cpu": "2", "memory": "1Gi", "pods": "3", "x.io/y": "1"}}
        }))
        .unwrap()
    }

    fn tolerant(mut spec: Value) -> Pod {
        spec["tolerations"] = json!([{"operator": "Exists"}]);
        spec["containers"] = json!([{"name": "c"}]);
        pod(spec)
    }

    #[test]
    fn what_is_refused_and_why() {
        let tolerating = |mut pod: Pod| {
            if let Some(spec) = &mut pod.spec {
                spec.tolerations = serde_json::from_value(json!([{"operator": "Exists"}])).unwrap();
            }
            pod
        };
        let affinity = |expression: Value| {
            tolerant(
                json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
                {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}}}}),
            )
        };
        let cpu =
            "Node didn't have enough resource: cpu, requested: 1600, used: 500, capacity: 2000";
        let memory = "Node didn't have enough resource: memory, requested: 2147483648, used: 0, capacity: 1073741824";
        let placed =
            "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector";
        let ports = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
        let taints =
            "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate";
        let taken = [asking(json!({"cpu": "500m"})), on_port(80, "10.0.0.1")];
        for (pod, refusal) in [
            (tolerating(asking(json!({"cpu": "1500m"}))), None),
            (
                tolerating(asking(json!({"cpu": "1600m"}))),
                Some(("OutOfcpu", cpu)),
            ),
            (
                tolerating(asking(json!({"memory": "2Gi"}))),
                Some(("OutOfmemory", memory)),
            ),
            (tolerating(asking(json!({"x.io/z": "5"}))), None),
            (
                tolerating(asking(json!({"x.io/y": "2"}))),
                Some((
                    "OutOfx.io/y",
                    "Node didn't have enough resource: x.io/y, requested: 2, used: 0, capacity: 1",
                )),
            ),
            (tolerant(json!({"nodeSelector": {"disk": "ssd"}})), None),
            (
                tolerant(json!({"nodeSelector": {"disk": "tape"}})),
                Some(("NodeAffinity", placed)),
            ),
            (
                affinity(json!({"key": "cores", "operator": "Gt", "values": ["4"]})),
                None,
            ),
            (
                affinity(json!({"key": "cores", "operator": "DoesNotExist"})),
                Some(("NodeAffinity", placed)),
            ),
            (
                affinity(json!({"key": "cores", "operator": "Near"})),
                Some(("NodeAffinity", placed)),
            ),
            (tolerating(on_port(80, "10.0.0.2")), None),
            (tolerating(on_port(80, "")), Some(("NodePorts", ports))),
            (tolerating(on_port(81, "")), None),
            (asking(json!({})), Some(("TaintToleration", taints))),
            (
                tolerant(json!({"os": {"name": "windows"}})),
                Some((
                    "PodOSNotSupported",
                    "Failed to admit pod as the OS field doesn't match node OS",
                )),
            ),
        ] {
            let got = admit(&pod, &node(), &[&taken[0], &taken[1]]).err();
            let got = got
                .as_ref()
                .map(|r| (r.reason.as_str(), r.message.as_str()));
            assert_eq!(got, refusal, "{:?}", pod.spec);
        }
    }

    #[test]
    fn as_many_pods_as_it_takes() {
        let one = tolerant(json!({}));
        let full = admit(&one, &node(), &[&one, &one, &one]).unwrap_err();
        assert_eq!(full.reason, "OutOfpods");
        assert_eq!(
            full.message,
            "Node didn't have enough resource: pods, requested: 1, used: 3, capacity: 3"
        );
        assert!(admit(&one, &node(), &[&one, &one]).is_ok());
    }
}
