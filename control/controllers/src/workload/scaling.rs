//! How many pods each of a Deployment's sets should have: the arithmetic of rolling updates.
//!
//! Follows `pkg/controller/deployment/{rolling,recreate,sync}.go` and `util/deployment_util.go`.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::workload::deployment::Rollout;
use crate::workload::history;

pub fn wanted(deployment: &Deployment) -> i32 {
    deployment.spec.replicas.unwrap_or(1)
}

pub fn replicas(set: &ReplicaSet) -> i32 {
    set.spec.replicas.unwrap_or(1)
}

pub fn available(set: &ReplicaSet) -> i32 {
    set.status
        .as_ref()
        .and_then(|status| status.available_replicas)
        .unwrap_or(0)
}

/// Pods that the set has, as it last said.
pub fn actual(set: &ReplicaSet) -> i32 {
    set.status.as_ref().map_or(0, |status| status.replicas)
}

pub fn is_rolling(deployment: &Deployment) -> bool {
    deployment
        .spec
        .strategy
        .as_ref()
        .and_then(|strategy| strategy.type_.as_deref())
        .unwrap_or("RollingUpdate")
        == "RollingUpdate"
}

fn resolve(value: Option<&IntOrString>, total: i32, round_up: bool) -> i32 {
    let percent = match value {
        Some(IntOrString::Int(number)) => return (*number).max(0),
        Some(IntOrString::String(text)) => text.trim_end_matches('%').parse::<i64>().unwrap_or(0),
        None => 25,
    };
    let hundredths = percent * i64::from(total);
    let number = if round_up {
        (hundredths + 99).div_euclid(100)
    } else {
        hundredths.div_euclid(100)
    };
    i32::try_from(number).unwrap_or(i32::MAX).max(0)
}

/// (maxSurge, maxUnavailable) in pods; never both zero.
pub fn fenceposts(deployment: &Deployment) -> (i32, i32) {
    let rolling = deployment
        .spec
        .strategy
        .as_ref()
        .and_then(|strategy| strategy.rolling_update.as_ref());
    let wanted = wanted(deployment);
    let surge = resolve(
        rolling.and_then(|rolling| rolling.max_surge.as_ref()),
        wanted,
        true,
    );
    let unavailable = resolve(
        rolling.and_then(|rolling| rolling.max_unavailable.as_ref()),
        wanted,
        false,
    );
    if surge == 0 && unavailable == 0 {
        (0, 1)
    } else {
        (surge, unavailable)
    }
}

pub fn max_surge(deployment: &Deployment) -> i32 {
    if is_rolling(deployment) {
        fenceposts(deployment).0
    } else {
        0
    }
}

pub fn max_unavailable(deployment: &Deployment) -> i32 {
    if !is_rolling(deployment) || wanted(deployment) == 0 {
        return 0;
    }
    fenceposts(deployment).1.min(wanted(deployment))
}

/// How many replicas the new set may have now.
pub fn new_set_replicas(deployment: &Deployment, total: i32, current: i32) -> i32 {
    let wanted = wanted(deployment);
    if !is_rolling(deployment) {
        return wanted;
    }
    let room = wanted.saturating_add(max_surge(deployment)) - total;
    if room <= 0 {
        current
    } else {
        current + room.min(wanted - current)
    }
}

/// One step of a rolling update: the new set up, or else old ones down. Says whether anything was scaled.
pub fn roll(rollout: &mut Rollout<'_>) -> bool {
    scale_new(rollout) || scale_old_down(rollout)
}

/// The new set to what it may have; for Recreate all at once.
pub fn scale_new(rollout: &mut Rollout<'_>) -> bool {
    let total = rollout.total();
    let wanted = wanted(rollout.deployment);
    let Some(new) = rollout.new else { return false };
    let current = replicas(&rollout.sets[new].object);
    let target = if current >= wanted {
        wanted
    } else {
        new_set_replicas(rollout.deployment, total, current)
    };
    rollout.scale(new, target)
}

fn scale_old_down(rollout: &mut Rollout<'_>) -> bool {
    let old = rollout.old_by_age();
    let old_total: i32 = old
        .iter()
        .map(|at| replicas(&rollout.sets[*at].object))
        .sum();
    let Some(new) = rollout.new else { return false };
    if old_total == 0 {
        return false;
    }
    let min_available = wanted(rollout.deployment) - max_unavailable(rollout.deployment);
    let new_set = &rollout.sets[new].object;
    let new_unavailable = replicas(new_set) - available(new_set);
    let most = rollout.total() - min_available - new_unavailable;
    if most <= 0 {
        return false;
    }
    // First what is unhealthy: it costs nothing.
    let mut down = 0;
    for at in &old {
        let set = &rollout.sets[*at].object;
        let (has, healthy) = (replicas(set), available(set));
        if down >= most {
            break;
        }
        if has > healthy {
            let by = (most - down).min(has - healthy);
            rollout.scale(*at, has - by);
            down += by;
        }
    }
    // Then what the rest can do without.
    let mut spare = rollout
        .sets
        .iter()
        .map(|set| available(&set.object))
        .sum::<i32>()
        - min_available;
    let mut scaled = down > 0;
    for at in &old {
        let has = replicas(&rollout.sets[*at].object);
        if spare <= 0 {
            break;
        }
        if has > 0 {
            let by = has.min(spare);
            rollout.scale(*at, has - by);
            spare -= by;
            scaled = true;
        }
    }
    scaled
}

