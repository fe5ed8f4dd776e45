//! Pods are spread over the places that a label of nodes names: by the pod's own rules, or, when it has none, over
//! nodes and zones together with the pods that do the same work.
//!
//! Upstream: `podtopologyspread/{filtering,scoring}.go`, with the system's default constraints.

use std::collections::{HashMap, HashSet};

use super::{Filter, MAX_SCORE, Score, Verdict};
use crate::affinity::SpreadRule;
use crate::cluster::{Cluster, NodeView};
use crate::plugins::taint_toleration::is_tolerated;
use crate::pod::PodView;

const HOSTNAME: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";
/// The score of a node that is not judged.
const NONE: i64 = -1;

/// Pods on a node that count for a rule.
fn count(rule: &SpreadRule, namespace: &str, node: &NodeView) -> i64 {
    node.pods
        .values()
        .filter(|other| {
            other.name.namespace == namespace
                && !other.terminating
                && rule.selector.matches(&other.labels)
        })
        .count() as i64
}

/// Does a rule count this node at all?
fn counts(rule: &SpreadRule, pod: &PodView, node: &NodeView) -> bool {
    let repels = |effect: &str| effect == "NoSchedule" || effect == "NoExecute";
    (!rule.honor_affinity || pod.nodes.allow(node))
        && (!rule.honor_taints
            || node
                .taints
                .iter()
                .all(|taint| !repels(&taint.effect) || is_tolerated(taint, &pod.tolerations)))
}

struct Domains<'a> {
    rule: &'a SpreadRule,
    pods: HashMap<&'a str, i64>,
    fewest: i64,
    mine: i64,
}

pub fn filter<'a>(pod: &'a PodView, cluster: &'a Cluster) -> Option<Filter<'a>> {
    let rules: Vec<&SpreadRule> = pod.spread.iter().filter(|rule| rule.hard).collect();
    if rules.is_empty() {
        return None;
    }
    let mut domains = Vec::new();
    for rule in &rules {
        let mut pods: HashMap<&str, i64> = HashMap::new();
        for node in cluster.nodes() {
            let complete = rules.iter().all(|rule| node.labels.contains_key(&rule.key));
            if let Some(place) = node
                .labels
                .get(&rule.key)
                .filter(|_| complete && counts(rule, pod, node))
            {
                *pods.entry(place).or_default() += count(rule, &pod.name.namespace, node);
            }
        }
        let enough = rule
            .min_domains
            .is_none_or(|least| pods.len() as i64 >= least);
        let fewest = if enough {
            pods.values().copied().min().unwrap_or(0)
        } else {
            0
        };
        domains.push(Domains {
            rule,
            pods,
            fewest,
            mine: i64::from(rule.selector.matches(&pod.labels)),
        });
    }
    Some(Box::new(move |node| {
        for domain in &domains {
            let Some(place) = node.labels.get(&domain.rule.key) else {
                return Verdict::never(
                    "node(s) didn't match pod topology spread constraints (missing required label)",
                );
            };
            let there = domain.pods.get(place.as_str()).copied().unwrap_or(0);
            if there + domain.mine - domain.fewest > domain.rule.max_skew {
                return Verdict::crowded("node(s) didn't match pod topology spread constraints");
            }
        }
        Verdict::Fits
    }))
}

pub fn score<'a>(
    pod: &'a PodView,
    cluster: &'a Cluster,
    fitting: &[&'a NodeView],
) -> Option<Score<'a>> {
    let own = !pod.spread.is_empty();
    let rules: Vec<SpreadRule> = if own {
        pod.spread
            .iter()
            .filter(|rule| !rule.hard)
            .cloned()
            .collect()
    } else {
        defaults(pod)
    };
    if rules.is_empty() {
        return None;
    }
    // The pod's own rules judge only nodes that have all labels; the system's judge by what there is.
    let judged = move |rules: &[SpreadRule], node: &NodeView| {
        !own || rules.iter().all(|rule| node.labels.contains_key(&rule.key))
    };
    let mut prepared: Vec<(SpreadRule, f64, HashMap<&'a str, i64>)> = Vec::new();
    for rule in &rules {
        let places: HashSet<&'a str> = fitting
            .iter()
            .filter(|node| judged(&rules, node))
            .filter_map(|node| node.labels.get(&rule.key))
            .map(String::as_str)
            .collect();
        let size = if rule.key == HOSTNAME {
            fitting.iter().filter(|node| judged(&rules, node)).count()
        } else {
            places.len()
        };
        let mut pods: HashMap<&'a str, i64> = HashMap::new();
        if rule.key != HOSTNAME && !places.is_empty() {
            for node in cluster
                .nodes()
                .filter(|node| judged(&rules, node) && counts(rule, pod, node))
            {
                if let Some(place) = node
                    .labels
                    .get(&rule.key)
                    .filter(|place| places.contains(place.as_str()))
                {
                    *pods.entry(place).or_default() += count(rule, &pod.name.namespace, node);
                }
            }
        }
        prepared.push((rule.clone(), (size as f64 + 2.0).ln(), pods));
    }
    Some(Box::new(move |node| {
        if !judged(&rules, node) {
            return NONE;
        }
        let mut score = 0.0;
        for (rule, weight, pods) in &prepared {
            let Some(place) = node.labels.get(&rule.key) else {
                continue;
            };
            let there = if rule.key == HOSTNAME {
                count(rule, &pod.name.namespace, node)
            } else {
                pods.get(place.as_str()).copied().unwrap_or(0)
            };
            score += there as f64 * weight + (rule.max_skew - 1) as f64;
        }
        score.round() as i64
    }))
}

/// The system's rules, for pods of a service or an owner.
fn defaults(pod: &PodView) -> Vec<SpreadRule> {
    let Some(selector) = &pod.peers else {
        return Vec::new();
    };
    [(HOSTNAME, 3), (ZONE, 5)]
        .into_iter()
        .map(|(key, max_skew)| SpreadRule {
            max_skew,
            key: key.to_owned(),
            hard: false,
            selector: selector.clone(),
            min_domains: None,
            honor_affinity: true,
            honor_taints: false,
        })
        .collect()
}

/// Fewer is better; a node that is not judged gets nothing.
pub fn normalise(scores: &mut [i64]) {
    let judged = || scores.iter().copied().filter(|score| *score != NONE);
    let (min, max) = (judged().min().unwrap_or(0), judged().max().unwrap_or(0));
    for score in scores {
        *score = match *score {
            NONE => 0,
            _ if max == 0 => MAX_SCORE,
            some => MAX_SCORE * (max + min - some) / max,
        };
    }
}
