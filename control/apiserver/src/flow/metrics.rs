//! What priority and fairness counts, under upstream's names (apiserver/pkg/util/flowcontrol/metrics).

use super::schema::Schema;
use caravel_exporter::prometheus::{
    HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts,
};
use caravel_exporter::{MetricsError, Registry};
use std::time::Duration;

/// (flow_schema, priority_level)
pub(super) type Labels = [&'static str; 2];

const BUCKETS: &[f64] = &[
    0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0,
];
const BOTH: &[&str] = &["flow_schema", "priority_level"];

#[derive(Debug)]
pub(super) struct Metrics {
    dispatched: IntCounterVec,
    rejected: IntCounterVec,
    queued: IntGaugeVec,
    running: IntGaugeVec,
    nominal: IntGaugeVec,
    wait: HistogramVec,
}

/// Holds a gauge up by one.
#[derive(Debug)]
pub(super) struct Held(IntGauge);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn hold(gauge: IntGauge) -> Held {
    gauge.inc();
    Held(gauge)
}

pub(super) fn labels(schema: &'static Schema) -> Labels {
    [schema.name, schema.level.unwrap_or("exempt")]
}

impl Metrics {
    pub(super) fn new(registry: &Registry) -> Result<Self, MetricsError> {
        let gauge = |name: &str, help: &str, labels: &[&str]| {
            IntGaugeVec::new(Opts::new(name, help), labels).map_err(MetricsError::Register)
        };
        let counter = |name: &str, help: &str, labels: &[&str]| {
            IntCounterVec::new(Opts::new(name, help), labels).map_err(MetricsError::Register)
        };
        let made = Self {
            dispatched: counter(
                "apiserver_flowcontrol_dispatched_requests_total",
                "Number of requests executed by API Priority and Fairness subsystem",
                BOTH,
            )?,
            rejected: counter(
                "apiserver_flowcontrol_rejected_requests_total",
                "Number of requests rejected by API Priority and Fairness subsystem",
                &["flow_schema", "priority_level", "reason"],
            )?,
            queued: gauge(
                "apiserver_flowcontrol_current_inqueue_requests",
                "Number of requests currently pending in queues of the API Priority and Fairness subsystem",
                BOTH,
            )?,
            running: gauge(
                "apiserver_flowcontrol_current_executing_requests",
                "Number of requests in initial (for a WATCH) or any (for a non-WATCH) execution stage in the API Priority and Fairness subsystem",
                BOTH,
            )?,
            nominal: gauge(
                "apiserver_flowcontrol_nominal_limit_seats",
                "Nominal number of execution seats configured for each priority level",
                &["priority_level"],
            )?,
            wait: HistogramVec::new(
                HistogramOpts::new(
                    "apiserver_flowcontrol_request_wait_duration_seconds",
                    "Length of time a request spent waiting in its queue",
                )
                .buckets(BUCKETS.to_vec()),
                &["execute", "flow_schema", "priority_level"],
            )
            .map_err(MetricsError::Register)?,
        };
        registry.register(made.dispatched.clone())?;
        registry.register(made.rejected.clone())?;
        registry.register(made.queued.clone())?;
        registry.register(made.running.clone())?;
        registry.register(made.nominal.clone())?;
        registry.register(made.wait.clone())?;
        Ok(made)
    }

    pub(super) fn nominal(&self, level: &str, seats: usize) {
        self.nominal
            .with_label_values(&[level])
            .set(i64::try_from(seats).unwrap_or(i64::MAX));
    }

    /// A request runs, until what is returned is dropped.
    pub(super) fn running(&self, labels: Labels) -> Held {
        self.dispatched.with_label_values(&labels).inc();
        hold(self.running.with_label_values(&labels))
    }

    /// A request waits, until what is returned is dropped.
    pub(super) fn queued(&self, labels: Labels) -> Held {
        hold(self.queued.with_label_values(&labels))
    }

    pub(super) fn rejected(&self, [schema, level]: Labels, reason: &str) {
        self.rejected
            .with_label_values(&[schema, level, reason])
            .inc();
    }

    pub(super) fn waited(&self, [schema, level]: Labels, runs: bool, took: Duration) {
        self.wait
            .with_label_values(&[if runs { "true" } else { "false" }, schema, level])
            .observe(took.as_secs_f64());
    }
}
