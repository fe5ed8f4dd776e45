//! Resource lists: one way to write them, comparison, and what is wrong with one.
//!
//! Follows `pkg/apis/core/validation` (resource requirements) and `pkg/apis/core/helper`.

use std::collections::BTreeMap;

use caravel_api::quantity::{self, Quantity};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Amount;

use crate::found::{At, Found, NOT_NEGATIVE};
use crate::names;

pub type Amounts = BTreeMap<String, Amount>;

/// Canonical forms, and nothing where there are none.
pub fn normalise(list: &mut Option<Amounts>) {
    if list.as_ref().is_some_and(BTreeMap::is_empty) {
        *list = None;
    }
    list.iter_mut()
        .flatten()
        .for_each(|(_, amount)| normalise_one(amount));
}

pub fn normalise_one(amount: &mut Amount) {
    if let Ok(canonical) = quantity::canonical(&amount.0) {
        amount.0 = canonical;
    }
}

/// Upstream keeps no resource finer than a thousandth.
pub fn round_up(list: &mut Option<Amounts>) {
    for amount in list.iter_mut().flatten().map(|(_, amount)| amount) {
        if let Ok(parsed) = Quantity::parse(&amount.0)
            && parsed.nanos() % 1_000_000 != 0
        {
            amount.0 = Quantity::from_milli(parsed.milli()).canonical();
        }
    }
}

/// `amount`, zero where it is not one (validation names it).
pub fn parsed(amount: &Amount) -> Quantity {
    Quantity::parse(&amount.0).unwrap_or(Quantity::ZERO)
}

/// What is wrong with an amount of a resource.
pub fn validate_amount(found: &mut Found, resource: &str, amount: &Amount, at: &At) {
    match Quantity::parse(&amount.0) {
        Err(cause) => found.invalid(at, amount.0.as_str(), cause.to_string()),
        Ok(parsed) => {
            if parsed.is_negative() {
                found.invalid(at, amount.0.as_str(), NOT_NEGATIVE);
            }
            if is_integer(resource) && parsed.nanos() % 1_000_000_000 != 0 {
                found.invalid(at, amount.0.as_str(), "must be an integer");
            }
        }
    }
}

/// Resources that exist only in whole units.
fn is_integer(resource: &str) -> bool {
    matches!(
        resource,
        "pods"
            | "services"
            | "replicationcontrollers"
            | "resourcequotas"
            | "secrets"
            | "configmaps"
            | "persistentvolumeclaims"
    ) || is_extended(resource)
}

/// `example.com/gpu`: with a domain that is not Kubernetes' own.
pub fn is_extended(resource: &str) -> bool {
    resource.contains('/') && !is_native(resource) && !resource.starts_with("requests.")
}

fn is_native(resource: &str) -> bool {
    !resource.contains('/') || resource.contains("kubernetes.io/")
}

fn is_huge_page(resource: &str) -> bool {
    resource.starts_with("hugepages-")
}

/// May the limit be more than what is requested?
fn may_overcommit(resource: &str) -> bool {
    is_native(resource) && !is_huge_page(resource)
}

/// What is wrong with the name of a resource that a container asks for.
fn validate_container_resource(found: &mut Found, resource: &str, at: &At) {
    let faults = names::qualified_name(resource);
    if !faults.is_empty() {
        return found.faults(at, resource, faults);
    }
    if resource.contains('/') {
        if !is_native(resource)
            && (!is_extended(resource)
                || !names::qualified_name(&format!("requests.{resource}")).is_empty())
        {
            found.invalid(
                at,
                resource,
                "doesn't follow extended resource name standard",
            );
        }
        return;
    }
    let container =
        matches!(resource, "cpu" | "memory" | "ephemeral-storage") || is_huge_page(resource);
    let standard = container
        || matches!(
            resource,
            "pods"
                | "services"
                | "replicationcontrollers"
                | "resourcequotas"
                | "secrets"
                | "configmaps"
                | "persistentvolumeclaims"
                | "storage"
        )
        || resource.starts_with("requests.")
        || resource.starts_with("limits.");
    if !standard {
        found.invalid(
            at,
            resource,
            "must be a standard resource type or fully qualified",
        );
    }
    if !container {
        found.invalid(at, resource, "must be a standard resource for containers");
    }
}

