//! Keeps the EndpointSlices of each Service with a selector: at most 100 endpoints each, moved as little as can be.
//!
//! Follows `k8s.io/endpointslice/reconciler.go`: pods that end stay, marked terminating; a Service without pods has one
//! empty slice. Never touches slices of other managers.

use std::collections::BTreeMap;
use std::sync::Arc;

use caravel_api::ObjectName;
use caravel_store::{Snapshot, Undecodable};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::action::{Action, Plan};
use crate::network::backends::{self, Backend, Port};
use crate::row::{Changed, Row, Situation, itself, on};
use crate::workload::claim;

pub const CONTROLLER: Row = Row {
    name: "endpointslice",
    identity: "endpointslice-controller",
    workers: 5,
    wakes: &[
        on::<Service>(itself),
        on::<Pod>(backends::of_pod),
        on::<EndpointSlice>(its_service),
    ],
    reconcile,
};

const SERVICE: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
const MOST: usize = 100;

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
    // Slices of a Service that is gone are garbage: it owned them.
    let Some(service) = cluster.get::<Service>(key)? else {
        return Ok(Plan::nothing());
    };
    let (Some(selector), None) = (
        backends::selector(&service),
        &service.metadata.deletion_timestamp,
    ) else {
        return Ok(Plan::nothing());
    };
    let mut existing = Vec::new();
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
        if label(SERVICE) == Some(&key.name)
            && label(MANAGED_BY) == Some(MANAGER)
            && slice.metadata.deletion_timestamp.is_none()
        {
            existing.push(slice);
        }
    }
    let publish = backends::publishes_unready(&service);
    let mut wanted: BTreeMap<Vec<Port>, Vec<Endpoint>> = BTreeMap::new();
    for backend in backends::find(cluster, &service, &selector)? {
        let zone = zone(cluster, backend.node.as_deref())?;
        wanted
            .entry(backend.ports.clone())
            .or_default()
            .push(endpoint(backend, publish, zone));
    }
    Ok(Plan::of(arrange(&service, &existing, wanted)))
}

fn zone(cluster: &Snapshot, node: Option<&str>) -> Result<Option<String>, Undecodable> {
    let Some(node) = node else { return Ok(None) };
    let node = cluster.get::<Node>(&ObjectName::cluster(node))?;
    Ok(node.and_then(|node| {
        node.metadata
            .labels
            .as_ref()?
            .get("topology.kubernetes.io/zone")
            .cloned()
    }))
}

fn endpoint(backend: Backend, publish_unready: bool, zone: Option<String>) -> Endpoint {
    Endpoint {
        addresses: vec![backend.ip],
        conditions: Some(EndpointConditions {
            ready: Some(publish_unready || (backend.ready && !backend.terminating)),
            serving: Some(backend.ready),
            terminating: Some(backend.terminating),
        }),
        hostname: backend.hostname,
        node_name: backend.node,
        target_ref: Some(backend.target),
        zone,
        ..Endpoint::default()
    }
}

