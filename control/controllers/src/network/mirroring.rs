//! Shows Endpoints that somebody keeps by hand (of a Service without a selector) as EndpointSlices, which is what nodes read.
//!
//! Follows `pkg/controller/endpointslicemirroring`: at most 1000 addresses of a subset, not those marked to be left out.
//! Never touches slices of other managers.

use std::collections::BTreeMap;
use std::net::IpAddr;

use caravel_api::ObjectName;
use caravel_store::{Snapshot, Undecodable};
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::action::{Action, Plan};
use crate::row::{Changed, Row, Situation, itself, on};
use crate::workload::claim;

pub const CONTROLLER: Row = Row {
    name: "endpointslice-mirroring",
    identity: "endpointslicemirroring-controller",
    workers: 2,
    wakes: &[
        on::<Endpoints>(itself),
        on::<Service>(itself),
        on::<EndpointSlice>(its_service),
    ],
    reconcile,
};

const SERVICE: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
const MOST: usize = 1000;

fn its_service(changed: &Changed<'_>) -> Vec<ObjectName> {
    let meta = changed.meta();
    let ours = meta.labels.get(MANAGED_BY).is_some_and(|by| by == MANAGER);
    meta.labels
        .get(SERVICE)
        .filter(|_| ours)
        .map(|service| ObjectName::new(meta.namespace.clone(), service.clone()))
        .into_iter()
        .collect()
}

fn reconcile(cluster: &Snapshot, key: &ObjectName, _: &Situation<'_>) -> Result<Plan, Undecodable> {
    let endpoints = cluster
        .get::<Endpoints>(key)?
        .filter(|endpoints| mirrored(&endpoints.metadata));
    let service = cluster.get::<Service>(key)?;
    let by_hand = service.is_some_and(|service| {
        service
            .spec
            .as_ref()
            .is_none_or(|spec| spec.selector.as_ref().is_none_or(BTreeMap::is_empty))
    });
    let mut wanted = match &endpoints {
        Some(endpoints) if by_hand => slices(endpoints),
        _ => Vec::new(),
    };
    let mut plan = Plan::nothing();
    for slice in cluster.all::<EndpointSlice>(Some(&key.namespace)) {
        let slice = slice?;
        let label = |name: &str| {
            slice
                .metadata
                .labels
                .as_ref()
                .and_then(|labels| labels.get(name))
                .map(String::as_str)
        };
        if label(SERVICE) != Some(&key.name)
            || label(MANAGED_BY) != Some(MANAGER)
            || slice.metadata.deletion_timestamp.is_some()
        {
            continue;
        }
        let place = |wanted: &EndpointSlice| {
            wanted.address_type == slice.address_type && ports(wanted) == ports(&slice)
        };
        match wanted
            .iter()
            .position(place)
            .map(|at| wanted.swap_remove(at))
        {
            Some(new)
                if new.endpoints.as_deref().unwrap_or_default()
                    == slice.endpoints.as_deref().unwrap_or_default() => {}
            Some(new) => plan.push(Action::update(&EndpointSlice {
                endpoints: new.endpoints,
                ..(*slice).clone()
            })),
            None => plan.push(Action::delete(&*slice)),
        }
    }
    plan.actions.extend(wanted.iter().map(Action::create));
    Ok(plan)
}

fn mirrored(metadata: &ObjectMeta) -> bool {
    let skipped = metadata
        .labels
        .as_ref()
        .and_then(|labels| labels.get(SKIP))
        .is_some_and(|skip| skip == "true");
    let leader = metadata
        .annotations
        .as_ref()
        .is_some_and(|annotations| annotations.contains_key(LEADER));
    !skipped && !leader && metadata.deletion_timestamp.is_none()
}

fn ports(slice: &EndpointSlice) -> &[EndpointPort] {
    slice.ports.as_deref().unwrap_or_default()
}

