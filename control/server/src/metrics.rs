//! What the store tells Prometheus: consensus, disk, state and watchers, read at each scrape.
//!
//! Names are upstream's or etcd's where those have the thing (`apiserver_storage_objects`); the rest begin with `caravel_`.

use crate::saved;
use caravel_exporter::prometheus::core::{Collector, Desc};
use caravel_exporter::prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};
use caravel_store::latency::{BOUNDS, Counted};
use caravel_store::{Replica, Store};

/// Reads the store when it is scraped.
pub(crate) struct StoreMetrics(pub Store);

impl Collector for StoreMetrics {
    fn desc(&self) -> Vec<&Desc> {
        // Everything is described with what is collected.
        Vec::new()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let (status, sealing) = (self.0.status(), self.0.sealing());
        let flag = |is: bool| f64::from(u8::from(is));
        let mut families = vec![
            gauge(
                "caravel_raft_term",
                "The term of consensus that this server is in.",
                status.term as f64,
            ),
            gauge(
                "caravel_raft_is_leader",
                "1 where this server leads.",
                flag(status.leads),
            ),
            gauge(
                "caravel_raft_has_leader",
                "1 where this server is in touch with a leader that has a majority.",
                flag(*self.0.contact().borrow()),
            ),
            gauge(
                "caravel_raft_voters",
                "Servers that have a vote.",
                status.voters.len() as f64,
            ),
            gauge(
                "caravel_raft_level",
                "The level of log entries that all members support.",
                f64::from(status.level.0),
            ),
            gauge(
                "caravel_raft_last_log_index",
                "The last entry of this server's log.",
                status.last_log as f64,
            ),
            gauge(
                "caravel_raft_applied_index",
                "The last entry that this server applied.",
                status.applied as f64,
            ),
            gauge(
                "caravel_raft_log_bytes",
                "Bytes of log entries that are kept.",
                status.log_bytes as f64,
            ),
            counter(
                "caravel_raft_leader_changes_total",
                "Leaders that this server has seen since it started.",
                status.leader_changes as f64,
            ),
            gauge(
                "caravel_raft_snapshot_index",
                "The last entry that this server's newest snapshot covers.",
                status.snapshot as f64,
            ),
            gauge(
                "caravel_raft_purged_index",
                "The last entry that this server's log no longer has.",
                status.purged as f64,
            ),
            histogram(
                "caravel_raft_append_duration_seconds",
                "How long this server takes to have new entries on its disk.",
                &status.appends,
            ),
            histogram(
                "caravel_raft_commit_duration_seconds",
                "How long a write takes until a majority has it on disk.",
                &status.commits,
            ),
            gauge(
                "caravel_sealing_key",
                "The number of the key that this server seals new records with.",
                f64::from(sealing.key),
            ),
            gauge(
                "caravel_sealing_pending",
                "1 while records are left that an older key seals.",
                flag(sealing.is_resealing()),
            ),
            gauge(
                "caravel_watch_watchers",
                "Watches that are open on this server's store.",
                status.watchers as f64,
            ),
            histogram(
                "caravel_watch_delay_seconds",
                "How long a change waits until a watcher takes it.",
                &status.watch_delays,
            ),
            gauge(
                "caravel_store_revision",
                "The newest revision that this server serves.",
                status.revision.0 as f64,
            ),
            gauge(
                "caravel_store_disk_full",
                "1 where this server's disk has too little room to take writes.",
                f64::from(u8::from(status.full.is_some())),
            ),
            gauge(
                "caravel_store_object_bytes",
                "Bytes of all objects as JSON.",
                status.object_bytes as f64,
            ),
            gauge(
                "caravel_watch_ring_bytes",
                "Bytes of past changes kept for watchers.",
                status.ring_bytes as f64,
            ),
            histogram(
                "caravel_store_flush_duration_seconds",
                "How long one flush to the disk takes.",
                &status.flushes,
            ),
        ];
        families.extend(self.replicas());
        families.extend(self.saved());
        families.push(build());
        families.push(self.objects());
        families
    }
}

impl StoreMetrics {
    /// How the others follow; only the leader knows.
    fn replicas(&self) -> Vec<MetricFamily> {
        let status = self.0.status();
        let (end, led) = (status.last_log, status.led);
        let known = self.0.members().list();
        let of = |number: &dyn Fn(&Replica) -> Option<f64>| -> Vec<Metric> {
            let metrics = known.iter().filter_map(|member| {
                Some(labelled("server", &member.id.to_string(), number(member)?))
            });
            metrics.collect()
        };
        let lag = family(
            "caravel_raft_replica_lag_entries",
            "Entries that a server lacks of the leader's log, as the leader knows.",
            MetricType::GAUGE,
            of(&|member| member.lag(end).map(|lag| lag as f64)),
        );
        let silent = family(
            "caravel_raft_replica_silent_seconds",
            "How long ago a server last answered the leader, as the leader knows.",
            MetricType::GAUGE,
            of(&|member| member.silent_ms(led).map(|silent| silent as f64 / 1000.0)),
        );
        let mut known = vec![lag, silent];
        known.retain(|family| !family.get_metric().is_empty());
        known
    }

