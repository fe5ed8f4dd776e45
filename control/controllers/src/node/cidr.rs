//! Gives each node a part of the cluster's pod network, the lowest free one, and no part to two.
//!
//! Follows `pkg/controller/nodeipam`. One key for all nodes: decisions come one after another, each on a snapshot that
//! has the one before, under the leader's epoch.

use std::collections::BTreeSet;

use caravel_api::ObjectName;
use caravel_store::{Snapshot, Undecodable};
use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::Node;

use crate::action::{Action, Plan, reference};
use crate::events::EventRecord;
use crate::row::{Changed, Row, Situation, on};

pub const CONTROLLER: Row = Row {
    name: "node-cidr",
    identity: IDENTITY,
    workers: 1,
    wakes: &[on::<Node>(all)],
    reconcile,
};

const IDENTITY: &str = "node-controller";

fn all(changed: &Changed<'_>) -> Vec<ObjectName> {
    // A node that only reports needs no look: nodes do not lose their part.
    let first = changed.deleted || changed.previous.is_none();
    if first {
        vec![ObjectName::cluster("nodes")]
    } else {
        Vec::new()
    }
}

fn reconcile(
    cluster: &Snapshot,
    _: &ObjectName,
    situation: &Situation<'_>,
) -> Result<Plan, Undecodable> {
    let nodes = cluster.all::<Node>(None).collect::<Result<Vec<_>, _>>()?;
    let own = |node: &Node| {
        node.spec
            .as_ref()
            .and_then(|spec| spec.pod_cidr.clone())
            .filter(|cidr| !cidr.is_empty())
    };
    let mut used: BTreeSet<Ipv4Net> = nodes
        .iter()
        .filter_map(|node| own(node)?.parse().ok())
        .collect();
    let mut plan = Plan::nothing();
    for node in nodes
        .iter()
        .filter(|node| own(node).is_none() && node.metadata.deletion_timestamp.is_none())
    {
        let mut parts = situation
            .settings
            .cluster_cidr
            .subnets(situation.settings.node_mask)
            .ok()
            .into_iter()
            .flatten();
        let Some(part) = parts.find(|part| {
            !used
                .iter()
                .any(|used| used.contains(part) || part.contains(used))
        }) else {
            let message = format!(
                "Node {} status is now: CIDRNotAvailable",
                node.metadata.name.as_deref().unwrap_or_default()
            );
            plan.push(Action::Emit(EventRecord::normal(
                reference(&**node),
                IDENTITY,
                "CIDRNotAvailable",
                message,
            )));
            continue;
        };
        used.insert(part);
        let mut node = (**node).clone();
        let spec = node.spec.get_or_insert_default();
        spec.pod_cidr = Some(part.to_string());
        spec.pod_cidrs = Some(vec![part.to_string()]);
        plan.push(Action::update(&node));
        // This happens to a node once, which is when upstream's life-cycle controller sees it first.
        let name = node.metadata.name.as_deref().unwrap_or_default();
        plan.push(Action::Emit(EventRecord::normal(
            reference(&node),
            IDENTITY,
            "RegisteredNode",
            format!("Node {name} event: Registered Node {name} in Controller"),
        )));
    }
    Ok(plan)
}

#[cfg(test)]
mod tests {
    use crate::Action;
    use crate::settings::Settings;
    use crate::testing::{cluster, decide};

    #[tokio::test]
    async fn every_node_gets_its_own_part() {
        let node = |name: &str, cidr: &str| {
            format!(
                "{{apiVersion: v1, kind: Node, metadata: {{name: {name}, uid: {name}}}, spec: {{podCIDR: '{cidr}'}}}}"
            )
        };
        let objects = [
            node("a", "10.42.0.0/24"),
            node("b", ""),
            node("c", "10.42.2.0/23"),
            node("d", ""),
            node("e", "nonsense"),
        ];
        let (store, _) = cluster(&objects).await;
        let plan = decide(
            &super::CONTROLLER,
            &store.snapshot(),
            "nodes",
            &Settings::default(),
        );
        let given: Vec<String> = plan
            .actions
            .iter()
            .map(|action| match action {
                Action::Update { name, object, .. } => {
                    format!("{name} {}", object["spec"]["podCIDR"])
                }
                other => other.to_string(),
            })
            .collect();
        let registered = |name: &str| {
            format!(
                "event Normal RegisteredNode: Node {name} event: Registered Node {name} in Controller"
            )
        };
        assert_eq!(
            given,
            [
                r#"b "10.42.1.0/24""#.to_owned(),
                registered("b"),
                r#"d "10.42.4.0/24""#.to_owned(),
                registered("d"),
            ]
        );
        let full = Settings {
            cluster_cidr: "10.42.0.0/24".parse().unwrap(),
            ..Settings::default()
        };
        let plan = decide(&super::CONTROLLER, &store.snapshot(), "nodes", &full).to_string();
        assert!(
            plan.starts_with(
                "event Normal CIDRNotAvailable: Node b status is now: CIDRNotAvailable"
            ),
            "{plan}"
        );
    }
}
