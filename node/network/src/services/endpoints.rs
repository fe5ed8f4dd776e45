//! What the rules are made from, and which endpoints of a service port take traffic.

use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;

/// A pod's port that is opened on the machine itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// Only on this address of the machine; all of them if none.
    pub host_ip: Option<Ipv4Addr>,
    /// On the machine.
    pub host_port: u16,
    /// The pod.
    pub pod_ip: Ipv4Addr,
    /// In the pod.
    pub container_port: u16,
}

/// The part of the cluster that this machine's rules depend on.
#[derive(Debug, Clone)]
pub struct ServiceSet {
    /// All Services.
    pub services: Vec<Arc<Service>>,
    /// All EndpointSlices.
    pub slices: Vec<Arc<EndpointSlice>>,
    /// Ports of this machine's pods.
    pub host_ports: Vec<HostPort>,
    /// This node, for endpoints and policies that are local.
    pub node: String,
    /// Range of all pods of the cluster.
    pub cluster_cidr: Ipv4Net,
    /// Address of the DNS Service, which this machine answers itself and never translates.
    pub dns_ip: Ipv4Addr,
}

/// One endpoint of a service port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Endpoint {
    pub ip: Ipv4Addr,
    pub port: u16,
    pub local: bool,
}

/// Endpoints that take traffic for the named port: the ready ones, or, if there are none, those that
/// still serve while they end (upstream's ProxyTerminatingEndpoints).
pub(crate) fn serving(
    slices: &[&EndpointSlice],
    port: &str,
    protocol: &str,
    node: &str,
) -> Vec<Endpoint> {
    let mut ready = Vec::new();
    let mut ending = Vec::new();
    for slice in slices.iter().filter(|s| s.address_type == "IPv4") {
        let wanted = slice.ports.iter().flatten().find(|p| {
            p.name.as_deref().unwrap_or("") == port
                && p.protocol.as_deref().unwrap_or("TCP") == protocol
        });
        let Some(number) = wanted
            .and_then(|p| p.port)
            .and_then(|p| u16::try_from(p).ok())
        else {
            continue;
        };
        for endpoint in slice.endpoints.iter().flatten() {
            let Some(ip) = endpoint.addresses.first().and_then(|a| a.parse().ok()) else {
                continue;
            };
            let conditions = endpoint.conditions.as_ref();
            let said =
                |f: fn(&k8s_openapi::api::discovery::v1::EndpointConditions) -> Option<bool>| {
                    conditions.and_then(f)
                };
            let one = Endpoint {
                ip,
                port: number,
                local: endpoint.node_name.as_deref() == Some(node),
            };
            if said(|c| c.ready).unwrap_or(true) {
                ready.push(one);
            } else if said(|c| c.serving).unwrap_or(false)
                && said(|c| c.terminating).unwrap_or(false)
            {
                ending.push(one);
            }
        }
    }
    let mut chosen = if ready.is_empty() { ending } else { ready };
    chosen.sort();
    chosen.dedup();
    chosen
}
