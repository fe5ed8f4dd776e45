//! Two pods cannot have the same port of one machine.

use super::{Filter, Verdict};
use crate::cluster::{Cluster, NodeView};
use crate::pod::PodView;

pub fn filter<'a>(pod: &'a PodView, _: &'a Cluster) -> Option<Filter<'a>> {
    (!pod.ports.is_empty()).then(|| -> Filter<'a> {
        Box::new(move |node: &NodeView| {
            let taken = node.pods.values().flat_map(|p| &p.ports).any(|theirs| pod.ports.iter().any(|mine| mine.collides(theirs)));
            match taken {
                true => Verdict::full(vec!["node(s) didn't have free ports for the requested pod ports".into()]),
                false => Verdict::Fits,
            }
        })
    })
}
