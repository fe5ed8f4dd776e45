//! A pod's quality of service and what it means to the kernel: class, CPU shares, quota, memory limits, OOM score.
//!
//! Pure. Follows pkg/apis/core/v1/helper/qos, pkg/kubelet/cm/helpers_linux.go and pkg/kubelet/qos/policy.go.

use std::collections::BTreeMap;

use caravel_api::Quantity;
use caravel_runtime::{Qos, Resources};
use k8s_openapi::api::core::v1::{Container, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

const MIN_SHARES: i64 = 2;
const MAX_SHARES: i64 = 262_144;
const PERIOD: i64 = 100_000;
/// The kernel takes no quota below a millisecond.
const MIN_QUOTA: i64 = 1_000;

pub(crate) fn class(spec: &PodSpec) -> &'static str {
    let mut any = false;
    let mut guaranteed = true;
    for container in spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
    {
        let (requests, limits) = amounts(container);
        for name in ["cpu", "memory"] {
            let of = |list: Option<&BTreeMap<String, Text>>| {
                list.and_then(|l| l.get(name))
                    .and_then(|q| Quantity::parse(&q.0).ok())
                    .filter(|q| !q.is_zero())
            };
            let (request, limit) = (of(requests), of(limits));
            any |= request.is_some() || limit.is_some();
            guaranteed &= match (request, limit) {
                (Some(request), Some(limit)) => request.nanos() == limit.nanos(),
                (None, Some(_)) => true,
                _ => false,
            };
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

pub(crate) fn qos(spec: &PodSpec) -> Qos {
    match class(spec) {
        "Guaranteed" => Qos::Guaranteed,
        "Burstable" => Qos::Burstable,
        _ => Qos::BestEffort,
    }
}

type Amounts<'a> = Option<&'a BTreeMap<String, Text>>;

fn amounts(container: &Container) -> (Amounts<'_>, Amounts<'_>) {
    let resources = container.resources.as_ref();
    (
        resources.and_then(|r| r.requests.as_ref()),
        resources.and_then(|r| r.limits.as_ref()),
    )
}

fn amount(list: Amounts<'_>, name: &str) -> Option<Quantity> {
    list.and_then(|l| l.get(name))
        .and_then(|q| Quantity::parse(&q.0).ok())
}

/// Milli-CPUs asked for; a limit stands in for an absent request.
fn cpu_request(container: &Container) -> i64 {
    let (requests, limits) = amounts(container);
    amount(requests, "cpu")
        .or_else(|| amount(limits, "cpu"))
        .map_or(0, |q| q.milli())
}

fn shares(milli: i64) -> u64 {
    (milli * 1024 / 1000)
        .clamp(MIN_SHARES, MAX_SHARES)
        .unsigned_abs()
}

fn quota(milli: i64) -> i64 {
    (milli * PERIOD / 1000).max(MIN_QUOTA)
}

/// What one container may use.
pub(crate) fn container(container: &Container) -> Resources {
    let (_, limits) = amounts(container);
    let cpu = amount(limits, "cpu")
        .map(|q| q.milli())
        .filter(|milli| *milli > 0);
    Resources {
        cpu_shares: Some(shares(cpu_request(container))),
        cpu_quota: cpu.map(quota),
        cpu_period: cpu.map(|_| PERIOD.unsigned_abs()),
        memory_limit: amount(limits, "memory")
            .map(|q| q.value())
            .filter(|bytes| *bytes > 0),
        hugepages: limits
            .into_iter()
            .flatten()
            .filter_map(|(name, q)| {
                Some((
                    name.strip_prefix("hugepages-")?
                        .replace("Mi", "MB")
                        .replace("Gi", "GB"),
                    Quantity::parse(&q.0).ok()?.value().unsigned_abs(),
                ))
            })
            .collect(),
        ..Resources::default()
    }
}

/// What the pod as a whole may use: limits only where every container has one.
pub(crate) fn pod(spec: &PodSpec) -> Resources {
    let all = || {
        spec.containers.iter().chain(
            spec.init_containers
                .iter()
                .flatten()
                .filter(|c| c.restart_policy.as_deref() == Some("Always")),
        )
    };
    let init = || {
        spec.init_containers
            .iter()
            .flatten()
            .filter(|c| c.restart_policy.as_deref() != Some("Always"))
    };
    let limit = |name: &str, value: fn(&Quantity) -> i64| -> Option<i64> {
        let sum = all()
            .map(|c| {
                amount(amounts(c).1, name)
                    .map(|q| value(&q))
                    .filter(|v| *v > 0)
            })
            .sum::<Option<i64>>()?;
        let most = init()
            .map(|c| {
                amount(amounts(c).1, name)
                    .map(|q| value(&q))
                    .filter(|v| *v > 0)
            })
            .collect::<Option<Vec<i64>>>()?;
        Some(most.into_iter().fold(sum, i64::max))
    };
    let requested: i64 = all().map(cpu_request).sum();
    let requested = init().map(cpu_request).fold(requested, i64::max);
    let cpu = limit("cpu", Quantity::milli);
    Resources {
        cpu_shares: Some(shares(requested)),
        cpu_quota: cpu.map(quota),
        cpu_period: cpu.map(|_| PERIOD.unsigned_abs()),
        memory_limit: limit("memory", Quantity::value),
        ..Resources::default()
    }
}

/// How readily the kernel kills the container when the machine is out of memory.
pub(crate) fn oom_score(spec: &PodSpec, container: &Container, machine_memory: i64) -> i32 {
    match qos(spec) {
        _ if spec.priority.is_some_and(|p| p >= 2_000_000_000) => -997,
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let (requests, limits) = amounts(container);
            let asked = amount(requests, "memory")
                .or_else(|| amount(limits, "memory"))
                .map_or(0, |q| q.value());
            let score = 1000 - 1000 * i128::from(asked) / i128::from(machine_memory.max(1));
            i32::try_from(score.clamp(3, 999)).unwrap_or(999)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(containers: serde_json::Value) -> PodSpec {
        serde_json::from_value(serde_json::json!({"containers": containers})).unwrap()
    }

    #[test]
    fn classes_and_limits() {
        let with = |resources: &str| {
            spec(
                serde_json::json!([{"name": "c", "resources": serde_json::from_str::<serde_json::Value>(resources).unwrap()}]),
            )
        };
        for (resources, want, shares, quota, memory, score) in [
            ("{}", "BestEffort", 2, None, None, 1000),
            (
                r#"{"limits":{"cpu":"500m","memory":"64Mi"}}"#,
                "Guaranteed",
                512,
                Some(50_000),
                Some(64 << 20),
                -997,
            ),
            (
                r#"{"requests":{"memory":"512Mi"}}"#,
                "Burstable",
                2,
                None,
                None,
                500,
            ),
            (
                r#"{"requests":{"cpu":"1"},"limits":{"cpu":"2"}}"#,
                "Burstable",
                1024,
                Some(200_000),
                None,
                999,
            ),
            (
                r#"{"limits":{"cpu":"1m"}}"#,
                "Burstable",
                2,
                Some(1000),
                None,
                999,
            ),
        ] {
            let spec = with(resources);
            let got = container(&spec.containers[0]);
            assert_eq!(
                (
                    class(&spec),
                    got.cpu_shares,
                    got.cpu_quota,
                    got.memory_limit
                ),
                (want, Some(shares), quota, memory),
                "{resources}"
            );
            assert_eq!(
                oom_score(&spec, &spec.containers[0], 1 << 30),
                score,
                "{resources}"
            );
        }
    }

    #[test]
    fn the_pod_is_limited_where_all_are() {
        let both = spec(
            serde_json::json!([{"name": "a", "resources": {"limits": {"memory": "1Mi"}}}, {"name": "b", "resources": {"limits": {"memory": "2Mi"}}}]),
        );
        assert_eq!(pod(&both).memory_limit, Some(3 << 20));
        let one = spec(
            serde_json::json!([{"name": "a", "resources": {"limits": {"memory": "1Mi"}}}, {"name": "b"}]),
        );
        assert_eq!(pod(&one).memory_limit, None);
    }
}
