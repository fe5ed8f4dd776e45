//! `/stats/summary`: what each pod and container uses, in the kubelet's own shape (`k8s.io/kubelet/pkg/apis/stats/v1alpha1`).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use caravel_runtime::{ContainerState, Stats};
use http::Response;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::network_use::{self, INTERFACE, NetworkUse};
use super::{Body, State, json as answer_json};
use crate::PodView;

/// A rate over less than this would be noise: the last one is given again.
const WINDOW: Duration = Duration::from_secs(5);

/// CPU counters seen before, from which rates are made.
#[derive(Default)]
pub(crate) struct Rates(Mutex<BTreeMap<String, Sample>>);

#[derive(Clone, Copy)]
struct Sample {
    at: Instant,
    cpu_nanos: u64,
    rate: u64,
}

impl Rates {
    /// Nanocores used since the last call at least a window ago; zero the first time.
    fn rate(&self, id: &str, cpu_nanos: u64, now: Instant) -> u64 {
        let mut samples = self.0.lock();
        let Some(last) = samples.get(id).copied() else {
            samples.insert(
                id.to_owned(),
                Sample {
                    at: now,
                    cpu_nanos,
                    rate: 0,
                },
            );
            return 0;
        };
        let elapsed = now.duration_since(last.at);
        if elapsed < WINDOW && last.rate > 0 {
            return last.rate;
        }
        if elapsed < Duration::from_millis(500) {
            return last.rate;
        }
        let rate = (u128::from(cpu_nanos.saturating_sub(last.cpu_nanos)) * 1_000_000_000
            / elapsed.as_nanos()) as u64;
        samples.insert(
            id.to_owned(),
            Sample {
                at: now,
                cpu_nanos,
                rate,
            },
        );
        rate
    }

    fn keep(&self, known: impl Fn(&str) -> bool) {
        self.0.lock().retain(|id, _| known(id));
    }
}

/// Running containers with their counters, by pod.
pub(super) struct Usage {
    pub view: std::sync::Arc<PodView>,
    pub pod: Stats,
    /// Name, id, counters.
    pub containers: Vec<(String, String, Stats)>,
    /// Absent on the machine's own network.
    pub network: Option<NetworkUse>,
}

pub(super) async fn usage(state: &State) -> Vec<Usage> {
    let mut list = Vec::new();
    for view in state.pods.list() {
        let mut containers = Vec::new();
        let mut network = None;
        for (name, container) in &view.containers {
            let Some(id) = container.id.as_ref().filter(|_| container.running) else {
                continue;
            };
            // It may have ended since: then it uses nothing.
            if let Ok(stats) = state.runtime.stats(id).await {
                if network.is_none()
                    && view.netns.is_some()
                    && let Ok(ContainerState::Running(started)) = state.runtime.state(id).await
                {
                    network = network_use::of_process(started.pid);
                }
                containers.push((name.clone(), id.clone(), stats));
            }
        }
        let pod = state.runtime.pod_stats(&view.uid).await.unwrap_or_default();
        list.push(Usage {
            view,
            pod,
            containers,
            network,
        });
    }
    list
}

