//! Brings a Deployment's pods to its template, by scaling one ReplicaSet per template it has had.
//!
//! Follows `pkg/controller/deployment`: RollingUpdate and Recreate, pause, proportional scaling, revisions, clean-up,
//! conditions. Never touches pods; its sets do.

use std::sync::Arc;

use caravel_api::{Kind, ObjectName, Selector, Uid};
use caravel_store::{Snapshot, Undecodable};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;

use crate::action::{Action, Note, Plan, name_of, reference};
use crate::events::EventRecord;
use crate::identity::service_account::is_active;
use crate::row::{Changed, Row, Situation, its_controller, itself, on};
use crate::workload::{claim, history, pods, progress, scaling};

pub const CONTROLLER: Row = Row {
    name: "deployment",
    identity: IDENTITY,
    workers: 5,
    wakes: &[
        on::<Deployment>(itself),
        on::<ReplicaSet>(its_controller::<Deployment>),
        on::<ReplicaSet>(orphan_matches),
        on::<Pod>(of_ended_pod),
    ],
    reconcile,
};

const IDENTITY: &str = "deployment-controller";

fn orphan_matches(changed: &Changed<'_>) -> Vec<ObjectName> {
    let meta = changed.meta();
    if changed.deleted || meta.controller().is_some() || meta.labels.is_empty() {
        return Vec::new();
    }
    let all = changed
        .cluster
        .all::<Deployment>(Some(&meta.namespace))
        .filter_map(Result::ok);
    all.filter(|deployment| selector(deployment).matches(&meta.labels))
        .map(|deployment| name_of(&*deployment))
        .collect()
}

/// Recreate waits until the last old pod is gone.
fn of_ended_pod(changed: &Changed<'_>) -> Vec<ObjectName> {
    let ended = changed.deleted
        || changed
            .entry
            .decode::<Pod>()
            .is_ok_and(|pod| pods::is_terminal(&pod));
    let Some(owner) = changed
        .meta()
        .controller()
        .filter(|owner| ended && owner.kind == ReplicaSet::row().kind)
    else {
        return Vec::new();
    };
    let set = changed
        .cluster
        .entry(&ReplicaSet::row().key(&changed.meta().namespace, &owner.name));
    let deployment = set.and_then(|set| {
        set.meta
            .controller()
            .map(|owner| ObjectName::new(set.meta.namespace.clone(), owner.name.clone()))
    });
    deployment.into_iter().collect()
}

fn selector(deployment: &Deployment) -> Selector {
    let selector = Selector::from_label_selector(Some(&deployment.spec.selector));
    selector
        .ok()
        .filter(|selector| !selector.is_empty())
        .unwrap_or_else(Selector::nothing)
}

/// One of the Deployment's sets, as the plan would have it.
pub struct Set {
    pub object: ReplicaSet,
    changed: bool,
}

/// A Deployment, its sets and what is decided so far.
pub struct Rollout<'a> {
    pub deployment: &'a Deployment,
    pub sets: Vec<Set>,
    /// Which of `sets` has the present template.
    pub new: Option<usize>,
    /// The status with the conditions decided so far.
    pub status: DeploymentStatus,
    events: Vec<EventRecord>,
}

impl<'a> Rollout<'a> {
    fn new(deployment: &'a Deployment, sets: &[Arc<ReplicaSet>]) -> Self {
        let sets: Vec<Set> = sets
            .iter()
            .map(|set| Set {
                object: (**set).clone(),
                changed: false,
            })
            .collect();
        // Should several have it, the oldest is the one that stays.
        let same =
            (0..sets.len()).filter(|at| history::has_template(&sets[*at].object, deployment));
        let new = same.min_by_key(|at| {
            (
                history::created(&sets[*at].object),
                sets[*at].object.metadata.name.clone(),
            )
        });
        Rollout {
            deployment,
            sets,
            new,
            status: deployment.status.clone().unwrap_or_default(),
            events: Vec::new(),
        }
    }

    /// Pods that all sets ask for.
    pub fn total(&self) -> i32 {
        self.sets
            .iter()
            .map(|set| scaling::replicas(&set.object))
            .sum()
    }

    pub fn new_set(&self) -> Option<&ReplicaSet> {
        self.new.map(|at| &self.sets[at].object)
    }

    /// All sets but the new one, oldest first.
    pub fn old_by_age(&self) -> Vec<usize> {
        let mut old: Vec<usize> = (0..self.sets.len())
            .filter(|at| Some(*at) != self.new)
            .collect();
        old.sort_by_key(|at| {
            (
                history::created(&self.sets[*at].object),
                self.sets[*at].object.metadata.name.clone(),
            )
        });
        old
    }

    pub fn newest_old(&self) -> Option<usize> {
        self.old_by_age().pop()
    }

