//! `/metrics/cadvisor`: containers' counters under cAdvisor's names, those that dashboards and adapters use.

use std::fmt::Write;

use caravel_runtime::Stats;
use http::{Response, StatusCode};

use super::network_use::{INTERFACE, NetworkUse};
use super::summary::{Usage, usage};
use super::{Body, State};

pub(super) async fn answer(state: &State) -> Response<Body> {
    super::answer(
        StatusCode::OK,
        caravel_exporter::TEXT,
        render(&usage(state).await),
    )
}

type Of<T> = fn(&T) -> String;

/// name, kind, help, value
const CONTAINER: &[(&str, &str, &str, Of<Stats>)] = &[
    (
        "container_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed in seconds.",
        |stats| seconds(stats.cpu_nanos),
    ),
    (
        "container_memory_usage_bytes",
        "gauge",
        "Current memory usage in bytes, including all memory.",
        |stats| stats.memory_usage.to_string(),
    ),
    (
        "container_memory_working_set_bytes",
        "gauge",
        "Current working set in bytes.",
        |stats| stats.memory_working_set.to_string(),
    ),
    (
        "container_memory_rss",
        "gauge",
        "Size of RSS in bytes.",
        |stats| stats.memory_rss.to_string(),
    ),
    (
        "container_processes",
        "gauge",
        "Number of processes running inside the container.",
        |stats| stats.pids.to_string(),
    ),
    (
        "container_spec_memory_limit_bytes",
        "gauge",
        "Memory limit for the container.",
        |stats| stats.memory_limit.unwrap_or(0).to_string(),
    ),
    (
        "container_fs_usage_bytes",
        "gauge",
        "Number of bytes that are consumed by the container on this filesystem.",
        |stats| stats.writable_bytes.to_string(),
    ),
    (
        "container_fs_inodes_total",
        "gauge",
        "Number of inodes used by the container's writable layer.",
        |stats| stats.writable_inodes.to_string(),
    ),
];

const NETWORK: &[(&str, &str, Of<NetworkUse>)] = &[
    (
        "container_network_receive_bytes_total",
        "Cumulative count of bytes received",
        |network| network.receive_bytes.to_string(),
    ),
    (
        "container_network_receive_packets_total",
        "Cumulative count of packets received",
        |network| network.receive_packets.to_string(),
    ),
    (
        "container_network_receive_errors_total",
        "Cumulative count of errors encountered while receiving",
        |network| network.receive_errors.to_string(),
    ),
    (
        "container_network_transmit_bytes_total",
        "Cumulative count of bytes transmitted",
        |network| network.transmit_bytes.to_string(),
    ),
    (
        "container_network_transmit_packets_total",
        "Cumulative count of packets transmitted",
        |network| network.transmit_packets.to_string(),
    ),
    (
        "container_network_transmit_errors_total",
        "Cumulative count of errors encountered while transmitting",
        |network| network.transmit_errors.to_string(),
    ),
];

pub(super) fn seconds(nanos: u64) -> String {
    format!("{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000)
}

fn render(usage: &[Usage]) -> String {
    let mut out = String::new();
    for (name, kind, help, value) in CONTAINER {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        let cpu = if *name == "container_cpu_usage_seconds_total" {
            "cpu=\"total\","
        } else {
            ""
        };
        for usage in usage {
            let pod = pod_labels(usage);
            for (container, id, stats) in &usage.containers {
                let image = image(usage, container);
                let _ = writeln!(
                    out,
                    "{name}{{container=\"{container}\",{cpu}id=\"{id}\",image=\"{image}\",name=\"{id}\",{pod}}} {}",
                    value(stats)
                );
            }
        }
    }
    for (name, help, value) in NETWORK {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} counter");
        for usage in usage {
            if let Some(network) = &usage.network {
                let _ = writeln!(
                    out,
                    "{name}{{interface=\"{INTERFACE}\",{}}} {}",
                    pod_labels(usage),
                    value(network)
                );
            }
        }
    }
    out
}

fn pod_labels(usage: &Usage) -> String {
    let meta = &usage.view.pod.metadata;
    format!(
        "namespace=\"{}\",pod=\"{}\"",
        meta.namespace.as_deref().unwrap_or_default(),
        meta.name.as_deref().unwrap_or_default()
    )
}

fn image(usage: &Usage, container: &str) -> String {
    let spec = usage.view.pod.spec.as_ref();
    let found = spec.and_then(|spec| {
        spec.containers
            .iter()
            .find(|c| c.name == container)?
            .image
            .as_deref()
    });
    // The only label whose value a user writes freely.
    found
        .unwrap_or_default()
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text() {
        let pod = serde_json::json!({"metadata": {"namespace": "a", "name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
        let view = crate::PodView {
            pod: std::sync::Arc::new(serde_json::from_value(pod).unwrap()),
            ..crate::PodView::default()
        };
        let stats = Stats {
            cpu_nanos: 2_500_000_000,
            ..Stats::default()
        };
        let usage = Usage {
            view: std::sync::Arc::new(view),
            pod: stats.clone(),
            containers: vec![("c".into(), "id1".into(), stats)],
            network: Some(NetworkUse {
                receive_bytes: 9,
                ..NetworkUse::default()
            }),
        };
        let text = render(&[usage]);
        for line in [
            "container_cpu_usage_seconds_total{container=\"c\",cpu=\"total\",id=\"id1\",image=\"i\",name=\"id1\",namespace=\"a\",pod=\"p\"} 2.500000000\n",
            "container_network_receive_bytes_total{interface=\"eth0\",namespace=\"a\",pod=\"p\"} 9\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }
}
