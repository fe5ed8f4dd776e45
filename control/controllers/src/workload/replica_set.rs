//! Keeps a ReplicaSet's pods at the number it asks for. Never touches a pod that it does not own.
//!
//! Follows `pkg/controller/replicaset/replica_set.go`: adoption and release, at most 500 pods at a time, slow start,
//! deletion by rank, the condition ReplicaFailure.

use std::sync::Arc;

use caravel_api::{Kind, ObjectName, Selector, names, time};
use caravel_store::{Snapshot, Undecodable};
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::action::{Action, Note, Plan, reference};
use crate::identity::service_account::is_active;
use crate::row::{Changed, Row, Situation, its_controller, itself, on};
use crate::workload::{claim, pods, ranking};

pub const CONTROLLER: Row = Row {
    name: "replicaset",
    identity: "replicaset-controller",
    workers: 5,
    wakes: &[
        on::<ReplicaSet>(itself),
        on::<Pod>(its_controller::<ReplicaSet>),
        on::<Pod>(orphan_matches),
    ],
    reconcile,
};

/// Pods created or deleted by one plan.
const BURST: usize = 500;

/// Sets that may adopt a pod that has no controller.
fn orphan_matches(changed: &Changed<'_>) -> Vec<ObjectName> {
    let meta = changed.meta();
    if changed.deleted || meta.controller().is_some() || meta.labels.is_empty() {
        return Vec::new();
    }
    let sets = changed
        .cluster
        .all::<ReplicaSet>(Some(&meta.namespace))
        .filter_map(Result::ok);
    sets.filter(|set| selector(set).matches(&meta.labels))
        .map(|set| crate::action::name_of(&*set))
        .collect()
}

/// Nothing, where the selector cannot be read or is empty: validation lets neither in.
fn selector(set: &ReplicaSet) -> Selector {
    Selector::from_label_selector(Some(&set.spec.selector))
        .ok()
        .filter(|selector| !selector.is_empty())
        .unwrap_or_else(Selector::nothing)
}

fn reconcile(
    cluster: &Snapshot,
    key: &ObjectName,
    situation: &Situation<'_>,
) -> Result<Plan, Undecodable> {
    let Some(set) = cluster.get::<ReplicaSet>(key)? else {
        return Ok(Plan::nothing());
    };
    let selector = selector(&set);
    let candidates = claim::candidates::<Pod>(
        cluster,
        &key.namespace,
        set.metadata.uid.as_deref().unwrap_or_default(),
        &selector,
    )?;
    let claimed = claim::claim(candidates, &*set, &selector, pods::is_active);
    if !claimed.actions.is_empty() {
        return Ok(Plan::of(claimed.actions));
    }
    let active: Vec<Arc<Pod>> = claimed
        .mine
        .iter()
        .filter(|pod| pods::is_active(pod))
        .cloned()
        .collect();
    let mut plan = Plan::nothing();
    status(&set, &active, &claimed.mine, situation, &mut plan);
    if set.metadata.deletion_timestamp.is_none() {
        scale(cluster, &set, &active, situation, &mut plan)?;
    }
    if situation.last.refused.is_empty() {
        // Pods first. After a refusal the status that tells of it goes first: another refusal ends the plan.
        plan.actions
            .sort_by_key(|action| matches!(action, Action::UpdateStatus { .. }));
    }
    Ok(plan)
}

fn wanted(set: &ReplicaSet) -> usize {
    set.spec
        .replicas
        .map_or(1, |replicas| usize::try_from(replicas).unwrap_or(0))
}

