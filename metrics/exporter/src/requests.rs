//! Counts of API requests under upstream's names (apiserver/pkg/endpoints/metrics), so that existing
//! dashboards and alerts work: `apiserver_request_total`, `apiserver_request_duration_seconds`, ...

use crate::{MetricsError, Registry};
use prometheus::{HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Opts};
use std::time::Duration;

/// Metrics of an API server. Cheap to clone.
#[derive(Clone, Debug)]
pub struct RequestMetrics {
    total: IntCounterVec,
    duration: HistogramVec,
    inflight: IntGaugeVec,
    watching: IntGaugeVec,
    watch_events: IntCounterVec,
}

/// What one finished request was.
#[derive(Clone, Copy, Debug)]
pub struct Observation<'a> {
    /// Upper-case verb as upstream counts it: `GET`, `LIST`, `WATCH`, `POST`, `PUT`, `PATCH`, `APPLY`, `DELETE`, ...
    pub verb: &'a str,
    /// API group.
    pub group: &'a str,
    /// API version.
    pub version: &'a str,
    /// Plural resource.
    pub resource: &'a str,
    /// Subresource or empty.
    pub subresource: &'a str,
    /// `resource`, `namespace`, `cluster` or empty.
    pub scope: &'a str,
    /// Status code.
    pub code: u16,
    /// Whether it was a dry run.
    pub dry_run: bool,
    /// Time until the response's head was ready.
    pub took: Duration,
}

const BUCKETS: &[f64] = &[
    0.001, 0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0,
    8.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0,
];

impl RequestMetrics {
    /// Makes and registers the metrics.
    ///
    /// # Errors
    /// When the registry has them already.
    pub fn new(registry: &Registry) -> Result<Self, MetricsError> {
        let bad = MetricsError::Register;
        let made = Self {
            total: IntCounterVec::new(
                Opts::new(
                    "apiserver_request_total",
                    "Counter of apiserver requests broken out for each verb, dry run value, group, version, resource, scope, component, and HTTP response code.",
                ),
                &["code", "component", "dry_run", "group", "resource", "scope", "subresource", "verb", "version"],
            )
            .map_err(bad)?,
            duration: HistogramVec::new(
                HistogramOpts::new(
                    "apiserver_request_duration_seconds",
                    "Response latency distribution in seconds for each verb, dry run value, group, version, resource, subresource, scope and component.",
                )
                .buckets(BUCKETS.to_vec()),
                &["component", "dry_run", "group", "resource", "scope", "subresource", "verb", "version"],
            )
            .map_err(bad)?,
            inflight: IntGaugeVec::new(
                Opts::new(
                    "apiserver_current_inflight_requests",
                    "Maximal number of currently used inflight request limit of this apiserver per request kind in last second.",
                ),
                &["request_kind"],
            )
            .map_err(bad)?,
            watching: IntGaugeVec::new(
                Opts::new("apiserver_longrunning_requests", "Gauge of all active long-running apiserver requests broken out by verb, group, version, resource, scope and component."),
                &["component", "group", "resource", "scope", "subresource", "verb", "version"],
            )
            .map_err(bad)?,
            watch_events: IntCounterVec::new(
                Opts::new(
                    "apiserver_watch_events_total",
                    "Number of events sent in watch clients",
                ),
                &["group", "kind", "version"],
            )
            .map_err(bad)?,
        };
        registry.register(made.watch_events.clone())?;
        registry.register(made.total.clone())?;
        registry.register(made.duration.clone())?;
        registry.register(made.inflight.clone())?;
        registry.register(made.watching.clone())?;
        Ok(made)
    }

    /// Counts a finished request.
    pub fn observe(&self, seen: &Observation<'_>) {
        let dry_run = if seen.dry_run { "All" } else { "" };
        let code = seen.code.to_string();
        self.total
            .with_label_values(&[
                code.as_str(),
                "apiserver",
                dry_run,
                seen.group,
                seen.resource,
                seen.scope,
                seen.subresource,
                seen.verb,
                seen.version,
            ])
            .inc();
        self.duration
            .with_label_values(&[
                "apiserver",
                dry_run,
                seen.group,
                seen.resource,
                seen.scope,
                seen.subresource,
                seen.verb,
                seen.version,
            ])
            .observe(seen.took.as_secs_f64());
    }

    /// Counts a request in flight until the guard is dropped.
    #[must_use]
    pub fn in_flight(&self, mutating: bool) -> Guard {
        Guard::new(self.inflight.with_label_values(&[if mutating {
            "mutating"
        } else {
            "readOnly"
        }]))
    }

    /// Where the events of watches of one kind are counted.
    #[must_use]
    pub fn watch_events(&self, group: &str, version: &str, kind: &str) -> IntCounter {
        self.watch_events.with_label_values(&[group, kind, version])
    }

    /// Counts a watch (or another long-running request) until the guard is dropped.
    #[must_use]
    pub fn long_running(&self, seen: &Observation<'_>) -> Guard {
        Guard::new(self.watching.with_label_values(&[
            "apiserver",
            seen.group,
            seen.resource,
            seen.scope,
            seen.subresource,
            seen.verb,
            seen.version,
        ]))
    }
}

/// Holds a gauge up by one.
#[derive(Debug)]
pub struct Guard(prometheus::IntGauge);

impl Guard {
    fn new(gauge: prometheus::IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_has_upstream_names() {
        let registry = Registry::new();
        let metrics = RequestMetrics::new(&registry).unwrap();
        metrics.observe(&Observation {
            verb: "GET",
            group: "",
            version: "v1",
            resource: "pods",
            subresource: "",
            scope: "resource",
            code: 200,
            dry_run: false,
            took: Duration::from_millis(3),
        });
        let text = String::from_utf8(registry.text().unwrap()).unwrap();
        assert!(text.contains(
            "apiserver_request_total{code=\"200\",component=\"apiserver\",dry_run=\"\",group=\"\",resource=\"pods\",scope=\"resource\",subresource=\"\",verb=\"GET\",version=\"v1\"} 1"
        ));
        assert!(text.contains("apiserver_request_duration_seconds_bucket"));
        assert!(text.contains("process_resident_memory_bytes"));
    }
}
