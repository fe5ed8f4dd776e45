//! What is wrong with where a pod wants to run: affinity, tolerations, spreading, scheduling gates.
//!
//! Follows `validateAffinity`, `ValidateTolerations`, `validateTopologySpreadConstraints` of
//! `pkg/apis/core/validation`.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{
    Affinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodAffinityTerm,
    PodSchedulingGate, Toleration, TopologySpreadConstraint, WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::found::{At, Found, text};
use crate::labels;
use crate::names;

pub const EFFECTS: &[&str] = &["NoExecute", "NoSchedule", "PreferNoSchedule"];
const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

pub fn validate_affinity(found: &mut Found, affinity: &Affinity, at: &At) {
    if let Some(node) = &affinity.node_affinity {
        let at = at.child("nodeAffinity");
        if let Some(selector) = &node.required_during_scheduling_ignored_during_execution {
            validate_node_selector(found, selector, &at.child(REQUIRED));
        }
        for (index, term) in node
            .preferred_during_scheduling_ignored_during_execution
            .iter()
            .flatten()
            .enumerate()
        {
            let list = at.child(PREFERRED);
            let at = list.index(index);
            weight(found, term.weight, &at);
            node_term(found, &term.preference, false, &at.child("preference"));
        }
    }
    if let Some(pods) = &affinity.pod_affinity {
        let at = at.child("podAffinity");
        pod_terms(
            found,
            pods.required_during_scheduling_ignored_during_execution
                .as_deref(),
            &at.child(REQUIRED),
        );
        weighted(
            found,
            pods.preferred_during_scheduling_ignored_during_execution
                .as_deref(),
            &at.child(PREFERRED),
        );
    }
    if let Some(pods) = &affinity.pod_anti_affinity {
        let at = at.child("podAntiAffinity");
        pod_terms(
            found,
            pods.required_during_scheduling_ignored_during_execution
                .as_deref(),
            &at.child(REQUIRED),
        );
        weighted(
            found,
            pods.preferred_during_scheduling_ignored_during_execution
                .as_deref(),
            &at.child(PREFERRED),
        );
    }
}

fn weight(found: &mut Found, weight: i32, at: &At) {
    if !(1..=100).contains(&weight) {
        found.invalid(&at.child("weight"), weight, "must be in the range 1-100");
    }
}

fn validate_node_selector(found: &mut Found, selector: &NodeSelector, at: &At) {
    let at = at.child("nodeSelectorTerms");
    if selector.node_selector_terms.is_empty() {
        found.required(&at, "must have at least one node selector term");
    }
    for (index, term) in selector.node_selector_terms.iter().enumerate() {
        node_term(found, term, true, &at.index(index));
    }
}

fn node_term(found: &mut Found, term: &NodeSelectorTerm, strict: bool, at: &At) {
    for (index, rule) in term.match_expressions.iter().flatten().enumerate() {
        node_rule(
            found,
            rule,
            strict,
            &at.child("matchExpressions").index(index),
        );
    }
    for (index, rule) in term.match_fields.iter().flatten().enumerate() {
        let list = at.child("matchFields");
        let at = list.index(index);
        let values = rule.values.as_deref().unwrap_or_default();
        if !matches!(rule.operator.as_str(), "In" | "NotIn") {
            found.invalid(
                &at.child("operator"),
                rule.operator.as_str(),
                "not a valid selector operator",
            );
        } else if values.len() != 1 {
            found.required(
                &at.child("values"),
                "must be only one value when `operator` is 'In' or 'NotIn' for node field selector",
            );
        }
        if rule.key == "metadata.name" {
            for (index, value) in values.iter().enumerate() {
                found.faults(
                    &at.child("values").index(index),
                    value,
                    names::dns_subdomain(value),
                );
            }
        } else {
            found.invalid(
                &at.child("key"),
                rule.key.as_str(),
                "not a valid field selector key",
            );
        }
    }
}

