//! Which quality of service a pod gets, from what its containers ask for.
//!
//! Follows `ComputePodQOS` of `pkg/apis/core/v1/helper/qos`: guaranteed where every container's cpu and memory are
//! limited and requested alike, best effort where nothing is asked for.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{PodSpec, ResourceRequirements};

use crate::quantities::{self, Amounts};

const COUNTED: [&str; 2] = ["cpu", "memory"];

pub fn class(spec: &PodSpec) -> &'static str {
    let of_pod = spec
        .resources
        .as_ref()
        .filter(|resources| resources.requests.is_some() || resources.limits.is_some());
    let lists: Vec<Option<&ResourceRequirements>> = match of_pod {
        Some(resources) => vec![Some(resources)],
        None => spec
            .containers
            .iter()
            .chain(spec.init_containers.iter().flatten())
            .map(|container| container.resources.as_ref())
            .collect(),
    };
    let mut requests = BTreeMap::new();
    let mut limits = BTreeMap::new();
    let mut guaranteed = true;
    for resources in lists {
        sum(
            &mut requests,
            resources.and_then(|resources| resources.requests.as_ref()),
        );
        let limited = sum(
            &mut limits,
            resources.and_then(|resources| resources.limits.as_ref()),
        );
        guaranteed &= limited == COUNTED.len();
    }
    if requests.is_empty() && limits.is_empty() {
        "BestEffort"
    } else if guaranteed && requests == limits {
        "Guaranteed"
    } else {
        "Burstable"
    }
}

/// Adds what counts to the totals; how many resources were there.
fn sum(totals: &mut BTreeMap<&'static str, i128>, list: Option<&Amounts>) -> usize {
    let mut count = 0;
    for name in COUNTED {
        let nanos = list
            .and_then(|list| list.get(name))
            .map_or(0, |amount| quantities::parsed(amount).nanos());
        if nanos > 0 {
            *totals.entry(name).or_default() += nanos;
            count += 1;
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn classes() {
        for (resources, want) in [
            (json!([{}]), "BestEffort"),
            (json!([{"requests": {"cpu": "0"}}]), "BestEffort"),
            (json!([{"requests": {"cpu": "1"}}]), "Burstable"),
            (
                json!([{"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1024Mi"}}]),
                "Guaranteed",
            ),
            (
                json!([{"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m", "memory": "1Gi"}}]),
                "Burstable",
            ),
            (
                json!([{"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1", "memory": "1Gi"}}, {}]),
                "Burstable",
            ),
            (
                json!([{"limits": {"cpu": "1"}, "requests": {"cpu": "1"}}]),
                "Burstable",
            ),
        ] {
            let containers: Vec<_> = resources
                .as_array()
                .unwrap()
                .iter()
                .map(|resources| json!({"name": "a", "resources": resources}))
                .collect();
            let spec: PodSpec = serde_json::from_value(json!({"containers": containers})).unwrap();
            assert_eq!(class(&spec), want, "{resources}");
        }
    }
}
