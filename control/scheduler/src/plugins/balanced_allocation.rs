//! Nodes on which cpu and memory are used in like proportion are better.
//!
//! Upstream: `noderesources/balanced_allocation.go`; a pod that asks for nothing has no preference.

use super::{MAX_SCORE, Score};
use crate::cluster::{Cluster, NodeView};
use crate::pod::PodView;
use crate::resources::Amounts;

pub fn score<'a>(pod: &'a PodView, _: &'a Cluster, _: &[&'a NodeView]) -> Option<Score<'a>> {
    if pod.requests == Amounts::default() {
        return None;
    }
    Some(Box::new(|node| {
        let part = |wanted: i64, has: i64| (has > 0).then(|| (wanted as f64 / has as f64).min(1.0));
        let cpu = part(
            node.requested.milli_cpu + pod.requests.milli_cpu,
            node.allocatable.milli_cpu,
        );
        let memory = part(
            node.requested.memory + pod.requests.memory,
            node.allocatable.memory,
        );
        // With two values the standard deviation is half of what lies between them.
        let deviation = match (cpu, memory) {
            (Some(cpu), Some(memory)) => (cpu - memory).abs() / 2.0,
            _ => 0.0,
        };
        ((1.0 - deviation) * MAX_SCORE as f64) as i64
    }))
}
