//! A Service's addresses and their families: `clusterIP` and the first of `clusterIPs` are one, and stay.
//!
//! Follows `NormalizeClusterIPs` of `pkg/registry/core/service/storage` and `ValidateServiceClusterIPsRelatedFields`.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::ServiceSpec;
use serde_json::json;

use crate::found::{At, Found, text};
use crate::names;

pub fn is_headless(spec: &ServiceSpec) -> bool {
    spec.cluster_ip.as_deref() == Some("None")
        || spec
            .cluster_ips
            .as_ref()
            .is_some_and(|ips| ips.len() == 1 && ips[0] == "None")
}

fn list(spec: &ServiceSpec) -> &[String] {
    spec.cluster_ips.as_deref().unwrap_or_default()
}

/// A writer may give either form.
pub fn pair(spec: &mut ServiceSpec) {
    match (text(&spec.cluster_ip), list(spec)) {
        (Some(ip), []) => spec.cluster_ips = Some(vec![ip.to_owned()]),
        (None, [first, ..]) => spec.cluster_ip = Some(first.clone()),
        _ => {}
    }
}

/// A writer who says nothing keeps what was; one who changes one form means both.
pub fn carry(new: &mut ServiceSpec, old: &ServiceSpec) {
    if new.type_.as_deref() == Some("ExternalName") {
        if list(new) == list(old) {
            (new.cluster_ip, new.cluster_ips) = (None, None);
        }
        if new.ip_families == old.ip_families {
            new.ip_families = None;
        }
        if new.ip_family_policy == old.ip_family_policy {
            new.ip_family_policy = None;
        }
        return;
    }
    if old.type_.as_deref() == Some("ExternalName") {
        return pair(new);
    }
    let changed = new.cluster_ip != old.cluster_ip;
    if text(&new.cluster_ip).is_none() && list(new).is_empty() {
        new.cluster_ip.clone_from(&old.cluster_ip);
        new.cluster_ips.clone_from(&old.cluster_ips);
    } else if changed && list(new) == list(old) {
        new.cluster_ips = text(&new.cluster_ip).map(|ip| vec![ip.to_owned()]);
    }
    pair(new);
    if new.ip_families.is_none() {
        new.ip_families.clone_from(&old.ip_families);
    }
    if new.ip_family_policy.is_none() {
        new.ip_family_policy.clone_from(&old.ip_family_policy);
    }
}

pub fn validate(found: &mut Found, spec: &ServiceSpec, at: &At) {
    if spec.type_.as_deref() == Some("ExternalName") {
        return;
    }
    let ips = list(spec);
    let ips_at = at.child("clusterIPs");
    match (text(&spec.cluster_ip), ips.first()) {
        (Some(_), None) => found.required(&ips_at, ""),
        (Some(ip), Some(first)) if ip != first => {
            found.invalid(&ips_at, json!(ips), "first value must match `clusterIP`")
        }
        (None, Some(_)) => found.invalid(
            &ips_at,
            json!(ips),
            "must be empty when `clusterIP` is not specified",
        ),
        _ => {}
    }
    let families = spec.ip_families.as_deref().unwrap_or_default();
    let mut seen = BTreeSet::new();
    for (index, family) in families.iter().enumerate() {
        let at = at.child("ipFamilies");
        let at = at.index(index);
        if !matches!(family.as_str(), "IPv4" | "IPv6") {
            found.not_supported(&at, family.as_str(), &["IPv4", "IPv6"]);
        }
        if !seen.insert(family) {
            found.duplicate(&at, family.as_str());
        }
    }
    if let Some(policy) = spec.ip_family_policy.as_deref() {
        const POLICIES: &[&str] = &["PreferDualStack", "RequireDualStack", "SingleStack"];
        if !POLICIES.contains(&policy) {
            found.not_supported(&at.child("ipFamilyPolicy"), policy, POLICIES);
        }
    }
    let before = found.len();
    for (index, ip) in ips.iter().enumerate() {
        if index == 0 && ip == "None" {
            if ips.len() > 1 {
                found.invalid(
                    &ips_at,
                    json!(ips),
                    "'None' must be the first and only value",
                );
            }
            continue;
        }
        found.faults(&ips_at.index(index), ip, names::ip(ip));
    }
    if ips.len() > 2 {
        found.invalid(&ips_at, json!(ips), "may only hold up to 2 values");
    }
    if found.len() > before {
        return;
    }
    let six: Vec<bool> = ips
        .iter()
        .map(|ip| ip.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6()))
        .collect();
    if six.len() > 1 && six[0] == six[1] {
        found.invalid(
            &ips_at,
            json!(ips),
            "may specify no more than one IP for each IP family",
        );
    }
    if !is_headless(spec) {
        for (index, (ip, family)) in ips.iter().zip(families).enumerate() {
            if (family == "IPv6") != six[index] {
                found.invalid(
                    &ips_at.index(index),
                    ip.as_str(),
                    format!("expected an {family} value as indicated by `ipFamilies[{index}]`"),
                );
            }
        }
    }
}

/// The first address and family stay; a second may come and go.
pub fn validate_change(found: &mut Found, new: &ServiceSpec, old: &ServiceSpec, at: &At) {
    let external = |spec: &ServiceSpec| spec.type_.as_deref() == Some("ExternalName");
    if external(new) || external(old) {
        return;
    }
    let single = new.ip_family_policy.as_deref() == Some("SingleStack");
    let mut members = Vec::new();
    if !(is_headless(new) && is_headless(old)) {
        members.push(("clusterIPs", "clusterIP", list(new), list(old)));
    }
    if !is_headless(new) && !is_headless(old) {
        let families = |spec: &'_ ServiceSpec| spec.ip_families.clone().unwrap_or_default();
        let (after, before) = (families(new), families(old));
        compare(found, "ipFamilies", "ipFamily", &after, &before, single, at);
    }
    for (name, singular, after, before) in members {
        compare(found, name, singular, after, before, single, at);
    }
}

fn compare(
    found: &mut Found,
    name: &str,
    singular: &str,
    new: &[String],
    old: &[String],
    single: bool,
    at: &At,
) {
    let list_at = at.child(name);
    if new.is_empty() && !old.is_empty() {
        found.invalid(
            &list_at.index(0),
            json!(new),
            format!("primary {singular} can not be unset"),
        );
    }
    for (index, (after, before)) in new.iter().zip(old).enumerate() {
        if after != before {
            found.invalid(&list_at.index(index), json!(new), "may not change once set");
        }
    }
    if new.len() == 1 && old.len() > 1 && !single {
        found.invalid(
            &at.child("ipFamilyPolicy"),
            serde_json::Value::Null,
            format!("must be set to 'SingleStack' when releasing the secondary {singular}"),
        );
    }
}
