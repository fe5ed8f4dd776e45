//! Which pods, addresses and ports a Service leads to; shared by Endpoints and EndpointSlices.
//!
//! Follows `k8s.io/endpointslice/util` and `pkg/api/v1/pod/util.go` (FindPort, ShouldPodBeInEndpoints).

use std::collections::BTreeMap;
use std::sync::Arc;

use caravel_api::{Kind, ObjectName, Selector};
use caravel_store::{Snapshot, Undecodable};
use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::action::name_of;
use crate::row::Changed;
use crate::workload::pods;

pub const HEADLESS: &str = "service.kubernetes.io/headless";

/// A port as a pod offers it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    pub name: String,
    pub port: i32,
    pub protocol: String,
    pub app_protocol: Option<String>,
}

/// One pod behind a Service.
#[derive(Clone, Debug)]
pub struct Backend {
    pub ip: String,
    pub ports: Vec<Port>,
    pub ready: bool,
    pub terminating: bool,
    pub hostname: Option<String>,
    pub node: Option<String>,
    pub target: ObjectReference,
}

/// Services whose selector matches a pod, as it is or was.
pub fn of_pod(changed: &Changed<'_>) -> Vec<ObjectName> {
    let now = &changed.entry.meta.labels;
    let before = changed.previous.map(|entry| &entry.meta.labels);
    let services = changed
        .cluster
        .all::<Service>(Some(&changed.meta().namespace))
        .filter_map(Result::ok);
    // Compared as maps: this runs for each change of each pod.
    let selects = |wanted: &BTreeMap<String, String>, labels: &BTreeMap<String, String>| {
        wanted
            .iter()
            .all(|(key, value)| labels.get(key) == Some(value))
    };
    let matches = |service: &Arc<Service>| {
        let wanted = service
            .spec
            .as_ref()
            .and_then(|spec| spec.selector.as_ref())
            .filter(|wanted| !wanted.is_empty());
        wanted.is_some_and(|wanted| {
            selects(wanted, now) || before.is_some_and(|labels| selects(wanted, labels))
        })
    };
    services
        .filter(matches)
        .map(|service| name_of(&*service))
        .collect()
}

/// `None`: this Service's endpoints are somebody else's business.
pub fn selector(service: &Service) -> Option<Selector> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    spec.selector
        .as_ref()
        .filter(|selector| !selector.is_empty())
        .map(Selector::from_map)
}

pub fn is_headless(service: &Service) -> bool {
    service
        .spec
        .as_ref()
        .and_then(|spec| spec.cluster_ip.as_deref())
        == Some("None")
}

pub fn publishes_unready(service: &Service) -> bool {
    service
        .spec
        .as_ref()
        .and_then(|spec| spec.publish_not_ready_addresses)
        == Some(true)
}

/// The Service's labels, and the one that tells a headless one apart.
pub fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels
}

/// Every pod with an address that the selector matches and that has not ended, by name.
pub fn find(
    cluster: &Snapshot,
    service: &Service,
    selector: &Selector,
) -> Result<Vec<Backend>, Undecodable> {
    let mut backends = Vec::new();
    for entry in cluster
        .list(&Pod::row().prefix(service.metadata.namespace.as_deref()))
        .filter(|entry| selector.matches(&entry.meta.labels))
    {
        let pod = entry.decode::<Pod>()?;
        if !pods::is_terminal(&pod) {
            backends.extend(backend(&pod, service));
        }
    }
    Ok(backends)
}

fn backend(pod: &Pod, service: &Service) -> Option<Backend> {
    let spec = pod.spec.as_ref()?;
    let ip = pod
        .status
        .as_ref()?
        .pod_ip
        .clone()
        .filter(|ip| !ip.is_empty())?;
    let ports = service
        .spec
        .iter()
        .flat_map(|spec| spec.ports.iter().flatten());
    let own_name = spec.subdomain.is_some() && spec.subdomain == service.metadata.name;
    Some(Backend {
        ip,
        ports: ports.filter_map(|port| resolve(pod, port)).collect(),
        ready: pods::is_ready(pod),
        terminating: pod.metadata.deletion_timestamp.is_some(),
        hostname: spec
            .hostname
            .clone()
            .filter(|hostname| own_name && !hostname.is_empty()),
        node: spec.node_name.clone(),
        target: ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        },
    })
}

/// The pod's port that a Service's port leads to; `None` where the pod has none of that name.
fn resolve(pod: &Pod, port: &ServicePort) -> Option<Port> {
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    let number = match &port.target_port {
        None | Some(IntOrString::Int(0)) => port.port,
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(name)) => {
            let spec = pod.spec.as_ref()?;
            let sidecars = spec
                .init_containers
                .iter()
                .flatten()
                .filter(|container| container.restart_policy.as_deref() == Some("Always"));
            let mut ports = spec
                .containers
                .iter()
                .chain(sidecars)
                .flat_map(|container| container.ports.iter().flatten());
            ports
                .find(|port| {
                    port.name.as_ref() == Some(name)
                        && port.protocol.as_deref().unwrap_or("TCP") == protocol
                })?
                .container_port
        }
    };
    Some(Port {
        name: port.name.clone().unwrap_or_default(),
        port: number,
        protocol: protocol.to_owned(),
        app_protocol: port.app_protocol.clone(),
    })
}
