//! Giving a pod to a node.
//!
//! Follows `pkg/registry/core/pod/storage` (`setPodHostAndAnnotations`) and `ValidatePodBinding`.

use std::collections::BTreeMap;

use caravel_api::FieldErrors;
use k8s_openapi::api::core::v1::{Binding, Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use thiserror::Error;

use crate::found::{At, Found, text};

/// Why a pod cannot be given to a node; a conflict to the caller.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CannotBind {
    #[error("pod {0} is being deleted, cannot be assigned to a host")]
    Deleted(String),
    #[error("pod {pod} is already assigned to node \"{node}\"")]
    Assigned { pod: String, node: String },
    #[error("pod {0} has non-empty .spec.schedulingGates")]
    Gated(String),
}

/// What is wrong with a binding.
pub fn validate(binding: &Binding) -> FieldErrors {
    let mut found = Found::new();
    let at = At::Root.child("target");
    if let Some(kind) = text(&binding.target.kind).filter(|kind| *kind != "Node") {
        found.not_supported(&at.child("kind"), kind, &["<empty>", "Node"]);
    }
    if text(&binding.target.name).is_none() {
        found.required(&at.child("name"), "");
    }
    found.into_errors()
}

/// Gives `pod` to `node`: its name, the binding's annotations and labels, and the condition `PodScheduled`.
pub fn assign(
    pod: &mut Pod,
    node: &str,
    labels: Option<&BTreeMap<String, String>>,
    annotations: Option<&BTreeMap<String, String>>,
    now: Time,
) -> Result<(), CannotBind> {
    let name = || pod.metadata.name.clone().unwrap_or_default();
    if pod.metadata.deletion_timestamp.is_some() {
        return Err(CannotBind::Deleted(name()));
    }
    let spec = pod.spec.clone().unwrap_or_default();
    if let Some(node) = text(&spec.node_name) {
        return Err(CannotBind::Assigned { pod: name(), node: node.to_owned() });
    }
    if spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty()) {
        return Err(CannotBind::Gated(name()));
    }
    pod.spec.get_or_insert_default().node_name = Some(node.to_owned());
    for (into, from) in [(&mut pod.metadata.annotations, annotations), (&mut pod.metadata.labels, labels)] {
        if let Some(from) = from.filter(|from| !from.is_empty()) {
            into.get_or_insert_default().extend(from.clone());
        }
    }
    let conditions = pod.status.get_or_insert_default().conditions.get_or_insert_default();
    let scheduled = PodCondition {
        type_: "PodScheduled".to_owned(),
        status: "True".to_owned(),
        last_transition_time: Some(now),
        ..PodCondition::default()
    };
    match conditions.iter_mut().find(|condition| condition.type_ == "PodScheduled") {
        Some(condition) if condition.status == "True" => {}
        Some(condition) => *condition = scheduled,
        None => conditions.push(scheduled),
    }
    if let Some(generation) = &mut pod.metadata.generation {
        *generation += 1;
    }
    Ok(())
}
