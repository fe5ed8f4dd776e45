//! From Services, EndpointSlices and host ports to the rules they need. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::endpoints::{Endpoint, ServiceSet, serving};
use super::ruleset::{RuleSet, Set, base};

/// Endpoints of one service port beyond which the rest is left out: a bound on what one object can cost.
const MAX_ENDPOINTS: usize = 1000;

/// The rules of this machine.
pub fn compile(cluster: &ServiceSet) -> RuleSet {
    let mut rules = RuleSet {
        base: base(&cluster.cluster_cidr),
        ..RuleSet::default()
    };
    let mut slices: BTreeMap<(&str, &str), Vec<&EndpointSlice>> = BTreeMap::new();
    for slice in &cluster.slices {
        let owner = slice
            .metadata
            .labels
            .as_ref()
            .and_then(|l| l.get("kubernetes.io/service-name"));
        if let (Some(namespace), Some(name)) = (slice.metadata.namespace.as_deref(), owner) {
            slices.entry((namespace, name)).or_default().push(slice);
        }
    }
    for service in &cluster.services {
        let meta = &service.metadata;
        if let (Some(namespace), Some(name)) = (meta.namespace.as_deref(), meta.name.as_deref()) {
            let own = slices
                .get(&(namespace, name))
                .map_or(&[][..], Vec::as_slice);
            add_service(&mut rules, cluster, service, namespace, name, own);
        }
    }
    for port in &cluster.host_ports {
        let protocol = port.protocol.to_lowercase();
        let chain = format!("host/{protocol}/{}/{}", port.host_port, port.pod_ip);
        let target = Endpoint {
            ip: port.pod_ip,
            port: port.container_port,
            local: true,
        };
        rules
            .chains
            .insert(chain.clone(), translate(&target, &protocol, None));
        match port.host_ip.filter(|ip| !ip.is_unspecified()) {
            Some(ip) => rules.services.insert(
                format!("{protocol} . {ip} . {}", port.host_port),
                format!("goto {chain}"),
            ),
            None => rules.nodeports.insert(
                format!("{protocol} . {}", port.host_port),
                format!("goto {chain}"),
            ),
        };
    }
    rules
}

fn add_service(
    rules: &mut RuleSet,
    cluster: &ServiceSet,
    service: &Service,
    namespace: &str,
    name: &str,
    slices: &[&EndpointSlice],
) {
    let Some(spec) = &service.spec else { return };
    let cluster_ip = spec.cluster_ip.as_deref().unwrap_or("");
    if spec.type_.as_deref() == Some("ExternalName")
        || cluster_ip.is_empty()
        || cluster_ip == "None"
    {
        return;
    }
    if cluster_ip == cluster.dns_ip.to_string() {
        return; // Answered by this machine's own DNS server on that very address.
    }
    let affinity = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
        spec.session_affinity_config
            .as_ref()
            .and_then(|c| c.client_ip.as_ref())
            .and_then(|c| c.timeout_seconds)
            .unwrap_or(10800)
    });
    let only_local = |policy: &Option<String>| policy.as_deref() == Some("Local");
    for port in spec.ports.iter().flatten() {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let lower = protocol.to_lowercase();
        let id = format!("{namespace}/{name}/{lower}/{}", port_label(port));
        let all = serving(
            slices,
            port.name.as_deref().unwrap_or(""),
            protocol,
            &cluster.node,
        );
        let pick = |local: bool| -> Vec<&Endpoint> {
            all.iter()
                .filter(|e| !local || e.local)
                .take(MAX_ENDPOINTS)
                .collect()
        };

        let inside = pick(only_local(&spec.internal_traffic_policy));
        let key = format!("{lower} . {cluster_ip} . {}", port.port);
        if inside.is_empty() {
            rules.refused.insert(key, "goto no-endpoint".into());
        } else {
            let chain = format!("svc/{id}");
            // From outside the pods' range the answer must come back this way.
            let mut body = vec![format!(
                "ip saddr != {} jump to-masquerade",
                cluster.cluster_cidr
            )];
            body.extend(balance(rules, &id, &lower, &inside, affinity));
            rules.chains.insert(chain.clone(), body);
            rules.services.insert(key, format!("goto {chain}"));
        }

        let local = only_local(&spec.external_traffic_policy);
        let outside = pick(local);
        let addresses = external_addresses(service);
        let node_port = port
            .node_port
            .and_then(|p| u16::try_from(p).ok())
            .filter(|p| *p > 0);
        if addresses.is_empty() && node_port.is_none() {
            continue;
        }
        let verdict = if outside.is_empty() {
            None
        } else {
            let chain = format!("ext/{id}");
            let mut body = Vec::new();
            if !local {
                body.push("jump to-masquerade".to_owned());
            }
            body.extend(balance(rules, &id, &lower, &outside, affinity));
            rules.chains.insert(chain.clone(), body);
            Some(format!("goto {chain}"))
        };
        for ip in addresses {
            let key = format!("{lower} . {ip} . {}", port.port);
            match &verdict {
                Some(verdict) => rules.services.insert(key, verdict.clone()),
                None => rules.refused.insert(key, "goto no-endpoint".into()),
            };
        }
        if let Some(number) = node_port {
            let key = format!("{lower} . {number}");
            match &verdict {
                Some(verdict) => rules.nodeports.insert(key, verdict.clone()),
                None => rules.refusedports.insert(key, "goto no-endpoint".into()),
            };
        }
    }
}