/// What is wrong with what a container (or, with `pod_level`, a pod) requests and is limited to.
pub fn validate_requirements(
    found: &mut Found,
    limits: Option<&Amounts>,
    requests: Option<&Amounts>,
    pod_level: bool,
    at: &At,
) {
    let (limits_at, requests_at) = (at.child("limits"), at.child("requests"));
    let name = |found: &mut Found, resource: &str, at: &At| {
        validate_container_resource(found, resource, at);
        if pod_level && !matches!(resource, "cpu" | "memory") && !is_huge_page(resource) {
            found.not_supported(at, resource, &["cpu", "hugepages-", "memory"]);
        }
    };
    let (mut plain, mut huge) = (false, false);
    for (resource, amount) in limits.into_iter().flatten() {
        let at = limits_at.key(resource);
        name(found, resource, &at);
        validate_amount(found, resource, amount, &at);
        plain |= matches!(resource.as_str(), "cpu" | "memory");
        huge |= is_huge_page(resource);
        validate_huge_page(found, resource, amount, &at);
    }
    for (resource, amount) in requests.into_iter().flatten() {
        let at = requests_at.key(resource);
        name(found, resource, &at);
        validate_amount(found, resource, amount, &at);
        plain |= matches!(resource.as_str(), "cpu" | "memory");
        huge |= is_huge_page(resource);
        validate_huge_page(found, resource, amount, &at);
        match limits.and_then(|limits| limits.get(resource)) {
            Some(limit) => {
                let (wanted, most) = (parsed(amount).nanos(), parsed(limit).nanos());
                if wanted != most && !may_overcommit(resource) {
                    found.invalid(
                        &requests_at,
                        amount.0.as_str(),
                        format!("must be equal to {resource} limit of {}", limit.0),
                    );
                } else if wanted > most {
                    found.invalid(
                        &requests_at,
                        amount.0.as_str(),
                        format!(
                            "must be less than or equal to {resource} limit of {}",
                            limit.0
                        ),
                    );
                }
            }
            None if !may_overcommit(resource) => {
                found.required(
                    &limits_at,
                    "Limit must be set for non overcommitable resources",
                );
            }
            None => {}
        }
    }
    if huge && !plain {
        found.forbidden(at, "HugePages require cpu or memory");
    }
}

fn validate_huge_page(found: &mut Found, resource: &str, amount: &Amount, at: &At) {
    let Some(size) = resource.strip_prefix("hugepages-") else {
        return;
    };
    let unit = Quantity::parse(size).map_or(0, |size| size.nanos());
    let wanted = parsed(amount).nanos();
    if unit <= 0 || wanted <= 0 || wanted % unit != 0 {
        found.invalid(
            at,
            amount.0.as_str(),
            format!(
                "{} is not positive integer multiple of {resource}",
                amount.0
            ),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn amounts(value: Value) -> Option<Amounts> {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn requirements() {
        for (limits, requests, want) in [
            (json!({"cpu": "1"}), json!({"cpu": "500m"}), "[]"),
            (
                json!({"cpu": "1"}),
                json!({"cpu": "2"}),
                r#"r.requests: Invalid value: "2": must be less than or equal to cpu limit of 1"#,
            ),
            (
                json!({"memory": "-1"}),
                json!({}),
                r#"r.limits[memory]: Invalid value: "-1": must be greater than or equal to 0"#,
            ),
            (
                json!({"coffee": "1"}),
                json!({}),
                r#"[r.limits[coffee]: Invalid value: "coffee": must be a standard resource type or fully qualified, r.limits[coffee]: Invalid value: "coffee": must be a standard resource for containers]"#,
            ),
            (
                json!({}),
                json!({"example.com/gpu": "1"}),
                "r.limits: Required value: Limit must be set for non overcommitable resources",
            ),
            (
                json!({"example.com/gpu": "2"}),
                json!({"example.com/gpu": "1"}),
                r#"r.requests: Invalid value: "1": must be equal to example.com/gpu limit of 2"#,
            ),
            (
                json!({"example.com/gpu": "500m"}),
                json!({}),
                r#"r.limits[example.com/gpu]: Invalid value: "500m": must be an integer"#,
            ),
            (
                json!({"hugepages-2Mi": "2Mi"}),
                json!({}),
                "r: Forbidden: HugePages require cpu or memory",
            ),
            (
                json!({"hugepages-2Mi": "3Mi", "cpu": "1"}),
                json!({}),
                r#"r.limits[hugepages-2Mi]: Invalid value: "3Mi": 3Mi is not positive integer multiple of hugepages-2Mi"#,
            ),
            (
                json!({"cpu": "1x"}),
                json!({}),
                r#"r.limits[cpu]: Invalid value: "1x": quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"#,
            ),
        ] {
            let (limits, requests) = (amounts(limits), amounts(requests));
            let mut found = Found::new();
            validate_requirements(
                &mut found,
                limits.as_ref(),
                requests.as_ref(),
                false,
                &At::Root.child("r"),
            );
            assert_eq!(found.into_errors().message(), want);
        }
    }

    #[test]
    fn one_way_to_write() {
        let mut list = amounts(json!({"a": "0.5", "b": "1024Mi", "c": 2, "d": "1n"}));
        normalise(&mut list);
        round_up(&mut list);
        assert_eq!(
            list,
            amounts(json!({"a": "500m", "b": "1Gi", "c": "2", "d": "1m"}))
        );
    }
}
