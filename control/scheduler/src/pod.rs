//! What a pod asks of a node, worked out once. Pure.
//!
//! Requests follow upstream's `PodRequests`: the larger of all containers together (with the sidecars) and each init
//! container (with the sidecars started before it), plus the overhead.

use std::collections::BTreeMap;
use std::sync::Arc;

use caravel_api::ObjectName;
use caravel_api::quantity::Quantity;
use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

/// What a container without a request counts for when nodes are compared (not when it must fit): upstream's defaults.
const UNASKED_CPU: i64 = 100;
const UNASKED_MEMORY: i64 = 200 * 1024 * 1024;

/// An amount of everything a node offers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources {
    /// Thousandths of a CPU.
    pub cpu: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes.
    pub ephemeral: i64,
    /// Extended resources and huge pages by name.
    pub other: BTreeMap<String, i64>,
}

impl Resources {
    /// Reads a resource list; what cannot be read counts nothing.
    pub fn read(list: Option<&BTreeMap<String, Text>>) -> Self {
        let mut sum = Self::default();
        for (name, text) in list.into_iter().flatten() {
            let Ok(amount) = Quantity::parse(&text.0) else { continue };
            match name.as_str() {
                "cpu" => sum.cpu = amount.milli(),
                "memory" => sum.memory = amount.value(),
                "ephemeral-storage" => sum.ephemeral = amount.value(),
                "pods" => {}
                other => drop(sum.other.insert(other.to_owned(), amount.value())),
            }
        }
        sum
    }

    fn each(&mut self, other: &Self, with: impl Fn(i64, i64) -> i64) {
        self.cpu = with(self.cpu, other.cpu);
        self.memory = with(self.memory, other.memory);
        self.ephemeral = with(self.ephemeral, other.ephemeral);
        for (name, amount) in &other.other {
            let mine = self.other.entry(name.clone()).or_default();
            *mine = with(*mine, *amount);
        }
    }

    /// Adds.
    pub fn add(&mut self, other: &Self) {
        self.each(other, i64::saturating_add);
    }

    /// Takes away.
    pub fn remove(&mut self, other: &Self) {
        self.each(other, i64::saturating_sub);
    }
}

/// A port that a pod opens on its machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// Empty: all addresses.
    pub ip: String,
    /// `TCP`, ...
    pub protocol: String,
    /// Its number.
    pub port: i32,
}

impl HostPort {
    /// Whether both cannot be on one machine.
    pub fn collides(&self, other: &Self) -> bool {
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip == other.ip || self.ip.is_empty() || other.ip.is_empty())
    }
}

/// A pod as the scheduler sees it.
#[derive(Debug, Clone)]
pub struct PodView {
    /// The object.
    pub pod: Arc<Pod>,
    /// What must be free.
    pub requests: Resources,
    /// The same with something for containers that ask nothing (cpu, memory), for comparing nodes.
    pub weight: (i64, i64),
    /// Ports on the machine.
    pub ports: Vec<HostPort>,
}

impl PodView {
    /// Works it out.
    pub fn new(pod: Arc<Pod>) -> Self {
        let requests = total(&pod, |c| Resources::read(c.resources.as_ref().and_then(|r| r.requests.as_ref())));
        let weighed = total(&pod, |c| {
            let list = c.resources.as_ref().and_then(|r| r.requests.as_ref());
            let mut r = Resources::read(list);
            let asked = |name: &str| list.is_some_and(|l| l.contains_key(name));
            if !asked("cpu") {
                r.cpu = UNASKED_CPU;
            }
            if !asked("memory") {
                r.memory = UNASKED_MEMORY;
            }
            r
        });
        let spec = pod.spec.as_ref();
        let host = spec.and_then(|s| s.host_network) == Some(true);
        let ports = spec
            .iter()
            .flat_map(|s| &s.containers)
            .flat_map(|c| c.ports.iter().flatten())
            .filter_map(|p| {
                let port = p.host_port.or(host.then_some(p.container_port)).filter(|p| *p > 0)?;
                let ip = p.host_ip.clone().filter(|ip| ip != "0.0.0.0" && ip != "::").unwrap_or_default();
                Some(HostPort { ip, protocol: p.protocol.clone().unwrap_or_else(|| "TCP".into()), port })
            })
            .collect();
        Self { requests, weight: (weighed.cpu, weighed.memory), ports, pod }
    }

    /// Namespace and name.
    pub fn name(&self) -> ObjectName {
        let meta = &self.pod.metadata;
        ObjectName::new(meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
    }

    /// The object's uid.
    pub fn uid(&self) -> &str {
        self.pod.metadata.uid.as_deref().unwrap_or_default()
    }

    /// The object's namespace.
    pub fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or_default()
    }

    /// The uid of the controller that made it; empty if none did.
    pub fn controller(&self) -> &str {
        let owners = self.pod.metadata.owner_references.iter().flatten();
        owners.filter(|o| o.controller == Some(true)).map(|o| o.uid.as_str()).next().unwrap_or_default()
    }
}

fn total(pod: &Pod, of: impl Fn(&Container) -> Resources) -> Resources {
    let Some(spec) = &pod.spec else { return Resources::default() };
    let mut sum = Resources::default();
    for container in &spec.containers {
        sum.add(&of(container));
    }
    let mut sidecars = Resources::default();
    let mut most = Resources::default();
    for container in spec.init_containers.iter().flatten() {
        let mut now = of(container);
        if container.restart_policy.as_deref() == Some("Always") {
            sum.add(&now);
            sidecars.add(&now);
            now = sidecars.clone();
        } else {
            now.add(&sidecars);
        }
        most.each(&now, i64::max);
    }
    sum.each(&most, i64::max);
    sum.add(&Resources::read(spec.overhead.as_ref()));
    sum
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn requests_follow_the_life_of_a_pod() {
        let container = |cpu: &str| json!({"name": "c", "resources": {"requests": {"cpu": cpu}}});
        let sidecar = |cpu: &str| json!({"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": cpu}}});
        for (spec, cpu, weight) in [
            (json!({"containers": [container("100m"), container("1")]}), 1100, 1100),
            (json!({"containers": [container("100m")], "initContainers": [container("500m")]}), 500, 500),
            (json!({"containers": [container("400m")], "initContainers": [sidecar("200m"), container("300m")]}), 600, 600),
            (json!({"containers": [container("400m")], "initContainers": [sidecar("200m"), container("900m")]}), 1100, 1100),
            (json!({"containers": [{"name": "c"}], "overhead": {"cpu": "50m"}}), 50, 150),
        ] {
            let view = PodView::new(Arc::new(serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap()));
            assert_eq!((view.requests.cpu, view.weight.0), (cpu, weight), "{spec}");
        }
    }
}
