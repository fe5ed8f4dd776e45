//! Services. Addresses and node ports are allocated by the API server's admission, before validation.
//!
//! Follows `pkg/registry/core/service/strategy.go`, `pkg/apis/core/v1/defaults.go` and `ValidateService*` of
//! `pkg/apis/core/validation`.

mod addresses;

use std::collections::BTreeSet;

use caravel_api::FieldErrors;
use k8s_openapi::api::core::v1::{
    ClientIPConfig, LoadBalancerStatus, Service, ServicePort, ServiceSpec, ServiceStatus,
    SessionAffinityConfig,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::json;

use super::endpoints::non_special_ip;
use super::pod::container::PROTOCOLS;
use super::pod::probe;
use crate::found::{At, Found, default_text, drop_zero, text};
use crate::labels;
use crate::meta::NameRule;
use crate::names;
use crate::strategy::Strategy;

/// Three hours.
const AFFINITY_SECONDS: i32 = 10_800;
const AFFINITY_SECONDS_MAX: i32 = 86_400;
const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const POLICIES: &[&str] = &["Cluster", "Local"];
const DISTRIBUTIONS: &[&str] = &["PreferClose", "PreferSameNode", "PreferSameZone"];
const BALANCER_ONLY: &str = "may only be used when `type` is 'LoadBalancer'";

impl Strategy for Service {
    const NAME: NameRule = NameRule::Dns1035Label;
    const FIELDS: &'static [&'static str] = &["spec.clusterIP", "spec.type"];

    fn normalise(&mut self) {
        let spec = self.spec.get_or_insert_default();
        for member in [
            &mut spec.cluster_ip,
            &mut spec.external_name,
            &mut spec.external_traffic_policy,
            &mut spec.load_balancer_ip,
            &mut spec.session_affinity,
            &mut spec.type_,
        ] {
            drop_zero(member);
        }
        drop_zero(&mut spec.publish_not_ready_addresses);
        drop_zero(&mut spec.health_check_node_port);
        for port in spec.ports.iter_mut().flatten() {
            drop_zero(&mut port.name);
            drop_zero(&mut port.protocol);
            drop_zero(&mut port.node_port);
        }
        spec.selector = spec.selector.take().filter(|selector| !selector.is_empty());
    }

    fn apply_defaults(&mut self) {
        let spec = self.spec.get_or_insert_default();
        default_text(&mut spec.session_affinity, "None");
        match spec.session_affinity.as_deref() {
            Some("None") => spec.session_affinity_config = None,
            Some("ClientIP") => {
                let client = spec
                    .session_affinity_config
                    .get_or_insert_with(SessionAffinityConfig::default);
                let client = client.client_ip.get_or_insert_with(ClientIPConfig::default);
                client.timeout_seconds.get_or_insert(AFFINITY_SECONDS);
            }
            _ => {}
        }
        default_text(&mut spec.type_, "ClusterIP");
        for port in spec.ports.iter_mut().flatten() {
            default_text(&mut port.protocol, "TCP");
            let unset = match &port.target_port {
                None | Some(IntOrString::Int(0)) => true,
                Some(IntOrString::String(name)) => name.is_empty(),
                Some(IntOrString::Int(_)) => false,
            };
            if unset {
                port.target_port = Some(IntOrString::Int(port.port));
            }
        }
        if externally_accessible(spec) {
            default_text(&mut spec.external_traffic_policy, "Cluster");
        }
        if spec.type_.as_deref() != Some("ExternalName") {
            default_text(&mut spec.internal_traffic_policy, "Cluster");
        }
        if is_balancer(spec) {
            spec.allocate_load_balancer_node_ports.get_or_insert(true);
        }
    }

    fn prepare_create(&mut self) {
        self.status = Some(ServiceStatus {
            load_balancer: Some(LoadBalancerStatus::default()),
            ..ServiceStatus::default()
        });
        addresses::pair(self.spec.get_or_insert_default());
    }

    fn prepare_update(&mut self, old: &Self) {
        self.status.clone_from(&old.status);
        if let (Some(new), Some(old)) = (&mut self.spec, &old.spec) {
            addresses::carry(new, old);
            drop_what_the_type_lost(new, old);
        }
    }

    fn prepare_status(&mut self, old: &Self) {
        self.spec.clone_from(&old.spec);
    }

    fn validate(&self) -> FieldErrors {
        let mut found = Found::new();
        if let Some(spec) = &self.spec {
            validate_spec(&mut found, spec, &At::Root.child("spec"));
        }
        found.into_errors()
    }

    fn validate_update(&self, old: &Self) -> FieldErrors {
        let mut found = Found::new();
        if let (Some(new), Some(old)) = (&self.spec, &old.spec) {
            let at = At::Root.child("spec");
            addresses::validate_change(&mut found, new, old, &at);
            if is_balancer(new)
                && is_balancer(old)
                && new.load_balancer_class != old.load_balancer_class
            {
                found.invalid(
                    &at.child("loadBalancerClass"),
                    json!(new.load_balancer_class),
                    "may not change once set",
                );
            }
            if needs_health_check(new)
                && needs_health_check(old)
                && new.health_check_node_port != old.health_check_node_port
            {
                found.forbidden(&at.child("healthCheckNodePort"), "field is immutable");
            }
        }
        let mut errors = found.into_errors();
        errors.extend(self.validate());
        errors
    }

    fn validate_status(&self, _: &Self) -> FieldErrors {
        let mut found = Found::new();
        let at = At::Root.child("status");
        let at = at.child("loadBalancer");
        let status = self
            .status
            .as_ref()
            .and_then(|status| status.load_balancer.as_ref());
        let ingress = status
            .and_then(|status| status.ingress.as_deref())
            .unwrap_or_default();
        if !ingress.is_empty() && !self.spec.as_ref().is_some_and(is_balancer) {
            found.forbidden(
                &at.child("ingress"),
                "may only be used when `spec.type` is 'LoadBalancer'",
            );
        }
        for (index, ingress) in ingress.iter().enumerate() {
            let at = at.child("ingress");
            let at = at.index(index);
            if let Some(ip) = text(&ingress.ip) {
                found.faults(&at.child("ip"), ip, names::ip(ip));
            }
            if let Some(name) = text(&ingress.hostname) {
                found.faults(&at.child("hostname"), name, names::dns_subdomain(name));
            }
        }
        found.into_errors()
    }

    fn warnings(&self, _: Option<&Self>) -> Vec<String> {
        let mut warnings = Vec::new();
        let Some(spec) = &self.spec else {
            return warnings;
        };
        if spec.load_balancer_ip.is_some() {
            warnings.push("spec.loadBalancerIP is ignored by many load balancers; its use is deprecated since v1.24".to_owned());
        }
        if spec.cluster_ip.as_deref() == Some("None")
            && spec.session_affinity.as_deref() == Some("ClientIP")
        {
            warnings.push("spec.SessionAffinity is ignored for headless services".to_owned());
        }
        warnings
    }

    fn field(&self, path: &str) -> Option<String> {
        let spec = self.spec.as_ref();
        let value = match path {
            "spec.clusterIP" => spec.and_then(|spec| spec.cluster_ip.clone()),
            "spec.type" => spec.and_then(|spec| spec.type_.clone()),
            _ => return None,
        };
        Some(value.unwrap_or_default())
    }
}

