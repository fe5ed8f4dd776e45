//! Nodes with more cpu and memory left are better.
//!
//! Upstream: `noderesources/least_allocated.go`; pods that ask for nothing count as asking for a little.

use super::{MAX_SCORE, Score};
use crate::cluster::{Cluster, NodeView};
use crate::pod::PodView;

pub fn score<'a>(pod: &'a PodView, _: &'a Cluster, _: &[&'a NodeView]) -> Option<Score<'a>> {
    Some(Box::new(|node| {
        let left = |has: i64, wanted: i64| {
            (has > 0).then(|| {
                if wanted > has {
                    0
                } else {
                    (has - wanted) * MAX_SCORE / has
                }
            })
        };
        let scores = [
            left(
                node.allocatable.milli_cpu,
                node.assumed.milli_cpu + pod.assumed_requests.milli_cpu,
            ),
            left(
                node.allocatable.memory,
                node.assumed.memory + pod.assumed_requests.memory,
            ),
        ];
        let counted = scores.iter().flatten().count() as i64;
        scores.iter().flatten().sum::<i64>() / counted.max(1)
    }))
}