fn node_rule(found: &mut Found, rule: &NodeSelectorRequirement, strict: bool, at: &At) {
    let values = rule.values.as_deref().unwrap_or_default();
    let values_at = at.child("values");
    match rule.operator.as_str() {
        "In" | "NotIn" if values.is_empty() => {
            found.required(
                &values_at,
                "must be specified when `operator` is 'In' or 'NotIn'",
            );
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            found.forbidden(
                &values_at,
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            );
        }
        "Gt" | "Lt" if values.len() != 1 => {
            found.required(
                &values_at,
                "must be specified single value when `operator` is 'Lt' or 'Gt'",
            );
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => found.invalid(
            &at.child("operator"),
            other,
            "not a valid selector operator",
        ),
    }
    labels::validate_key(found, &rule.key, &at.child("key"));
    if strict {
        for (index, value) in values.iter().enumerate() {
            found.faults(&values_at.index(index), value, names::label_value(value));
        }
    }
}

fn pod_terms(found: &mut Found, terms: Option<&[PodAffinityTerm]>, at: &At) {
    for (index, term) in terms.unwrap_or_default().iter().enumerate() {
        pod_term(found, term, &at.index(index));
    }
}

fn weighted(found: &mut Found, terms: Option<&[WeightedPodAffinityTerm]>, at: &At) {
    for (index, term) in terms.unwrap_or_default().iter().enumerate() {
        let at = at.index(index);
        weight(found, term.weight, &at);
        pod_term(found, &term.pod_affinity_term, &at.child("podAffinityTerm"));
    }
}

fn pod_term(found: &mut Found, term: &PodAffinityTerm, at: &At) {
    for (name, selector) in [
        ("labelSelector", &term.label_selector),
        ("namespaceSelector", &term.namespace_selector),
    ] {
        if let Some(selector) = selector {
            labels::validate_selector(found, selector, &at.child(name));
        }
    }
    for namespace in term.namespaces.iter().flatten() {
        found.faults(
            &at.child("namespace"),
            namespace,
            names::dns_label(namespace),
        );
    }
    for (name, keys) in [
        ("matchLabelKeys", &term.match_label_keys),
        ("mismatchLabelKeys", &term.mismatch_label_keys),
    ] {
        label_keys(
            found,
            keys.as_deref(),
            term.label_selector.as_ref(),
            &at.child(name),
        );
    }
    for (index, key) in term.match_label_keys.iter().flatten().enumerate() {
        if term
            .mismatch_label_keys
            .iter()
            .flatten()
            .any(|other| other == key)
        {
            found.invalid(
                &at.child("matchLabelKeys").index(index),
                key.as_str(),
                "exists in both matchLabelKeys and mismatchLabelKeys",
            );
        }
    }
    let key_at = at.child("topologyKey");
    if term.topology_key.is_empty() {
        found.required(&key_at, "can not be empty");
    }
    labels::validate_key(found, &term.topology_key, &key_at);
}

fn label_keys(
    found: &mut Found,
    keys: Option<&[String]>,
    selector: Option<&LabelSelector>,
    at: &At,
) {
    let keys = keys.unwrap_or_default();
    if keys.is_empty() {
        return;
    }
    if selector.is_none() {
        return found.forbidden(at, "must not be specified when labelSelector is not set");
    }
    for (index, key) in keys.iter().enumerate() {
        labels::validate_key(found, key, &at.index(index));
    }
}

pub fn validate_tolerations(found: &mut Found, tolerations: &[Toleration], at: &At) {
    for (index, toleration) in tolerations.iter().enumerate() {
        let at = at.index(index);
        let key = text(&toleration.key);
        let operator = toleration.operator.as_deref().unwrap_or_default();
        let value = toleration.value.as_deref().unwrap_or_default();
        let operator_at = at.child("operator");
        match key {
            Some(key) => labels::validate_key(found, key, &at.child("key")),
            None if operator != "Exists" => found.invalid(
                &operator_at,
                operator,
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            ),
            None => {}
        }
        let effect = toleration.effect.as_deref().unwrap_or_default();
        if toleration.toleration_seconds.is_some() && effect != "NoExecute" {
            found.invalid(
                &at.child("effect"),
                effect,
                "effect must be 'NoExecute' when `tolerationSeconds` is set",
            );
        }
        match operator {
            "" | "Equal" => {
                let faults = names::label_value(value);
                if !faults.is_empty() {
                    found.invalid(&operator_at, value, faults.join(";"));
                }
            }
            "Exists" => {
                if !value.is_empty() {
                    found.invalid(
                        &operator_at,
                        value,
                        "value must be empty when `operator` is 'Exists'",
                    );
                }
            }
            other => found.not_supported(&operator_at, other, &["Equal", "Exists"]),
        }
        if !effect.is_empty() && !EFFECTS.contains(&effect) {
            found.not_supported(&at.child("effect"), effect, EFFECTS);
        }
    }
}

pub fn validate_gates(found: &mut Found, gates: &[PodSchedulingGate], at: &At) {
    let mut seen = BTreeSet::new();
    for (index, gate) in gates.iter().enumerate() {
        let at = at.index(index);
        found.faults(&at, &gate.name, names::qualified_name(&gate.name));
        if !seen.insert(gate.name.as_str()) {
            found.duplicate(&at, gate.name.as_str());
        }
    }
}

pub fn validate_spread(found: &mut Found, constraints: &[TopologySpreadConstraint], at: &At) {
    const ACTIONS: &[&str] = &["DoNotSchedule", "ScheduleAnyway"];
    const POLICIES: &[&str] = &["Honor", "Ignore"];
    for (index, constraint) in constraints.iter().enumerate() {
        let at = at.index(index);
        if constraint.max_skew <= 0 {
            found.invalid(
                &at.child("maxSkew"),
                constraint.max_skew,
                "must be greater than zero",
            );
        }
        if constraint.topology_key.is_empty() {
            found.required(&at.child("topologyKey"), "can not be empty");
        }
        let action = constraint.when_unsatisfiable.as_str();
        if !ACTIONS.contains(&action) {
            found.not_supported(&at.child("whenUnsatisfiable"), action, ACTIONS);
        }
        let same = |other: &&TopologySpreadConstraint| {
            other.topology_key == constraint.topology_key
                && other.when_unsatisfiable == constraint.when_unsatisfiable
        };
        if constraints[index + 1..].iter().any(|other| same(&other)) {
            found.duplicate(
                &at.child("{topologyKey, whenUnsatisfiable}"),
                format!("{{{}, {action}}}", constraint.topology_key),
            );
        }
        if let Some(domains) = constraint.min_domains {
            let at = at.child("minDomains");
            if domains <= 0 {
                found.invalid(&at, domains, "must be greater than zero");
            }
            if action != "DoNotSchedule" {
                found.invalid(
                    &at,
                    domains,
                    format!(
                        "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}"
                    ),
                );
            }
        }
        for (name, policy) in [
            ("nodeAffinityPolicy", &constraint.node_affinity_policy),
            ("nodeTaintsPolicy", &constraint.node_taints_policy),
        ] {
            if let Some(policy) = policy
                .as_deref()
                .filter(|policy| !POLICIES.contains(policy))
            {
                found.not_supported(&at.child(name), policy, POLICIES);
            }
        }
        label_keys(
            found,
            constraint.match_label_keys.as_deref(),
            constraint.label_selector.as_ref(),
            &at.child("matchLabelKeys"),
        );
        if let Some(selector) = &constraint.label_selector {
            labels::validate_selector(found, selector, &at.child("labelSelector"));
        }
    }
}
