//! What happened to the cluster between two looks at it. Pure; whoever watches keeps looking.

use super::view::View;
use caravel_rpc::cluster::v1::member::Role;
use caravel_rpc::cluster::v1::watch_events_response::Event;
use caravel_rpc::cluster::v1::{Alarm, Began, KeyChanged, LeaderChanged, MemberChanged};

/// How things are as a watch begins.
pub(crate) fn began(view: &View) -> Event {
    Event::Began(Began {
        leader: view.leader,
        term: view.term,
        members: view.members.clone(),
        alarms: view.alarms.clone(),
    })
}

/// In the order in which they matter: who leads, who belongs, what was done, what is wrong.
pub(crate) fn between(before: &View, now: &View) -> Vec<Event> {
    let mut events = Vec::new();
    if (before.leader, before.term) != (now.leader, now.term) {
        events.push(Event::LeaderChanged(LeaderChanged {
            leader: now.leader,
            term: now.term,
        }));
    }
    for member in &now.members {
        let was = before.members.iter().find(|was| was.id == member.id);
        let was = was.map_or(Role::Invited, |was| was.role());
        let changed = || MemberChanged {
            member: Some(member.clone()),
        };
        match (was, member.role()) {
            (Role::Invited, Role::Learner) => events.push(Event::MemberJoined(changed())),
            (Role::Invited, Role::Voter) => {
                events.push(Event::MemberJoined(changed()));
                events.push(Event::MemberPromoted(changed()));
            }
            (Role::Learner, Role::Voter) => events.push(Event::MemberPromoted(changed())),
            (Role::Learner | Role::Voter, Role::Removed | Role::Invited) => {
                events.push(Event::MemberRemoved(changed()));
            }
            _ => {}
        }
    }
    for saved in &now.snapshots {
        if !before.snapshots.contains(saved) {
            events.push(Event::SnapshotSaved(*saved));
        }
    }
    if before.key != now.key {
        events.push(Event::KeyChanged(KeyChanged { key: now.key }));
    }
    let missing = |from: &[Alarm], alarm: &Alarm| {
        !from
            .iter()
            .any(|other| (other.kind, other.member) == (alarm.kind, alarm.member))
    };
    for alarm in &before.alarms {
        if missing(&now.alarms, alarm) {
            events.push(Event::AlarmCleared(alarm.clone()));
        }
    }
    for alarm in &now.alarms {
        if missing(&before.alarms, alarm) {
            events.push(Event::AlarmRaised(alarm.clone()));
        }
    }
    events
}

#[cfg(test)]
mod tests {
    use super::*;
    use caravel_rpc::cluster::v1::alarm::Kind;
    use caravel_rpc::cluster::v1::{Member, SavedSnapshot};

    fn member(id: u64, role: Role) -> Member {
        Member {
            id,
            role: role.into(),
            ..Member::default()
        }
    }

    fn alarm(kind: Kind, member: u64, message: &str) -> Alarm {
        Alarm {
            kind: kind.into(),
            member,
            message: message.into(),
        }
    }

    fn words(before: &View, now: &View) -> Vec<String> {
        between(before, now)
            .iter()
            .map(|event| match event {
                Event::Began(_) => "began".to_owned(),
                Event::LeaderChanged(to) => format!("leader {} in {}", to.leader, to.term),
                Event::MemberJoined(who) => format!("joined {}", id(who)),
                Event::MemberPromoted(who) => format!("promoted {}", id(who)),
                Event::MemberRemoved(who) => format!("removed {}", id(who)),
                Event::SnapshotSaved(saved) => format!("saved {}", saved.revision),
                Event::AlarmRaised(alarm) => format!("raised {}", alarm.message),
                Event::AlarmCleared(alarm) => format!("cleared {}", alarm.message),
                Event::KeyChanged(to) => format!("key {}", to.key),
            })
            .collect()
    }

    fn id(changed: &MemberChanged) -> u64 {
        changed.member.as_ref().map_or(0, |member| member.id)
    }

    #[test]
    fn each_change_is_told_once() {
        let before = View {
            leader: 1,
            term: 4,
            members: vec![
                member(1, Role::Voter),
                member(2, Role::Learner),
                member(3, Role::Voter),
                member(4, Role::Invited),
            ],
            alarms: vec![
                alarm(Kind::MemberSilent, 3, "silent for 4 s"),
                alarm(Kind::EvenVoters, 0, "even"),
            ],
            snapshots: vec![],
            key: 1,
        };
        assert!(words(&before, &before).is_empty());
        let now = View {
            leader: 2,
            term: 5,
            members: vec![
                member(1, Role::Voter),
                member(2, Role::Voter),
                member(3, Role::Removed),
                member(4, Role::Learner),
                member(5, Role::Voter),
            ],
            alarms: vec![
                // The same one, in other words.
                alarm(Kind::MemberSilent, 3, "silent for 5 s"),
                alarm(Kind::MemberSilent, 4, "four is silent"),
            ],
            snapshots: vec![SavedSnapshot {
                member: 1,
                revision: 77,
                created: 1,
            }],
            key: 2,
        };
        assert_eq!(
            words(&before, &now),
            [
                "leader 2 in 5",
                "promoted 2",
                "removed 3",
                "joined 4",
                "joined 5",
                "promoted 5",
                "saved 77",
                "key 2",
                "cleared even",
                "raised four is silent",
            ]
        );
    }
}
