//! The process's own figures from `/proc/self`, under the names every Prometheus client library uses.
//! Absent where `/proc` is not readable; never an error.

use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge};

/// Clock ticks of `/proc/self/stat` a second: fixed at 100 on every Linux that Caravel supports.
const TICKS: f64 = 100.0;
const PAGE: f64 = 4096.0;

pub(crate) fn families() -> Vec<MetricFamily> {
    let mut out = Vec::new();
    let Ok(stat) = std::fs::read_to_string("/proc/self/stat") else {
        return out;
    };
    // The command name in parentheses may hold spaces: fields are counted after its end.
    let Some((_, rest)) = stat.rsplit_once(')') else {
        return out;
    };
    let fields: Vec<f64> = rest
        .split_whitespace()
        .map(|field| field.parse().unwrap_or(0.0))
        .collect();
    let field = |number: usize| fields.get(number - 3).copied().unwrap_or(0.0);
    if let Ok(counter) = Counter::new(
        "process_cpu_seconds_total",
        "Total user and system CPU time spent in seconds.",
    ) {
        counter.inc_by((field(14) + field(15)) / TICKS);
        out.extend(counter.collect());
    }
    let mut gauge = |name: &str, help: &str, value: f64| {
        if let Ok(gauge) = Gauge::new(name, help) {
            gauge.set(value);
            out.extend(gauge.collect());
        }
    };
    gauge(
        "process_resident_memory_bytes",
        "Resident memory size in bytes.",
        field(24) * PAGE,
    );
    gauge(
        "process_virtual_memory_bytes",
        "Virtual memory size in bytes.",
        field(23),
    );
    if let Some(boot) = boot_time() {
        gauge(
            "process_start_time_seconds",
            "Start time of the process since unix epoch in seconds.",
            boot + field(22) / TICKS,
        );
    }
    if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
        #[allow(clippy::cast_precision_loss)]
        gauge(
            "process_open_fds",
            "Number of open file descriptors.",
            files.count() as f64,
        );
    }
    out
}

fn boot_time() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    stat.lines()
        .find_map(|line| line.strip_prefix("btime "))?
        .trim()
        .parse()
        .ok()
}
