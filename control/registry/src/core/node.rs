//! Nodes.
//!
//! Follows `pkg/registry/core/node/strategy.go` and `ValidateNode*` of `pkg/apis/core/validation`.

use std::collections::BTreeSet;

use caravel_api::FieldErrors;
use k8s_openapi::api::core::v1::{Node, NodeSpec, NodeStatus, Taint};
use serde_json::json;

use super::pod::placement::EFFECTS;
use crate::found::{At, Found, drop_zero, text};
use crate::labels;
use crate::names;
use crate::quantities;
use crate::strategy::Strategy;

impl Strategy for Node {
    const FIELDS: &'static [&'static str] = &["spec.unschedulable"];

    fn normalise(&mut self) {
        let spec = self.spec.get_or_insert_default();
        drop_zero(&mut spec.unschedulable);
        for member in [
            &mut spec.pod_cidr,
            &mut spec.provider_id,
            &mut spec.external_id,
        ] {
            drop_zero(member);
        }
        spec.taints
            .iter_mut()
            .flatten()
            .for_each(|taint| drop_zero(&mut taint.value));
        let first = spec
            .pod_cidrs
            .as_ref()
            .and_then(|list| list.first())
            .cloned();
        match (&spec.pod_cidr, first) {
            (Some(cidr), first) if first.as_ref() != Some(cidr) => {
                spec.pod_cidrs = Some(vec![cidr.clone()])
            }
            (None, Some(first)) => spec.pod_cidr = Some(first),
            _ => {}
        }
        if let Some(status) = &mut self.status {
            quantities::normalise(&mut status.capacity);
            quantities::normalise(&mut status.allocatable);
        }
    }

    fn apply_defaults(&mut self) {
        if let Some(status) = &mut self.status
            && status.allocatable.is_none()
        {
            status.allocatable.clone_from(&status.capacity);
        }
    }

    fn prepare_create(&mut self) {
        // A node registers itself with its status.
        self.status.get_or_insert_with(NodeStatus::default);
    }

    fn prepare_update(&mut self, old: &Self) {
        self.status.clone_from(&old.status);
    }

    fn prepare_status(&mut self, old: &Self) {
        self.spec.clone_from(&old.spec);
    }

    fn validate(&self) -> FieldErrors {
        let mut found = Found::new();
        let spec = self.spec.clone().unwrap_or_default();
        taints(&mut found, &spec);
        resources(&mut found, self);
        let at = At::Root.child("spec");
        let at = at.child("podCIDRs");
        let cidrs = spec.pod_cidrs.as_deref().unwrap_or_default();
        for (index, cidr) in cidrs.iter().enumerate() {
            found.faults(&at.index(index), cidr, names::cidr(cidr));
            if cidrs[..index].contains(cidr) {
                found.duplicate(&at.index(index), cidr.as_str());
            }
        }
        let six = cidrs.iter().filter(|cidr| cidr.contains(':')).count();
        if six > 1 || cidrs.len() - six > 1 {
            found.invalid(
                &at,
                json!(cidrs),
                "may specify no more than one CIDR for each IP family",
            );
        }
        found.into_errors()
    }

    fn validate_update(&self, old: &Self) -> FieldErrors {
        let mut found = Found::new();
        changed(&mut found, self, old);
        found.into_errors()
    }

    fn validate_status(&self, old: &Self) -> FieldErrors {
        let mut found = Found::new();
        changed(&mut found, self, old);
        found.into_errors()
    }

    fn field(&self, path: &str) -> Option<String> {
        let unschedulable = || {
            self.spec
                .as_ref()
                .and_then(|spec| spec.unschedulable)
                .unwrap_or(false)
                .to_string()
        };
        (path == "spec.unschedulable").then(unschedulable)
    }
}