fn is_balancer(spec: &ServiceSpec) -> bool {
    spec.type_.as_deref() == Some("LoadBalancer")
}

fn externally_accessible(spec: &ServiceSpec) -> bool {
    matches!(spec.type_.as_deref(), Some("LoadBalancer" | "NodePort"))
        || (spec.type_.as_deref() == Some("ClusterIP")
            && spec
                .external_ips
                .as_ref()
                .is_some_and(|ips| !ips.is_empty()))
}

fn needs_health_check(spec: &ServiceSpec) -> bool {
    is_balancer(spec) && spec.external_traffic_policy.as_deref() == Some("Local")
}

/// A change of type takes along what only the old type had, unless the writer says something new there.
fn drop_what_the_type_lost(new: &mut ServiceSpec, old: &ServiceSpec) {
    if externally_accessible(old)
        && !externally_accessible(new)
        && new.external_traffic_policy == old.external_traffic_policy
    {
        new.external_traffic_policy = None;
    }
    if needs_health_check(old)
        && !needs_health_check(new)
        && new.health_check_node_port == old.health_check_node_port
    {
        new.health_check_node_port = None;
    }
    if is_balancer(old) && !is_balancer(new) {
        if new.allocate_load_balancer_node_ports == old.allocate_load_balancer_node_ports {
            new.allocate_load_balancer_node_ports = None;
        }
        if new.load_balancer_class == old.load_balancer_class {
            new.load_balancer_class = None;
        }
    }
    if old.type_.as_deref() == Some("ExternalName")
        && new.type_.as_deref() != Some("ExternalName")
        && new.external_name == old.external_name
    {
        new.external_name = None;
    }
}