/// What to do so that the slices hold what is wanted: endpoints stay where they are, gaps are filled, the rest is new.
fn arrange(
    service: &Service,
    existing: &[Arc<EndpointSlice>],
    mut wanted: BTreeMap<Vec<Port>, Vec<Endpoint>>,
) -> Vec<Action> {
    if wanted.is_empty() {
        wanted.insert(Vec::new(), Vec::new());
    }
    let mut left: Vec<&Arc<EndpointSlice>> = existing.iter().collect();
    let (mut creates, mut updates) = (Vec::new(), Vec::new());
    for (ports, endpoints) in wanted {
        let ports: Vec<EndpointPort> = ports.into_iter().map(slice_port).collect();
        let (here, others): (Vec<_>, Vec<_>) = left
            .into_iter()
            .partition(|slice| slice.ports.as_deref().unwrap_or_default() == ports);
        left = others;
        let mut pending: BTreeMap<String, Endpoint> = endpoints
            .into_iter()
            .map(|endpoint| (identity(&endpoint), endpoint))
            .collect();
        // First those that stay, then new ones into the gaps.
        let mut kept: Vec<Vec<Endpoint>> = Vec::new();
        for slice in &here {
            kept.push(
                slice
                    .endpoints
                    .iter()
                    .flatten()
                    .filter_map(|old| pending.remove(&identity(old)))
                    .collect(),
            );
        }
        let mut pending = pending.into_values();
        for held in &mut kept {
            held.extend(pending.by_ref().take(MOST.saturating_sub(held.len())));
        }
        let rest: Vec<Endpoint> = pending.collect();
        let mut empty_needed = rest.is_empty() && kept.iter().all(Vec::is_empty);
        for (slice, held) in here.into_iter().zip(kept) {
            if held.is_empty() && !std::mem::take(&mut empty_needed) {
                left.push(slice);
                continue;
            }
            let mut new = (**slice).clone();
            new.metadata.labels = Some(labels(service));
            new.endpoints = Some(held);
            if new.metadata.labels != slice.metadata.labels
                || new.endpoints.as_deref().unwrap_or_default()
                    != slice.endpoints.as_deref().unwrap_or_default()
            {
                updates.push(Action::update(&new));
            }
        }
        let chunks: Vec<Vec<Endpoint>> = if empty_needed {
            vec![Vec::new()]
        } else {
            rest.chunks(MOST).map(<[Endpoint]>::to_vec).collect()
        };
        creates.extend(
            chunks
                .into_iter()
                .map(|chunk| Action::create(&slice(service, ports.clone(), chunk))),
        );
    }
    let deletes = left.into_iter().map(|slice| Action::delete(&**slice));
    // New ones first, so that nothing is unreachable in between.
    creates.into_iter().chain(updates).chain(deletes).collect()
}

fn identity(endpoint: &Endpoint) -> String {
    let target = endpoint
        .target_ref
        .as_ref()
        .and_then(|target| target.uid.clone())
        .unwrap_or_default();
    format!("{target} {}", endpoint.addresses.join(","))
}

fn slice_port(port: Port) -> EndpointPort {
    EndpointPort {
        app_protocol: port.app_protocol,
        name: Some(port.name),
        port: Some(port.port),
        protocol: Some(port.protocol),
    }
}

fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = backends::labels(service);
    labels.insert(
        SERVICE.to_owned(),
        service.metadata.name.clone().unwrap_or_default(),
    );
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    labels
}

fn slice(service: &Service, ports: Vec<EndpointPort>, endpoints: Vec<Endpoint>) -> EndpointSlice {
    EndpointSlice {
        address_type: "IPv4".to_owned(),
        metadata: ObjectMeta {
            generate_name: Some(format!(
                "{}-",
                service.metadata.name.as_deref().unwrap_or_default()
            )),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels(service)),
            owner_references: Some(vec![claim::controller_reference(service)]),
            ..ObjectMeta::default()
        },
        endpoints: Some(endpoints),
        ports: Some(ports),
    }
}

#[cfg(test)]
mod tests {
    use crate::network::endpoints;
    use crate::row::Situation;
    use crate::settings::Settings;
    use crate::testing::{cluster, decide, name, now, plan};

    const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: a, uid: s1}
