//! Empties a namespace that is being deleted, then lets it go.
//!
//! Follows `pkg/controller/namespace/deletion`: pods first, then everything else, the finalizer `kubernetes` last, and
//! conditions that say what is still there.

use std::collections::BTreeMap;
use std::sync::Arc;

use caravel_api::{KINDS, Kind, ObjectName, time};
use caravel_store::{Entry, Snapshot, Undecodable};
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition, Pod};

use crate::action::{Action, Deletion, Plan, Propagation};
use crate::row::{Changed, Row, Situation, itself, on, on_any};

pub const CONTROLLER: Row = Row {
    name: "namespace",
    identity: "namespace-controller",
    workers: 2,
    wakes: &[on::<Namespace>(itself), on_any(content_of_dying)],
    reconcile,
};

const FINALIZER: &str = "kubernetes";
/// Objects deleted by one plan.
const BATCH: usize = 500;

fn content_of_dying(changed: &Changed<'_>) -> Vec<ObjectName> {
    let namespace = &changed.meta().namespace;
    let dying = !namespace.is_empty()
        && changed
            .cluster
            .entry(&Namespace::row().key("", namespace))
            .is_some_and(|entry| entry.meta.is_terminating());
    if dying {
        vec![ObjectName::cluster(namespace.clone())]
    } else {
        Vec::new()
    }
}

fn reconcile(
    cluster: &Snapshot,
    key: &ObjectName,
    situation: &Situation<'_>,
) -> Result<Plan, Undecodable> {
    let Some(namespace) = cluster.get::<Namespace>(key)? else {
        return Ok(Plan::nothing());
    };
    let holds = |finalizer: &String| finalizer == FINALIZER;
    let finalizers = namespace
        .spec
        .iter()
        .flat_map(|spec| spec.finalizers.iter().flatten());
    if namespace.metadata.deletion_timestamp.is_none() || !finalizers.clone().any(holds) {
        return Ok(Plan::nothing());
    }
    let mut content: Vec<(&'static caravel_api::Row, Vec<&Arc<Entry>>)> = Vec::new();
    for row in KINDS
        .iter()
        .filter(|row| row.is_namespaced() && row.is_stored() && row.is_storage_version())
    {
        let entries: Vec<_> = cluster.list(&row.prefix(Some(&key.name))).collect();
        if !entries.is_empty() {
            content.push((row, entries));
        }
    }
    if content.is_empty() {
        let mut object = (*namespace).clone();
        if let Some(spec) = &mut object.spec {
            spec.finalizers
                .get_or_insert_default()
                .retain(|finalizer| finalizer != FINALIZER);
        }
        let Action::Update { object, .. } = Action::update(&object) else {
            return Ok(Plan::nothing());
        };
        return Ok(Plan::of(vec![Action::Finalize {
            namespace: key.name.clone(),
            object,
        }]));
    }
    let mut plan = Plan::nothing();
    let conditions = conditions(&namespace, &content, situation);
    if namespace
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref())
        != Some(&conditions)
    {
        let mut object = (*namespace).clone();
        object.status.get_or_insert_default().conditions = Some(conditions);
        plan.push(Action::update_status(&object));
    }
    // What runs may still need its configuration while it ends.
    if content.iter().any(|(row, _)| *row == Pod::row()) {
        content.retain(|(row, _)| *row == Pod::row());
    }
    let doomed = content
        .iter()
        .flat_map(|(row, entries)| entries.iter().map(move |entry| (*row, *entry)));
    plan.actions.extend(
        doomed
            .filter(|(_, entry)| !entry.meta.is_terminating())
            .take(BATCH)
            .map(|(row, entry)| delete(row, entry)),
    );
    Ok(plan)
}

fn delete(row: &'static caravel_api::Row, entry: &Entry) -> Action {
    Action::Delete {
        row,
        name: ObjectName::new(entry.meta.namespace.clone(), entry.meta.name.clone()),
        how: Deletion {
            uid: entry.meta.uid.clone(),
            propagation: Some(Propagation::Background),
            ..Deletion::default()
        },
        note: None,
    }
}

