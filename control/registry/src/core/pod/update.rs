//! What may change in a pod once it exists: images, a shorter deadline, more tolerations, little else.
//!
//! Follows `ValidatePodUpdate` of `pkg/apis/core/validation`.

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, Toleration};
use serde_json::{Value, json};

use super::placement;
use crate::found::{At, Found, text};
use crate::names;

const CHANGEABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
const MIRROR: &str = "kubernetes.io/config.mirror";

pub fn validate(found: &mut Found, new: &Pod, old: &Pod) {
    mirror(found, new, old);
    let (Some(new), Some(old)) = (&new.spec, &old.spec) else {
        return;
    };
    let at = At::Root.child("spec");
    if !containers(
        found,
        &new.containers,
        &old.containers,
        &at.child("containers"),
    ) || !containers(
        found,
        new.init_containers.as_deref().unwrap_or_default(),
        old.init_containers.as_deref().unwrap_or_default(),
        &at.child("initContainers"),
    ) || !deadline(
        found,
        new.active_deadline_seconds,
        old.active_deadline_seconds,
        &at.child("activeDeadlineSeconds"),
    ) {
        return;
    }
    tolerations(
        found,
        new.tolerations.as_deref().unwrap_or_default(),
        old.tolerations.as_deref().unwrap_or_default(),
        &at.child("tolerations"),
    );
    gates(found, new, old, &at.child("schedulingGates"));
    if new == old {
        return;
    }
    let mut munged = new.clone();
    for (container, before) in munged.containers.iter_mut().zip(&old.containers) {
        container.image.clone_from(&before.image);
    }
    for (container, before) in munged
        .init_containers
        .iter_mut()
        .flatten()
        .zip(old.init_containers.iter().flatten())
    {
        container.image.clone_from(&before.image);
    }
    munged.active_deadline_seconds = old.active_deadline_seconds;
    munged.scheduling_gates.clone_from(&old.scheduling_gates);
    munged.tolerations.clone_from(&old.tolerations);
    if old
        .termination_grace_period_seconds
        .is_some_and(|seconds| seconds < 0)
        && munged.termination_grace_period_seconds == Some(1)
    {
        munged.termination_grace_period_seconds = old.termination_grace_period_seconds;
    }
    if old
        .scheduling_gates
        .as_ref()
        .is_some_and(|gates| !gates.is_empty())
    {
        gated(found, &mut munged, old, &at);
    }
    if munged != *old {
        found.forbidden(
            &at,
            format!(
                "pod updates may not change fields other than {CHANGEABLE}\n{}",
                difference(old, &munged)
            ),
        );
    }
}

fn mirror(found: &mut Found, new: &Pod, old: &Pod) {
    let value = |pod: &Pod| {
        pod.metadata
            .annotations
            .as_ref()
            .and_then(|set| set.get(MIRROR))
            .cloned()
    };
    let said = match (value(new), value(old)) {
        (new, old) if new == old => return,
        (_, None) => "may not add mirror pod annotation",
        _ => "may not remove or update mirror pod annotation",
    };
    found.forbidden(
        &At::Root.child("metadata").child("annotations").key(MIRROR),
        said,
    );
}

/// False: they cannot even be compared one by one.
fn containers(found: &mut Found, new: &[Container], old: &[Container], at: &At) -> bool {
    if new.len() != old.len() {
        found.forbidden(at, "pod updates may not add or remove containers");
        return false;
    }
    for (index, container) in new.iter().enumerate() {
        if text(&container.image).is_none() {
            found.required(&at.index(index).child("image"), "");
        }
    }
    true
}

fn deadline(found: &mut Found, new: Option<i64>, old: Option<i64>, at: &At) -> bool {
    match (new, old) {
        (Some(new), _) if !(0..=i64::from(i32::MAX)).contains(&new) => {
            found.invalid(at, new, names::inclusive_range(0, i64::from(i32::MAX)));
            false
        }
        (Some(new), Some(old)) if old < new => {
            found.invalid(at, new, "must be less than or equal to previous value");
            false
        }
        (None, Some(_)) => {
            found.invalid(
                at,
                Value::Null,
                "must not update from a positive integer to nil value",
            );
            true
        }
        _ => true,
    }
}

fn tolerations(found: &mut Found, new: &[Toleration], old: &[Toleration], at: &At) {
    let kept = |before: &Toleration| {
        new.iter().any(|after| {
            Toleration {
                toleration_seconds: after.toleration_seconds,
                ..before.clone()
            } == *after
        })
    };
    if !old.iter().all(kept) {
        return found.forbidden(
            at,
            "existing toleration can not be modified except its tolerationSeconds",
        );
    }
    placement::validate_tolerations(found, new, at);
}