spec: {clusterIP: None, selector: {app: web}, ports: [{name: http, port: 80, targetPort: http}]}
";
    fn pod(name: &str, ip: &str, ready: &str, extra: &str) -> String {
        format!(
            "
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: a, uid: {name}, labels: {{app: web}}{extra}}}
spec: {{nodeName: n, containers: [{{name: c, ports: [{{name: http, containerPort: 8080}}]}}]}}
status: {{phase: Running, podIP: {ip}, conditions: [{{type: Ready, status: '{ready}'}}]}}
"
        )
    }

    #[tokio::test]
    async fn a_service_shows_the_pods_behind_it() {
        let pods = [
            pod("p1", "10.0.0.1", "True", ""),
            pod("p2", "10.0.0.2", "False", ""),
            pod(
                "p3",
                "10.0.0.3",
                "True",
                ", deletionTimestamp: 2026-01-01T00:00:00Z",
            ),
        ];
        let objects: Vec<String> = std::iter::once(SERVICE.to_owned()).chain(pods).collect();
        let (store, _) = cluster(&objects).await;
        let text = |row| {
            let plan = decide(row, &store.snapshot(), "a/web", &Settings::default());
            let [crate::Action::Create { object, .. }] = plan.actions.as_slice() else {
                panic!("{plan}")
            };
            object.clone()
        };
        let slice = text(&super::CONTROLLER);
        assert_eq!(
            slice["metadata"]["labels"]["service.kubernetes.io/headless"],
            ""
        );
        assert_eq!(slice["ports"][0]["port"], 8080);
        let conditions: Vec<String> = slice["endpoints"]
            .as_array()
            .unwrap()
            .iter()
            .map(|endpoint| format!("{} {}", endpoint["addresses"][0], endpoint["conditions"]))
            .collect();
        assert_eq!(
            conditions,
            [
                r#""10.0.0.1" {"ready":true,"serving":true,"terminating":false}"#,
                r#""10.0.0.2" {"ready":false,"serving":false,"terminating":false}"#,
                r#""10.0.0.3" {"ready":false,"serving":true,"terminating":true}"#,
            ]
        );
        let endpoints = text(&endpoints::CONTROLLER);
        assert_eq!(
            endpoints["subsets"][0]["addresses"]
                .as_array()
                .unwrap()
                .len(),
            1
        );
        assert_eq!(
            endpoints["subsets"][0]["notReadyAddresses"][0]["ip"],
            "10.0.0.2"
        );
    }

    #[tokio::test]
    async fn slices_are_made_kept_and_cleared() {
        assert_eq!(
            plan(&super::CONTROLLER, "a/web", &[SERVICE]).await,
            "create endpointslice a/web-*\n",
            "one empty slice"
        );
        let slice = |name: &str, ports: &str, endpoints: &str| {
            format!("
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}, namespace: a, uid: {name}, labels: {{kubernetes.io/service-name: web, endpointslice.kubernetes.io/managed-by: endpointslice-controller.k8s.io, service.kubernetes.io/headless: ''}}}}
addressType: IPv4
ports: {ports}
endpoints: {endpoints}
")
        };
        let http = "[{name: http, port: 8080, protocol: TCP}]";
        let one = "[{addresses: [10.0.0.1], conditions: {ready: true, serving: true, terminating: false}, nodeName: n, targetRef: {kind: Pod, namespace: a, name: p1, uid: p1}}]";
        let first = pod("p1", "10.0.0.1", "True", "");
        for (story, objects, expected) in [
            (
                "as it should be",
                vec![SERVICE.to_owned(), first.clone(), slice("x", http, one)],
                "",
            ),
            (
                "one more pod",
                vec![
                    SERVICE.to_owned(),
                    first.clone(),
                    pod("p2", "10.0.0.2", "True", ""),
                    slice("x", http, one),
                ],
                "update endpointslice a/x\n",
            ),
            (
                "the placeholder goes",
                vec![SERVICE.to_owned(), first.clone(), slice("x", "[]", "[]")],
                "create endpointslice a/web-*\ndelete endpointslice a/x\n",
            ),
            (
                "the last pod goes",
                vec![SERVICE.to_owned(), slice("x", http, one)],
                "create endpointslice a/web-*\ndelete endpointslice a/x\n",
            ),
        ] {
            assert_eq!(
                plan(&super::CONTROLLER, "a/web", &objects).await,
                expected,
                "{story}"
            );
        }
    }

    #[tokio::test]
    async fn a_service_without_a_selector_is_left_alone() {
        let (store, _) = cluster(&[SERVICE.replace("selector: {app: web}, ", "")]).await;
        let (last, settings) = (crate::Outcomes::default(), Settings::default());
        for row in [&super::CONTROLLER, &endpoints::CONTROLLER] {
            let situation = Situation {
                last: &last,
                now: now(),
                settings: &settings,
                since: now(),
            };
            assert_eq!(
                (row.reconcile)(&store.snapshot(), &name("a/web"), &situation).unwrap(),
                crate::Plan::nothing()
            );
        }
    }
}