    /// The backups that servers saved last.
    fn saved(&self) -> Option<MetricFamily> {
        let saved = saved::all(&self.0.snapshot()).into_iter();
        let metrics: Vec<Metric> = saved
            .map(|one| labelled("server", &one.member.to_string(), one.created as f64))
            .collect();
        (!metrics.is_empty()).then(|| {
            family(
                "caravel_snapshot_saved_timestamp_seconds",
                "When a server last saved a backup, in seconds since 1970.",
                MetricType::GAUGE,
                metrics,
            )
        })
    }

    fn objects(&self) -> MetricFamily {
        let metrics = self
            .0
            .snapshot()
            .counts()
            .into_iter()
            .map(|(resource, count)| labelled("resource", &resource, count as f64))
            .collect();
        family(
            "apiserver_storage_objects",
            "[STABLE] Number of stored objects at the time of last check split by kind.",
            MetricType::GAUGE,
            metrics,
        )
    }
}

/// Which release this is.
fn build() -> MetricFamily {
    family(
        "caravel_build_info",
        "Always 1; the release is the label.",
        MetricType::GAUGE,
        vec![labelled("version", env!("CARGO_PKG_VERSION"), 1.0)],
    )
}

fn family(name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

fn value(value: f64) -> Metric {
    let mut gauge = Gauge::default();
    gauge.set_value(value);
    let mut metric = Metric::default();
    metric.set_gauge(gauge);
    metric
}

fn labelled(name: &str, text: &str, number: f64) -> Metric {
    let mut label = LabelPair::default();
    label.set_name(name.to_owned());
    label.set_value(text.to_owned());
    let mut metric = value(number);
    metric.set_label(vec![label]);
    metric
}

fn gauge(name: &str, help: &str, number: f64) -> MetricFamily {
    family(name, help, MetricType::GAUGE, vec![value(number)])
}

fn counter(name: &str, help: &str, number: f64) -> MetricFamily {
    let mut counter = Counter::default();
    counter.set_value(number);
    let mut metric = Metric::default();
    metric.set_counter(counter);
    family(name, help, MetricType::COUNTER, vec![metric])
}

fn histogram(name: &str, help: &str, counted: &Counted) -> MetricFamily {
    let buckets = BOUNDS.iter().zip(counted.cumulative).map(|(bound, count)| {
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(*bound);
        bucket.set_cumulative_count(count);
        bucket
    });
    let mut histogram = Histogram::default();
    histogram.set_sample_count(counted.count);
    histogram.set_sample_sum(counted.sum.as_secs_f64());
    histogram.set_bucket(buckets.collect());
    let mut metric = Metric::default();
    metric.set_histogram(histogram);
    family(name, help, MetricType::HISTOGRAM, vec![metric])
}

#[cfg(test)]
mod tests {
    use super::*;
    use caravel_api::{Encoded, Key};
    use caravel_exporter::Registry;
    use caravel_store::Txn;

    #[tokio::test]
    async fn what_prometheus_reads() {
        let store = Store::memory().await.unwrap();
        let object = Encoded::new(r#"{"metadata":{"name":"a"}}"#).unwrap();
        let txn = Txn::create(Key::from("/registry/core/pods/a/a"), object);
        let range = caravel_api::KeyRange::prefix("/registry/core/pods/");
        let mut watch = store.watch(range, caravel_api::Revision(0)).await.unwrap();
        store.commit(txn).await.unwrap();
        watch.next().await.unwrap();
        let registry = Registry::new();
        registry.register(StoreMetrics(store)).unwrap();
        let text = String::from_utf8(registry.text().unwrap()).unwrap();
        for line in [
            "caravel_raft_is_leader 1",
            "caravel_raft_has_leader 1",
            "caravel_raft_voters 1",
            "caravel_store_revision 1",
            "apiserver_storage_objects{resource=\"pods\"} 1",
            "caravel_raft_commit_duration_seconds_count 1",
            "caravel_raft_commit_duration_seconds_bucket{le=\"+Inf\"} 1",
            "caravel_sealing_key 1",
            "caravel_watch_watchers 1",
            "caravel_watch_delay_seconds_count 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
    }
}