    /// Has the set ask for `target` pods. Says whether that changed anything.
    pub fn scale(&mut self, at: usize, target: i32) -> bool {
        scaling::replicas(&self.sets[at].object) != target && self.rescale(at, target)
    }

    /// As [`Rollout::scale`], and has the set remember the sizes even if its own stays.
    pub fn rescale(&mut self, at: usize, target: i32) -> bool {
        let wanted = scaling::wanted(self.deployment);
        let set = &mut self.sets[at];
        let before = scaling::replicas(&set.object);
        set.changed |= history::annotate_replicas(
            &mut set.object,
            wanted,
            wanted + scaling::max_surge(self.deployment),
        );
        if before == target {
            return false;
        }
        set.object.spec.replicas = Some(target);
        set.changed = true;
        let direction = if target > before { "up" } else { "down" };
        let name = set.object.metadata.name.as_deref().unwrap_or_default();
        let message = format!("Scaled {direction} replica set {name} from {before} to {target}");
        self.events.push(EventRecord::normal(
            reference(self.deployment),
            IDENTITY,
            "ScalingReplicaSet",
            message,
        ));
        true
    }

    /// The changed sets and what there is to tell about them.
    fn into_plan(mut self, plan: &mut Plan) -> Self {
        for set in &mut self.sets {
            if std::mem::take(&mut set.changed) {
                plan.push(Action::update(&set.object));
            }
        }
        plan.actions.extend(self.events.drain(..).map(Action::Emit));
        self
    }

    /// Gives the new set its annotations, and the Deployment its revision. A plan means: do this first.
    fn sync_revision(&mut self) -> Option<Plan> {
        let newest = self
            .old_by_age()
            .into_iter()
            .map(|at| history::revision(&self.sets[at].object))
            .max()
            .unwrap_or(0);
        let set = &mut self.sets[self.new?];
        set.changed |= history::annotate(&mut set.object, self.deployment, newest + 1);
        if set.object.spec.min_ready_seconds != self.deployment.spec.min_ready_seconds {
            set.object.spec.min_ready_seconds = self.deployment.spec.min_ready_seconds;
            set.changed = true;
        }
        let mut first = Plan::nothing();
        if std::mem::take(&mut set.changed) {
            first.push(Action::update(&set.object));
        }
        let revision = history::revision(&set.object).to_string();
        if history::annotation(&self.deployment.metadata, history::REVISION) != Some(&revision) {
            let mut deployment = self.deployment.clone();
            deployment
                .metadata
                .annotations
                .get_or_insert_default()
                .insert(history::REVISION.to_owned(), revision);
            // As upstream, with the status: a change of annotations by an update of the object would count a generation.
            first.push(Action::update_status(&deployment));
        }
        Some(first).filter(|first| !first.actions.is_empty())
    }

    /// Asks for a set with the present template. Upstream's `getNewReplicaSet` where there is none.
    fn create_new(&mut self, cluster: &Snapshot, situation: &Situation<'_>) -> Plan {
        if !is_active(
            cluster,
            self.deployment
                .metadata
                .namespace
                .as_deref()
                .unwrap_or_default(),
        ) {
            return Plan::nothing();
        }
        let replicas = scaling::new_set_replicas(self.deployment, self.total(), 0);
        let mut set = history::new_set(self.deployment, replicas);
        let wanted = scaling::wanted(self.deployment);
        let newest = self
            .sets
            .iter()
            .map(|set| history::revision(&set.object))
            .max()
            .unwrap_or(0);
        history::annotate(&mut set, self.deployment, newest + 1);
        history::annotate_replicas(
            &mut set,
            wanted,
            wanted + scaling::max_surge(self.deployment),
        );
        let name = name_of(&set);
        if cluster
            .entry(&ReplicaSet::row().key(&name.namespace, &name.name))
            .is_some()
        {
            // The name is taken by another template (or owner): hash differently.
            self.status.collision_count = Some(self.status.collision_count.unwrap_or(0) + 1);
            return progress::write(self);
        }
        let (name, deadline) = (&name.name, progress::has_deadline(self.deployment));
        let scaled = if replicas > 0 {
            "ScalingReplicaSet"
        } else {
            ""
        };
        let create = Action::create(&set).noted(Note {
            about: reference(self.deployment),
            done: (
                scaled,
                format!("Scaled up replica set {name} from 0 to {replicas}"),
            ),
            failed: (
                "ReplicaSetCreateError",
                format!("Failed to create new replica set {name:?}: {{error}}"),
            ),
        });
        let mut plan = Plan::nothing();
        match situation.last.refusal("create replicaset") {
            Some(error) if deadline => {
                let message = format!("Failed to create new replica set {name:?}: {error}");
                progress::set(
                    &mut self.status,
                    progress::condition(
                        "Progressing",
                        "False",
                        "ReplicaSetCreateError",
                        &message,
                        situation.now,
                    ),
                );
                plan.actions.extend(progress::write(self).actions);
                plan.push(create);
            }
            _ => {
                plan.push(create);
                if deadline {
                    let message = format!("Created new replica set {name:?}");
                    progress::set(
                        &mut self.status,
                        progress::condition(
                            "Progressing",
                            "True",
                            "NewReplicaSetCreated",
                            &message,
                            situation.now,
                        ),
                    );
                    plan.actions.extend(progress::write(self).actions);
                }
            }
        }
        plan
    }
}

