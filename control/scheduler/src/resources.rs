//! What pods ask for and nodes have.
//!
//! Upstream: `k8s.io/component-helpers/resource.PodRequests` (containers together, or the largest moment of the init
//! containers, side cars counted from their start, plus overhead; pod-level requests win) and `scheduler/util/pod_resources.go`.

use std::collections::BTreeMap;

use caravel_api::Quantity;
use k8s_openapi::api::core::v1::{Container, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Written;

/// What a container without a request counts as when nodes are compared (never when it must fit).
const ASSUMED_MILLI_CPU: i64 = 100;
const ASSUMED_MEMORY: i64 = 200 * 1024 * 1024;

/// Amounts of resources. Cpu in thousandths, all else in whole units.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Amounts {
    pub milli_cpu: i64,
    pub memory: i64,
    pub ephemeral: i64,
    pub extended: BTreeMap<String, i64>,
}

impl Amounts {
    /// From a resource list; `pods` is no resource of a pod and is left out, as is what cannot be read.
    pub fn read(list: Option<&BTreeMap<String, Written>>) -> Amounts {
        let mut amounts = Amounts::default();
        for (name, written) in list.into_iter().flatten() {
            let Ok(quantity) = Quantity::try_from(written) else {
                continue;
            };
            match name.as_str() {
                "cpu" => amounts.milli_cpu = quantity.milli(),
                "memory" => amounts.memory = quantity.value(),
                "ephemeral-storage" => amounts.ephemeral = quantity.value(),
                "pods" => {}
                _ => {
                    amounts.extended.insert(name.clone(), quantity.value());
                }
            }
        }
        amounts
    }

    pub fn add(&mut self, other: &Amounts) {
        self.combine(other, i64::saturating_add);
    }

    pub fn subtract(&mut self, other: &Amounts) {
        self.combine(other, i64::saturating_sub);
    }

    fn raise_to(&mut self, other: &Amounts) {
        self.combine(other, i64::max);
    }

    fn combine(&mut self, other: &Amounts, with: fn(i64, i64) -> i64) {
        self.milli_cpu = with(self.milli_cpu, other.milli_cpu);
        self.memory = with(self.memory, other.memory);
        self.ephemeral = with(self.ephemeral, other.ephemeral);
        for (name, amount) in &other.extended {
            let mine = self.extended.entry(name.clone()).or_default();
            *mine = with(*mine, *amount);
        }
    }
}

/// What a pod needs at its largest moment.
pub fn requests(spec: &PodSpec) -> Amounts {
    sum(spec, false)
}

/// The same with an assumed amount of cpu and memory for each container that names none.
pub fn assumed_requests(spec: &PodSpec) -> Amounts {
    sum(spec, true)
}

fn sum(spec: &PodSpec, assume: bool) -> Amounts {
    let of = |container: &Container| {
        let list = container
            .resources
            .as_ref()
            .and_then(|resources| resources.requests.as_ref());
        let mut amounts = Amounts::read(list);
        if assume {
            let names = |name: &str| list.is_some_and(|list| list.contains_key(name));
            if !names("cpu") {
                amounts.milli_cpu = ASSUMED_MILLI_CPU;
            }
            if !names("memory") {
                amounts.memory = ASSUMED_MEMORY;
            }
        }
        amounts
    };
    let mut total = Amounts::default();
    for container in &spec.containers {
        total.add(&of(container));
    }
    let mut side_cars = Amounts::default();
    let mut init = Amounts::default();
    for container in spec.init_containers.iter().flatten() {
        let mut moment = of(container);
        if container.restart_policy.as_deref() == Some("Always") {
            side_cars.add(&moment);
            total.add(&moment);
            moment = side_cars.clone();
        } else {
            moment.add(&side_cars);
        }
        init.raise_to(&moment);
    }
    total.raise_to(&init);
    if let Some(pod) = spec
        .resources
        .as_ref()
        .and_then(|resources| resources.requests.as_ref())
    {
        let whole = Amounts::read(Some(pod));
        if pod.contains_key("cpu") {
            total.milli_cpu = whole.milli_cpu;
        }
        if pod.contains_key("memory") {
            total.memory = whole.memory;
        }
        total.extended.extend(whole.extended);
    }
    total.add(&Amounts::read(spec.overhead.as_ref()));
    total
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pods() {
        let container = |cpu: &str| json!({"name": "c", "resources": {"requests": {"cpu": cpu}}});
        let side_car = |cpu: &str| json!({"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": cpu}}});
        let cases = [
            (
                "containers together",
                json!({"containers": [container("1"), container("500m")]}),
                1500,
            ),
            (
                "a large init container",
                json!({"containers": [container("1")], "initContainers": [container("3"), container("2")]}),
                3000,
            ),
            (
                "a small init container",
                json!({"containers": [container("1")], "initContainers": [container("500m")]}),
                1000,
            ),
            (
                "a side car stays",
                json!({"containers": [container("1")], "initContainers": [side_car("1"), container("2")]}),
                3000,
            ),
            (
                "a side car after init",
                json!({"containers": [container("1")], "initContainers": [container("2"), side_car("3")]}),
                4000,
            ),
            (
                "overhead",
                json!({"containers": [container("1")], "overhead": {"cpu": "250m"}}),
                1250,
            ),
            (
                "the pod's own",
                json!({"containers": [container("1")], "resources": {"requests": {"cpu": "4"}}}),
                4000,
            ),
            ("nothing", json!({"containers": [{"name": "c"}]}), 0),
        ];
        for (name, spec, expected) in cases {
            let spec: PodSpec = serde_json::from_value(spec).unwrap();
            assert_eq!(requests(&spec).milli_cpu, expected, "{name}");
        }
        let spec: PodSpec =
            serde_json::from_value(json!({"containers": [{"name": "c"}, container("1")]})).unwrap();
        assert_eq!(assumed_requests(&spec).milli_cpu, 1100);
        assert_eq!(assumed_requests(&spec).memory, 400 << 20);
    }
}
