//! What goes wrong, and when: a plan made of the seed before the run begins.

use std::fmt;
use std::time::Duration;

use rand::Rng as _;
use rand::rngs::StdRng;

/// One thing that goes wrong, to machines that are chosen when it happens.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// Power is lost, at once or within the next few writes of that disk; `leader` or any other.
    Crash {
        leader: bool,
        writes: Option<u64>,
        down: Duration,
    },
    /// All lose power.
    CrashAll {
        down: Duration,
    },
    /// Whoever grants the next vote loses power right after.
    CrashVoter {
        down: Duration,
    },
    /// Whoever acknowledges the next entries loses power right after.
    CrashFollower {
        down: Duration,
    },
    /// Nobody hears one machine and it hears nobody.
    Isolate {
        leader: bool,
        lasts: Duration,
    },
    /// One direction between two.
    OneWay {
        from_leader: bool,
        lasts: Duration,
    },
    /// A minority with the leader, or without.
    Split {
        lasts: Duration,
    },
    /// Messages are lost, late and doubled.
    Weather {
        lost: u32,
        doubled: u32,
        delayed: u32,
        late: Duration,
        lasts: Duration,
    },
    SlowDisk {
        times: u32,
        lasts: Duration,
    },
    /// One is away for so long that it needs a snapshot.
    Lag {
        lasts: Duration,
    },
    Transfer,
    /// A new machine takes the place of one, which is thrown away.
    Replace,
    /// A fourth and a fifth machine come, or go again.
    Resize,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// When each fault begins, since the start of the run.
pub fn plan(random: &mut StdRng, seconds: u64) -> Vec<(Duration, Fault)> {
    let mut plan = Vec::new();
    let mut at = Duration::from_millis(1_500);
    // Each run has each of these once, in some order; what comes besides is up to chance.
    let mut must = vec![8, 9, 10, 11, 2, 3, 4];
    while at < Duration::from_secs(seconds) {
        let which = if !must.is_empty() && random.random_bool(0.4) {
            must.remove(random.random_range(0..must.len()))
        } else {
            random.random_range(0..13)
        };
        plan.push((at, fault(random, which)));
        at += Duration::from_millis(random.random_range(600..2_900));
    }
    plan
}

fn fault(random: &mut StdRng, which: u32) -> Fault {
    let mut time = |from: u64, to: u64| Duration::from_millis(random.random_range(from..to));
    let (down, lasts) = (time(50, 4_000), time(300, 6_000));
    match which {
        0 => Fault::Crash {
            leader: true,
            writes: None,
            down,
        },
        1 => Fault::Crash {
            leader: random.random_bool(0.5),
            writes: Some(random.random_range(0..12)),
            down,
        },
        2 => Fault::CrashAll { down },
        3 => Fault::CrashVoter {
            down: time(20, 400),
        },
        4 => Fault::CrashFollower {
            down: time(20, 400),
        },
        5 => Fault::Isolate {
            leader: random.random_bool(0.6),
            lasts,
        },
        6 => Fault::OneWay {
            from_leader: random.random_bool(0.5),
            lasts,
        },
        7 => Fault::Split { lasts },
        8 => Fault::Lag {
            lasts: time(5_000, 9_000),
        },
        9 => Fault::Replace,
        10 => Fault::Transfer,
        11 => Fault::Resize,
        12 if random.random_bool(0.5) => Fault::SlowDisk {
            times: random.random_range(10..100),
            lasts,
        },
        _ => Fault::Weather {
            lost: random.random_range(0..200),
            doubled: random.random_range(0..200),
            delayed: random.random_range(0..500),
            late: Duration::from_millis(random.random_range(10..800)),
            lasts,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;

    #[test]
    fn every_plan_is_full_and_has_what_it_must() {
        for seed in 0..200 {
            let plan = plan(&mut StdRng::seed_from_u64(seed), 60);
            assert!(plan.len() >= 20, "seed {seed} has {}", plan.len());
            let has = |holds: fn(&Fault) -> bool| plan.iter().any(|(_, fault)| holds(fault));
            assert!(has(|fault| matches!(fault, Fault::Replace | Fault::Resize)));
            assert!(has(|fault| matches!(fault, Fault::Lag { .. })));
            assert!(has(|fault| matches!(fault, Fault::Transfer)));
            assert!(has(|fault| matches!(fault, Fault::CrashAll { .. })));
        }
    }
}
