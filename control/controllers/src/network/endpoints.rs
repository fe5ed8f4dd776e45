//! Keeps the Endpoints of each Service with a selector: the older form, which older clients read.
//!
//! Follows `pkg/controller/endpoint/endpoints_controller.go`: pods that end are left out at once, at most 1000 addresses.

use std::collections::BTreeMap;

use caravel_api::ObjectName;
use caravel_store::{Snapshot, Undecodable};
use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::action::{Action, Plan};
use crate::network::backends::{self, Backend, Port};
use crate::row::{Changed, Row, Situation, itself, on};

pub const CONTROLLER: Row = Row {
    name: "endpoints",
    identity: "endpoint-controller",
    workers: 5,
    wakes: &[
        on::<Service>(itself),
        on::<Pod>(backends::of_pod),
        on::<Endpoints>(left_over),
    ],
    reconcile,
};

const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
const MOST: usize = 1000;

/// Only our own: Endpoints that somebody made before their Service may stay until one has come and gone.
fn left_over(changed: &Changed<'_>) -> Vec<ObjectName> {
    let ours = changed
        .meta()
        .labels
        .get(MANAGED_BY)
        .is_some_and(|by| by == MANAGER);
    if ours {
        vec![changed.name()]
    } else {
        Vec::new()
    }
}

fn reconcile(cluster: &Snapshot, key: &ObjectName, _: &Situation<'_>) -> Result<Plan, Undecodable> {
    let old = cluster.get::<Endpoints>(key)?;
    let Some(service) = cluster.get::<Service>(key)? else {
        // With their Service go all but those that older clients elect leaders by.
        let left = old.filter(|old| {
            !old.metadata
                .annotations
                .as_ref()
                .is_some_and(|annotations| annotations.contains_key(LEADER))
        });
        return Ok(Plan::of(
            left.iter().map(|old| Action::delete(&**old)).collect(),
        ));
    };
    let Some(selector) = backends::selector(&service) else {
        return Ok(Plan::nothing());
    };
    let (subsets, truncated) = subsets(
        backends::find(cluster, &service, &selector)?,
        backends::publishes_unready(&service),
    );
    let mut labels = backends::labels(&service);
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    let mut new = old.as_deref().cloned().unwrap_or_else(|| Endpoints {
        metadata: ObjectMeta {
            name: Some(key.name.clone()),
            namespace: Some(key.namespace.clone()),
            ..ObjectMeta::default()
        },
        ..Endpoints::default()
    });
    new.metadata.labels = Some(labels);
    let annotations = new.metadata.annotations.get_or_insert_default();
    annotations.remove(OVER_CAPACITY);
    if truncated {
        annotations.insert(OVER_CAPACITY.to_owned(), "truncated".to_owned());
    }
    new.metadata.annotations = new
        .metadata
        .annotations
        .filter(|annotations| !annotations.is_empty());
    new.subsets = Some(subsets).filter(|subsets| !subsets.is_empty());
    Ok(match old {
        None => Plan::of(vec![Action::create(&new)]),
        Some(old) if *old != new => Plan::of(vec![Action::update(&new)]),
        Some(_) => Plan::nothing(),
    })
}

/// Addresses by the ports they offer, ready ones apart; says whether some had to be left out.
fn subsets(backends: Vec<Backend>, publish_unready: bool) -> (Vec<EndpointSubset>, bool) {
    let mut by_ports: BTreeMap<Vec<Port>, (Vec<EndpointAddress>, Vec<EndpointAddress>)> =
        BTreeMap::new();
    let mut all: Vec<Backend> = backends
        .into_iter()
        .filter(|backend| publish_unready || !backend.terminating)
        .collect();
    // Should there be too many, those that are ready stay.
    all.sort_by(|a, b| (!a.ready, &a.ip).cmp(&(!b.ready, &b.ip)));
    let truncated = all.len() > MOST;
    all.truncate(MOST);
    for backend in all {
        let address = EndpointAddress {
            hostname: backend.hostname,
            ip: backend.ip,
            node_name: backend.node,
            target_ref: Some(backend.target),
        };
        let (ready, unready) = by_ports.entry(backend.ports).or_default();
        if backend.ready || publish_unready {
            ready.push(address)
        } else {
            unready.push(address)
        }
    }
    let some =
        |addresses: Vec<EndpointAddress>| Some(addresses).filter(|addresses| !addresses.is_empty());
    let subsets = by_ports
        .into_iter()
        .map(|(ports, (ready, unready))| EndpointSubset {
            addresses: some(ready),
            not_ready_addresses: some(unready),
            ports: Some(ports.into_iter().map(endpoint_port).collect::<Vec<_>>())
                .filter(|ports| !ports.is_empty()),
        });
    (subsets.collect(), truncated)
}

fn endpoint_port(port: Port) -> EndpointPort {
    EndpointPort {
        app_protocol: port.app_protocol,
        name: Some(port.name).filter(|name| !name.is_empty()),
        port: port.port,
        protocol: Some(port.protocol),
    }
}