fn validate_spec(found: &mut Found, spec: &ServiceSpec, at: &At) {
    let kind = spec.type_.as_deref().unwrap_or_default();
    let headless = addresses::is_headless(spec);
    let ports = spec.ports.as_deref().unwrap_or_default();
    if ports.is_empty() && !headless && kind != "ExternalName" {
        found.required(&at.child("ports"), "");
    }
    match kind {
        "LoadBalancer" | "NodePort" if headless => {
            found.invalid(
                &at.child("clusterIPs").index(0),
                "None",
                format!("may not be set to 'None' for {kind} services"),
            );
        }
        "ExternalName" => external_name(found, spec, at),
        _ => {}
    }
    validate_ports(found, ports, kind, &at.child("ports"));
    if let Some(selector) = &spec.selector {
        labels::validate(found, selector, &at.child("selector"));
    }
    session_affinity(found, spec, at);
    addresses::validate(found, spec, at);
    for (index, ip) in spec.external_ips.iter().flatten().enumerate() {
        non_special_ip(found, ip, &at.child("externalIPs").index(index));
    }
    found.one_of(&at.child("type"), Some(kind), TYPES);
    let ranges = spec
        .load_balancer_source_ranges
        .as_deref()
        .unwrap_or_default();
    let ranges_at = at.child("LoadBalancerSourceRanges");
    if !ranges.is_empty() && !is_balancer(spec) {
        found.forbidden(&ranges_at, BALANCER_ONLY);
    }
    for (index, range) in ranges.iter().enumerate() {
        found.faults(&ranges_at.index(index), range, names::cidr(range.trim()));
    }
    if spec.allocate_load_balancer_node_ports.is_some() && !is_balancer(spec) {
        found.forbidden(&at.child("allocateLoadBalancerNodePorts"), BALANCER_ONLY);
    }
    if let Some(class) = &spec.load_balancer_class {
        let at = at.child("loadBalancerClass");
        if is_balancer(spec) {
            found.faults(&at, class, names::qualified_name(class));
        } else {
            found.forbidden(&at, BALANCER_ONLY);
        }
    }
    traffic(found, spec, kind, at);
}

fn external_name(found: &mut Found, spec: &ServiceSpec, at: &At) {
    for (name, there) in [
        (
            "clusterIPs",
            spec.cluster_ips.as_ref().is_some_and(|ips| !ips.is_empty()),
        ),
        (
            "ipFamilies",
            spec.ip_families
                .as_ref()
                .is_some_and(|families| !families.is_empty()),
        ),
        ("ipFamilyPolicy", spec.ip_family_policy.is_some()),
    ] {
        if there {
            found.forbidden(&at.child(name), "may not be set for ExternalName services");
        }
    }
    let name = spec.external_name.as_deref().unwrap_or_default();
    let name = name.strip_suffix('.').unwrap_or(name);
    let at = at.child("externalName");
    if name.is_empty() {
        found.required(&at, "");
    } else {
        found.faults(&at, name, names::dns_subdomain(name));
    }
}