fn gates(found: &mut Found, new: &PodSpec, old: &PodSpec, at: &At) {
    for (index, gate) in new.scheduling_gates.iter().flatten().enumerate() {
        if !old
            .scheduling_gates
            .iter()
            .flatten()
            .any(|before| before.name == gate.name)
        {
            let said = format!(
                "only deletion is allowed, but found new scheduling gate '{}'",
                gate.name
            );
            found.forbidden(&at.index(index).child("name"), said);
        }
    }
}

/// What is not scheduled yet may still be narrowed.
fn gated(found: &mut Found, munged: &mut PodSpec, old: &PodSpec, at: &At) {
    if munged.node_selector != old.node_selector {
        let kept = |(key, value): (&String, &String)| {
            munged.node_selector.as_ref().and_then(|new| new.get(key)) == Some(value)
        };
        if !old.node_selector.iter().flatten().all(kept) {
            found.invalid(
                &at.child("nodeSelector"),
                json!(munged.node_selector),
                "only additions to spec.nodeSelector are allowed (no mutations or deletions)",
            );
        }
        munged.node_selector.clone_from(&old.node_selector);
    }
    let required = |spec: &PodSpec| {
        spec.affinity
            .as_ref()
            .and_then(|affinity| affinity.node_affinity.as_ref())
            .and_then(|affinity| {
                affinity
                    .required_during_scheduling_ignored_during_execution
                    .clone()
            })
    };
    let (before, after) = (required(old), required(munged));
    if before != after
        && let Some(before) = before
        && !before.node_selector_terms.is_empty()
    {
        let at = at
            .child("affinity")
            .child("nodeAffinity")
            .path()
            .child("requiredDuringSchedulingIgnoredDuringExecution")
            .child("nodeSelectorTerms");
        let terms = after
            .map(|after| after.node_selector_terms)
            .unwrap_or_default();
        if terms.len() != before.node_selector_terms.len() {
            let said = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
            found.push(caravel_api::FieldError::invalid(&at, json!(terms), said));
        } else {
            for (index, (new, old)) in terms.iter().zip(&before.node_selector_terms).enumerate() {
                let kept = old.match_expressions.iter().flatten().all(|rule| {
                    new.match_expressions
                        .iter()
                        .flatten()
                        .any(|other| other == rule)
                }) && old
                    .match_fields
                    .iter()
                    .flatten()
                    .all(|rule| new.match_fields.iter().flatten().any(|other| other == rule));
                if !kept {
                    let said = "only additions are allowed (no mutations or deletions)";
                    found.push(caravel_api::FieldError::invalid(
                        &at.index(index),
                        json!(new),
                        said,
                    ));
                }
            }
        }
    }
    let old_nodes = old
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.clone());
    match &mut munged.affinity {
        Some(affinity) => {
            affinity.node_affinity = old_nodes;
            let empty = affinity.node_affinity.is_none()
                && affinity.pod_affinity.is_none()
                && affinity.pod_anti_affinity.is_none();
            if empty && old.affinity.is_none() {
                munged.affinity = None;
            }
        }
        None if old_nodes.is_some() => munged.affinity.clone_from(&old.affinity),
        None => {}
    }
}

/// The members that differ, one a line, old and new.
fn difference(old: &PodSpec, new: &PodSpec) -> String {
    let mut lines = Vec::new();
    compare("spec", &json!(old), &json!(new), &mut lines);
    lines.truncate(20);
    lines.join("\n")
}

fn compare(path: &str, old: &Value, new: &Value, lines: &mut Vec<String>) {
    match (old, new) {
        _ if old == new => {}
        (Value::Object(a), Value::Object(b)) => {
            let mut names: Vec<&String> = a.keys().chain(b.keys()).collect();
            names.sort();
            names.dedup();
            for name in names {
                compare(
                    &format!("{path}.{name}"),
                    a.get(name).unwrap_or(&Value::Null),
                    b.get(name).unwrap_or(&Value::Null),
                    lines,
                );
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (a, b)) in a.iter().zip(b).enumerate() {
                compare(&format!("{path}[{index}]"), a, b, lines);
            }
        }
        _ => {
            if !old.is_null() {
                lines.push(format!("- {path}: {old}"));
            }
            if !new.is_null() {
                lines.push(format!("+ {path}: {new}"));
            }
        }
    }
}