/// All old sets to nothing (Recreate, and after a rollout has ended).
pub fn stop_old(rollout: &mut Rollout<'_>) -> bool {
    let mut scaled = false;
    for at in rollout.old_by_age() {
        scaled |= rollout.scale(at, 0);
    }
    scaled
}

/// Follows a change of `spec.replicas`: the one active set gets all, several share in proportion.
pub fn scale(rollout: &mut Rollout<'_>) {
    let deployment = rollout.deployment;
    let wanted = wanted(deployment);
    let mut active: Vec<usize> = (0..rollout.sets.len())
        .filter(|at| replicas(&rollout.sets[*at].object) > 0)
        .collect();
    let single = match active.as_slice() {
        [] => rollout.new.or_else(|| rollout.newest_old()),
        [one] => Some(*one),
        _ => None,
    };
    if let Some(at) = single {
        rollout.rescale(at, wanted);
        return;
    }
    if rollout
        .new
        .is_some_and(|new| is_saturated(deployment, &rollout.sets[new].object))
    {
        stop_old(rollout);
        return;
    }
    if !is_rolling(deployment) || active.is_empty() {
        return;
    }
    let total: i32 = active
        .iter()
        .map(|at| replicas(&rollout.sets[*at].object))
        .sum();
    let allowed = if wanted > 0 {
        wanted + max_surge(deployment)
    } else {
        0
    };
    let to_add = allowed - total;
    active.sort_by_key(|at| {
        let set = &rollout.sets[*at].object;
        let age = history::created(set).as_second();
        (-replicas(set), if to_add > 0 { -age } else { age })
    });
    let mut added = 0;
    let mut sizes = Vec::new();
    for at in &active {
        let set = &rollout.sets[*at].object;
        let share = if to_add == 0 {
            0
        } else {
            proportion(set, deployment, to_add, added)
        };
        added += share;
        sizes.push(replicas(set) + share);
    }
    if to_add != 0 {
        sizes[0] = (sizes[0] + to_add - added).max(0);
    }
    for (at, size) in active.into_iter().zip(sizes) {
        rollout.rescale(at, size);
    }
}

fn is_saturated(deployment: &Deployment, set: &ReplicaSet) -> bool {
    let wanted = wanted(deployment);
    replicas(set) == wanted
        && available(set) == wanted
        && history::number(set, history::DESIRED) == Some(wanted)
}

fn proportion(set: &ReplicaSet, deployment: &Deployment, to_add: i32, added: i32) -> i32 {
    if replicas(set) == 0 || to_add == added {
        return 0;
    }
    let share = fraction(set, deployment);
    if to_add > 0 {
        share.min(to_add - added)
    } else {
        share.max(to_add - added)
    }
}

fn fraction(set: &ReplicaSet, deployment: &Deployment) -> i32 {
    let wanted = wanted(deployment);
    if wanted == 0 {
        return -replicas(set);
    }
    let status = deployment
        .status
        .as_ref()
        .and_then(|status| status.replicas)
        .unwrap_or(0);
    let before = history::number(set, history::MAX)
        .filter(|max| *max > 0)
        .unwrap_or(status)
        .max(1);
    let size =
        f64::from(replicas(set)) * f64::from(wanted + max_surge(deployment)) / f64::from(before);
    size.round() as i32 - replicas(set)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fenceposts_round_as_upstream() {
        for (surge, unavailable, wanted, expected) in [
            (json!("25%"), json!("25%"), 3, (1, 0)),
            (json!("25%"), json!("25%"), 10, (3, 2)),
            (json!(0), json!(0), 5, (0, 1)),
            (json!("0%"), json!("10%"), 5, (0, 1)),
            (json!(2), json!(1), 5, (2, 1)),
            (json!("100%"), json!("0%"), 4, (4, 0)),
        ] {
            let deployment: Deployment = serde_json::from_value(json!({"metadata": {}, "spec": {"replicas": wanted, "selector": {}, "template": {},
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}}})).unwrap();
            assert_eq!(
                fenceposts(&deployment),
                expected,
                "{surge} {unavailable} of {wanted}"
            );
        }
    }
}
