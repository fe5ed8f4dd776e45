//! What decides on which nodes a pod can be and would best be: one list, in the order in which nodes are asked.
//!
//! Order and weights are those of upstream's default profile (`pkg/scheduler/apis/config/v1/default_plugins.go`).
//! Preferring nodes that have the image is absent: nodes here share images by their own means.

use std::borrow::Cow;

use crate::cluster::{Cluster, NodeView};
use crate::pod::PodView;

mod balanced_allocation;
mod inter_pod_affinity;
mod least_allocated;
mod node_affinity;
mod node_name;
mod node_ports;
mod node_resources;
mod node_unschedulable;
mod taint_toleration;
mod topology_spread;

/// Upstream's `MaxNodeScore`.
pub const MAX_SCORE: i64 = 100;

/// Can the pod be on the node?
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    Fits,
    /// `helpless`: no pod's going would help (upstream's `UnschedulableAndUnresolvable`).
    Unfit {
        reasons: Vec<Cow<'static, str>>,
        helpless: bool,
    },
}

impl Verdict {
    /// Unfit, unless another pod goes.
    pub fn crowded(reason: &'static str) -> Verdict {
        Verdict::Unfit {
            reasons: vec![Cow::Borrowed(reason)],
            helpless: false,
        }
    }

    /// Unfit, whoever goes.
    pub fn never(reason: &'static str) -> Verdict {
        Verdict::Unfit {
            reasons: vec![Cow::Borrowed(reason)],
            helpless: true,
        }
    }
}

pub type Filter<'a> = Box<dyn Fn(&NodeView) -> Verdict + 'a>;
pub type Score<'a> = Box<dyn Fn(&NodeView) -> i64 + 'a>;

/// One concern. Preparing answers `None` when the pod gives it nothing to do.
pub struct Plugin {
    pub name: &'static str,
    pub filter: Option<for<'a> fn(&'a PodView, &'a Cluster) -> Option<Filter<'a>>>,
    pub score: Option<Scoring>,
}

pub struct Scoring {
    pub weight: i64,
    /// The last are the nodes that fit.
    pub prepare: for<'a> fn(&'a PodView, &'a Cluster, &[&'a NodeView]) -> Option<Score<'a>>,
    pub normalise: fn(&mut [i64]),
}

const fn plugin(name: &'static str) -> Plugin {
    Plugin {
        name,
        filter: None,
        score: None,
    }
}

pub static PLUGINS: &[Plugin] = &[
    Plugin {
        filter: Some(node_unschedulable::filter),
        ..plugin("NodeUnschedulable")
    },
    Plugin {
        filter: Some(node_name::filter),
        ..plugin("NodeName")
    },
    Plugin {
        filter: Some(taint_toleration::filter),
        score: Some(Scoring {
            weight: 3,
            prepare: taint_toleration::score,
            normalise: fewest_best,
        }),
        ..plugin("TaintToleration")
    },
    Plugin {
        filter: Some(node_affinity::filter),
        score: Some(Scoring {
            weight: 2,
            prepare: node_affinity::score,
            normalise: most_best,
        }),
        ..plugin("NodeAffinity")
    },
    Plugin {
        filter: Some(node_ports::filter),
        ..plugin("NodePorts")
    },
    Plugin {
        filter: Some(node_resources::filter),
        score: Some(Scoring {
            weight: 1,
            prepare: least_allocated::score,
            normalise: as_it_is,
        }),
        ..plugin("NodeResourcesFit")
    },
    Plugin {
        filter: Some(topology_spread::filter),
        score: Some(Scoring {
            weight: 2,
            prepare: topology_spread::score,
            normalise: topology_spread::normalise,
        }),
        ..plugin("PodTopologySpread")
    },
    Plugin {
        filter: Some(inter_pod_affinity::filter),
        score: Some(Scoring {
            weight: 2,
            prepare: inter_pod_affinity::score,
            normalise: inter_pod_affinity::normalise,
        }),
        ..plugin("InterPodAffinity")
    },
    Plugin {
        score: Some(Scoring {
            weight: 1,
            prepare: balanced_allocation::score,
            normalise: as_it_is,
        }),
        ..plugin("NodeResourcesBalancedAllocation")
    },
];

fn as_it_is(_: &mut [i64]) {}

/// Upstream's `DefaultNormalizeScore`: the highest becomes 100.
fn most_best(scores: &mut [i64]) {
    let max = scores.iter().copied().max().unwrap_or(0);
    if max > 0 {
        scores
            .iter_mut()
            .for_each(|score| *score = *score * MAX_SCORE / max);
    }
}

/// The same, reversed: none becomes 100.
fn fewest_best(scores: &mut [i64]) {
    let max = scores.iter().copied().max().unwrap_or(0);
    scores.iter_mut().for_each(|score| {
        *score = if max == 0 {
            MAX_SCORE
        } else {
            MAX_SCORE - *score * MAX_SCORE / max
        }
    });
}
