//! What a pod asks of its node at its largest moment. Pure.
//!
//! Upstream: k8s.io/component-helpers/resource.PodRequests. Side cars count from their start, pod-level requests win.

use std::collections::BTreeMap;

use caravel_api::Quantity;
use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

/// By resource: thousandths of a CPU, whole units of everything else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Requests(BTreeMap<String, i64>);

pub(super) fn amount(name: &str, quantity: &Quantity) -> i64 {
    if name == "cpu" {
        quantity.milli()
    } else {
        quantity.value()
    }
}

impl Requests {
    fn read(list: Option<&BTreeMap<String, Text>>) -> Self {
        let amounts = list.into_iter().flatten().filter_map(|(name, text)| {
            let quantity = Quantity::parse(&text.0).ok()?;
            Some((name.clone(), amount(name, &quantity)))
        });
        Self(amounts.collect())
    }

    pub fn of(pod: &Pod) -> Self {
        let Some(spec) = &pod.spec else {
            return Self::default();
        };
        let of = |container: &Container| {
            let resources = container.resources.as_ref();
            Self::read(resources.and_then(|r| r.requests.as_ref()))
        };
        let mut total = Self::default();
        for container in &spec.containers {
            total.add(&of(container));
        }
        let (mut sidecars, mut init) = (Self::default(), Self::default());
        for container in spec.init_containers.iter().flatten() {
            let mut moment = of(container);
            if container.restart_policy.as_deref() == Some("Always") {
                total.add(&moment);
                sidecars.add(&moment);
                moment = sidecars.clone();
            } else {
                moment.add(&sidecars);
            }
            init.merge(&moment, i64::max);
        }
        total.merge(&init, i64::max);
        let whole = spec.resources.as_ref().and_then(|r| r.requests.as_ref());
        total.0.extend(Self::read(whole).0);
        total.add(&Self::read(spec.overhead.as_ref()));
        total
    }

    pub fn add(&mut self, other: &Self) {
        self.merge(other, i64::saturating_add);
    }

    fn merge(&mut self, other: &Self, with: fn(i64, i64) -> i64) {
        for (name, amount) in &other.0 {
            let mine = self.0.entry(name.clone()).or_default();
            *mine = with(*mine, *amount);
        }
    }

    pub fn get(&self, name: &str) -> i64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// In the order in which upstream looks at them: the first that is short is the one told of.
    pub fn iter(&self) -> impl Iterator<Item = (&str, i64)> {
        let first = ["cpu", "memory", "ephemeral-storage"];
        let rest = self.0.keys().map(String::as_str);
        first
            .into_iter()
            .chain(rest.filter(move |name| !first.contains(name)))
            .map(|name| (name, self.get(name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn the_largest_moment() {
        let container = |cpu: &str, policy: Option<&str>| json!({"name": "c", "restartPolicy": policy, "resources": {"requests": {"cpu": cpu}}});
        for (spec, cpu) in [
            (
                json!({"containers": [container("1", None), container("500m", None)]}),
                1500,
            ),
            (
                json!({"containers": [container("1", None)], "initContainers": [container("3", None)]}),
                3000,
            ),
            (
                json!({"containers": [container("1", None)], "initContainers": [container("1", Some("Always")), container("500m", None)]}),
                2000,
            ),
            (
                json!({"containers": [container("1", None)], "initContainers": [container("1", Some("Always")), container("2", None)]}),
                3000,
            ),
            (
                json!({"containers": [container("1", None)], "resources": {"requests": {"cpu": "4"}}, "overhead": {"cpu": "100m"}}),
                4100,
            ),
            (Value::Null, 0),
        ] {
            let pod: Pod = serde_json::from_value(json!({"spec": spec})).unwrap();
            assert_eq!(Requests::of(&pod).get("cpu"), cpu, "{spec}");
        }
    }
}