fn reconcile(
    cluster: &Snapshot,
    key: &ObjectName,
    situation: &Situation<'_>,
) -> Result<Plan, Undecodable> {
    let Some(deployment) = cluster.get::<Deployment>(key)? else {
        return Ok(Plan::nothing());
    };
    let selector = selector(&deployment);
    let candidates = claim::candidates::<ReplicaSet>(
        cluster,
        &key.namespace,
        deployment.metadata.uid.as_deref().unwrap_or_default(),
        &selector,
    )?;
    let claimed = claim::claim(candidates, &*deployment, &selector, |_| true);
    if !claimed.actions.is_empty() {
        return Ok(Plan::of(claimed.actions));
    }
    let mut rollout = Rollout::new(&deployment, &claimed.mine);
    if deployment.metadata.deletion_timestamp.is_some() {
        return Ok(progress::plain(&mut rollout, situation));
    }
    if progress::pause(&mut rollout, situation) {
        return Ok(progress::write(&rollout));
    }
    let paused = deployment.spec.paused == Some(true);
    if let Some(first) = rollout.sync_revision() {
        return Ok(first);
    }
    if paused || is_scaling(&rollout) {
        scaling::scale(&mut rollout);
        let mut plan = Plan::nothing();
        if paused {
            clean_up(&rollout, &mut plan);
        }
        let mut rollout = rollout.into_plan(&mut plan);
        plan.actions
            .extend(progress::plain(&mut rollout, situation).actions);
        return Ok(plan);
    }
    let mut scaled = false;
    if scaling::is_rolling(&deployment) {
        if rollout.new.is_none() {
            return Ok(rollout.create_new(cluster, situation));
        }
        scaled = scaling::roll(&mut rollout);
    } else if !scaling::stop_old(&mut rollout) && !old_pods_run(cluster, &rollout)? {
        if rollout.new.is_none() {
            return Ok(rollout.create_new(cluster, situation));
        }
        scaling::scale_new(&mut rollout);
    }
    let mut plan = Plan::nothing();
    if !scaled && progress::is_complete(&deployment, &rollout.status) {
        clean_up(&rollout, &mut plan);
    }
    let mut rollout = rollout.into_plan(&mut plan);
    progress::conclude(&mut rollout, situation, &mut plan);
    Ok(plan)
}

/// Has `spec.replicas` changed since the sets were last scaled?
fn is_scaling(rollout: &Rollout<'_>) -> bool {
    let active = rollout
        .sets
        .iter()
        .map(|set| &set.object)
        .filter(|set| scaling::replicas(set) > 0);
    active
        .filter_map(|set| history::number(set, history::DESIRED))
        .any(|desired| desired != scaling::wanted(rollout.deployment))
}

fn old_pods_run(cluster: &Snapshot, rollout: &Rollout<'_>) -> Result<bool, Undecodable> {
    for at in rollout.old_by_age() {
        let uid = Uid::from(
            rollout.sets[at]
                .object
                .metadata
                .uid
                .as_deref()
                .unwrap_or_default(),
        );
        if pods::owned_by(cluster, &uid)?
            .iter()
            .any(|pod| !pods::is_terminal(pod))
        {
            return Ok(true);
        }
    }
    Ok(false)
}

fn clean_up(rollout: &Rollout<'_>, plan: &mut Plan) {
    let old = rollout
        .old_by_age()
        .into_iter()
        .map(|at| &rollout.sets[at].object);
    plan.actions.extend(
        history::expired(rollout.deployment, old)
            .into_iter()
            .map(Action::delete),
    );
}

#[cfg(test)]
mod tests {
    use crate::testing::plan;

    const WEB: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: a, uid: a}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: a, uid: d1, generation: 2, annotations: {deployment.kubernetes.io/revision: '1'}}
spec:
  replicas: 4
  progressDeadlineSeconds: 600
  selector: {matchLabels: {app: web}}
  strategy: {type: RollingUpdate, rollingUpdate: {maxSurge: 1, maxUnavailable: 1}}
  template: {metadata: {labels: {app: web}}, spec: {containers: [{name: c, image: IMAGE}]}}
