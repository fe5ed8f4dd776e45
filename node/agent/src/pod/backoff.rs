//! How long a container waits before it is started again, and an image before it is pulled again.
//!
//! Pure. Follows the kubelet: the first restart is at once, then 10 s, doubled up to 5 min, and forgotten after a run
//! of 10 min (client-go's flowcontrol.Backoff as pkg/kubelet uses it).

use jiff::{SignedDuration, Timestamp};

pub(crate) const FIRST: i64 = 10;
pub(crate) const LONGEST: i64 = 300;

/// Seconds to wait after the `failures`th failure in a row (1 is the first).
pub(crate) fn after_failures(failures: u32) -> i64 {
    FIRST
        .saturating_mul(1 << failures.saturating_sub(1).min(10))
        .min(LONGEST)
}

/// What comes after the end of an attempt that was itself the `streak`th restart in a row (0: the first start).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Next {
    /// When it may start.
    pub at: Timestamp,
    /// The delay in seconds, for messages; 0 is at once.
    pub delay: i64,
    /// The streak of the next attempt.
    pub streak: u32,
}

pub(crate) fn next(streak: u32, started: Timestamp, finished: Timestamp) -> Next {
    let ran = finished.duration_since(started);
    if streak == 0 || ran > SignedDuration::from_secs(2 * LONGEST) {
        return Next {
            at: finished,
            delay: 0,
            streak: 1,
        };
    }
    let delay = after_failures(streak);
    Next {
        at: finished
            .saturating_add(SignedDuration::from_secs(delay))
            .unwrap_or(finished),
        delay,
        streak: streak.saturating_add(1),
    }
}

/// Seconds as Go prints a duration: `10s`, `1m20s`, `5m0s`.
pub(crate) fn shown(seconds: i64) -> String {
    if seconds < 60 {
        format!("{seconds}s")
    } else {
        format!("{}m{}s", seconds / 60, seconds % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_to_five_minutes_and_forgets_after_a_long_run() {
        let at = |seconds: i64| Timestamp::from_second(1_000_000 + seconds).unwrap();
        for (streak, ran, delay, then) in [
            (0, 1, 0, 1),
            (1, 1, 10, 2),
            (2, 1, 20, 3),
            (3, 500, 40, 4),
            (4, 1, 80, 5),
            (6, 1, 300, 7),
            (60, 1, 300, 61),
            (5, 601, 0, 1),
        ] {
            let next = next(streak, at(0), at(ran));
            assert_eq!(
                (next.delay, next.streak, next.at),
                (delay, then, at(ran + delay)),
                "streak {streak}"
            );
        }
        assert_eq!(
            [10, 40, 80, 300].map(shown),
            ["10s", "40s", "1m20s", "5m0s"]
        );
    }
}
