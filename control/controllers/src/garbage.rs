//! Deletes what nobody owns any more, and carries out deletions that wait for dependents or let them go.
//!
//! Follows `pkg/controller/garbagecollector`. A key is a uid, in a name's clothes. An owner is gone only if no object has
//! its uid: names are reused, and a kind that is not known here is never taken for absent.

use std::sync::Arc;

use caravel_api::{Kind, ObjectName, kinds, time};
use caravel_store::{Entry, Snapshot, Undecodable};
use k8s_openapi::api::core::v1::Event;
use serde_json::Value;

use crate::action::{Action, Deletion, Plan, Propagation};
use crate::row::{Changed, Row, Situation, on_any};

pub const CONTROLLER: Row = Row {
    name: "garbage",
    identity: "generic-garbage-collector",
    workers: 8,
    wakes: &[on_any(concerned)],
    reconcile,
};

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";
/// Dependents dealt with by one plan.
const BATCH: usize = 200;

fn key(uid: &str) -> ObjectName {
    ObjectName::cluster(uid)
}

fn concerned(changed: &Changed<'_>) -> Vec<ObjectName> {
    let meta = changed.meta();
    if meta.uid.is_empty()
        || changed.entry.key.kind_prefix() == Event::row().prefix(None).start.as_str()
    {
        return Vec::new();
    }
    let mut keys = Vec::new();
    if changed.deleted {
        keys.push(key(&meta.uid));
        keys.extend(meta.owners.iter().map(|owner| key(&owner.uid)));
    } else if !meta.owners.is_empty()
        || (meta.is_terminating()
            && (holds(changed.entry, FOREGROUND) || holds(changed.entry, ORPHAN)))
    {
        keys.push(key(&meta.uid));
    }
    keys
}

fn holds(entry: &Entry, finalizer: &str) -> bool {
    entry.meta.finalizers.iter().any(|held| held == finalizer)
}

fn reconcile(
    cluster: &Snapshot,
    key: &ObjectName,
    situation: &Situation<'_>,
) -> Result<Plan, Undecodable> {
    let mut plan = Plan::nothing();
    match cluster.by_uid(&key.name) {
        None => {
            plan.actions.extend(
                cluster
                    .owned_by(&key.name)
                    .filter_map(|dependent| collect(cluster, dependent))
                    .take(BATCH),
            );
            if plan.actions.len() == BATCH {
                plan.again(time::after(situation.now, 1));
            }
        }
        Some(entry) if entry.meta.is_terminating() && holds(&entry, ORPHAN) => {
            let_go(cluster, &entry, &mut plan)
        }
        Some(entry) if entry.meta.is_terminating() && holds(&entry, FOREGROUND) => {
            wait_for_dependents(cluster, &entry, &mut plan)
        }
        Some(entry) => plan.actions.extend(collect(cluster, &entry)),
    }
    Ok(plan)
}

/// How an owner stands to one of its dependents.
enum Standing {
    Solid,
    Absent,
    /// Being deleted in the foreground: it waits for the dependent.
    Waits,
}

fn standing(cluster: &Snapshot, dependent: &Entry, owner: &caravel_api::Owner) -> Standing {
    if kinds::by_api_version(&owner.api_version, &owner.kind).is_none() {
        return Standing::Solid;
    }
    match cluster.by_uid(&owner.uid) {
        // An owner in another namespace is none.
        Some(found)
            if found.meta.namespace.is_empty()
                || found.meta.namespace == dependent.meta.namespace =>
        {
            if found.meta.is_terminating() && holds(&found, FOREGROUND) {
                Standing::Waits
            } else {
                Standing::Solid
            }
        }
        _ => Standing::Absent,
    }
}

/// Deletes a dependent that has no solid owner left, or takes the others off it.
fn collect(cluster: &Snapshot, entry: &Arc<Entry>) -> Option<Action> {
    if entry.meta.owners.is_empty() || entry.meta.is_terminating() {
        return None;
    }
    let (mut solid, mut waits, mut absent) = (0, 0, Vec::new());
    for owner in &entry.meta.owners {
        match standing(cluster, entry, owner) {
            Standing::Solid => solid += 1,
            Standing::Absent => absent.push(owner.uid.as_str()),
            Standing::Waits => {
                waits += 1;
                absent.push(owner.uid.as_str());
            }
        }
    }
    match (solid, absent.is_empty()) {
        (_, true) => None,
        (0, _) => {
            let propagation = if holds(entry, ORPHAN) {
                Propagation::Orphan
            } else if holds(entry, FOREGROUND)
                || (waits > 0 && cluster.owned_by(&entry.meta.uid).next().is_some())
            {
                Propagation::Foreground
            } else {
                Propagation::Background
            };
            delete(entry, propagation)
        }
        _ => edit(entry, |metadata| without_owners(metadata, &absent)),
    }
}

/// Takes the owner off each dependent, then lets the owner go.
fn let_go(cluster: &Snapshot, owner: &Arc<Entry>, plan: &mut Plan) {
    let uid = owner.meta.uid.as_str();
    let dependents = cluster.owned_by(uid).take(BATCH);
    plan.actions.extend(
        dependents
            .filter_map(|dependent| edit(dependent, |metadata| without_owners(metadata, &[uid]))),
    );
    if plan.actions.is_empty() {
        plan.actions
            .extend(edit(owner, |metadata| without_finalizer(metadata, ORPHAN)));
    }
}

