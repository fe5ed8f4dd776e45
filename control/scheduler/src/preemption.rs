//! Would it help if pods of lower priority went? Answers in words, and with the victims.
//!
//! Upstream: `framework/preemption`, `defaultpreemption`: a node helps if the pod fits once all pods of lower priority are
//! gone; of these as many as possible are put back, the most important first.

use std::collections::BTreeMap;

use caravel_api::ObjectName;

use crate::cluster::{Cluster, NodeView};
use crate::decide::{Refusal, filters, judge};
use crate::explain::counted;
use crate::plugins::Verdict;
use crate::pod::PodView;

/// Who would have to go, and from where.
#[derive(Clone, Debug, PartialEq)]
pub struct Victims {
    pub node: String,
    pub pods: Vec<ObjectName>,
}

/// The node whose victims matter least, or why there is none.
pub fn preempt(pod: &PodView, cluster: &Cluster, refusal: &Refusal) -> Result<Victims, String> {
    if refusal.nodes == 0 {
        return Err(String::new());
    }
    if !pod.preempts {
        return Err("not eligible due to preemptionPolicy=Never.".to_owned());
    }
    let filters = filters(pod, cluster);
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    let mut best: Option<(Cost, Victims)> = None;
    let mut asked = 0;
    for (name, (_, helpless)) in &refusal.verdicts {
        let Some(node) = cluster.node(name).filter(|_| !helpless) else {
            continue;
        };
        asked += 1;
        match victims(pod, node, &|node| judge(&filters, node)) {
            Ok(victims) => {
                let cost = Cost::of(&victims);
                let pods = victims.iter().map(|victim| victim.name.clone()).collect();
                if best.as_ref().is_none_or(|(least, _)| cost < *least) {
                    best = Some((
                        cost,
                        Victims {
                            node: name.clone(),
                            pods,
                        },
                    ));
                }
            }
            Err(these) => these
                .into_iter()
                .for_each(|reason| *reasons.entry(reason).or_default() += 1),
        }
    }
    if let Some((_, victims)) = best {
        return Ok(victims);
    }
    if refusal.nodes > asked {
        *reasons
            .entry("Preemption is not helpful for scheduling".to_owned())
            .or_default() += refusal.nodes - asked;
    }
    let reasons: BTreeMap<&str, usize> = reasons
        .iter()
        .map(|(reason, count)| (reason.as_str(), *count))
        .collect();
    Err(format!(
        "0/{} nodes are available:{}",
        refusal.nodes,
        counted(&reasons)
    ))
}

/// The pods that must go from one node, most important first.
fn victims(
    pod: &PodView,
    node: &NodeView,
    judge: &dyn Fn(&NodeView) -> Verdict,
) -> Result<Vec<std::sync::Arc<PodView>>, Vec<String>> {
    let mut lower: Vec<_> = node
        .pods
        .values()
        .filter(|other| other.priority < pod.priority)
        .cloned()
        .collect();
    if lower.is_empty() {
        return Err(vec![
            "No preemption victims found for incoming pod".to_owned(),
        ]);
    }
    let mut without = node.clone();
    for other in &lower {
        without.take(&other.name);
    }
    if let Verdict::Unfit { reasons, .. } = judge(&without) {
        return Err(reasons.iter().map(|reason| reason.to_string()).collect());
    }
    lower.sort_by(|a, b| b.priority.cmp(&a.priority).then(a.created.cmp(&b.created)));
    lower.retain(|other| {
        without.add(other.clone());
        let fits = judge(&without) == Verdict::Fits;
        if !fits {
            without.take(&other.name);
        }
        !fits
    });
    if lower.is_empty() {
        Err(vec![
            "No preemption victims found for incoming pod".to_owned(),
        ])
    } else {
        Ok(lower)
    }
}

/// What is compared, in this order: the highest priority of a victim, the sum of all, their number.
#[derive(PartialEq, PartialOrd)]
struct Cost(i32, i64, usize);

impl Cost {
    fn of(victims: &[std::sync::Arc<PodView>]) -> Cost {
        let highest = victims
            .iter()
            .map(|victim| victim.priority)
            .max()
            .unwrap_or(i32::MIN);
        let sum = victims
            .iter()
            .map(|victim| i64::from(victim.priority) + i64::from(i32::MAX) + 1)
            .sum();
        Cost(highest, sum, victims.len())
    }
}
