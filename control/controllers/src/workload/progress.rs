//! How far a rollout is: a Deployment's status and its conditions Available, Progressing and ReplicaFailure.
//!
//! Follows `pkg/controller/deployment/progress.go` and `sync.go`, in reasons and messages.

use caravel_api::time;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus};

use crate::action::{Action, Plan};
use crate::row::Situation;
use crate::workload::deployment::Rollout;
use crate::workload::scaling;

const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const AVAILABLE: &str = "NewReplicaSetAvailable";

pub fn has_deadline(deployment: &Deployment) -> bool {
    deployment
        .spec
        .progress_deadline_seconds
        .is_some_and(|seconds| seconds != i32::MAX)
}

pub fn condition(
    kind: &str,
    status: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> DeploymentCondition {
    DeploymentCondition {
        type_: Some(kind.to_owned()),
        status: Some(status.to_owned()),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_update_time: Some(time::time(now)),
        last_transition_time: Some(time::time(now)),
    }
}

fn find<'a>(status: &'a DeploymentStatus, kind: &str) -> Option<&'a DeploymentCondition> {
    status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_.as_deref() == Some(kind))
}

fn remove(status: &mut DeploymentStatus, kind: &str) {
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|condition| condition.type_.as_deref() != Some(kind));
    }
    status.conditions = status
        .conditions
        .take()
        .filter(|conditions| !conditions.is_empty());
}

/// Sets a condition; nothing changes while status and reason stay.
pub fn set(status: &mut DeploymentStatus, mut condition: DeploymentCondition) {
    let kind = condition.type_.clone().unwrap_or_default();
    if let Some(old) = find(status, &kind) {
        if (&old.status, &old.reason) == (&condition.status, &condition.reason) {
            return;
        }
        if old.status == condition.status {
            condition.last_transition_time = old.last_transition_time.clone();
        }
    }
    remove(status, &kind);
    status.conditions.get_or_insert_default().push(condition);
}

/// Notes pause and resumption as a condition. Says whether that changed anything.
pub fn pause(rollout: &mut Rollout<'_>, situation: &Situation<'_>) -> bool {
    let reason =
        find(&rollout.status, "Progressing").and_then(|condition| condition.reason.as_deref());
    if !has_deadline(rollout.deployment) || reason == Some(TIMED_OUT) {
        return false;
    }
    let (reason, message) = match (
        rollout.deployment.spec.paused == Some(true),
        reason == Some("DeploymentPaused"),
    ) {
        (true, false) => ("DeploymentPaused", "Deployment is paused"),
        (false, true) => ("DeploymentResumed", "Deployment is resumed"),
        _ => return false,
    };
    set(
        &mut rollout.status,
        condition("Progressing", "Unknown", reason, message, situation.now),
    );
    true
}

fn counted(count: i32) -> Option<i32> {
    Some(count).filter(|count| *count != 0)
}

/// The status by the sets' statuses, with the conditions decided so far.
fn calculate(rollout: &Rollout<'_>, situation: &Situation<'_>) -> DeploymentStatus {
    let sum = |of: &dyn Fn(&k8s_openapi::api::apps::v1::ReplicaSet) -> i32| {
        rollout.sets.iter().map(|set| of(&set.object)).sum::<i32>()
    };
    let available = sum(&scaling::available);
    let ready = sum(&|set| {
        set.status
            .as_ref()
            .and_then(|status| status.ready_replicas)
            .unwrap_or(0)
    });
    let terminating = sum(&|set| {
        set.status
            .as_ref()
            .and_then(|status| status.terminating_replicas)
            .unwrap_or(0)
    });
    let mut status = DeploymentStatus {
        observed_generation: rollout.deployment.metadata.generation,
        replicas: counted(sum(&scaling::actual)),
        updated_replicas: counted(rollout.new_set().map_or(0, scaling::actual)),
        ready_replicas: counted(ready),
        available_replicas: counted(available),
        unavailable_replicas: counted((rollout.total() - available).max(0)),
        terminating_replicas: Some(terminating),
        collision_count: rollout.status.collision_count,
        conditions: rollout.status.conditions.clone(),
    };
    let minimum =
        scaling::wanted(rollout.deployment) - scaling::max_unavailable(rollout.deployment);
    let enough = if available >= minimum {
        condition(
            "Available",
            "True",
            "MinimumReplicasAvailable",
            "Deployment has minimum availability.",
            situation.now,
        )
    } else {
        condition(
            "Available",
            "False",
            "MinimumReplicasUnavailable",
            "Deployment does not have minimum availability.",
            situation.now,
        )
    };
    set(&mut status, enough);
    status
}

/// Does the status say that the rollout of the present generation is over?
pub fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let wanted = counted(scaling::wanted(deployment));
    (
        status.updated_replicas,
        status.replicas,
        status.available_replicas,
    ) == (wanted, wanted, wanted)
        && status.observed_generation >= deployment.metadata.generation
}