fn validate_ports(found: &mut Found, ports: &[ServicePort], kind: &str, at: &At) {
    let (mut seen_names, mut seen_ports, mut seen_node_ports) =
        (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (index, port) in ports.iter().enumerate() {
        let at = at.index(index);
        let protocol = port.protocol.as_deref().unwrap_or_default();
        match text(&port.name) {
            None if ports.len() > 1 => found.required(&at.child("name"), ""),
            None => {}
            Some(name) => {
                found.faults(&at.child("name"), name, names::dns_label(name));
                if !seen_names.insert(name) {
                    found.duplicate(&at.child("name"), name);
                }
            }
        }
        found.number_faults(
            &at.child("port"),
            i64::from(port.port),
            names::port_number(port.port),
        );
        found.one_of(&at.child("protocol"), Some(protocol), PROTOCOLS);
        if let Some(target) = &port.target_port {
            probe::port(found, target, &at.child("targetPort"));
        }
        if let Some(name) = &port.app_protocol {
            found.faults(&at.child("appProtocol"), name, names::qualified_name(name));
        }
        if let Some(number) = port.node_port.filter(|number| *number != 0) {
            let at = at.child("nodePort");
            if kind == "ClusterIP" {
                found.forbidden(&at, "may not be used when `type` is 'ClusterIP'");
            }
            if !seen_node_ports.insert((protocol, number)) {
                found.duplicate(&at, number);
            }
        }
        if !seen_ports.insert((protocol, port.port)) {
            found.duplicate(&at, json!({"port": port.port, "protocol": protocol}));
        }
    }
}

fn session_affinity(found: &mut Found, spec: &ServiceSpec, at: &At) {
    let affinity = spec.session_affinity.as_deref();
    found.one_of(
        &at.child("sessionAffinity"),
        affinity,
        &["ClientIP", "None"],
    );
    let at = at.child("sessionAffinityConfig");
    match (affinity, &spec.session_affinity_config) {
        (Some("ClientIP"), None) => found.required(&at, "when session affinity type is ClientIP"),
        (Some("ClientIP"), Some(config)) => {
            let at = at.child("clientIP");
            let seconds_at = at.child("timeoutSeconds");
            match config
                .client_ip
                .as_ref()
                .map(|client| client.timeout_seconds)
            {
                None => found.required(&at, "when session affinity type is ClientIP"),
                Some(None) => found.required(&seconds_at, "when session affinity type is ClientIP"),
                Some(Some(seconds)) if !(1..=AFFINITY_SECONDS_MAX).contains(&seconds) => {
                    found.invalid(
                        &seconds_at,
                        seconds,
                        format!("must be greater than 0 and less than {AFFINITY_SECONDS_MAX}"),
                    );
                }
                Some(Some(_)) => {}
            }
        }
        (Some("None"), Some(_)) => {
            found.forbidden(&at, "must not be set when session affinity is None")
        }
        _ => {}
    }
}

fn traffic(found: &mut Found, spec: &ServiceSpec, kind: &str, at: &At) {
    let external_at = at.child("externalTrafficPolicy");
    match (
        externally_accessible(spec),
        text(&spec.external_traffic_policy),
    ) {
        (false, Some(policy)) => found.invalid(
            &external_at,
            policy,
            "may only be set for externally-accessible services",
        ),
        (true, policy) => found.one_of(&external_at, policy, POLICIES),
        (false, None) => {}
    }
    if let Some(port) = spec.health_check_node_port.filter(|port| *port != 0) {
        let at = at.child("healthCheckNodePort");
        if needs_health_check(spec) {
            found.number_faults(&at, i64::from(port), names::port_number(port));
        } else {
            found.invalid(&at, port, "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'");
        }
    }
    let internal = text(&spec.internal_traffic_policy);
    if internal.is_some() || matches!(kind, "ClusterIP" | "LoadBalancer" | "NodePort") {
        found.one_of(&at.child("internalTrafficPolicy"), internal, POLICIES);
    }
    if let Some(distribution) = spec
        .traffic_distribution
        .as_deref()
        .filter(|distribution| !DISTRIBUTIONS.contains(distribution))
    {
        found.not_supported(
            &at.child("trafficDistribution"),
            distribution,
            DISTRIBUTIONS,
        );
    }
}

#[cfg(test)]
mod tests;
