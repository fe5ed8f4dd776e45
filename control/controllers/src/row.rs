//! A controller is a row: its name, what wakes it and its decision. The list of them is in the crate's root.

use caravel_api::{Kind, Meta, ObjectName};
use caravel_store::{Entry, Snapshot, Undecodable};
use jiff::Timestamp;
use std::sync::Arc;

use crate::action::{Outcomes, Plan};
use crate::settings::Settings;

/// What a decision may know besides the cluster's state.
pub struct Situation<'a> {
    /// What became of the previous plan for the same key.
    pub last: &'a Outcomes,
    /// Whole seconds.
    pub now: Timestamp,
    pub settings: &'a Settings,
    /// Since when this server leads. What happened before was not watched: grace periods begin here at the earliest.
    pub since: Timestamp,
}

/// An object that changed, as a wake sees it: before and after, in the newest state.
pub struct Changed<'a> {
    pub entry: &'a Arc<Entry>,
    pub previous: Option<&'a Arc<Entry>>,
    pub deleted: bool,
    pub cluster: &'a Snapshot,
}

impl Changed<'_> {
    pub fn meta(&self) -> &Meta {
        &self.entry.meta
    }

    pub fn name(&self) -> ObjectName {
        ObjectName::new(
            self.entry.meta.namespace.clone(),
            self.entry.meta.name.clone(),
        )
    }
}

/// Which keys to look at when an object of a kind changes. An empty `kind` is every kind.
pub struct Wake {
    pub kind: fn() -> Option<&'static caravel_api::Row>,
    pub keys: fn(&Changed<'_>) -> Vec<ObjectName>,
}

/// Wakes on changes of one kind.
pub const fn on<K: Kind>(keys: fn(&Changed<'_>) -> Vec<ObjectName>) -> Wake {
    Wake {
        kind: || Some(K::row()),
        keys,
    }
}

/// Wakes on changes of any kind.
pub const fn on_any(keys: fn(&Changed<'_>) -> Vec<ObjectName>) -> Wake {
    Wake {
        kind: || None,
        keys,
    }
}

/// The changed object itself.
pub fn itself(changed: &Changed<'_>) -> Vec<ObjectName> {
    vec![changed.name()]
}

/// The changed object's controller of kind `K`, now and before.
pub fn its_controller<K: Kind>(changed: &Changed<'_>) -> Vec<ObjectName> {
    let mut owners = Vec::new();
    for meta in [
        Some(&changed.entry.meta),
        changed.previous.map(|entry| &entry.meta),
    ]
    .into_iter()
    .flatten()
    {
        if let Some(owner) = meta.controller().filter(|owner| {
            owner.kind == K::row().kind && owner.api_version == K::row().api_version()
        }) {
            let name = ObjectName::new(meta.namespace.clone(), owner.name.clone());
            if !owners.contains(&name) {
                owners.push(name);
            }
        }
    }
    owners
}

/// One controller.
pub struct Row {
    pub name: &'static str,
    /// The service account of kube-system under which it writes, and the `source` of its events.
    pub identity: &'static str,
    /// Keys worked on at the same time.
    pub workers: usize,
    pub wakes: &'static [Wake],
    pub reconcile: fn(&Snapshot, &ObjectName, &Situation<'_>) -> Result<Plan, Undecodable>,
}
