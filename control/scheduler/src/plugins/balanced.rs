//! Rather where CPU and memory would be used to the same degree.

use super::Score;
use crate::cluster::{Cluster, NodeView};
use crate::pod::PodView;

pub fn score<'a>(pod: &'a PodView, _: &'a Cluster) -> Option<Score<'a>> {
    // Upstream asks nothing for pods that ask nothing.
    if pod.requests.cpu == 0 && pod.requests.memory == 0 {
        return None;
    }
    Some(Box::new(move |node: &NodeView| {
        let share = |used: i64, asked: i64, all: i64| if all <= 0 { 1.0 } else { ((used + asked) as f64 / all as f64).min(1.0) };
        let cpu = share(node.requested.cpu, pod.requests.cpu, node.allocatable.cpu);
        let memory = share(node.requested.memory, pod.requests.memory, node.allocatable.memory);
        // The standard deviation of two values is half their distance.
        ((1.0 - (cpu - memory).abs() / 2.0) * 100.0) as i64
    }))
}