fn changed(found: &mut Found, new: &Node, old: &Node) {
    resources(found, new);
    let addresses = new
        .status
        .as_ref()
        .and_then(|status| status.addresses.as_deref())
        .unwrap_or_default();
    for (index, address) in addresses.iter().enumerate() {
        if addresses[..index].contains(address) {
            found.duplicate(
                &At::Root.child("status").child("addresses").index(index),
                json!(address),
            );
        }
    }
    let (before, after) = (
        old.spec.clone().unwrap_or_default(),
        new.spec.clone().unwrap_or_default(),
    );
    let at = At::Root.child("spec");
    if before
        .pod_cidrs
        .as_ref()
        .is_some_and(|cidrs| !cidrs.is_empty())
        && before.pod_cidrs != after.pod_cidrs
    {
        found.forbidden(
            &at.child("podCIDRs"),
            "node updates may not change podCIDR except from \"\" to valid",
        );
    }
    if text(&before.provider_id).is_some() && before.provider_id != after.provider_id {
        found.forbidden(
            &at.child("providerID"),
            "node updates may not change providerID except from \"\" to valid",
        );
    }
    if before.external_id != after.external_id {
        found.forbidden(&at.child("externalID"), "may not be updated");
    }
    taints(found, &after);
}

fn resources(found: &mut Found, node: &Node) {
    let Some(status) = &node.status else { return };
    let at = At::Root.child("status");
    for (name, list) in [
        ("capacity", &status.capacity),
        ("allocatable", &status.allocatable),
    ] {
        for (resource, amount) in list.iter().flatten() {
            quantities::validate_amount(found, resource, amount, &at.child(name).child(resource));
        }
    }
}

/// Upstream names the taints as if they were metadata.
fn taints(found: &mut Found, spec: &NodeSpec) {
    let at = At::Root.child("metadata");
    let at = at.child("taints");
    let mut seen: BTreeSet<(&str, &str)> = BTreeSet::new();
    for (index, taint) in spec.taints.iter().flatten().enumerate() {
        let Taint {
            key, value, effect, ..
        } = taint;
        let at = at.index(index);
        labels::validate_key(found, key, &at.child("key"));
        let faults = names::label_value(value.as_deref().unwrap_or_default());
        if !faults.is_empty() {
            found.invalid(
                &at.child("value"),
                value.as_deref().unwrap_or_default(),
                faults.join(";"),
            );
        }
        found.one_of(&at.child("effect"), Some(effect), EFFECTS);
        if !seen.insert((key, effect)) {
            let mut error = caravel_api::FieldError::duplicate(&at.path(), json!(taint));
            error.detail = "taints must be unique by key and effect pair".to_owned();
            found.push(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Object, Resource, Typed};
    use serde_json::{Value, json};

    const NODES: Typed<Node> = Typed::NEW;

    fn node(spec: Value) -> Box<dyn Object> {
        NODES
            .from_value(json!({"metadata": {"name": "a"}, "spec": spec}))
            .unwrap()
    }

    #[test]
    fn nodes() {
        let old = node(json!({"podCIDR": "10.0.0.0/24"}));
        assert_eq!(
            old.to_value()["spec"],
            json!({"podCIDR": "10.0.0.0/24", "podCIDRs": ["10.0.0.0/24"]})
        );
        for (spec, want) in [
            (
                json!({"podCIDR": "10.0.0.0/24", "unschedulable": true}),
                "[]",
            ),
            (
                json!({"podCIDR": "10.0.1.0/24"}),
                "spec.podCIDRs: Forbidden: node updates may not change podCIDR except from \"\" to valid",
            ),
            (
                json!({"podCIDR": "10.0.0.0/24", "taints": [{"key": "a", "effect": "NoSchedule"}, {"key": "a", "effect": "NoSchedule"}]}),
                "taints must be unique by key and effect pair",
            ),
            (
                json!({"podCIDR": "10.0.0.0/24", "taints": [{"key": "a", "effect": "Never"}]}),
                "metadata.taints[0].effect: Unsupported value: \"Never\"",
            ),
        ] {
            let message = NODES.validate_update(&*node(spec.clone()), &*old).message();
            assert!(message.contains(want), "{spec}: {message}");
        }
        assert_eq!(
            NODES.field(&*old, "spec.unschedulable").as_deref(),
            Some("false")
        );
    }
}