fn advanced(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let number = |field: Option<i32>| field.unwrap_or(0);
    let outdated =
        |status: &DeploymentStatus| number(status.replicas) - number(status.updated_replicas);
    new.updated_replicas > old.updated_replicas
        || outdated(new) < outdated(old)
        || new.ready_replicas > old.ready_replicas
        || new.available_replicas > old.available_replicas
}

/// When the rollout has taken too long, unless it moves.
fn deadline(deployment: &Deployment, status: &DeploymentStatus) -> Option<Timestamp> {
    let seconds = deployment
        .spec
        .progress_deadline_seconds
        .filter(|_| has_deadline(deployment))?;
    let condition = find(status, "Progressing")
        .filter(|condition| condition.reason.as_deref() != Some(AVAILABLE))?;
    let since = condition.last_update_time.as_ref()?.0;
    Some(time::after(since, i64::from(seconds)))
}

/// Writes the status where it differs (upstream's `syncDeploymentStatus`).
pub fn plain(rollout: &mut Rollout<'_>, situation: &Situation<'_>) -> Plan {
    rollout.status = calculate(rollout, situation);
    write(rollout)
}

/// Writes `rollout.status` where it differs from the Deployment's.
pub fn write(rollout: &Rollout<'_>) -> Plan {
    if rollout.deployment.status.as_ref() == Some(&rollout.status) {
        return Plan::nothing();
    }
    let mut deployment = rollout.deployment.clone();
    deployment.status = Some(rollout.status.clone());
    Plan::of(vec![Action::update_status(&deployment)])
}

/// The status at the end of a step of a rollout (upstream's `syncRolloutStatus`).
pub fn conclude(rollout: &mut Rollout<'_>, situation: &Situation<'_>, plan: &mut Plan) {
    let deployment = rollout.deployment;
    let old = deployment.status.clone().unwrap_or_default();
    let subject = match rollout.new_set() {
        Some(set) => format!(
            "ReplicaSet {:?}",
            set.metadata.name.as_deref().unwrap_or_default()
        ),
        None => format!(
            "Deployment {:?}",
            deployment.metadata.name.as_deref().unwrap_or_default()
        ),
    };
    if let (Some(set_found), true, None) = (
        rollout.new_set(),
        has_deadline(deployment),
        find(&rollout.status, "Progressing"),
    ) {
        let message = format!(
            "Found new replica set {:?}",
            set_found.metadata.name.as_deref().unwrap_or_default()
        );
        set(
            &mut rollout.status,
            condition(
                "Progressing",
                "True",
                "FoundNewReplicaSet",
                &message,
                situation.now,
            ),
        );
    }
    let mut status = calculate(rollout, situation);
    let current = find(&rollout.status, "Progressing").cloned();
    if !has_deadline(deployment) {
        remove(&mut status, "Progressing");
    }
    let settled = status.replicas == status.updated_replicas
        && current
            .as_ref()
            .is_some_and(|current| current.reason.as_deref() == Some(AVAILABLE));
    if has_deadline(deployment) && !settled {
        if is_complete(deployment, &status) {
            let message = format!("{subject} has successfully progressed.");
            set(
                &mut status,
                condition("Progressing", "True", AVAILABLE, &message, situation.now),
            );
        } else if advanced(&old, &status) {
            let message = format!("{subject} is progressing.");
            let mut moving = condition(
                "Progressing",
                "True",
                "ReplicaSetUpdated",
                &message,
                situation.now,
            );
            if let Some(current) = current {
                if current.status.as_deref() == Some("True") {
                    moving.last_transition_time = current.last_transition_time;
                }
                remove(&mut status, "Progressing");
            }
            set(&mut status, moving);
        } else if deadline(deployment, &status).is_some_and(|at| at < situation.now) {
            let message = format!("{subject} has timed out progressing.");
            set(
                &mut status,
                condition("Progressing", "False", TIMED_OUT, &message, situation.now),
            );
        }
    }
    match failure(rollout) {
        Some(failure) => set(&mut status, failure),
        None => remove(&mut status, "ReplicaFailure"),
    }
    if let Some(at) = deadline(deployment, &status)
        && find(&status, "Progressing")
            .is_some_and(|condition| condition.reason.as_deref() != Some(TIMED_OUT))
    {
        plan.again(time::after(at, 1).max(time::after(situation.now, 1)));
    }
    rollout.status = status;
    plan.actions.extend(write(rollout).actions);
}

/// What the new set, or else any other, cannot create.
fn failure(rollout: &Rollout<'_>) -> Option<DeploymentCondition> {
    let sets = rollout
        .new_set()
        .into_iter()
        .chain(rollout.sets.iter().map(|set| &set.object));
    let mut conditions = sets.flat_map(|set| {
        set.status
            .iter()
            .flat_map(|status| status.conditions.iter().flatten())
    });
    let condition =
        conditions.find(|condition| condition.type_.as_deref() == Some("ReplicaFailure"))?;
    Some(DeploymentCondition {
        type_: condition.type_.clone(),
        status: condition.status.clone(),
        reason: condition.reason.clone(),
        message: condition.message.clone(),
        last_update_time: condition.last_transition_time.clone(),
        last_transition_time: condition.last_transition_time.clone(),
    })
}
