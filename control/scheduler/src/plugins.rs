//! What decides where a pod goes: one list, in the order in which the filters are asked.
//!
//! A plug-in prepares itself for one pod and returns a closure that judges one node. The first filter that refuses a
//! node gives the reason. Names, reasons and weights are those of upstream's default profile.

use crate::cluster::{Cluster, NodeView};
use crate::pod::PodView;

mod affinity;
mod balanced;
mod fit;
mod inter_pod;
mod ports;
mod spread;
mod taints;
mod unschedulable;

/// A filter's judgement of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The pod may run there.
    Fits,
    /// It may not, for these reasons. `evicting` pods there could change that.
    Unfit { reasons: Vec<String>, evicting_helps: bool },
}

impl Verdict {
    /// Nothing that happens to pods could make the node fit.
    pub fn never(reason: &str) -> Self {
        Verdict::Unfit { reasons: vec![reason.to_owned()], evicting_helps: false }
    }

    /// The pods that are there are in the way.
    pub fn full(reasons: Vec<String>) -> Self {
        Verdict::Unfit { reasons, evicting_helps: true }
    }

    fn check(fits: bool, reason: &str) -> Self {
        if fits { Verdict::Fits } else { Verdict::never(reason) }
    }
}

pub type Filter<'a> = Box<dyn Fn(&NodeView) -> Verdict + 'a>;
pub type Score<'a> = Box<dyn Fn(&NodeView) -> i64 + 'a>;

/// How raw scores become 0 to 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// They are already.
    Percent,
    /// The largest becomes 100.
    Most,
    /// The largest becomes 0, none at all 100.
    Least,
}

/// A plug-in. A `None` filter or score has nothing to say of this pod.
pub struct Plugin {
    pub name: &'static str,
    pub filter: Option<for<'a> fn(&'a PodView, &'a Cluster) -> Option<Filter<'a>>>,
    pub score: Option<(i64, Scale, for<'a> fn(&'a PodView, &'a Cluster) -> Option<Score<'a>>)>,
}

/// Every plug-in.
pub static PLUGINS: &[Plugin] = &[
    Plugin { name: "NodeUnschedulable", filter: Some(unschedulable::filter), score: None },
    Plugin { name: "TaintToleration", filter: Some(taints::filter), score: Some((3, Scale::Least, taints::score)) },
    Plugin { name: "NodeAffinity", filter: Some(affinity::filter), score: Some((2, Scale::Most, affinity::score)) },
    Plugin { name: "NodePorts", filter: Some(ports::filter), score: None },
    Plugin { name: "NodeResourcesFit", filter: Some(fit::filter), score: Some((1, Scale::Percent, fit::score)) },
    Plugin { name: "PodTopologySpread", filter: Some(spread::filter), score: Some((2, Scale::Least, spread::score)) },
    Plugin { name: "InterPodAffinity", filter: Some(inter_pod::filter), score: Some((2, Scale::Most, inter_pod::score)) },
    Plugin { name: "NodeResourcesBalancedAllocation", filter: None, score: Some((1, Scale::Percent, balanced::score)) },
];
