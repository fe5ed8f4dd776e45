//! A pod goes only where what it asks is free, and rather where much is (least allocated).

use super::{Filter, Score, Verdict};
use crate::cluster::{Cluster, NodeView};
use crate::pod::PodView;

pub fn filter<'a>(pod: &'a PodView, _: &'a Cluster) -> Option<Filter<'a>> {
    let asked = &pod.requests;
    Some(Box::new(move |node: &NodeView| {
        let mut reasons = Vec::new();
        let mut never = false;
        if i64::try_from(node.pods.len()).unwrap_or(i64::MAX) >= node.max_pods {
            reasons.push("Too many pods".to_owned());
        }
        let mut need = |name: &str, asked: i64, used: i64, all: i64| {
            if asked > 0 && asked > all - used {
                reasons.push(format!("Insufficient {name}"));
                never |= asked > all;
            }
        };
        need("cpu", asked.cpu, node.requested.cpu, node.allocatable.cpu);
        need("memory", asked.memory, node.requested.memory, node.allocatable.memory);
        need("ephemeral-storage", asked.ephemeral, node.requested.ephemeral, node.allocatable.ephemeral);
        for (name, amount) in &asked.other {
            let of = |map: &std::collections::BTreeMap<String, i64>| map.get(name).copied().unwrap_or(0);
            need(name, *amount, of(&node.requested.other), of(&node.allocatable.other));
        }
        match reasons.is_empty() {
            true => Verdict::Fits,
            false => Verdict::Unfit { reasons, evicting_helps: !never },
        }
    }))
}

pub fn score<'a>(pod: &'a PodView, _: &'a Cluster) -> Option<Score<'a>> {
    Some(Box::new(move |node: &NodeView| {
        let free = |all: i64, used: i64| if all <= 0 || used > all { 0 } else { (all - used) * 100 / all };
        let cpu = free(node.allocatable.cpu, node.weight.0 + pod.weight.0);
        let memory = free(node.allocatable.memory, node.weight.1 + pod.weight.1);
        (cpu + memory) / 2
    }))
}
