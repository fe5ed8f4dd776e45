//! What to change so that one set of rules becomes another. Pure.
//!
//! The script is one nft transaction: new chains and sets first, then rules and map elements, then
//! what nobody refers to any more.

use std::fmt::Write as _;

use super::ruleset::RuleSet;

/// A script for `nft -f -`. Empty when nothing is to be done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuleDiff {
    /// The commands, one a line.
    pub script: String,
}

impl RuleDiff {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.script.is_empty()
    }
}

/// From `old` (none: whatever is there is thrown away) to `new`.
pub fn diff(old: Option<&RuleSet>, new: &RuleSet) -> RuleDiff {
    let mut script = String::new();
    let empty = RuleSet::default();
    let old = match old {
        Some(old) if old.base == new.base => old,
        _ => {
            // Adding before deleting makes the deletion succeed whether or not the table is there.
            script
                .push_str("add table ip caravel\ndelete table ip caravel\nadd table ip caravel\n");
            script.push_str(&new.base);
            &empty
        }
    };
    let mut line = |text: std::fmt::Arguments<'_>| {
        // Writing to a String cannot fail.
        let _ = writeln!(script, "{text}");
    };
    for (name, set) in &new.sets {
        match old.sets.get(name) {
            Some(same) if same == set => {}
            // A set's time-out cannot be changed in place; the clients are remembered anew.
            Some(_) => {
                line(format_args!("flush set ip caravel {name}"));
            }
            None => line(format_args!(
                "add set ip caravel {name} {{ type ipv4_addr; flags dynamic,timeout; timeout {}s; }}",
                set.timeout
            )),
        }
    }
    let changed: Vec<_> = new
        .chains
        .iter()
        .filter(|(name, rules)| old.chains.get(*name) != Some(rules))
        .collect();
    for (name, _) in &changed {
        match old.chains.contains_key(*name) {
            true => line(format_args!("flush chain ip caravel {name}")),
            false => line(format_args!("add chain ip caravel {name}")),
        }
    }
    for (name, rules) in &changed {
        for rule in *rules {
            line(format_args!("add rule ip caravel {name} {rule}"));
        }
    }
    for ((map, new), (_, old)) in new.maps().into_iter().zip(old.maps()) {
        let gone: Vec<_> = old
            .iter()
            .filter(|(key, verdict)| new.get(*key) != Some(verdict))
            .map(|(key, _)| key.as_str())
            .collect();
        if !gone.is_empty() {
            line(format_args!(
                "delete element ip caravel {map} {{ {} }}",
                gone.join(", ")
            ));
        }
        let come: Vec<_> = new
            .iter()
            .filter(|(key, verdict)| old.get(*key) != Some(verdict))
            .map(|(key, verdict)| format!("{key} : {verdict}"))
            .collect();
        if !come.is_empty() {
            line(format_args!(
                "add element ip caravel {map} {{ {} }}",
                come.join(", ")
            ));
        }
    }
    let leaving: Vec<_> = old
        .chains
        .keys()
        .filter(|name| !new.chains.contains_key(*name))
        .collect();
    for name in &leaving {
        line(format_args!("flush chain ip caravel {name}"));
    }
    for name in &leaving {
        line(format_args!("delete chain ip caravel {name}"));
    }
    for name in old.sets.keys().filter(|name| !new.sets.contains_key(*name)) {
        line(format_args!("delete set ip caravel {name}"));
    }
    RuleDiff { script }
}