type Content<'a> = [(&'static caravel_api::Row, Vec<&'a Arc<Entry>>)];

fn conditions(
    namespace: &Namespace,
    content: &Content<'_>,
    situation: &Situation<'_>,
) -> Vec<NamespaceCondition> {
    let remaining: Vec<String> = content
        .iter()
        .map(|(row, entries)| {
            format!(
                "{}.{} has {} resource instances",
                row.plural,
                row.group,
                entries.len()
            )
        })
        .collect();
    let mut finalizers: BTreeMap<&str, usize> = BTreeMap::new();
    for finalizer in content
        .iter()
        .flat_map(|(_, entries)| entries)
        .flat_map(|entry| &entry.meta.finalizers)
    {
        *finalizers.entry(finalizer).or_default() += 1;
    }
    let held: Vec<String> = finalizers
        .into_iter()
        .map(|(finalizer, count)| format!("{finalizer} in {count} resource instances"))
        .collect();
    let told = [
        (
            "NamespaceDeletionDiscoveryFailure",
            false,
            "ResourcesDiscovered",
            "All resources successfully discovered".to_owned(),
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            false,
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed".to_owned(),
        ),
        (
            "NamespaceDeletionContentFailure",
            false,
            "ContentDeleted",
            "All content successfully deleted, may be waiting on finalization".to_owned(),
        ),
        (
            "NamespaceContentRemaining",
            true,
            "SomeResourcesRemain",
            format!("Some resources are remaining: {}", remaining.join(", ")),
        ),
        if held.is_empty() {
            (
                "NamespaceFinalizersRemaining",
                false,
                "ContentHasNoFinalizers",
                "All content-preserving finalizers finished".to_owned(),
            )
        } else {
            (
                "NamespaceFinalizersRemaining",
                true,
                "SomeFinalizersRemain",
                format!(
                    "Some content in the namespace has finalizers remaining: {}",
                    held.join(", ")
                ),
            )
        },
    ];
    let old = || {
        namespace
            .status
            .iter()
            .flat_map(|status| status.conditions.iter().flatten())
    };
    told.into_iter()
        .map(|(kind, holds, reason, message)| {
            let status = if holds { "True" } else { "False" };
            let since = old()
                .find(|old| old.type_ == kind && old.status == status)
                .and_then(|old| old.last_transition_time.clone());
            NamespaceCondition {
                type_: kind.to_owned(),
                status: status.to_owned(),
                reason: Some(reason.to_owned()),
                message: Some(message),
                last_transition_time: Some(since.unwrap_or_else(|| time::time(situation.now))),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use crate::testing::plan;

    const NAMESPACE: &str = "{apiVersion: v1, kind: Namespace, metadata: {name: a, uid: n, deletionTimestamp: 2026-01-01T00:00:00Z}, spec: {finalizers: [kubernetes]}, status: {phase: Terminating}}";
    const MAP: &str =
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: m, namespace: a, uid: m}}";
    const POD: &str = "{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: a, uid: p}, spec: {containers: []}}";
    const ELSEWHERE: &str =
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: m, namespace: ab, uid: m2}}";

    #[tokio::test]
    async fn a_namespace_is_emptied_before_it_goes() {
        let alive = NAMESPACE.replace(", deletionTimestamp: 2026-01-01T00:00:00Z", "");
        for (objects, expected) in [
            (vec![NAMESPACE, ELSEWHERE], "finalize namespace a\n"),
            (
                vec![NAMESPACE, MAP, POD],
                "status namespace a\ndelete pod a/p background\n",
            ),
            (
                vec![NAMESPACE, MAP],
                "status namespace a\ndelete configmap a/m background\n",
            ),
            (vec![alive.as_str(), MAP], ""),
        ] {
            assert_eq!(plan(&super::CONTROLLER, "a", &objects).await, expected);
        }
    }
}
