//! `/metrics/resource`: the same counters for Prometheus, under upstream's names (`pkg/kubelet/metrics/collectors`).

use std::fmt::Write;

use http::{Response, StatusCode};

use super::cadvisor::seconds;
use super::summary::{Usage, machine, usage};
use super::{Body, State};

pub(super) async fn answer(state: &State) -> Response<Body> {
    let usage = usage(state).await;
    let machine = machine();
    let node = (
        machine.cpu_nanos,
        machine
            .memory_total
            .saturating_sub(machine.memory_available),
    );
    super::answer(StatusCode::OK, caravel_exporter::TEXT, render(&usage, node))
}

fn render(usage: &[Usage], (node_cpu, node_memory): (u64, u64)) -> String {
    let mut out = String::new();
    let mut family = |name: &str, kind: &str, help: &str, samples: Vec<(String, String)>| {
        let _ = writeln!(out, "# HELP {name} [STABLE] {help}\n# TYPE {name} {kind}");
        for (labels, value) in samples {
            let _ = writeln!(out, "{name}{labels} {value}");
        }
    };
    let pod = |usage: &Usage| {
        let meta = &usage.view.pod.metadata;
        format!(
            "namespace=\"{}\",pod=\"{}\"",
            meta.namespace.as_deref().unwrap_or_default(),
            meta.name.as_deref().unwrap_or_default()
        )
    };
    let containers = |value: &dyn Fn(&caravel_runtime::Stats) -> String| -> Vec<(String, String)> {
        let one = |usage: &Usage| {
            let of = pod(usage);
            usage
                .containers
                .iter()
                .map(|(name, _, stats)| (format!("{{container=\"{name}\",{of}}}"), value(stats)))
                .collect::<Vec<_>>()
        };
        usage.iter().flat_map(one).collect()
    };
    let pods = |value: &dyn Fn(&caravel_runtime::Stats) -> String| -> Vec<(String, String)> {
        usage
            .iter()
            .map(|usage| (format!("{{{}}}", pod(usage)), value(&usage.pod)))
            .collect()
    };
    let bytes = |stats: &caravel_runtime::Stats| stats.memory_working_set.to_string();
    let cpu = |stats: &caravel_runtime::Stats| seconds(stats.cpu_nanos);
    family(
        "container_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the container in core-seconds",
        containers(&cpu),
    );
    family(
        "container_memory_working_set_bytes",
        "gauge",
        "Current working set of the container in bytes",
        containers(&bytes),
    );
    family(
        "node_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the node in core-seconds",
        vec![(String::new(), seconds(node_cpu))],
    );
    family(
        "node_memory_working_set_bytes",
        "gauge",
        "Current working set of the node in bytes",
        vec![(String::new(), node_memory.to_string())],
    );
    family(
        "pod_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the pod in core-seconds",
        pods(&cpu),
    );
    family(
        "pod_memory_working_set_bytes",
        "gauge",
        "Current working set of the pod in bytes",
        pods(&bytes),
    );
    family(
        "resource_scrape_error",
        "gauge",
        "1 if there was an error while getting container metrics, 0 otherwise",
        vec![(String::new(), "0".into())],
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text() {
        let text = render(&[], (1_500_000_000, 7));
        assert!(
            text.contains("node_cpu_usage_seconds_total 1.500000000\n"),
            "{text}"
        );
        assert!(text.contains("# TYPE container_memory_working_set_bytes gauge\n"));
    }
}