/// A slice for each subset and family of addresses.
fn slices(endpoints: &Endpoints) -> Vec<EndpointSlice> {
    let mut labels = endpoints.metadata.labels.clone().unwrap_or_default();
    labels.insert(
        SERVICE.to_owned(),
        endpoints.metadata.name.clone().unwrap_or_default(),
    );
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    let mut slices = Vec::new();
    for subset in endpoints.subsets.iter().flatten() {
        for (family, endpoints_of) in addresses(subset) {
            slices.push(EndpointSlice {
                address_type: family.to_owned(),
                metadata: ObjectMeta {
                    generate_name: Some(format!(
                        "{}-",
                        endpoints.metadata.name.as_deref().unwrap_or_default()
                    )),
                    namespace: endpoints.metadata.namespace.clone(),
                    labels: Some(labels.clone()),
                    owner_references: Some(vec![claim::controller_reference(endpoints)]),
                    ..ObjectMeta::default()
                },
                endpoints: Some(endpoints_of),
                ports: Some(subset.ports.iter().flatten().map(port).collect()),
            });
        }
    }
    slices
}

fn addresses(subset: &EndpointSubset) -> BTreeMap<&'static str, Vec<Endpoint>> {
    let ready = subset
        .addresses
        .iter()
        .flatten()
        .map(|address| (address, true));
    let unready = subset
        .not_ready_addresses
        .iter()
        .flatten()
        .map(|address| (address, false));
    let mut by_family: BTreeMap<&'static str, Vec<Endpoint>> = BTreeMap::new();
    for (address, ready) in ready.chain(unready).take(MOST) {
        let family = match address.ip.parse() {
            Ok(IpAddr::V4(_)) => "IPv4",
            Ok(IpAddr::V6(_)) => "IPv6",
            Err(_) => continue,
        };
        by_family
            .entry(family)
            .or_default()
            .push(endpoint(address, ready));
    }
    by_family
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            ..EndpointConditions::default()
        }),
        hostname: address.hostname.clone(),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

fn port(port: &k8s_openapi::api::core::v1::EndpointPort) -> EndpointPort {
    EndpointPort {
        app_protocol: port.app_protocol.clone(),
        name: Some(port.name.clone().unwrap_or_default()),
        port: Some(port.port),
        protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::plan;

    #[tokio::test]
    async fn endpoints_kept_by_hand_become_slices() {
        let service = |spec: &str| {
            format!(
                "{{apiVersion: v1, kind: Service, metadata: {{name: db, namespace: a, uid: s}}, spec: {{{spec}}}}}"
            )
        };
        let endpoints = |meta: &str| {
            format!(
                "{{apiVersion: v1, kind: Endpoints, metadata: {{name: db, namespace: a, uid: e{meta}}}, subsets: [{{addresses: [{{ip: 192.0.2.7}}], ports: [{{port: 5432}}]}}]}}"
            )
        };
        let slice = |ip: &str| {
            format!("{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: x, namespace: a, uid: x, labels: {{kubernetes.io/service-name: db, endpointslice.kubernetes.io/managed-by: endpointslicemirroring-controller.k8s.io}}}},
            addressType: IPv4, ports: [{{name: '', port: 5432, protocol: TCP}}], endpoints: [{{addresses: [{ip}], conditions: {{ready: true}}}}]}}")
        };
        for (story, objects, expected) in [
            (
                "by hand",
                vec![service(""), endpoints("")],
                "create endpointslice a/db-*\n",
            ),
            (
                "with a selector",
                vec![service("selector: {app: db}"), endpoints("")],
                "",
            ),
            (
                "left out",
                vec![
                    service(""),
                    endpoints(", labels: {endpointslice.kubernetes.io/skip-mirror: 'true'}"),
                ],
                "",
            ),
            (
                "as it should be",
                vec![service(""), endpoints(""), slice("192.0.2.7")],
                "",
            ),
            (
                "another address",
                vec![service(""), endpoints(""), slice("192.0.2.8")],
                "update endpointslice a/x\n",
            ),
            (
                "no Service",
                vec![endpoints(""), slice("192.0.2.7")],
                "delete endpointslice a/x\n",
            ),
        ] {
            assert_eq!(
                plan(&super::CONTROLLER, "a/db", &objects).await,
                expected,
                "{story}"
            );
        }
    }
}
