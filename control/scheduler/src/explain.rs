//! A refusal in words, exactly as upstream's (`framework.FitError`): people and tools search for them.

use std::collections::BTreeMap;

use crate::decide::Refusal;

/// What is said when there is no node at all.
pub const NO_NODES: &str = "no nodes available to schedule pods";

/// `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were unschedulable. preemption: ...`
pub fn explain(refusal: &Refusal, preemption: &str) -> String {
    if refusal.nodes == 0 {
        return NO_NODES.to_owned();
    }
    let mut message = format!("0/{} nodes are available:", refusal.nodes);
    match refusal.whole {
        Some(whole) => message.push_str(&format!(" {whole}.")),
        None => {
            let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
            for (of_node, _) in refusal.verdicts.values() {
                for reason in of_node {
                    *reasons.entry(reason).or_default() += 1;
                }
            }
            if refusal.left_out > 0 {
                *reasons
                    .entry("node(s) didn't satisfy plugin(s) [NodeAffinity]")
                    .or_default() += refusal.left_out;
            }
            message.push_str(&counted(&reasons));
        }
    }
    if !preemption.is_empty() {
        message.push_str(&format!(" preemption: {preemption}"));
    }
    message
}

/// ` 1 this, 2 that.`, sorted as text.
pub fn counted(reasons: &BTreeMap<&str, usize>) -> String {
    let mut parts: Vec<String> = reasons
        .iter()
        .map(|(reason, count)| format!("{count} {reason}"))
        .collect();
    parts.sort();
    if parts.is_empty() {
        String::new()
    } else {
        format!(" {}.", parts.join(", "))
    }
}