/// Deletes the dependents; the owner goes when none is left that blocks it.
fn wait_for_dependents(cluster: &Snapshot, owner: &Arc<Entry>, plan: &mut Plan) {
    let uid = owner.meta.uid.as_str();
    let blocks = |dependent: &Arc<Entry>| {
        dependent
            .meta
            .owners
            .iter()
            .any(|owner| owner.uid == uid && owner.block_owner_deletion)
    };
    if !cluster.owned_by(uid).any(blocks) {
        plan.actions.extend(edit(owner, |metadata| {
            without_finalizer(metadata, FOREGROUND)
        }));
    }
    plan.actions.extend(
        cluster
            .owned_by(uid)
            .filter_map(|dependent| collect(cluster, dependent))
            .take(BATCH),
    );
}

fn delete(entry: &Entry, propagation: Propagation) -> Option<Action> {
    Some(Action::Delete {
        row: kinds::by_key(&entry.key)?,
        name: ObjectName::new(entry.meta.namespace.clone(), entry.meta.name.clone()),
        how: Deletion {
            uid: entry.meta.uid.clone(),
            propagation: Some(propagation),
            revision: Some(entry.revision),
            ..Deletion::default()
        },
        note: None,
    })
}

/// The object with its metadata changed; nothing for what is no object of a known kind.
fn edit(entry: &Entry, change: impl FnOnce(&mut Value)) -> Option<Action> {
    let row = kinds::by_key(&entry.key)?;
    let mut object: Value = serde_json::from_slice(&entry.json).ok()?;
    change(object.get_mut("metadata")?);
    Some(Action::Update {
        row,
        name: ObjectName::new(entry.meta.namespace.clone(), entry.meta.name.clone()),
        object,
    })
}

fn without_owners(metadata: &mut Value, uids: &[&str]) {
    if let Some(owners) = metadata["ownerReferences"].as_array_mut() {
        owners.retain(|owner| !uids.iter().any(|uid| owner["uid"] == *uid));
    }
}

fn without_finalizer(metadata: &mut Value, finalizer: &str) {
    if let Some(finalizers) = metadata["finalizers"].as_array_mut() {
        finalizers.retain(|held| held != finalizer);
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::plan;

    fn map(name: &str, owners: &[(&str, bool)], extra: &str) -> String {
        let owners: Vec<String> = owners.iter().map(|(uid, blocks)| format!("{{apiVersion: v1, kind: ConfigMap, name: {uid}, uid: {uid}, blockOwnerDeletion: {blocks}}}")).collect();
        format!(
            "{{apiVersion: v1, kind: ConfigMap, metadata: {{name: {name}, namespace: a, uid: {name}, ownerReferences: [{}]{extra}}}}}",
            owners.join(", ")
        )
    }

    #[tokio::test]
    async fn garbage_is_what_nobody_owns() {
        let dying = |finalizer: &str| {
            format!(", deletionTimestamp: 2026-01-01T00:00:00Z, finalizers: [{finalizer}]")
        };
        for (story, key, objects, expected) in [
            (
                "an owner lives",
                "d",
                vec![map("o", &[], ""), map("d", &[("o", false)], "")],
                "",
            ),
            (
                "the owner is gone",
                "d",
                vec![map("d", &[("o", false)], "")],
                "delete configmap a/d background\n",
            ),
            (
                "seen from the gone owner",
                "o",
                vec![map("d", &[("o", false)], ""), map("e", &[("o", false)], "")],
                "delete configmap a/d background\ndelete configmap a/e background\n",
            ),
            (
                "one of two owners is gone",
                "d",
                vec![
                    map("o", &[], ""),
                    map("d", &[("o", false), ("x", false)], ""),
                ],
                "update configmap a/d\n",
            ),
            (
                "a kind that is not known may live",
                "d",
                vec![map("d", &[("o", false)], "").replace(
                    "apiVersion: v1, kind: ConfigMap, name: o",
                    "apiVersion: e.com/v1, kind: Thing, name: o",
                )],
                "",
            ),
            (
                "an owner elsewhere is none",
                "d",
                vec![
                    map("o", &[], "").replace("namespace: a", "namespace: b"),
                    map("d", &[("o", false)], ""),
                ],
                "delete configmap a/d background\n",
            ),
            (
                "orphans are let go first",
                "o",
                vec![
                    map("o", &[], &dying("orphan")),
                    map("d", &[("o", false)], ""),
                ],
                "update configmap a/d\n",
            ),
            (
                "then their owner",
                "o",
                vec![map("o", &[], &dying("orphan"))],
                "update configmap a/o\n",
            ),
            (
                "the foreground waits for dependents",
                "o",
                vec![
                    map("o", &[], &dying("foregroundDeletion")),
                    map("d", &[("o", true)], ""),
                ],
                "delete configmap a/d background\n",
            ),
            (
                "which wait for theirs",
                "d",
                vec![
                    map("o", &[], &dying("foregroundDeletion")),
                    map("d", &[("o", true)], ""),
                    map("e", &[("d", true)], ""),
                ],
                "delete configmap a/d foreground\n",
            ),
            (
                "and ends when none is left",
                "o",
                vec![map("o", &[], &dying("foregroundDeletion"))],
                "update configmap a/o\n",
            ),
        ] {
            assert_eq!(
                plan(&super::CONTROLLER, key, &objects).await,
                expected,
                "{story}"
            );
        }
    }
}
