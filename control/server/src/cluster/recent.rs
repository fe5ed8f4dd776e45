//! The mean of what was counted lately, from counters that only ever grow.

use caravel_store::latency::Counted;
use parking_lot::Mutex;
use std::time::Duration;
use tokio::time::Instant;

/// Lately: since one to two times this.
const SPAN: Duration = Duration::from_secs(60);
/// Fewer tell nothing.
const ENOUGH: u64 = 10;

/// Where counting began: the older of two marks, and the newer one that takes its place.
#[derive(Default)]
pub(crate) struct Recent(Mutex<Option<Marks>>);

struct Marks {
    older: (u64, Duration),
    newer: (u64, Duration),
    at: Instant,
}

impl Recent {
    /// The mean since the older mark; none if there was too little.
    pub fn mean(&self, now: &Counted) -> Option<Duration> {
        let seen = (now.count, now.sum);
        let mut marks = self.0.lock();
        let marks = marks.get_or_insert(Marks {
            older: (0, Duration::ZERO),
            newer: seen,
            at: Instant::now(),
        });
        if marks.at.elapsed() >= SPAN {
            marks.older = std::mem::replace(&mut marks.newer, seen);
            marks.at = Instant::now();
        }
        let count = seen.0.saturating_sub(marks.older.0);
        let sum = seen.1.saturating_sub(marks.older.1);
        (count >= ENOUGH).then(|| sum / u32::try_from(count).unwrap_or(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_was_long_ago_does_not_count() {
        let counted = |count: u64, millis: u64| Counted {
            count,
            sum: Duration::from_millis(millis),
            ..Counted::default()
        };
        let recent = Recent::default();
        assert_eq!(recent.mean(&counted(5, 5)), None);
        let slow = recent.mean(&counted(100, 20_000));
        assert_eq!(slow, Some(Duration::from_millis(200)));
        for n in 1..=3 {
            tokio::time::advance(SPAN).await;
            recent.mean(&counted(100 + n * 100, 20_000 + n * 100));
        }
        let fast = recent.mean(&counted(500, 20_400));
        assert_eq!(fast, Some(Duration::from_millis(1)));
    }
}