status: {observedGeneration: 1, replicas: 4, updatedReplicas: 4, readyReplicas: 4, availableReplicas: 4}
";
    fn set(name: &str, image: &str, replicas: i32, available: i32, revision: i32) -> String {
        format!("
apiVersion: apps/v1
kind: ReplicaSet
metadata:
  name: {name}
  namespace: a
  uid: {name}
  generation: 1
  creationTimestamp: 2026-01-01T00:00:0{revision}Z
  labels: {{app: web, pod-template-hash: {name}}}
  annotations: {{deployment.kubernetes.io/revision: '{revision}', deployment.kubernetes.io/desired-replicas: '4', deployment.kubernetes.io/max-replicas: '5'}}
  ownerReferences: [{{apiVersion: apps/v1, kind: Deployment, name: web, uid: d1, controller: true}}]
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: web, pod-template-hash: {name}}}}}
  template: {{metadata: {{labels: {{app: web, pod-template-hash: {name}}}}}, spec: {{containers: [{{name: c, image: {image}}}]}}}}
status: {{replicas: {replicas}, availableReplicas: {available}, readyReplicas: {available}, observedGeneration: 1}}
")
    }

    fn web(image: &str, edit: &[(&str, &str)]) -> String {
        edit.iter()
            .fold(WEB.replace("IMAGE", image), |text, (from, to)| {
                text.replace(from, to)
            })
    }

    #[tokio::test]
    async fn a_rollout_goes_step_by_step() {
        for (story, objects, expected) in [
            (
                "a new template asks for a set",
                vec![web("v2", &[]), set("one", "v1", 4, 4, 1)],
                "create replicaset a/web-*\nstatus deployment a/web\n",
            ),
            (
                "the new set's revision comes first",
                vec![
                    web("v2", &[]),
                    set("one", "v1", 4, 4, 1),
                    set("two", "v2", 1, 0, 2),
                ],
                "status deployment a/web\n",
            ),
            (
                "old ones go while enough are available",
                vec![
                    web("v2", &[("'1'", "'2'")]),
                    set("one", "v1", 4, 4, 1),
                    set("two", "v2", 1, 0, 2),
                ],
                "update replicaset a/one\nevent Normal ScalingReplicaSet: Scaled down replica set one from 4 to 3\nstatus deployment a/web\nagain at 2026-01-01T00:11:01Z\n",
            ),
            (
                "the new set grows as old ones shrink",
                vec![
                    web("v2", &[("'1'", "'2'")]),
                    set("one", "v1", 2, 2, 1),
                    set("two", "v2", 2, 1, 2),
                ],
                "update replicaset a/two\nevent Normal ScalingReplicaSet: Scaled up replica set two from 2 to 3\nstatus deployment a/web\nagain at 2026-01-01T00:11:01Z\n",
            ),
            (
                "an undo takes the old set up again under a new revision",
                vec![
                    web("v1", &[]),
                    set("one", "v1", 0, 0, 1),
                    set("two", "v2", 4, 4, 2),
                ],
                "update replicaset a/one\nstatus deployment a/web\n",
            ),
            (
                "scaling two sets keeps their proportion",
                vec![
                    web("v2", &[("'1'", "'2'"), ("replicas: 4\n", "replicas: 8\n")]),
                    set("one", "v1", 3, 3, 1),
                    set("two", "v2", 2, 1, 2),
                ],
                "update replicaset a/one\nupdate replicaset a/two\nevent Normal ScalingReplicaSet: Scaled up replica set one from 3 to 5\n\
                 event Normal ScalingReplicaSet: Scaled up replica set two from 2 to 4\nstatus deployment a/web\n",
            ),
            (
                "Recreate stops the old first",
                vec![
                    web("v2", &[("type: RollingUpdate", "type: Recreate")]),
                    set("one", "v1", 4, 4, 1),
                ],
                "update replicaset a/one\nevent Normal ScalingReplicaSet: Scaled down replica set one from 4 to 0\nstatus deployment a/web\n",
            ),
            (
                "a pause stops it",
                vec![
                    web(
                        "v2",
                        &[("progressDeadline", "paused: true\n  progressDeadline")],
                    ),
                    set("one", "v1", 4, 4, 1),
                ],
                "status deployment a/web\n",
            ),
            (
                "an orphan is adopted",
                vec![
                    web("v1", &[]),
                    set("one", "v1", 4, 4, 1).replace("uid: d1, controller: true", "uid: d1"),
                ],
                "update replicaset a/one\n",
            ),
        ] {
            let text = plan(&super::CONTROLLER, "a/web", &objects).await;
            // The new set's name ends in a hash.
            let text = text
                .lines()
                .map(|line| {
                    line.split_once("replicaset a/web-")
                        .map_or(line.to_owned(), |(head, _)| {
                            format!("{head}replicaset a/web-*")
                        })
                        + "\n"
                })
                .collect::<String>();
            assert_eq!(text, expected, "{story}");
        }
    }
}
