//! How long things take, counted in fixed buckets: cheap enough for every flush and every commit.
//!
//! Whoever serves metrics reads a copy; nothing here knows of a metrics format.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds in seconds; what is longer is counted in the total only. Those of etcd's disk metrics.
pub const BOUNDS: [f64; 14] = [
    0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096,
    8.192,
];

/// Durations, counted. Shared by whoever measures and whoever reads.
#[derive(Debug, Default)]
pub(crate) struct Durations {
    buckets: [AtomicU64; BOUNDS.len()],
    count: AtomicU64,
    micros: AtomicU64,
}

/// A copy of what was counted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counted {
    /// How many were at most as long as the bound of the same place in [`BOUNDS`].
    pub cumulative: [u64; BOUNDS.len()],
    pub count: u64,
    pub sum: Duration,
}

impl Durations {
    pub fn add(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        if let Some(at) = BOUNDS.iter().position(|bound| seconds <= *bound) {
            self.buckets[at].fetch_add(1, Ordering::Relaxed);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.micros.fetch_add(micros, Ordering::Relaxed);
    }

    pub fn read(&self) -> Counted {
        let mut so_far = 0;
        Counted {
            cumulative: std::array::from_fn(|at| {
                so_far += self.buckets[at].load(Ordering::Relaxed);
                so_far
            }),
            count: self.count.load(Ordering::Relaxed).max(so_far),
            sum: Duration::from_micros(self.micros.load(Ordering::Relaxed)),
        }
    }
}

impl Counted {
    /// The bound in seconds within which `share` (0 to 1) of everything was done: that of a bucket; 0 when there was
    /// nothing, and infinite beyond the last bound.
    #[must_use]
    pub fn quantile(&self, share: f64) -> f64 {
        if self.count == 0 {
            return 0.0;
        }
        let wanted = share * self.count as f64;
        let found = self
            .cumulative
            .iter()
            .position(|count| *count as f64 >= wanted);
        found.map_or(f64::INFINITY, |at| BOUNDS[at])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_counted_up_to_each_bound() {
        let durations = Durations::default();
        for millis in [1, 3, 3, 20_000] {
            durations.add(Duration::from_millis(millis));
        }
        let counted = durations.read();
        assert_eq!(counted.cumulative[..4], [1, 1, 3, 3]);
        assert_eq!(counted.cumulative[BOUNDS.len() - 1], 3);
        assert_eq!(
            (counted.count, counted.sum),
            (4, Duration::from_millis(20_007))
        );
        assert_eq!(
            (counted.quantile(0.5), counted.quantile(0.75)),
            (0.004, 0.004)
        );
        assert!(counted.quantile(0.99).is_infinite());
        assert_eq!(Counted::default().quantile(0.5).to_bits(), 0);
    }
}
