//! What a node (or anyone) may write into a pod's status.
//!
//! Follows `ValidatePodStatusUpdate` of `pkg/apis/core/validation`.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodSpec};
use serde_json::json;

use crate::found::{At, Found, text};
use crate::names;

pub fn validate(found: &mut Found, new: &Pod, old: &Pod) {
    let at = At::Root.child("status");
    let Some(status) = &new.status else { return };
    let before = old.status.clone().unwrap_or_default();
    for (index, condition) in status.conditions.iter().flatten().enumerate() {
        if !matches!(
            condition.type_.as_str(),
            "PodScheduled" | "Ready" | "Initialized"
        ) {
            // Upstream names the condition by this path.
            let path = At::Root
                .child("metadata")
                .child("conditions")
                .path()
                .index(index)
                .child("Type");
            for fault in names::qualified_name(&condition.type_) {
                found.push(caravel_api::FieldError::invalid(
                    &path,
                    condition.type_.as_str(),
                    fault,
                ));
            }
        }
    }
    if let Some(node) = text(&status.nominated_node_name)
        && status.nominated_node_name != before.nominated_node_name
    {
        found.faults(
            &at.child("nominatedNodeName"),
            node,
            names::dns_subdomain(node),
        );
    }
    found.immutable(&at.child("qosClass"), &status.qos_class, &before.qos_class);
    let spec = old.spec.clone().unwrap_or_default();
    let policy = spec.restart_policy.as_deref().unwrap_or("Always");
    for (name, new, old, policy, init) in [
        (
            "containerStatuses",
            &status.container_statuses,
            &before.container_statuses,
            policy,
            false,
        ),
        (
            "initContainerStatuses",
            &status.init_container_statuses,
            &before.init_container_statuses,
            policy,
            true,
        ),
        (
            "ephemeralContainerStatuses",
            &status.ephemeral_container_statuses,
            &before.ephemeral_container_statuses,
            "Never",
            false,
        ),
    ] {
        let (new, old) = (
            new.as_deref().unwrap_or_default(),
            old.as_deref().unwrap_or_default(),
        );
        transitions(
            found,
            new,
            old,
            policy,
            init.then_some(&spec),
            &at.child(name),
        );
    }
    let ips: Vec<&str> = status
        .pod_ips
        .iter()
        .flatten()
        .map(|ip| ip.ip.as_str())
        .collect();
    addresses(found, &ips, &at.child("podIPs"));
    let hosts: Vec<&str> = status
        .host_ips
        .iter()
        .flatten()
        .map(|ip| ip.ip.as_str())
        .collect();
    if let Some(first) = hosts.first()
        && status.host_ip.as_deref() != Some(*first)
    {
        found.invalid(
            &at.child("hostIPs").index(0).child("ip"),
            *first,
            "must be equal to `hostIP`",
        );
    }
    addresses(found, &hosts, &at.child("hostIPs"));
}

/// What has ended for good does not run again.
fn transitions(
    found: &mut Found,
    new: &[ContainerStatus],
    old: &[ContainerStatus],
    policy: &str,
    init: Option<&PodSpec>,
    at: &At,
) {
    if policy == "Always" {
        return;
    }
    for (index, before) in old.iter().enumerate() {
        let Some(ended) = before
            .state
            .as_ref()
            .and_then(|state| state.terminated.as_ref())
        else {
            continue;
        };
        let again = |spec: &PodSpec| {
            let mut all = spec.init_containers.iter().flatten();
            all.any(|container| {
                container.name == before.name
                    && container.restart_policy.as_deref() == Some("Always")
            })
        };
        if (ended.exit_code != 0 && policy == "OnFailure") || init.is_some_and(again) {
            continue;
        }
        let running = |status: &&ContainerStatus| {
            status.name == before.name
                && status
                    .state
                    .as_ref()
                    .is_none_or(|state| state.terminated.is_none())
        };
        if new.iter().any(|status| running(&status)) {
            found.forbidden(
                &at.index(index).child("state"),
                "may not be transitioned to non-terminated state",
            );
        }
    }
}

fn addresses(found: &mut Found, ips: &[&str], at: &At) {
    let mut seen = BTreeSet::new();
    for (index, ip) in ips.iter().enumerate() {
        found.faults(&at.index(index), ip, names::ip(ip));
        if !seen.insert(*ip) {
            found.duplicate(&at.index(index), json!({"ip": ip}));
        }
    }
    let six = ips.iter().filter(|ip| ip.contains(':')).count();
    if six > 1 || ips.len() - six > 1 {
        let values: Vec<_> = ips.iter().map(|ip| json!({"ip": ip})).collect();
        found.invalid(
            at,
            json!(values),
            "may specify no more than one IP for each IP family",
        );
    }
}
