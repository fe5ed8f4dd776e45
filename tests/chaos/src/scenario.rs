//! The faults, as data: each scenario is a list of steps. What a step does is in `run.rs`.

use std::time::Duration;

/// Roles as they were at the last `Step::Roles`: the leader, and the two others in the order of their names.
pub const LEADER: usize = 0;
pub const FIRST: usize = 1;
pub const SECOND: usize = 2;
const ALL: [usize; 3] = [LEADER, FIRST, SECOND];

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Looks who leads.
    Roles,
    Kill(Vec<usize>),
    /// Ends them in order.
    Stop(usize),
    Start(Vec<usize>),
    Pause(usize),
    /// Wakes it; requests that waited for it meanwhile must be answered, or nothing was tried.
    Resume(usize),
    /// From, to.
    Cut(Vec<(usize, usize)>),
    /// Packets must have been dropped, or nothing was tried.
    Heal,
    /// Waits until another than the one of `Roles` leads.
    OtherLeader,
    /// Waits until so many writes that begin from now on are acknowledged.
    Written(usize),
    /// Waits until all servers that run say that they are ready.
    Ready,
    /// Lets the load go on.
    Load(Duration),
    /// Takes it out of the quorum, by way of any server.
    Remove(usize),
    /// A removed one comes back with an empty disk and a new token, as a new member.
    Rejoin(usize),
}

/// How much of everything.
#[derive(Clone, Copy, Debug)]
pub struct Length {
    pub kills: usize,
    /// Combinations of cut links, of 63.
    pub cuts: usize,
    pub pause: Duration,
    pub hold: Duration,
}

pub struct Scenario {
    pub name: &'static str,
    pub why: &'static str,
    pub steps: fn(&Length) -> Vec<Step>,
}

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "leader-killed",
        why: "kill -9 of the leader, again and again",
        steps: |length| {
            let round = [
                Step::Roles,
                Step::Kill(vec![LEADER]),
                Step::OtherLeader,
                Step::Written(20),
                Step::Start(vec![LEADER]),
                Step::Ready,
                Step::Written(20),
            ];
            vec![round; length.kills].concat()
        },
    },
    Scenario {
        name: "leader-isolated",
        why: "the leader hears nobody and is heard by nobody: the others go on, and it serves nothing old",
        steps: |length| {
            vec![
                Step::Roles,
                Step::Cut(vec![
                    (LEADER, FIRST),
                    (FIRST, LEADER),
                    (LEADER, SECOND),
                    (SECOND, LEADER),
                ]),
                Step::OtherLeader,
                Step::Written(20),
                Step::Load(length.hold * 2),
                Step::Heal,
                Step::Ready,
                Step::Written(20),
            ]
        },
    },
    Scenario {
        name: "leader-paused",
        why: "the leader sleeps and wakes, and believes that it still leads",
        steps: |length| {
            vec![
                Step::Roles,
                Step::Pause(LEADER),
                Step::OtherLeader,
                Step::Load(length.pause),
                Step::Written(20),
                Step::Resume(LEADER),
                Step::Ready,
                Step::Written(20),
            ]
        },
    },
    Scenario {
        name: "cuts",
        why: "every combination of one-way cuts between three servers, by the roles that they have",
        steps: |length| {
            (1..=length.cuts as u8)
                .flat_map(|mask| cut_round(mask, length))
                .collect()
        },
    },
    Scenario {
        name: "all-killed",
        why: "kill -9 of all servers at once",
        steps: |_| {
            let round = [
                Step::Roles,
                Step::Kill(ALL.to_vec()),
                Step::Start(ALL.to_vec()),
                Step::Ready,
                Step::Written(20),
            ];
            vec![round; 3].concat()
        },
    },
    Scenario {
        name: "rolling-restart",
        why: "each server ends in order and comes back, the leader too",
        steps: |_| {
            let one = |who| {
                vec![
                    Step::Stop(who),
                    Step::Start(vec![who]),
                    Step::Ready,
                    Step::Written(20),
                ]
            };
            [vec![Step::Roles], one(FIRST), one(SECOND), one(LEADER)].concat()
        },
    },
    Scenario {
        name: "member-removed-while-cut",
        why: "a server is removed while it is cut off, hears of it later, and comes back as a new one",
        steps: |length| {
            vec![
                Step::Roles,
                Step::Cut(vec![
                    (LEADER, FIRST),
                    (FIRST, LEADER),
                    (FIRST, SECOND),
                    (SECOND, FIRST),
                ]),
                Step::Load(length.hold),
                Step::Remove(FIRST),
                Step::Written(20),
                Step::Heal,
                Step::Load(length.hold),
                Step::Written(20),
                Step::Rejoin(FIRST),
                Step::Ready,
                Step::Written(20),
            ]
        },
    },
];

/// Six links in one direction each; a bit for each that is cut.
const LINKS: [(usize, usize); 6] = [
    (LEADER, FIRST),
    (FIRST, LEADER),
    (LEADER, SECOND),
    (SECOND, LEADER),
    (FIRST, SECOND),
    (SECOND, FIRST),
];

fn cut_round(mask: u8, length: &Length) -> Vec<Step> {
    let cut = LINKS
        .iter()
        .enumerate()
        .filter(|(bit, _)| mask & (1 << bit) != 0);
    vec![
        Step::Roles,
        Step::Cut(cut.map(|(_, link)| *link).collect()),
        Step::Load(length.hold),
        Step::Heal,
        Step::Ready,
        Step::Written(20),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_of_cuts_is_there_once() {
        let length = Length {
            kills: 1,
            cuts: 63,
            pause: Duration::ZERO,
            hold: Duration::ZERO,
        };
        let cuts = SCENARIOS
            .iter()
            .find(|scenario| scenario.name == "cuts")
            .unwrap();
        let steps = (cuts.steps)(&length);
        let cuts: std::collections::BTreeSet<Vec<(usize, usize)>> = steps
            .into_iter()
            .filter_map(|step| match step {
                Step::Cut(links) => Some(links),
                _ => None,
            })
            .collect();
        assert_eq!(cuts.len(), 63);
    }
}