pub(super) async fn answer(state: &State) -> Response<Body> {
    let usage = usage(state).await;
    let now = Instant::now();
    let time = format!("{:.0}", Timestamp::now());
    let known: std::collections::BTreeSet<&str> = usage
        .iter()
        .flat_map(|usage| {
            usage
                .containers
                .iter()
                .map(|(_, id, _)| id.as_str())
                .chain([usage.view.uid.as_str()])
        })
        .collect();
    state.summary.keep(|id| known.contains(id));
    let block = |id: &str, stats: &Stats| -> (Value, Value) {
        let cpu = json!({"time": time, "usageNanoCores": state.summary.rate(id, stats.cpu_nanos, now), "usageCoreNanoSeconds": stats.cpu_nanos});
        let mut memory = json!({"time": time, "usageBytes": stats.memory_usage, "workingSetBytes": stats.memory_working_set,
            "rssBytes": stats.memory_rss, "pageFaults": stats.page_faults, "majorPageFaults": stats.major_page_faults});
        if let Some(limit) = stats.memory_limit {
            memory["availableBytes"] = json!(limit.saturating_sub(stats.memory_working_set));
        }
        (cpu, memory)
    };
    let mut total = Stats::default();
    let pods: Vec<Value> = usage
        .iter()
        .map(|usage| {
            let meta = &usage.view.pod.metadata;
            let start = |container: &str| started(&usage.view, container);
            let containers: Vec<Value> = usage
                .containers
                .iter()
                .map(|(name, id, stats)| {
                    let (cpu, memory) = block(id, stats);
                    json!({"name": name, "startTime": start(name), "cpu": cpu, "memory": memory,
                        "rootfs": {"time": time, "usedBytes": stats.writable_bytes, "inodesUsed": stats.writable_inodes}})
                })
                .collect();
            let (cpu, memory) = block(&usage.view.uid, &usage.pod);
            total.cpu_nanos += usage.pod.cpu_nanos;
            total.memory_usage += usage.pod.memory_usage;
            total.memory_working_set += usage.pod.memory_working_set;
            let mut pod = json!({"podRef": {"name": meta.name, "namespace": meta.namespace, "uid": usage.view.uid},
                "startTime": usage.view.pod.status.as_ref().and_then(|status| status.start_time.clone()),
                "containers": containers, "cpu": cpu, "memory": memory, "process_stats": {"process_count": usage.pod.pids}});
            if let Some(network) = &usage.network {
                let interface = json!({"name": INTERFACE, "rxBytes": network.receive_bytes, "rxErrors": network.receive_errors,
                    "txBytes": network.transmit_bytes, "txErrors": network.transmit_errors});
                pod["network"] = interface.clone();
                pod["network"]["time"] = json!(time);
                pod["network"]["interfaces"] = json!([interface]);
            }
            pod
        })
        .collect();
    let machine = machine();
    let disk = crate::machine::disk(&state.disk);
    let fs = disk.map(|disk| json!({"time": time, "capacityBytes": disk.total, "availableBytes": disk.free, "usedBytes": disk.total - disk.free}));
    let cpu = json!({"time": time, "usageNanoCores": state.summary.rate("", machine.cpu_nanos, now), "usageCoreNanoSeconds": machine.cpu_nanos});
    answer_json(&json!({
        "node": {
            "nodeName": state.node,
            "cpu": cpu,
            "memory": {"time": time, "availableBytes": machine.memory_available, "usageBytes": machine.memory_total.saturating_sub(machine.memory_free),
                "workingSetBytes": machine.memory_total.saturating_sub(machine.memory_available), "rssBytes": 0, "pageFaults": 0, "majorPageFaults": 0},
            "fs": fs,
            "runtime": {"imageFs": fs},
        },
        "pods": pods,
    }))
}

fn started(view: &PodView, container: &str) -> Value {
    let status = view.pod.status.as_ref();
    let statuses = status
        .and_then(|status| status.container_statuses.as_ref())
        .into_iter()
        .flatten();
    let running = statuses
        .filter(|status| status.name == container)
        .find_map(|status| status.state.as_ref()?.running.as_ref()?.started_at.clone());
    json!(running)
}

pub(super) struct MachineUse {
    pub cpu_nanos: u64,
    pub memory_total: u64,
    pub memory_free: u64,
    pub memory_available: u64,
}

pub(super) fn machine() -> MachineUse {
    let memory = |name| {
        crate::machine::meminfo(name)
            .and_then(|bytes| u64::try_from(bytes).ok())
            .unwrap_or(0)
    };
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    MachineUse {
        cpu_nanos: busy_ticks(&stat) * 10_000_000,
        memory_total: memory("MemTotal:"),
        memory_free: memory("MemFree:"),
        memory_available: memory("MemAvailable:"),
    }
}

/// All but idle and waiting for disks; a tick is 10 ms.
fn busy_ticks(stat: &str) -> u64 {
    let Some(line) = stat.lines().find_map(|line| line.strip_prefix("cpu ")) else {
        return 0;
    };
    let fields: Vec<u64> = line
        .split_whitespace()
        .filter_map(|field| field.parse().ok())
        .collect();
    fields
        .iter()
        .enumerate()
        .filter(|(index, _)| ![3, 4, 8, 9].contains(index))
        .map(|(_, ticks)| ticks)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates() {
        let rates = Rates::default();
        let start = Instant::now();
        assert_eq!(rates.rate("a", 1_000_000_000, start), 0);
        assert_eq!(
            rates.rate("a", 3_000_000_000, start + Duration::from_secs(10)),
            200_000_000
        );
        assert_eq!(
            rates.rate("a", 9_000_000_000, start + Duration::from_secs(11)),
            200_000_000
        );
        rates.keep(|_| false);
        assert_eq!(
            rates.rate("a", 9_000_000_000, start + Duration::from_secs(12)),
            0
        );
        assert_eq!(busy_ticks("cpu  1 2 3 100 50 4 5 6 7 8\ncpu0 1\n"), 21);
    }
}
