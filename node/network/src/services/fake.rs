//! A firewall in memory, which refuses what the kernel refuses: a name that is used but not there, a
//! chain that is deleted while it is referred to, an element that is added or deleted twice.

use std::collections::{BTreeMap, BTreeSet};

use super::{Firewall, FirewallError, RuleDiff};

/// State of the table as the scripts so far have left it.
#[derive(Debug, Clone, Default)]
pub struct FakeFirewall {
    table: Option<Table>,
    /// How many transactions were applied.
    pub applied: usize,
}

#[derive(Debug, Clone, Default)]
struct Table {
    chains: BTreeMap<String, Vec<String>>,
    maps: BTreeMap<String, BTreeMap<String, String>>,
    sets: BTreeSet<String>,
}

impl FakeFirewall {
    /// What the map holds now.
    pub fn map(&self, name: &str) -> BTreeMap<String, String> {
        self.table
            .as_ref()
            .and_then(|t| t.maps.get(name))
            .cloned()
            .unwrap_or_default()
    }

    /// Forgets everything, as `nft flush ruleset` does.
    pub fn flush(&mut self) {
        self.table = None;
    }
}

impl Firewall for FakeFirewall {
    fn apply(&mut self, change: &RuleDiff) -> Result<(), FirewallError> {
        let mut table = self.table.clone();
        for line in change.script.lines() {
            step(&mut table, line)
                .map_err(|why| FirewallError::Refused(format!("{why}: {line}")))?;
        }
        if let Some(table) = &table {
            check(table).map_err(FirewallError::Refused)?;
        }
        self.table = table;
        self.applied += 1;
        Ok(())
    }

    fn present(&mut self) -> Result<bool, FirewallError> {
        Ok(self.table.is_some())
    }
}

fn step(table: &mut Option<Table>, line: &str) -> Result<(), String> {
    let (verb, rest) = line.split_once(' ').ok_or("no verb")?;
    let (what, rest) = rest.split_once(' ').ok_or("no object")?;
    let rest = rest
        .strip_prefix("ip caravel")
        .ok_or("another table")?
        .trim_start();
    if what == "table" {
        match verb {
            "add" => *table = Some(table.take().unwrap_or_default()),
            _ => *table = table.take().map(|_| None).ok_or("no such table")?,
        }
        return Ok(());
    }
    let table = table.as_mut().ok_or("no table")?;
    let (name, body) = rest.split_once(' ').unwrap_or((rest, ""));
    let missing = || format!("no such {what}");
    match (verb, what) {
        ("add", "chain") => drop(table.chains.entry(name.into()).or_default()),
        ("flush", "chain") => table.chains.get_mut(name).ok_or_else(missing)?.clear(),
        ("delete", "chain") => drop(table.chains.remove(name).ok_or_else(missing)?),
        ("add", "rule") => table
            .chains
            .get_mut(name)
            .ok_or_else(missing)?
            .push(body.into()),
        ("add", "map") => drop(table.maps.entry(name.into()).or_default()),
        ("add", "set") => drop(table.sets.insert(name.into())),
        ("flush", "set") => drop(table.sets.get(name).ok_or_else(missing)?),
        ("delete", "set") => drop(table.sets.take(name).ok_or_else(missing)?),
        (_, "element") => {
            let map = table.maps.get_mut(name).ok_or_else(missing)?;
            for element in body.trim_matches(['{', '}', ' ']).split(", ") {
                match (verb, element.split_once(" : ")) {
                    ("add", Some((key, verdict))) => {
                        if map.insert(key.into(), verdict.into()).is_some() {
                            return Err(format!("element {key} exists"));
                        }
                    }
                    ("delete", None) => drop(map.remove(element).ok_or("no such element")?),
                    _ => return Err("malformed element".into()),
                }
            }
        }
        _ => return Err("unknown command".into()),
    }
    Ok(())
}

/// Everything referred to must be there.
fn check(table: &Table) -> Result<(), String> {
    let rules = table
        .chains
        .values()
        .flatten()
        .chain(table.maps.values().flat_map(BTreeMap::values));
    for rule in rules {
        let words: Vec<&str> = rule.split([' ', ',']).collect();
        for pair in words.windows(2) {
            if matches!(pair[0], "goto" | "jump") && !table.chains.contains_key(pair[1]) {
                return Err(format!("no chain {} in: {rule}", pair[1]));
            }
        }
        for name in words.iter().filter_map(|w| w.strip_prefix('@')) {
            if !table.sets.contains(name) && !table.maps.contains_key(name) {
                return Err(format!("no set {name} in: {rule}"));
            }
        }
    }
    Ok(())
}