fn scale(
    cluster: &Snapshot,
    set: &ReplicaSet,
    active: &[Arc<Pod>],
    situation: &Situation<'_>,
    plan: &mut Plan,
) -> Result<(), Undecodable> {
    let wanted = wanted(set);
    let note = Note {
        about: reference(set),
        done: ("SuccessfulCreate", "Created pod: {name}".to_owned()),
        failed: ("FailedCreate", "Error creating: {error}".to_owned()),
    };
    // A namespace on its way out refuses every pod.
    let room = if is_active(
        cluster,
        set.metadata.namespace.as_deref().unwrap_or_default(),
    ) {
        wanted.min(active.len() + BURST)
    } else {
        0
    };
    for _ in active.len()..room {
        plan.push(Action::create(&pod(set)).noted(note.clone()));
    }
    if active.len() > wanted {
        let mut ranked = active.to_vec();
        ranking::sort(&mut ranked, &related(cluster, set, active)?, situation.now);
        let note = Note {
            about: reference(set),
            done: ("SuccessfulDelete", "Deleted pod: {name}".to_owned()),
            failed: ("FailedDelete", "Error deleting: {error}".to_owned()),
        };
        let surplus = ranked.iter().take((active.len() - wanted).min(BURST));
        plan.actions
            .extend(surplus.map(|pod| Action::delete(&**pod).noted(note.clone())));
    }
    Ok(())
}

/// The pods of all sets that the same Deployment owns.
fn related(
    cluster: &Snapshot,
    set: &ReplicaSet,
    own: &[Arc<Pod>],
) -> Result<Vec<Arc<Pod>>, Undecodable> {
    let Some(owner) = claim::controller_of(&set.metadata) else {
        return Ok(own.to_vec());
    };
    let prefix = ReplicaSet::row().prefix(None).start;
    let mut related = Vec::new();
    for entry in cluster
        .owned_by(&owner.uid)
        .filter(|entry| entry.key.kind_prefix() == prefix.as_str())
    {
        related.extend(pods::owned_by(cluster, &entry.meta.uid)?);
    }
    Ok(related)
}

/// A new pod of the set, by its template.
fn pod(set: &ReplicaSet) -> Pod {
    let name = set.metadata.name.as_deref().unwrap_or_default();
    // A name that may not be followed by '-' is followed by nothing.
    let base = if names::dns_subdomain(&format!("{name}-a")).is_empty() {
        format!("{name}-")
    } else {
        name.to_owned()
    };
    let template = set.spec.template.clone().unwrap_or_default();
    let from = template.metadata.unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(base),
            namespace: set.metadata.namespace.clone(),
            labels: from.labels,
            annotations: from.annotations,
            finalizers: from.finalizers,
            owner_references: Some(vec![claim::controller_reference(set)]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    }
}

fn status(
    set: &ReplicaSet,
    active: &[Arc<Pod>],
    mine: &[Arc<Pod>],
    situation: &Situation<'_>,
    plan: &mut Plan,
) {
    let old = set.status.clone().unwrap_or_default();
    let spec = set.spec.clone();
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    let template_labels = Selector::from_map(
        &spec
            .template
            .and_then(|template| template.metadata?.labels)
            .unwrap_or_default(),
    );
    let count = |holds: &dyn Fn(&Pod) -> bool| {
        Some(active.iter().filter(|pod| holds(pod)).count() as i32).filter(|count| *count > 0)
    };
    let new = ReplicaSetStatus {
        replicas: active.len() as i32,
        fully_labeled_replicas: count(&|pod| {
            template_labels.matches(pod.metadata.labels.as_ref().unwrap_or(&Default::default()))
        }),
        ready_replicas: count(&pods::is_ready),
        available_replicas: count(&|pod| {
            pods::available_at(pod, min_ready).is_some_and(|at| at <= situation.now)
        }),
        terminating_replicas: Some(
            mine.iter()
                .filter(|pod| pod.metadata.deletion_timestamp.is_some() && !pods::is_terminal(pod))
                .count() as i32,
        ),
        observed_generation: set.metadata.generation,
        conditions: failure(&old, active.len() < wanted(set), situation),
    };
    for at in active
        .iter()
        .filter_map(|pod| pods::available_at(pod, min_ready))
        .filter(|at| *at > situation.now)
    {
        plan.again(at);
    }
    if new != old {
        let mut object = set.clone();
        object.status = Some(new);
        plan.push(Action::update_status(&object));
    }
}

