//! The faults, as data: each scenario is a list of steps. What a step does is in `field.rs`.

use crate::faults::How;
use std::time::Duration;

/// Roles as they were at the last `Step::Roles`: the leader, and the others in the order of their names.
pub const LEADER: usize = 0;
pub const FIRST: usize = 1;
pub const SECOND: usize = 2;
const ALL: [usize; 3] = [LEADER, FIRST, SECOND];

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Looks who leads.
    Roles,
    Kill(Vec<usize>),
    /// Ends it in order.
    Stop(usize),
    Start(Vec<usize>),
    Pause(usize),
    /// Wakes it; reads and writes that waited for it meanwhile must be answered, or nothing was tried.
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
    /// One that is cut off says that it is not ready, and serves nothing.
    OutOfTouch(usize),
    /// Its clock is so many seconds late or early, from now on.
    Clock(usize, i64),
    /// Their disks are mounted so that they can be slow and lose what was not synced.
    Loose(Vec<usize>),
    /// A sync takes so long.
    Slow(usize, Duration),
    /// Killed, and what was not synced is torn.
    PowerCut(Vec<usize>),
    /// Killed, and what was not synced is gone.
    PowerLost(Vec<usize>),
    /// Its disk has little room.
    Small(usize),
    Fill(usize),
    Free(usize),
    /// Writes are refused for want of room, and reads served.
    Refused,
    /// Its files are damaged while it is stopped, one after the other, so often.
    Damage {
        who: usize,
        how: How,
        trials: usize,
    },
    /// Its disk is empty: it must not come back under its number; then it comes back as a new one.
    Wipe(usize),
    /// Heals what is cut between these two, and nothing else.
    Mend(usize, usize),
    /// Saves a backup while the load goes on, and looks at what it must hold.
    Backup,
    /// All servers are killed; this one begins again from the backup, another of the old cluster is refused, and both others
    /// join as new ones.
    Restore(usize),
    /// Writes until the leader has let go of log that this one, which hears nothing, would need.
    Outgrow(usize),
    /// Heals all, waits until the leader sends this one a snapshot, and kills the leader before it is installed.
    Installing(usize),
    /// Waits until this one, which is cut off, takes the nodes for dead. They are ready all the time.
    Overdue(usize),
    NodesStay(Duration),
    /// Waits so long for it to say that it leads, and goes on either way.
    Claims(usize, Duration),
}

/// How much of everything.
#[derive(Clone, Copy, Debug)]
pub struct Length {
    pub kills: usize,
    /// Combinations of cut links, of 63.
    pub cuts: usize,
    pub pause: Duration,
    pub hold: Duration,
    /// Power cuts.
    pub power: usize,
    /// Damages to files, of each kind.
    pub damages: usize,
}

