//! A port of a node is given to one pod only.

use super::{Filter, Verdict};
use crate::cluster::Cluster;
use crate::pod::PodView;

pub fn filter<'a>(pod: &'a PodView, _: &'a Cluster) -> Option<Filter<'a>> {
    if pod.ports.is_empty() {
        return None;
    }
    Some(Box::new(|node| {
        if pod
            .ports
            .iter()
            .any(|wanted| node.ports.iter().any(|taken| wanted.conflicts(taken)))
        {
            Verdict::crowded("node(s) didn't have free ports for the requested pod ports")
        } else {
            Verdict::Fits
        }
    }))
}
