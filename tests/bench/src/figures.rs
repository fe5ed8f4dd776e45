//! Latencies as the figures that are printed: milliseconds with microseconds behind the point.

use std::time::Duration;

use serde_json::{Value, json};

/// The value below which `share` of the sorted values lie (nearest rank).
fn percentile(sorted: &[Duration], share: f64) -> f64 {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted
        .get(rank.clamp(1, sorted.len().max(1)) - 1)
        .map_or(f64::NAN, |value| milliseconds(*value))
}

fn milliseconds(value: Duration) -> f64 {
    (value.as_secs_f64() * 1e6).round() / 1e3
}

/// Number, median, p99 and extremes of `values`.
pub fn summary(mut values: Vec<Duration>) -> Value {
    values.sort_unstable();
    json!({
        "n": values.len(),
        "min_ms": percentile(&values, 0.0),
        "p50_ms": percentile(&values, 0.5),
        "p99_ms": percentile(&values, 0.99),
        "max_ms": percentile(&values, 1.0),
    })
}

#[cfg(test)]
mod tests {
    use super::summary;
    use std::time::Duration;

    #[test]
    fn percentiles_are_values_that_occurred() {
        for (values, p50, p99, max) in [
            (vec![7], 7.0, 7.0, 7.0),
            (vec![3, 1, 2], 2.0, 3.0, 3.0),
            ((1..=200).collect(), 100.0, 198.0, 200.0),
        ] {
            let figures = summary(values.into_iter().map(Duration::from_millis).collect());
            assert_eq!(
                (&figures["p50_ms"], &figures["p99_ms"], &figures["max_ms"]),
                (&p50.into(), &p99.into(), &max.into())
            );
        }
    }

    #[test]
    fn nothing_measured_is_no_figure() {
        assert!(summary(Vec::new())["p50_ms"].is_null());
    }
}
