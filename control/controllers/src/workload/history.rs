//! A Deployment's past: which set is the new one, revisions, what annotations a set carries, which old sets may go.
//!
//! Follows `pkg/controller/deployment/util/deployment_util.go`. Templates are compared; a hash is only ever a name.

use std::collections::BTreeMap;

use caravel_api::generate;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

use crate::workload::claim;

pub const REVISION: &str = "deployment.kubernetes.io/revision";
pub const HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
pub const MAX: &str = "deployment.kubernetes.io/max-replicas";
pub const HASH: &str = "pod-template-hash";
/// Annotations that a set does not take over from its Deployment.
const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    HISTORY,
    DESIRED,
    MAX,
    "deprecated.deployment.rollback.to",
];
/// The longest list of past revisions, in characters.
const HISTORY_MAX: usize = 2000;

pub fn annotation<'a>(metadata: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    metadata.annotations.as_ref()?.get(name).map(String::as_str)
}

pub fn number(set: &ReplicaSet, name: &str) -> Option<i32> {
    annotation(&set.metadata, name)?.parse().ok()
}

pub fn revision(set: &ReplicaSet) -> i64 {
    annotation(&set.metadata, REVISION)
        .and_then(|revision| revision.parse().ok())
        .unwrap_or(0)
}

pub fn created(set: &ReplicaSet) -> Timestamp {
    set.metadata
        .creation_timestamp
        .as_ref()
        .map_or(Timestamp::MAX, |created| created.0)
}

/// Do both ask for the same pods, but for the hash label? Stored templates are normalised, so equality is upstream's.
pub fn same_template(one: &PodTemplateSpec, other: &PodTemplateSpec) -> bool {
    one.spec == other.spec && bare(one) == bare(other)
}

/// A template's metadata as it counts: without the hash, empty maps absent.
fn bare(template: &PodTemplateSpec) -> ObjectMeta {
    let mut metadata = template.metadata.clone().unwrap_or_default();
    if let Some(labels) = &mut metadata.labels {
        labels.remove(HASH);
    }
    metadata.labels = metadata.labels.filter(|labels| !labels.is_empty());
    metadata.annotations = metadata
        .annotations
        .filter(|annotations| !annotations.is_empty());
    metadata.creation_timestamp = None;
    metadata
}

pub fn has_template(set: &ReplicaSet, deployment: &Deployment) -> bool {
    set.spec
        .template
        .as_ref()
        .is_some_and(|template| same_template(template, &deployment.spec.template))
}

/// The hash that names a new set: of the template and how often a name was taken.
pub fn template_hash(template: &PodTemplateSpec, collisions: i32) -> String {
    let text = serde_json::to_string(template).expect("a template has string keys only");
    let bytes = text.bytes().chain(
        collisions
            .to_le_bytes()
            .into_iter()
            .filter(|_| collisions > 0),
    );
    // FNV-1a, 32 bits.
    let hash = bytes.fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    generate::safe_encode(&hash.to_string())
}

/// A set for the Deployment's present template.
pub fn new_set(deployment: &Deployment, replicas: i32) -> ReplicaSet {
    let collisions = deployment
        .status
        .as_ref()
        .and_then(|status| status.collision_count)
        .unwrap_or(0);
    let mut template = deployment.spec.template.clone();
    let hash = template_hash(&template, collisions);
    let labels = template
        .metadata
        .get_or_insert_default()
        .labels
        .get_or_insert_default();
    labels.insert(HASH.to_owned(), hash.clone());
    let labels = labels.clone();
    let mut selector: LabelSelector = deployment.spec.selector.clone();
    selector
        .match_labels
        .get_or_insert_default()
        .insert(HASH.to_owned(), hash.clone());
    let mut set = ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!(
                "{}-{hash}",
                deployment.metadata.name.as_deref().unwrap_or_default()
            )),
            namespace: deployment.metadata.namespace.clone(),
            labels: Some(labels),
            owner_references: Some(vec![claim::controller_reference(deployment)]),
            ..ObjectMeta::default()
        },
        ..ReplicaSet::default()
    };
    set.spec.replicas = Some(replicas);
    set.spec.min_ready_seconds = deployment.spec.min_ready_seconds;
    set.spec.selector = selector;
    set.spec.template = Some(template);
    set
}

/// Annotations of the new set: the Deployment's own (change-cause), the revision and, when it rose, the past ones.
pub fn annotate(set: &mut ReplicaSet, deployment: &Deployment, revision: i64) -> bool {
    let mut changed = false;
    let annotations = set.metadata.annotations.get_or_insert_default();
    for (name, value) in deployment.metadata.annotations.iter().flatten() {
        if !NOT_COPIED.contains(&name.as_str()) && annotations.get(name) != Some(value) {
            annotations.insert(name.clone(), value.clone());
            changed = true;
        }
    }
    let old = annotations.get(REVISION).cloned();
    if old.as_deref().and_then(|old| old.parse().ok()).unwrap_or(0) < revision {
        annotations.insert(REVISION.to_owned(), revision.to_string());
        if let Some(old) = old {
            remember(annotations, old);
        }
        changed = true;
    }
    changed
}

fn remember(annotations: &mut BTreeMap<String, String>, revision: String) {
    let past = annotations.get(HISTORY).cloned().unwrap_or_default();
    let mut all: Vec<&str> = past.split(',').filter(|past| !past.is_empty()).collect();
    all.push(&revision);
    while all.len() > 1 && all.join(",").len() > HISTORY_MAX {
        all.remove(0);
    }
    annotations.insert(HISTORY.to_owned(), all.join(","));
}

/// What the set must know to share in a later scaling.
pub fn annotate_replicas(set: &mut ReplicaSet, desired: i32, max: i32) -> bool {
    let annotations = set.metadata.annotations.get_or_insert_default();
    let (desired, max) = (desired.to_string(), max.to_string());
    if annotations.get(DESIRED) == Some(&desired) && annotations.get(MAX) == Some(&max) {
        return false;
    }
    annotations.insert(DESIRED.to_owned(), desired);
    annotations.insert(MAX.to_owned(), max);
    true
}

/// Old sets beyond `revisionHistoryLimit` that have no pods left, oldest revision first.
pub fn expired<'a>(
    deployment: &Deployment,
    old: impl Iterator<Item = &'a ReplicaSet>,
) -> Vec<&'a ReplicaSet> {
    let mut old: Vec<&ReplicaSet> = old
        .filter(|set| set.metadata.deletion_timestamp.is_none())
        .collect();
    let limit = usize::try_from(deployment.spec.revision_history_limit.unwrap_or(10)).unwrap_or(0);
    let surplus = old.len().saturating_sub(limit);
    old.sort_by_key(|set| revision(set));
    old.truncate(surplus);
    old.retain(|set| {
        let status = set.status.clone().unwrap_or_default();
        status.replicas == 0
            && set.spec.replicas == Some(0)
            && set.metadata.generation.unwrap_or(0) <= status.observed_generation.unwrap_or(0)
    });
    old
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_hash_is_no_part_of_a_template() {
        let template = |labels: serde_json::Value| -> PodTemplateSpec {
            serde_json::from_value(json!({"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}})).unwrap()
        };
        assert!(same_template(
            &template(json!({"a": "b"})),
            &template(json!({"a": "b", HASH: "x"}))
        ));
        assert!(!same_template(
            &template(json!({"a": "b"})),
            &template(json!({"a": "c"}))
        ));
        assert_ne!(
            template_hash(&template(json!({})), 0),
            template_hash(&template(json!({})), 1)
        );
    }
}
