//! What is wrong with a pod specification, wherever it stands: in a pod or in a template.
//!
//! Follows `ValidatePodSpec`, `ValidatePodTemplateSpec` and `ValidatePodSpecificAnnotations` of
//! `pkg/apis/core/validation`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    HostAlias, PodDNSConfig, PodResourceClaim, PodSpec, PodTemplateSpec,
};
use serde_json::json;

use super::container::{self, Around};
use super::{placement, security, volume};
use crate::found::{At, Found, text};
use crate::labels;
use crate::meta;
use crate::names;
use crate::quantities;

const DNS_POLICIES: &[&str] = &["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];
pub const RESTART_POLICIES: &[&str] = &["Always", "Never", "OnFailure"];
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
const MIRROR: &str = "kubernetes.io/config.mirror";

/// Where a specification stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Pod,
    Template,
}

/// What is wrong with a template.
pub fn validate_template(found: &mut Found, template: &PodTemplateSpec, at: &At) {
    static NO_SPEC: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);
    let spec = template.spec.as_ref().unwrap_or(&NO_SPEC);
    if let Some(template_meta) = &template.metadata {
        // Upstream leaves `metadata` out of these paths.
        if let Some(set) = &template_meta.labels {
            labels::validate(found, set, &at.child("labels"));
        }
        if let Some(set) = &template_meta.annotations {
            let at = at.child("annotations");
            meta::annotations(found, set, &at);
            validate_annotations(found, set, spec, &at);
        }
    }
    validate(found, spec, Place::Template, &at.child("spec"));
    if spec
        .ephemeral_containers
        .as_ref()
        .is_some_and(|list| !list.is_empty())
    {
        found.forbidden(
            &at.child("spec").child("ephemeralContainers"),
            "ephemeral containers not allowed in pod template",
        );
    }
}

/// Annotations that mean something to pods.
pub fn validate_annotations(
    found: &mut Found,
    annotations: &BTreeMap<String, String>,
    spec: &PodSpec,
    at: &At,
) {
    if let Some(mirror) = annotations.get(MIRROR)
        && text(&spec.node_name).is_none()
    {
        found.invalid(
            &at.key(MIRROR),
            mirror.as_str(),
            "must set spec.nodeName if mirror pod annotation is set",
        );
    }
    if let Some(cost) = annotations.get(DELETION_COST) {
        let plain = cost
            .parse::<i32>()
            .is_ok_and(|number| number.to_string() == *cost);
        if !plain {
            found.invalid(
                &at.key(DELETION_COST),
                cost.as_str(),
                "must be a 32bit integer",
            );
        }
    }
}

/// What is wrong with a specification.
pub fn validate(found: &mut Found, spec: &PodSpec, place: Place, at: &At) {
    if spec.termination_grace_period_seconds.is_none() {
        found.required(&at.child("terminationGracePeriodSeconds"), "");
    }
    let volumes = volume::validate(
        found,
        spec.volumes.as_deref().unwrap_or_default(),
        &at.child("volumes"),
    );
    let claims = resource_claims(
        found,
        spec.resource_claims.as_deref().unwrap_or_default(),
        &at.child("resourceClaims"),
    );
    container::validate_all(
        found,
        &Around {
            spec,
            volumes: &volumes,
            claims: &claims,
        },
        at,
    );
    if let Some(resources) = &spec.resources {
        let at = at.child("resources");
        if resources.claims.is_some() {
            found.forbidden(
                &at.child("claims"),
                "claims cannot be set for Resources at pod-level",
            );
        }
        quantities::validate_requirements(
            found,
            resources.limits.as_ref(),
            resources.requests.as_ref(),
            true,
            &at,
        );
    }
    host_network(found, spec, place, at);
    found.one_of(
        &at.child("restartPolicy"),
        spec.restart_policy.as_deref(),
        RESTART_POLICIES,
    );
    found.one_of(
        &at.child("dnsPolicy"),
        spec.dns_policy.as_deref(),
        DNS_POLICIES,
    );
    if let Some(selector) = &spec.node_selector {
        labels::validate(found, selector, &at.child("nodeSelector"));
    }
    security::validate_pod(found, spec, at);
    if let Some(affinity) = &spec.affinity {
        placement::validate_affinity(found, affinity, &at.child("affinity"));
    }
    dns_config(
        found,
        spec.dns_config.as_ref(),
        spec.dns_policy.as_deref() == Some("None"),
        &at.child("dnsConfig"),
    );
    for (index, gate) in spec.readiness_gates.iter().flatten().enumerate() {
        let kind = gate.condition_type.as_str();
        found.faults(
            &at.child("readinessGates")
                .index(index)
                .child("conditionType"),
            kind,
            names::qualified_name(kind),
        );
    }
    placement::validate_gates(
        found,
        spec.scheduling_gates.as_deref().unwrap_or_default(),
        &at.child("schedulingGates"),
    );
    placement::validate_spread(
        found,
        spec.topology_spread_constraints
            .as_deref()
            .unwrap_or_default(),
        &at.child("topologySpreadConstraints"),
    );
    security::validate_host_users(found, spec, at);
    for (name, value) in [
        ("serviceAccountName", &spec.service_account_name),
        ("nodeName", &spec.node_name),
        ("priorityClassName", &spec.priority_class_name),
        ("runtimeClassName", &spec.runtime_class_name),
    ] {
        if let Some(value) = text(value) {
            found.faults(&at.child(name), value, names::dns_subdomain(value));
        }
    }
    for (name, value) in [("hostname", &spec.hostname), ("subdomain", &spec.subdomain)] {
        if let Some(value) = text(value) {
            found.faults(&at.child(name), value, names::dns_label(value));
        }
    }
    if let Some(name) = text(&spec.hostname_override) {
        let at = at.child("hostnameOverride");
        found.faults(&at, name, names::dns_subdomain(name));
        if name.len() > 64 {
            found.too_long(&at, 64);
        }
    }
    if let Some(seconds) = spec
        .active_deadline_seconds
        .filter(|seconds| !(1..=i64::from(i32::MAX)).contains(seconds))
    {
        found.invalid(
            &at.child("activeDeadlineSeconds"),
            seconds,
            names::inclusive_range(1, i64::from(i32::MAX)),
        );
    }
    placement::validate_tolerations(
        found,
        spec.tolerations.as_deref().unwrap_or_default(),
        &at.child("tolerations"),
    );
    host_aliases(
        found,
        spec.host_aliases.as_deref().unwrap_or_default(),
        &at.child("hostAliases"),
    );
    if let Some(policy) = spec.preemption_policy.as_deref() {
        found.one_of(
            &at.child("preemptionPolicy"),
            Some(policy),
            &["Never", "PreemptLowerPriority"],
        );
    }
    quantities::validate_requirements(
        found,
        spec.overhead.as_ref(),
        None,
        false,
        &at.child("overhead"),
    );
    if let Some(os) = &spec.os {
        let at = at.child("os");
        if os.name.is_empty() {
            found.required(&at.child("name"), "cannot be empty");
        } else if !matches!(os.name.as_str(), "linux" | "windows") {
            found.not_supported(&at, os.name.as_str(), &["linux", "windows"]);
        }
    }
}

