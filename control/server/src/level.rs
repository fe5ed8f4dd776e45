//! Raising the level of log entries (`control/store/src/level.rs`): whoever leads asks every member what it supports, and has
//! the level raised once all of them support more.
//!
//! The roster says who may be ready, by what each server wrote down at its last start; each is asked again before it
//! counts, because it may have gone back to an older release since. A silent member holds the level back: nobody knows
//! what it supports.

use caravel_peers::membership::Membership;
use caravel_peers::{Member, RosterError, roster};
use caravel_store::{Level, RaiseError, Target};
use std::collections::BTreeMap;
use std::time::Duration;

/// How often it is looked whether the level can rise.
const LOOK: Duration = Duration::from_secs(2);

/// Follows the releases of the members, for ever.
pub(crate) async fn follow(membership: Membership) {
    let mut said = None;
    loop {
        match turn(&membership).await {
            Ok(why) => {
                if let Some(why) = why.as_ref().filter(|why| said.as_ref() != Some(*why)) {
                    tracing::warn!("{why}");
                }
                said = why;
            }
            Err(error) => tracing::warn!("raising the level: {error}"),
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The member that holds the level back, by what the roster says; whoever is not on it has to be asked.
fn held_back(level: Level, members: &[u64], known: &[Member]) -> Option<u64> {
    let on_roster = |id: &&u64| known.iter().find(|one| one.id == **id);
    members
        .iter()
        .find(|id| on_roster(id).is_some_and(|one| one.supports() <= level))
        .copied()
}

/// Raises the level if that can be done; why not, if somebody holds it back.
async fn turn(membership: &Membership) -> Result<Option<RaiseError>, RosterError> {
    let store = membership.store();
    let level = store.level();
    let epoch = *store.leadership().borrow();
    let Some(epoch) = epoch.filter(|_| store.supports() > level) else {
        return Ok(None);
    };
    let members = store.members().list();
    let ids: Vec<u64> = members.iter().map(|member| member.id).collect();
    if let Some(server) = held_back(level, &ids, &roster::all(&store.snapshot())?) {
        return Ok(Some(RaiseError::Unsupported { server, level }));
    }
    let mut reports = BTreeMap::from([(store.identity().node, store.supports())]);
    for member in members {
        if reports.contains_key(&member.id) {
            continue;
        }
        let target = Target {
            id: member.id,
            address: member.address,
        };
        if let Ok(seen) = membership.transport().observe(&target).await {
            reports.insert(target.id, Level::told(seen.supports));
        }
    }
    Ok(match store.raise(epoch, &reports).await {
        // Whoever leads now goes on; what was not settled is looked at again.
        Ok(_) | Err(RaiseError::Deposed | RaiseError::Unknown) => None,
        Err(held) => Some(held),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_asked_while_the_roster_says_no() {
        let known: Vec<Member> = [(1, 2), (2, 0), (3, 1), (4, 2)]
            .into_iter()
            .map(|(id, supports)| Member {
                id,
                supports,
                ..Member::default()
            })
            .collect();
        for (name, level, members, expected) in [
            ("one supports no more", 1, &[1, 3][..], Some(3)),
            (
                "one wrote nothing down: of before levels",
                1,
                &[1, 2],
                Some(2),
            ),
            ("all may", 1, &[1, 4], None),
            ("one is not written down yet", 1, &[1, 9], None),
            ("one that is no member does not count", 1, &[4], None),
        ] {
            assert_eq!(held_back(Level(level), members, &known), expected, "{name}");
        }
    }
}
