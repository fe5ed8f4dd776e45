//! A pod goes only near pods that it requires, away from those that it or they cannot stand, and rather near those
//! that it prefers.

use std::collections::BTreeMap;

use caravel_api::selector::Selector;
use k8s_openapi::api::core::v1::PodAffinityTerm;

use super::{Filter, Score, Verdict};
use crate::cluster::{Cluster, NodeView};
use crate::pod::PodView;

/// Whether `other` is one of the pods that a term of `of` speaks of. Namespaces by label are not known here: a term
/// with a namespaceSelector means every namespace if the selector is empty, and only those it lists otherwise.
fn speaks_of(term: &PodAffinityTerm, of: &PodView, other: &PodView) -> bool {
    let listed = term.namespaces.as_deref().unwrap_or_default();
    let everywhere = term.namespace_selector.as_ref().is_some_and(|s| {
        s.match_labels.as_ref().is_none_or(BTreeMap::is_empty) && s.match_expressions.as_ref().is_none_or(Vec::is_empty)
    });
    let namespace = everywhere
        || listed.iter().any(|n| n == other.namespace())
        || (listed.is_empty() && term.namespace_selector.is_none() && of.namespace() == other.namespace());
    namespace
        && Selector::from_label_selector(term.label_selector.as_ref())
            .is_ok_and(|s| s.matches(other.pod.metadata.labels.as_ref().unwrap_or(&BTreeMap::new())))
}

fn required(pod: &PodView, anti: bool) -> &[PodAffinityTerm] {
    let affinity = pod.pod.spec.as_ref().and_then(|s| s.affinity.as_ref());
    let terms = match anti {
        false => affinity.and_then(|a| a.pod_affinity.as_ref()?.required_during_scheduling_ignored_during_execution.as_deref()),
        true => affinity.and_then(|a| a.pod_anti_affinity.as_ref()?.required_during_scheduling_ignored_during_execution.as_deref()),
    };
    terms.unwrap_or_default()
}

/// Values of the topology key of `term` under which such a pod runs.
fn places<'a>(term: &PodAffinityTerm, of: &PodView, cluster: &'a Cluster) -> Vec<&'a str> {
    let mut found: Vec<&str> = cluster
        .nodes()
        .filter(|node| node.pods.values().any(|p| speaks_of(term, of, p)))
        .filter_map(|node| node.labels.get(&term.topology_key).map(String::as_str))
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

pub fn filter<'a>(pod: &'a PodView, cluster: &'a Cluster) -> Option<Filter<'a>> {
    let near: Vec<_> = required(pod, false).iter().map(|term| (term, places(term, pod, cluster))).collect();
    let away: Vec<_> = required(pod, true).iter().map(|term| (term, places(term, pod, cluster))).collect();
    let mut shunned: Vec<(&str, &str)> = Vec::new();
    for node in cluster.nodes() {
        for other in node.pods.values() {
            for term in required(other, true).iter().filter(|term| speaks_of(term, other, pod)) {
                if let Some(value) = node.labels.get(&term.topology_key) {
                    shunned.push((&term.topology_key, value));
                }
            }
        }
    }
    if near.is_empty() && away.is_empty() && shunned.is_empty() {
        return None;
    }
    // The first pod of a group that requires its own kind must be able to start somewhere.
    let first = near.iter().all(|(term, places)| places.is_empty() && speaks_of(term, pod, pod));
    Some(Box::new(move |node: &NodeView| {
        let at = |key: &str| node.labels.get(key).map(String::as_str);
        let has_keys = near.iter().all(|(term, _)| at(&term.topology_key).is_some());
        let is_near = has_keys && (first || near.iter().all(|(term, places)| at(&term.topology_key).is_some_and(|v| places.contains(&v))));
        if !near.is_empty() && !is_near {
            return Verdict::never("node(s) didn't match pod affinity rules");
        }
        if away.iter().any(|(term, places)| at(&term.topology_key).is_some_and(|v| places.contains(&v))) {
            return Verdict::full(vec!["node(s) didn't match pod anti-affinity rules".into()]);
        }
        if shunned.iter().any(|(key, value)| at(key) == Some(*value)) {
            return Verdict::full(vec!["node(s) didn't satisfy existing pods anti-affinity rules".into()]);
        }
        Verdict::Fits
    }))
}

pub fn score<'a>(pod: &'a PodView, cluster: &'a Cluster) -> Option<Score<'a>> {
    let affinity = pod.pod.spec.as_ref()?.affinity.as_ref()?;
    let near = affinity.pod_affinity.as_ref().and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_deref());
    let away = affinity.pod_anti_affinity.as_ref().and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_deref());
    let signed = near.unwrap_or_default().iter().map(|t| (1, t)).chain(away.unwrap_or_default().iter().map(|t| (-1, t)));
    let terms: Vec<_> = signed
        .map(|(sign, t)| (sign * i64::from(t.weight), &t.pod_affinity_term, places(&t.pod_affinity_term, pod, cluster)))
        .collect();
    if terms.is_empty() {
        return None;
    }
    // Scores must not be negative: all are raised by what could be lost.
    let floor: i64 = terms.iter().map(|(weight, ..)| -(*weight).min(0)).sum();
    Some(Box::new(move |node: &NodeView| {
        let holds = |term: &PodAffinityTerm, places: &[&str]| node.labels.get(&term.topology_key).is_some_and(|v| places.contains(&v.as_str()));
        floor + terms.iter().filter(|(_, term, places)| holds(term, places)).map(|(weight, ..)| *weight).sum::<i64>()
    }))
}