/// The condition ReplicaFailure, as the last plan's refusals have it; kept as it is while the reason stays.
fn failure(
    old: &ReplicaSetStatus,
    creating: bool,
    situation: &Situation<'_>,
) -> Option<Vec<ReplicaSetCondition>> {
    let mut conditions = old.conditions.clone().unwrap_or_default();
    let refused = match (
        situation.last.refusal("create pod"),
        situation.last.refusal("delete pod"),
    ) {
        (Some(error), _) if creating => Some(("FailedCreate", error)),
        (_, Some(error)) => Some(("FailedDelete", error)),
        _ => None,
    };
    let same = |condition: &ReplicaSetCondition| {
        refused.is_some_and(|(reason, _)| condition.reason.as_deref() == Some(reason))
    };
    conditions.retain(|condition| {
        condition.type_.as_deref() != Some("ReplicaFailure") || same(condition)
    });
    if let Some((reason, error)) = refused
        && !conditions
            .iter()
            .any(|condition| condition.type_.as_deref() == Some("ReplicaFailure"))
    {
        conditions.push(ReplicaSetCondition {
            type_: Some("ReplicaFailure".to_owned()),
            status: Some("True".to_owned()),
            reason: Some(reason.to_owned()),
            message: Some(error.to_string()),
            last_transition_time: Some(time::time(situation.now)),
        });
    }
    Some(conditions).filter(|conditions| !conditions.is_empty())
}

#[cfg(test)]
mod tests {
    use crate::testing::plan;

    const SET: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: a, uid: a}}
---
apiVersion: apps/v1
kind: ReplicaSet
metadata: {name: web, namespace: a, uid: s1, generation: 1}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template: {metadata: {labels: {app: web}}, spec: {containers: [{name: c, image: i}]}}
";
    fn pod(name: &str, owner: &str, label: &str, phase: &str) -> String {
        let owners = if owner.is_empty() {
            String::new()
        } else {
            format!(
                "ownerReferences: [{{apiVersion: apps/v1, kind: ReplicaSet, name: x, uid: {owner}, controller: true}}]"
            )
        };
        format!(
            "
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: a, uid: {name}, labels: {{app: {label}}}, {owners}}}
spec: {{nodeName: n, containers: [{{name: c, image: i}}]}}
status: {{phase: {phase}}}
"
        )
    }

    #[tokio::test]
    async fn the_number_of_pods_is_kept() {
        for (story, pods, expected) in [
            (
                "too few",
                vec![pod("p1", "s1", "web", "Running")],
                "create pod a/web-*\nstatus replicaset a/web\n",
            ),
            (
                "ended ones do not count",
                vec![
                    pod("p1", "s1", "web", "Running"),
                    pod("p2", "s1", "web", "Failed"),
                ],
                "create pod a/web-*\nstatus replicaset a/web\n",
            ),
            (
                "too many: pending ones go first",
                vec![
                    pod("p1", "s1", "web", "Running"),
                    pod("p2", "s1", "web", "Pending"),
                    pod("p3", "s1", "web", "Running"),
                ],
                "delete pod a/p2\nstatus replicaset a/web\n",
            ),
            (
                "an orphan is adopted",
                vec![
                    pod("p1", "s1", "web", "Running"),
                    pod("p2", "", "web", "Running"),
                ],
                "update pod a/p2\n",
            ),
            (
                "what no longer matches is let go",
                vec![
                    pod("p1", "s1", "web", "Running"),
                    pod("p2", "s1", "other", "Running"),
                ],
                "update pod a/p2\n",
            ),
            (
                "another's pods are left alone",
                vec![
                    pod("p1", "s1", "web", "Running"),
                    pod("p2", "s2", "web", "Running"),
                ],
                "create pod a/web-*\nstatus replicaset a/web\n",
            ),
        ] {
            let objects: Vec<String> = std::iter::once(SET.to_owned()).chain(pods).collect();
            assert_eq!(
                plan(&super::CONTROLLER, "a/web", &objects).await,
                expected,
                "{story}"
            );
        }
    }
}
