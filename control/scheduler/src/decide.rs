//! The decision: which node, or why none. Pure.
//!
//! Upstream: `pkg/scheduler/schedule_one.go`. In large clusters only part of the nodes is looked at, starting each time
//! where the last look ended.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::cluster::{Cluster, NodeView};
use crate::plugins::{Filter, PLUGINS, Score, Scoring, Verdict};
use crate::pod::PodView;

/// Below this many nodes all are looked at (upstream's `minFeasibleNodesToFind`).
const FEW: usize = 100;

/// What was decided.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    pub node: String,
    /// Nodes looked at: the next look begins after them.
    pub looked_at: usize,
}

/// Why there is no node for the pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Refusal {
    /// How many nodes there are.
    pub nodes: usize,
    /// Said of the pod as a whole, before any node was asked.
    pub whole: Option<&'static str>,
    /// Reasons by node; `helpless` as in [`Verdict`].
    pub verdicts: BTreeMap<String, (Vec<Cow<'static, str>>, bool)>,
    /// Nodes left out beforehand.
    pub left_out: usize,
}

/// The filters that have something to say about a pod.
pub fn filters<'a>(pod: &'a PodView, cluster: &'a Cluster) -> Vec<Filter<'a>> {
    PLUGINS
        .iter()
        .filter_map(|plugin| plugin.filter?(pod, cluster))
        .collect()
}

/// The first refusal of a node.
pub fn judge(filters: &[Filter<'_>], node: &NodeView) -> Verdict {
    filters
        .iter()
        .map(|filter| filter(node))
        .find(|verdict| *verdict != Verdict::Fits)
        .unwrap_or(Verdict::Fits)
}

/// Chooses a node. `start` turns from pod to pod; `pick` chooses one of so many equals.
pub fn decide(
    pod: &PodView,
    cluster: &Cluster,
    start: usize,
    pick: &mut dyn FnMut(usize) -> usize,
) -> Result<Choice, Refusal> {
    let nodes: Vec<&NodeView> = cluster.nodes().collect();
    let mut refusal = Refusal {
        nodes: nodes.len(),
        ..Refusal::default()
    };
    let mut candidates = nodes;
    if let Some(only) = pod.nodes.only() {
        if only.is_empty() {
            refusal.whole = Some("pod affinity terms conflict");
            return Err(refusal);
        }
        candidates.retain(|node| only.contains(node.name.as_str()));
        refusal.left_out = refusal.nodes - candidates.len();
    }
    let enough = enough(candidates.len());
    let filters = filters(pod, cluster);
    let mut fitting: Vec<&NodeView> = Vec::new();
    let mut looked_at = 0;
    for place in 0..candidates.len() {
        let node = candidates[(start + place) % candidates.len()];
        looked_at += 1;
        let fuller = cluster.with_promised(node, pod);
        match judge(&filters, fuller.as_ref().unwrap_or(node)) {
            Verdict::Fits => {
                fitting.push(node);
                if fitting.len() >= enough {
                    break;
                }
            }
            Verdict::Unfit { reasons, helpless } => {
                refusal
                    .verdicts
                    .insert(node.name.clone(), (reasons, helpless));
            }
        }
    }
    match fitting.as_slice() {
        [] => Err(refusal),
        [only] => Ok(Choice {
            node: only.name.clone(),
            looked_at,
        }),
        several => Ok(Choice {
            node: best(pod, cluster, several, pick).name.clone(),
            looked_at,
        }),
    }
}

/// How many fitting nodes are enough (upstream's adaptive percentage).
fn enough(nodes: usize) -> usize {
    if nodes < FEW {
        return nodes.max(1);
    }
    let percentage = 50usize.saturating_sub(nodes / 125).max(5);
    (nodes * percentage / 100).max(FEW)
}

fn best<'a>(
    pod: &'a PodView,
    cluster: &'a Cluster,
    fitting: &[&'a NodeView],
    pick: &mut dyn FnMut(usize) -> usize,
) -> &'a NodeView {
    let mut totals = vec![0i64; fitting.len()];
    for plugin in PLUGINS {
        let Some(Scoring {
            weight,
            prepare,
            normalise,
        }) = &plugin.score
        else {
            continue;
        };
        let Some(score): Option<Score<'_>> = prepare(pod, cluster, fitting) else {
            continue;
        };
        let mut scores: Vec<i64> = fitting.iter().map(|node| score(node)).collect();
        normalise(&mut scores);
        for (total, score) in totals.iter_mut().zip(scores) {
            *total += weight * score;
        }
    }
    let highest = totals.iter().copied().max().unwrap_or(0);
    let equals: Vec<usize> = (0..fitting.len())
        .filter(|index| totals[*index] == highest)
        .collect();
    fitting[equals[pick(equals.len()).min(equals.len() - 1)]]
}

#[cfg(test)]
mod tests;
