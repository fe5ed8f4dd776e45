//! What the scheduler must look up beside pods and nodes: who does the same work as a pod, and which namespaces a
//! rule means.
//!
//! Upstream: `plugins/helper/spread.go` (`DefaultSelector`): the selectors of the services that select the pod, and its
//! owner's, together.

use std::collections::BTreeMap;

use caravel_api::Kind;
use caravel_api::selector::Selector;
use caravel_store::Snapshot;
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde::Deserialize;

use crate::pod::PodView;

/// Fills in what a pod's own spec does not say.
pub fn complete(view: &mut PodView, pod: &Pod, cluster: &Snapshot) {
    if view.spread.is_empty() {
        view.peers = peers(pod, cluster);
    }
    view.pods.resolve(|selector| namespaces(selector, cluster));
}

/// The namespaces that a selector selects by their labels.
pub fn namespaces(selector: &Selector, cluster: &Snapshot) -> Vec<String> {
    let all = cluster.list(&Namespace::row().prefix(None));
    all.filter(|entry| selector.matches(&entry.meta.labels))
        .map(|entry| entry.meta.name.clone())
        .collect()
}

/// The pods that do the same work as this one; none where nothing says so.
fn peers(pod: &Pod, cluster: &Snapshot) -> Option<Selector> {
    let nothing = BTreeMap::new();
    let labels = pod.metadata.labels.as_ref().unwrap_or(&nothing);
    let mut together = BTreeMap::new();
    for service in cluster
        .all::<Service>(pod.metadata.namespace.as_deref())
        .flatten()
    {
        let selector = service
            .spec
            .as_ref()
            .and_then(|spec| spec.selector.as_ref())
            .filter(|selector| !selector.is_empty());
        if let Some(selector) = selector.filter(|selector| {
            selector
                .iter()
                .all(|(key, value)| labels.get(key) == Some(value))
        }) {
            together.extend(selector.clone());
        }
    }
    let mut all = Selector::from_map(&together);
    if let Some(owned) = owners(pod, cluster) {
        all.requirements.extend(owned.requirements);
    }
    (!all.is_empty()).then_some(all)
}

#[derive(Deserialize)]
struct Owner<S> {
    spec: Option<Spec<S>>,
}

#[derive(Deserialize)]
struct Spec<S> {
    selector: Option<S>,
}

/// The selector of the pod's controller, if it is of a kind that keeps like pods.
fn owners(pod: &Pod, cluster: &Snapshot) -> Option<Selector> {
    let owner = pod
        .metadata
        .owner_references
        .iter()
        .flatten()
        .find(|owner| owner.controller == Some(true))?;
    let selects_by_map = match owner.kind.as_str() {
        "ReplicaSet" | "StatefulSet" => false,
        "ReplicationController" => true,
        _ => return None,
    };
    let entry = cluster.by_uid(&owner.uid)?;
    if selects_by_map {
        let owner: Owner<BTreeMap<String, String>> = serde_json::from_slice(&entry.json).ok()?;
        Some(Selector::from_map(&owner.spec?.selector?))
    } else {
        let owner: Owner<LabelSelector> = serde_json::from_slice(&entry.json).ok()?;
        Selector::from_label_selector(owner.spec?.selector.as_ref()).ok()
    }
}
