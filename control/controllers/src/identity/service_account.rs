//! Keeps a ServiceAccount `default` in each namespace. Follows `pkg/controller/serviceaccount/serviceaccounts_controller.go`.

use caravel_api::{Kind, ObjectName};
use caravel_store::{Snapshot, Undecodable};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::action::{Action, Plan};
use crate::row::{Changed, Row, Situation, itself, on};

pub const CONTROLLER: Row = Row {
    name: "serviceaccount",
    identity: "service-account-controller",
    workers: 2,
    wakes: &[on::<Namespace>(itself), on::<ServiceAccount>(lost)],
    reconcile,
};

const NAME: &str = "default";

fn lost(changed: &Changed<'_>) -> Vec<ObjectName> {
    let lost = changed.deleted && changed.meta().name == NAME;
    if lost {
        vec![ObjectName::cluster(changed.meta().namespace.clone())]
    } else {
        Vec::new()
    }
}

/// A namespace that may be given things.
pub fn is_active(cluster: &Snapshot, namespace: &str) -> bool {
    cluster
        .entry(&Namespace::row().key("", namespace))
        .is_some_and(|entry| !entry.meta.is_terminating())
}

fn reconcile(cluster: &Snapshot, key: &ObjectName, _: &Situation<'_>) -> Result<Plan, Undecodable> {
    if !is_active(cluster, &key.name)
        || cluster
            .entry(&ServiceAccount::row().key(&key.name, NAME))
            .is_some()
    {
        return Ok(Plan::nothing());
    }
    let account = ServiceAccount {
        metadata: ObjectMeta {
            name: Some(NAME.to_owned()),
            namespace: Some(key.name.clone()),
            ..ObjectMeta::default()
        },
        ..ServiceAccount::default()
    };
    Ok(Plan::of(vec![Action::create(&account)]))
}