pub struct Scenario {
    pub name: &'static str,
    pub why: &'static str,
    /// How many servers it needs.
    pub servers: usize,
    pub steps: fn(&Length) -> Vec<Step>,
}

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "leader-killed",
        why: "kill -9 of the leader, again and again",
        servers: 3,
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
        servers: 3,
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
                Step::Load(length.hold),
                Step::OutOfTouch(LEADER),
                Step::Heal,
                Step::Ready,
                Step::Written(20),
            ]
        },
    },
    Scenario {
        name: "leader-paused",
        why: "the leader sleeps and wakes, and believes that it still leads",
        servers: 3,
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
        servers: 3,
        steps: |length| {
            (1..=length.cuts as u8)
                .flat_map(|mask| cut_round(mask, length))
                .collect()
        },
    },
    Scenario {
        name: "all-killed",
        why: "kill -9 of all servers at once",
        servers: 3,
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
        servers: 3,
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
        servers: 3,
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
    Scenario {
        name: "disk-wiped",
        why: "a server that lost its disk refuses to come back under its old number, and joins as a new one",
        servers: 3,
        steps: |_| {
            vec![
                Step::Roles,
                Step::Wipe(FIRST),
                Step::Ready,
                Step::Written(20),
            ]
        },
    },
    Scenario {
        name: "clocks-jump",
        why: "the leader's clock jumps by an hour, ahead and back, and a follower's the other way",
        servers: 3,
        steps: |length| {
            let mut steps = vec![Step::Roles];
            // Only servers that were started here look at the clock's file.
            for who in [FIRST, SECOND, LEADER] {
                steps.extend([Step::Stop(who), Step::Start(vec![who]), Step::Ready]);
            }
            steps.push(Step::Roles);
            for seconds in [3600, -3600, 0] {
                steps.extend([
                    Step::Clock(LEADER, seconds),
                    Step::Clock(FIRST, -seconds),
                    Step::Load(length.hold),
                    Step::Written(20),
                    Step::Ready,
                ]);
            }
            steps
        },
    },
    Scenario {
        name: "slow-disk",
        why: "every sync of a follower takes 200 ms, then every sync of the leader",
        servers: 3,
        steps: |length| {
            let slow = Duration::from_millis(200);
            vec![
                Step::Roles,
                Step::Loose(vec![FIRST]),
                Step::Slow(FIRST, slow),
                Step::Load(length.hold),
                Step::Written(20),
                Step::Slow(FIRST, Duration::ZERO),
                Step::Loose(vec![LEADER]),
                Step::Slow(LEADER, slow),
                Step::Load(length.hold),
                Step::Written(20),
            ]
        },
    },
    Scenario {
        name: "power-cut",
        why: "all servers lose their power at once, and what was not synced is torn",
        servers: 3,
        steps: |length| {
            let round = [
                Step::Written(40),
                Step::PowerCut(ALL.to_vec()),
                Step::Start(ALL.to_vec()),
                Step::Ready,
            ];
            let begin = vec![Step::Roles, Step::Loose(ALL.to_vec())];
            [begin, vec![round; length.power].concat()].concat()
        },
    },
    Scenario {
        name: "disk-full",
        why: "the leader's disk is full: another leads; all are: writes are refused, reads go on, and it heals by itself",
        servers: 3,
        steps: |_| {
            vec![
                Step::Roles,
                Step::Small(FIRST),
                Step::Small(SECOND),
                Step::Small(LEADER),
                Step::Roles,
                Step::Fill(LEADER),
                Step::OtherLeader,
                Step::Written(20),
                Step::Fill(FIRST),
                Step::Fill(SECOND),
                Step::Refused,
                Step::Free(LEADER),
                Step::Free(FIRST),
                Step::Free(SECOND),
                Step::Written(20),
                Step::Ready,
            ]
        },
    },
    Scenario {
        name: "followers-full",
        why: "the disks of both followers are full: the leader, whose own has room, refuses writes and says why, and it heals by itself",
        servers: 3,
        steps: |_| {
            vec![
                Step::Roles,
                Step::Small(FIRST),
                Step::Small(SECOND),
                Step::Roles,
                Step::Fill(FIRST),
                Step::Written(20),
                Step::Fill(SECOND),
                Step::Refused,
                Step::Free(FIRST),
                Step::Written(20),
                Step::Free(SECOND),
                Step::Written(20),
                Step::Ready,
            ]
        },
    },
    Scenario {
        name: "leader-killed-behind",
        why: "a follower is so far behind that it needs a snapshot, and the leader is killed while it gets one",
        servers: 3,
        steps: |length| {
            let round = vec![
                Step::Roles,
                Step::Cut(vec![
                    (LEADER, FIRST),
                    (FIRST, LEADER),
                    (SECOND, FIRST),
                    (FIRST, SECOND),
                ]),
                Step::Outgrow(FIRST),
                Step::Installing(FIRST),
                Step::OtherLeader,
                Step::Written(20),
                Step::Start(vec![LEADER]),
                Step::Ready,
                Step::Written(20),
            ];
            vec![round; length.kills.clamp(1, 10)].concat()
        },
    },
    Scenario {
        name: "restore",
        why: "all servers are killed and a backup taken under load is restored to one: all of it comes back and nothing else, every client lists again, the old cluster's servers are refused, containers go on",
        servers: 3,
        steps: |_| {
            vec![
                Step::Roles,
                Step::Backup,
                Step::Written(100),
                Step::Restore(FIRST),
                Step::Ready,
                Step::Written(20),
            ]
        },
    },
    Scenario {
        name: "vote-forgotten",
        why: "a voter loses its power before the vote that it was asked for is on its disk, and hears the former leader again",
        servers: 3,
        steps: |length| {
            // The other follower is to lead, the voter's log is shorter than its own, and the former leader goes on.
            let (candidate, voter) = (FIRST, SECOND);
            vec![
                Step::Roles,
                Step::Loose(vec![voter]),
                Step::Roles,
                Step::Written(20),
                Step::Cut(vec![(LEADER, voter)]),
                Step::Load(Duration::from_millis(300)),
                Step::Slow(voter, Duration::from_secs(8)),
                Step::Cut(vec![(LEADER, candidate), (candidate, LEADER)]),
                Step::Claims(candidate, Duration::from_secs(5)),
                Step::PowerLost(vec![voter]),
                Step::Cut(vec![(candidate, voter), (voter, candidate)]),
                Step::Mend(LEADER, voter),
                Step::Slow(voter, Duration::ZERO),
                Step::Start(vec![voter]),
                Step::Load(length.hold.max(Duration::from_secs(5))),
                Step::Heal,
                Step::Ready,
                Step::Written(20),
            ]
        },
    },
    Scenario {
        name: "loop-deposed",
        why: "the leader is cut off until it takes the nodes for dead, and healed while that waits to be written: it never is",
        servers: 3,
        steps: |_| {
            vec![
                // Its nodes' leases are younger than its reign.
                Step::Load(Duration::from_secs(15)),
                Step::Roles,
                Step::Cut(vec![
                    (LEADER, FIRST),
                    (FIRST, LEADER),
                    (LEADER, SECOND),
                    (SECOND, LEADER),
                ]),
                Step::Overdue(LEADER),
                Step::OtherLeader,
                Step::Heal,
                Step::NodesStay(Duration::from_secs(8)),
                Step::Ready,
                Step::Written(20),
            ]
        },
    },
    Scenario {
        name: "files-damaged",
        why: "bits turned over and ends cut off in every file of a stopped server: noticed, or harmless",
        servers: 3,
        steps: |length| {
            let damage = |how| Step::Damage {
                who: FIRST,
                how,
                trials: length.damages,
            };
            vec![
                Step::Roles,
                damage(How::Flip),
                Step::Written(20),
                damage(How::Truncate),
                Step::Written(20),
            ]
        },
    },
    Scenario {
        name: "partitions-of-five",
        why: "of five servers every one and every two are cut off from the others",
        servers: 5,
        steps: |length| {
            let ones = (0..5).map(|a| vec![a]);
            let twos = (0..5).flat_map(|a| (a + 1..5).map(move |b| vec![a, b]));
            ones.chain(twos)
                .take(length.cuts)
                .flat_map(|few| {
                    let links = (0..5)
                        .filter(|other| !few.contains(other))
                        .flat_map(|other| {
                            few.iter()
                                .flat_map(move |one| [(*one, other), (other, *one)])
                        })
                        .collect();
                    vec![
                        Step::Roles,
                        Step::Cut(links),
                        Step::Load(length.hold),
                        Step::Written(20),
                        Step::Heal,
                        Step::Ready,
                    ]
                })
                .collect()
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
            power: 1,
            damages: 1,
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
