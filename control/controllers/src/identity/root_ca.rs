//! Publishes the cluster's CA as the ConfigMap `kube-root-ca.crt` in each namespace.
//!
//! Follows `pkg/controller/certificates/rootcacertpublisher`: what was changed is put right.

use std::collections::BTreeMap;

use caravel_api::ObjectName;
use caravel_store::{Snapshot, Undecodable};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::action::{Action, Plan};
use crate::identity::service_account::is_active;
use crate::row::{Changed, Row, Situation, itself, on};

pub const CONTROLLER: Row = Row {
    name: "root-ca",
    identity: "root-ca-cert-publisher",
    workers: 2,
    wakes: &[on::<Namespace>(itself), on::<ConfigMap>(changed_copy)],
    reconcile,
};

const NAME: &str = "kube-root-ca.crt";
const ANNOTATION: &str = "kubernetes.io/description";
const DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.";

fn changed_copy(changed: &Changed<'_>) -> Vec<ObjectName> {
    if changed.meta().name == NAME {
        vec![ObjectName::cluster(changed.meta().namespace.clone())]
    } else {
        Vec::new()
    }
}

fn reconcile(
    cluster: &Snapshot,
    key: &ObjectName,
    situation: &Situation<'_>,
) -> Result<Plan, Undecodable> {
    if situation.settings.root_ca.is_empty() || !is_active(cluster, &key.name) {
        return Ok(Plan::nothing());
    }
    let old = cluster.get::<ConfigMap>(&ObjectName::new(key.name.clone(), NAME))?;
    let mut new = old.as_deref().cloned().unwrap_or_else(|| ConfigMap {
        metadata: ObjectMeta {
            name: Some(NAME.to_owned()),
            namespace: Some(key.name.clone()),
            ..ObjectMeta::default()
        },
        ..ConfigMap::default()
    });
    new.metadata
        .annotations
        .get_or_insert_default()
        .insert(ANNOTATION.to_owned(), DESCRIPTION.to_owned());
    new.data = Some(BTreeMap::from([(
        "ca.crt".to_owned(),
        situation.settings.root_ca.clone(),
    )]));
    Ok(match old {
        None => Plan::of(vec![Action::create(&new)]),
        Some(old) if *old != new => Plan::of(vec![Action::update(&new)]),
        Some(_) => Plan::nothing(),
    })
}