fn port_label(port: &ServicePort) -> String {
    match port.name.as_deref() {
        Some(name) if !name.is_empty() => name.to_owned(),
        _ => port.port.to_string(),
    }
}

fn external_addresses(service: &Service) -> Vec<String> {
    let spec = service
        .spec
        .as_ref()
        .and_then(|s| s.external_ips.as_ref())
        .into_iter()
        .flatten()
        .cloned();
    let ingress = service
        .status
        .as_ref()
        .and_then(|s| s.load_balancer.as_ref())
        .and_then(|l| l.ingress.as_ref());
    let status = ingress.into_iter().flatten().filter_map(|i| i.ip.clone());
    spec.chain(status)
        .filter(|ip| ip.parse::<std::net::Ipv4Addr>().is_ok())
        .collect()
}

/// Rules that lead to one of the endpoints, whose chains are added beside them.
fn balance(
    rules: &mut RuleSet,
    id: &str,
    protocol: &str,
    endpoints: &[&Endpoint],
    affinity: Option<i32>,
) -> Vec<String> {
    let mut body = Vec::new();
    let mut chains = Vec::new();
    for endpoint in endpoints {
        let chain = format!("ep/{id}/{}/{}", endpoint.ip, endpoint.port);
        let set = affinity.map(|seconds| {
            let set = format!("aff/{id}/{}/{}", endpoint.ip, endpoint.port);
            rules.sets.insert(
                set.clone(),
                Set {
                    timeout: u32::try_from(seconds).unwrap_or(10800),
                },
            );
            set
        });
        if let Some(set) = &set {
            body.push(format!("ip saddr @{set} goto {chain}"));
        }
        rules
            .chains
            .insert(chain.clone(), translate(endpoint, protocol, set.as_deref()));
        chains.push(chain);
    }
    match &chains[..] {
        [] => {}
        [only] => body.push(format!("goto {only}")),
        several => {
            let choices: Vec<String> = several
                .iter()
                .enumerate()
                .map(|(i, chain)| format!("{i} : goto {chain}"))
                .collect();
            body.push(format!(
                "numgen random mod {} vmap {{ {} }}",
                several.len(),
                choices.join(", ")
            ));
        }
    }
    body
}

/// Rules of an endpoint's chain: remember the client, see to the way back of a pod's call to itself, translate.
fn translate(endpoint: &Endpoint, protocol: &str, affinity: Option<&str>) -> Vec<String> {
    let mut body = vec![format!("ip saddr {} jump to-masquerade", endpoint.ip)];
    if let Some(set) = affinity {
        body.push(format!("update @{set} {{ ip saddr }}"));
    }
    body.push(format!(
        "meta l4proto {protocol} dnat to {}:{}",
        endpoint.ip, endpoint.port
    ));
    body
}

#[cfg(test)]
#[path = "compile_tests.rs"]
mod tests;
