//! Pods are kept near to, and far from, other pods: by their own rules, and by the rules of pods that are there.
//!
//! Upstream: `interpodaffinity/{filtering,scoring}.go`.

use std::collections::HashMap;

use super::{Filter, MAX_SCORE, Score, Verdict};
use crate::affinity::PodTerm;
use crate::cluster::{Cluster, NodeView};
use crate::pod::PodView;

/// Upstream's `HardPodAffinityWeight`: a required rule of a pod that is there draws the pods it selects, this much.
const REQUIRED_WEIGHT: i64 = 1;

/// How many pods that count are in each place, by the label's key and value.
type Places<'a> = HashMap<(&'a str, &'a str), i64>;

fn place<'a>(node: &'a NodeView, key: &'a str) -> Option<(&'a str, &'a str)> {
    node.labels.get(key).map(|value| (key, value.as_str()))
}

fn selected(term: &PodTerm, pod: &PodView) -> bool {
    term.selects(&pod.name.namespace, &pod.labels)
}

pub fn filter<'a>(pod: &'a PodView, cluster: &'a Cluster) -> Option<Filter<'a>> {
    let mut repelled: Places<'a> = HashMap::new();
    for (other, node) in cluster.ruled() {
        for term in other.pods.far.iter().filter(|term| selected(term, pod)) {
            if let Some(place) = place(node, &term.topology_key) {
                *repelled.entry(place).or_default() += 1;
            }
        }
    }
    let (near, far) = (&pod.pods.near, &pod.pods.far);
    if repelled.is_empty() && near.is_empty() && far.is_empty() {
        return None;
    }
    let mut wanted: Places<'a> = HashMap::new();
    let mut unwanted: Places<'a> = HashMap::new();
    if !near.is_empty() || !far.is_empty() {
        for node in cluster.nodes() {
            for other in node.pods.values() {
                // A pod is wanted only where it satisfies every rule at once.
                if !near.is_empty() && near.iter().all(|term| selected(term, other)) {
                    for term in near {
                        if let Some(place) = place(node, &term.topology_key) {
                            *wanted.entry(place).or_default() += 1;
                        }
                    }
                }
                for term in far.iter().filter(|term| selected(term, other)) {
                    if let Some(place) = place(node, &term.topology_key) {
                        *unwanted.entry(place).or_default() += 1;
                    }
                }
            }
        }
    }
    // The first of a group that wants to be near each other may go anywhere.
    let first = wanted.is_empty() && near.iter().all(|term| selected(term, pod));
    Some(Box::new(move |node| {
        let in_place = |term: &'a PodTerm, places: &Places<'a>| {
            node.labels.get(&term.topology_key).is_some_and(|value| {
                places.contains_key(&(term.topology_key.as_str(), value.as_str()))
            })
        };
        let has_key = |term: &PodTerm| node.labels.contains_key(&term.topology_key);
        let near_enough = near
            .iter()
            .all(|term| has_key(term) && (first || in_place(term, &wanted)));
        if !near_enough {
            return Verdict::never("node(s) didn't match pod affinity rules");
        }
        if far.iter().any(|term| in_place(term, &unwanted)) {
            return Verdict::crowded("node(s) didn't match pod anti-affinity rules");
        }
        if repelled
            .keys()
            .any(|(key, value)| node.labels.get(*key).is_some_and(|mine| mine == value))
        {
            return Verdict::crowded("node(s) didn't satisfy existing pods anti-affinity rules");
        }
        Verdict::Fits
    }))
}

pub fn score<'a>(pod: &'a PodView, cluster: &'a Cluster, _: &[&'a NodeView]) -> Option<Score<'a>> {
    let mut places: Places<'a> = HashMap::new();
    let mut weigh = |node: &'a NodeView, key: &'a str, weight: i64| {
        if let Some(place) = place(node, key) {
            *places.entry(place).or_default() += weight;
        }
    };
    if !pod.pods.preferred.is_empty() {
        for node in cluster.nodes() {
            for other in node.pods.values() {
                for (weight, term) in pod
                    .pods
                    .preferred
                    .iter()
                    .filter(|(_, term)| selected(term, other))
                {
                    weigh(node, &term.topology_key, *weight);
                }
            }
        }
    }
    for (other, node) in cluster.ruled() {
        for (weight, term) in other
            .pods
            .preferred
            .iter()
            .filter(|(_, term)| selected(term, pod))
        {
            weigh(node, &term.topology_key, *weight);
        }
        for term in other.pods.near.iter().filter(|term| selected(term, pod)) {
            weigh(node, &term.topology_key, REQUIRED_WEIGHT);
        }
    }
    if places.is_empty() {
        return None;
    }
    Some(Box::new(move |node| {
        places
            .iter()
            .filter(|((key, value), _)| node.labels.get(*key).is_some_and(|mine| mine == value))
            .map(|(_, weight)| weight)
            .sum()
    }))
}

/// The lowest becomes 0, the highest 100.
pub fn normalise(scores: &mut [i64]) {
    let (min, max) = (
        scores.iter().copied().min().unwrap_or(0),
        scores.iter().copied().max().unwrap_or(0),
    );
    for score in scores {
        *score = if max == min {
            0
        } else {
            MAX_SCORE * (*score - min) / (max - min)
        };
    }
}
