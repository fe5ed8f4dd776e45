//! Pods of one kind spread over nodes and zones: the pod's own constraints, or, where it has none, upstream's default:
//! the pods of one controller rather on different nodes.

use std::collections::BTreeMap;

use caravel_api::selector::Selector;
use k8s_openapi::api::core::v1::TopologySpreadConstraint;

use super::{Filter, Score, Verdict, affinity};
use crate::cluster::{Cluster, NodeView};
use crate::pod::PodView;

struct Constraint<'a> {
    key: &'a str,
    max_skew: i64,
    /// Pods that match, by the value of the topology key, over the nodes that the pod could go to.
    counts: BTreeMap<&'a str, i64>,
    own: i64,
}

impl Constraint<'_> {
    fn least(&self) -> i64 {
        self.counts.values().copied().min().unwrap_or(0)
    }
}

pub fn filter<'a>(pod: &'a PodView, cluster: &'a Cluster) -> Option<Filter<'a>> {
    let constraints = prepare(pod, cluster, "DoNotSchedule");
    (!constraints.is_empty()).then(|| -> Filter<'a> {
        Box::new(move |node: &NodeView| {
            for constraint in &constraints {
                let Some(value) = node.labels.get(constraint.key) else {
                    return Verdict::never("node(s) didn't match pod topology spread constraints (missing required label)");
                };
                let here = constraint.counts.get(value.as_str()).copied().unwrap_or(0);
                if here + constraint.own - constraint.least() > constraint.max_skew {
                    return Verdict::full(vec!["node(s) didn't match pod topology spread constraints".into()]);
                }
            }
            Verdict::Fits
        })
    })
}

pub fn score<'a>(pod: &'a PodView, cluster: &'a Cluster) -> Option<Score<'a>> {
    let own = pod.pod.spec.as_ref().and_then(|s| s.topology_spread_constraints.as_ref()).is_some_and(|c| !c.is_empty());
    if own {
        let soft = prepare(pod, cluster, "ScheduleAnyway");
        return (!soft.is_empty()).then(|| -> Score<'a> {
            Box::new(move |node: &NodeView| {
                let here = |c: &Constraint<'_>| node.labels.get(c.key).and_then(|v| c.counts.get(v.as_str())).copied().unwrap_or(0);
                soft.iter().map(here).sum()
            })
        });
    }
    let controller = pod.controller();
    (!controller.is_empty()).then(|| -> Score<'a> {
        Box::new(move |node: &NodeView| {
            let same = node.pods.values().filter(|p| p.controller() == controller && p.pod.metadata.deletion_timestamp.is_none());
            i64::try_from(same.count()).unwrap_or(i64::MAX)
        })
    })
}

fn prepare<'a>(pod: &'a PodView, cluster: &'a Cluster, when: &str) -> Vec<Constraint<'a>> {
    let spec = pod.pod.spec.as_ref();
    let all = spec.and_then(|s| s.topology_spread_constraints.as_ref()).into_iter().flatten();
    all.filter(|c| c.when_unsatisfiable == when).map(|c| count(c, pod, cluster)).collect()
}

fn count<'a>(constraint: &'a TopologySpreadConstraint, pod: &'a PodView, cluster: &'a Cluster) -> Constraint<'a> {
    let mut selector = Selector::from_label_selector(constraint.label_selector.as_ref()).unwrap_or_else(|_| Selector::nothing());
    let labels = pod.pod.metadata.labels.clone().unwrap_or_default();
    for key in constraint.match_label_keys.iter().flatten() {
        if let Some(value) = labels.get(key) {
            let one = Selector::from_map(&BTreeMap::from([(key.clone(), value.clone())]));
            selector.requirements.extend(one.requirements);
        }
    }
    let could_go = affinity::filter(pod, cluster);
    let mut counts = BTreeMap::new();
    for node in cluster.nodes() {
        let Some(value) = node.labels.get(&constraint.topology_key) else { continue };
        if could_go.as_ref().is_some_and(|f| f(node) != Verdict::Fits) {
            continue;
        }
        let alike = node.pods.values().filter(|p| {
            p.namespace() == pod.namespace()
                && p.pod.metadata.deletion_timestamp.is_none()
                && selector.matches(p.pod.metadata.labels.as_ref().unwrap_or(&BTreeMap::new()))
        });
        *counts.entry(value.as_str()).or_insert(0) += i64::try_from(alike.count()).unwrap_or(i64::MAX);
    }
    let own = i64::from(selector.matches(&labels));
    Constraint { key: &constraint.topology_key, max_skew: i64::from(constraint.max_skew), counts, own }
}
