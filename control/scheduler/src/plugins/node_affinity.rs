//! A pod goes only to nodes that its nodeSelector and required node affinity allow, and rather to those it prefers.

use super::{Filter, Score, Verdict};
use crate::cluster::{Cluster, NodeView};
use crate::pod::PodView;

pub fn filter<'a>(pod: &'a PodView, _: &'a Cluster) -> Option<Filter<'a>> {
    if pod.nodes.are_free() {
        return None;
    }
    Some(Box::new(|node| {
        if pod.nodes.allow(node) {
            Verdict::Fits
        } else {
            Verdict::never("node(s) didn't match Pod's node affinity/selector")
        }
    }))
}

pub fn score<'a>(pod: &'a PodView, _: &'a Cluster, _: &[&'a NodeView]) -> Option<Score<'a>> {
    if pod.nodes.preferred.is_empty() {
        return None;
    }
    Some(Box::new(|node| {
        pod.nodes
            .preferred
            .iter()
            .filter(|(_, term)| term.matches(node))
            .map(|(weight, _)| weight)
            .sum()
    }))
}