fn resource_claims<'a>(found: &mut Found, claims: &'a [PodResourceClaim], at: &At) -> Vec<&'a str> {
    let mut seen: Vec<&str> = Vec::new();
    for (index, claim) in claims.iter().enumerate() {
        let at = at.index(index);
        let name_at = at.child("name");
        if claim.name.is_empty() {
            found.required(&name_at, "");
        } else if seen.contains(&claim.name.as_str()) {
            found.duplicate(&name_at, claim.name.as_str());
        } else {
            found.faults(&name_at, &claim.name, names::dns_label(&claim.name));
            seen.push(&claim.name);
        }
        match (
            &claim.resource_claim_name,
            &claim.resource_claim_template_name,
        ) {
            (Some(_), Some(_)) => {
                found.invalid(&at, json!(claim), "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified");
            }
            (None, None) => found.invalid(
                &at,
                json!(claim),
                "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`",
            ),
            _ => {}
        }
    }
    seen
}

/// On the node's network a container's port is the node's.
fn host_network(found: &mut Found, spec: &PodSpec, place: Place, at: &At) {
    if spec.host_network != Some(true) {
        return;
    }
    for (index, container) in spec.containers.iter().enumerate() {
        for (port_index, port) in container.ports.iter().flatten().enumerate() {
            let host = port.host_port.unwrap_or(0);
            if (place == Place::Pod || host != 0) && host != port.container_port {
                found.invalid(
                    &at.child("containers")
                        .index(index)
                        .child("ports")
                        .index(port_index)
                        .child("hostPort"),
                    host,
                    "must match `containerPort` when `hostNetwork` is true",
                );
            }
        }
    }
}

fn dns_config(found: &mut Found, config: Option<&PodDNSConfig>, alone: bool, at: &At) {
    let Some(config) = config else {
        if alone {
            found.required(at, "must provide `dnsConfig` when `dnsPolicy` is None");
        }
        return;
    };
    let servers = config.nameservers.as_deref().unwrap_or_default();
    let servers_at = at.child("nameservers");
    if alone && servers.is_empty() {
        return found.required(
            &servers_at,
            "must provide at least one DNS nameserver when `dnsPolicy` is None",
        );
    }
    if servers.len() > 3 {
        found.invalid(
            &servers_at,
            json!(servers),
            "must not have more than 3 nameservers",
        );
    }
    for (index, server) in servers.iter().enumerate() {
        found.faults(&servers_at.index(index), server, names::ip(server));
    }
    let searches = config.searches.as_deref().unwrap_or_default();
    let searches_at = at.child("searches");
    if searches.len() > 32 {
        found.invalid(
            &searches_at,
            json!(searches),
            "must not have more than 32 search paths",
        );
    }
    if searches.iter().map(String::len).sum::<usize>() + searches.len().saturating_sub(1) > 2048 {
        found.invalid(
            &searches_at,
            json!(searches),
            "must not have more than 2048 characters (including spaces) in the search list",
        );
    }
    for (index, search) in searches
        .iter()
        .enumerate()
        .filter(|(_, search)| *search != ".")
    {
        let search = search.strip_suffix('.').unwrap_or(search);
        found.faults(
            &searches_at.index(index),
            search,
            names::dns_subdomain_with_underscore(search),
        );
    }
    for (index, option) in config.options.iter().flatten().enumerate() {
        if text(&option.name).is_none() {
            found.required(&at.child("options").index(index), "must not be empty");
        }
    }
}

fn host_aliases(found: &mut Found, aliases: &[HostAlias], at: &At) {
    for (index, alias) in aliases.iter().enumerate() {
        let at = at.index(index);
        found.faults(&at.child("ip"), &alias.ip, names::ip(&alias.ip));
        for (index, name) in alias.hostnames.iter().flatten().enumerate() {
            found.faults(
                &at.child("hostnames").index(index),
                name,
                names::dns_subdomain(name),
            );
        }
    }
}
