//! Keeps the Service `default/kubernetes` and, behind it, the servers that live: as Endpoints and as an EndpointSlice.
//!
//! Follows `pkg/controlplane/controller/kubernetesservice` and its lease reconciler: looked at every 10 s (every second while a
//! server is not listed), a server that was not heard of for 15 s leaves, and the last one never does. Who lives is not asked of the state but of the quorum's leader, whom
//! every server answers several times a second; so nothing is written while nothing changes.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use caravel_api::{ObjectName, time};
use caravel_store::{Snapshot, Undecodable};
use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Namespace, Service, ServicePort,
    ServiceSpec,
};
use k8s_openapi::api::discovery::v1;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::action::{Action, Plan};
use crate::row::{Changed, Row, Situation, on};

pub const CONTROLLER: Row = Row {
    name: "kubernetes-service",
    identity: "kubernetes-service-controller",
    workers: 1,
    wakes: &[
        on::<Namespace>(|changed| wake(changed.meta().name == NAMESPACE)),
        on::<Service>(ours),
        on::<Endpoints>(ours),
        on::<v1::EndpointSlice>(ours),
    ],
    reconcile,
};

const NAMESPACE: &str = "default";
const NAME: &str = "kubernetes";
const PORT: &str = "https";
const PERIOD: i64 = 10;
/// Who came or came back is listed soon.
const SOON: i64 = 1;
/// As long as upstream's lease of a server.
const SILENT: Duration = Duration::from_secs(15);

/// A server, as the one that leads knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Of its API.
    pub address: SocketAddr,
    /// Since it was last heard of; none where this leader does not know yet.
    pub silent: Option<Duration>,
}

/// What this cluster's API is: its Service's address, and how to see its servers.
#[derive(Clone)]
pub struct ApiService {
    pub ip: Ipv4Addr,
    pub servers: Arc<dyn Fn() -> Vec<Server> + Send + Sync>,
}

impl fmt::Debug for ApiService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiService")
            .field("ip", &self.ip)
            .finish_non_exhaustive()
    }
}

fn wake(wanted: bool) -> Vec<ObjectName> {
    if wanted { vec![key()] } else { Vec::new() }
}

fn key() -> ObjectName {
    ObjectName::new(NAMESPACE, NAME)
}

fn ours(changed: &Changed<'_>) -> Vec<ObjectName> {
    wake(changed.name() == key())
}

fn reconcile(
    cluster: &Snapshot,
    _: &ObjectName,
    situation: &Situation<'_>,
) -> Result<Plan, Undecodable> {
    let mut plan = Plan::nothing();
    let Some(api) = &situation.settings.api else {
        return Ok(plan);
    };
    let old = cluster.get::<Endpoints>(&key())?;
    let all = (api.servers)();
    let servers = living(&all, old.as_deref());
    let complete = servers.len() == all.len();
    let period = if complete { PERIOD } else { SOON };
    plan.again(time::after(situation.now, period));
    let Some(first) = servers.first() else {
        return Ok(plan);
    };
    let port = first.port();
    if cluster.get::<Service>(&key())?.is_none() {
        plan.push(Action::create(&service(api.ip, port)));
    }
    let subsets = vec![subset(&servers, port)];
    match old {
        None => plan.push(Action::create(&Endpoints {
            metadata: meta("endpointslice.kubernetes.io/skip-mirror", "true"),
            subsets: Some(subsets),
        })),
        Some(old) if old.subsets.as_ref() != Some(&subsets) => {
            plan.push(Action::update(&Endpoints {
                subsets: Some(subsets),
                ..(*old).clone()
            }));
        }
        Some(_) => {}
    }
    slice(cluster, &servers, port, &mut plan)?;
    Ok(plan)
}

/// The servers that belong behind the Service, in the order of their addresses. All of a cluster listen on one port.
fn living(servers: &[Server], old: Option<&Endpoints>) -> Vec<SocketAddr> {
    let listed = |address: IpAddr| {
        old.into_iter()
            .flat_map(|old| old.subsets.iter().flatten())
            .flat_map(|subset| subset.addresses.iter().flatten())
            .any(|listed| listed.ip == address.to_string())
    };
    let mut living: Vec<SocketAddr> = servers
        .iter()
        .filter(|server| match server.silent {
            Some(silent) => silent < SILENT,
            None => listed(server.address.ip()),
        })
        .map(|server| server.address)
        .collect();
    living.sort_unstable();
    living.dedup();
    if let Some(port) = living.first().map(SocketAddr::port) {
        living.retain(|address| address.port() == port);
    }
    living
}

fn meta(label: &str, value: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(NAME.to_owned()),
        namespace: Some(NAMESPACE.to_owned()),
        labels: Some([(label.to_owned(), value.to_owned())].into()),
        ..ObjectMeta::default()
    }
}

fn service(ip: Ipv4Addr, port: u16) -> Service {
    let mut metadata = meta("component", "apiserver");
    metadata
        .labels
        .get_or_insert_default()
        .insert("provider".to_owned(), NAME.to_owned());
    Service {
        metadata,
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".to_owned()),
            cluster_ip: Some(ip.to_string()),
            session_affinity: Some("None".to_owned()),
            ports: Some(vec![ServicePort {
                name: Some(PORT.to_owned()),
                protocol: Some("TCP".to_owned()),
                port: 443,
                target_port: Some(IntOrString::Int(i32::from(port))),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

fn subset(servers: &[SocketAddr], port: u16) -> EndpointSubset {
    let address = |server: &SocketAddr| EndpointAddress {
        ip: server.ip().to_string(),
        ..EndpointAddress::default()
    };
    EndpointSubset {
        addresses: Some(servers.iter().map(address).collect()),
        not_ready_addresses: None,
        ports: Some(vec![EndpointPort {
            name: Some(PORT.to_owned()),
            port: i32::from(port),
            protocol: Some("TCP".to_owned()),
            ..EndpointPort::default()
        }]),
    }
}

fn slice(
    cluster: &Snapshot,
    servers: &[SocketAddr],
    port: u16,
    plan: &mut Plan,
) -> Result<(), Undecodable> {
    let family = |server: &SocketAddr| if server.is_ipv4() { "IPv4" } else { "IPv6" };
    let address_type = servers.first().map_or("IPv4", family).to_owned();
    let endpoint = |server: &SocketAddr| v1::Endpoint {
        addresses: vec![server.ip().to_string()],
        conditions: Some(v1::EndpointConditions {
            ready: Some(true),
            serving: Some(true),
            terminating: Some(false),
        }),
        ..v1::Endpoint::default()
    };
    let wanted = v1::EndpointSlice {
        metadata: meta("kubernetes.io/service-name", NAME),
        endpoints: Some(
            servers
                .iter()
                .filter(|server| family(server) == address_type)
                .map(endpoint)
                .collect(),
        ),
        ports: Some(vec![v1::EndpointPort {
            name: Some(PORT.to_owned()),
            port: Some(i32::from(port)),
            protocol: Some("TCP".to_owned()),
            ..v1::EndpointPort::default()
        }]),
        address_type,
    };
    match cluster.get::<v1::EndpointSlice>(&key())? {
        None => plan.push(Action::create(&wanted)),
        // The family of a slice cannot change: a new one takes its place at the next look.
        Some(old) if old.address_type != wanted.address_type => plan.push(Action::delete(&*old)),
        Some(old) if old.endpoints != wanted.endpoints || old.ports != wanted.ports => {
            plan.push(Action::update(&v1::EndpointSlice {
                metadata: old.metadata.clone(),
                ..wanted
            }));
        }
        Some(_) => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;
    use crate::testing::{cluster, decide};

    const SERVICE: &str =
        "{apiVersion: v1, kind: Service, metadata: {name: kubernetes, namespace: default}}";

    fn listed(addresses: &[&str]) -> Vec<String> {
        let list = |wrap: fn(&str) -> String| -> String {
            addresses
                .iter()
                .map(|ip| wrap(ip))
                .collect::<Vec<_>>()
                .join(", ")
        };
        let in_subset = list(|ip| format!("{{ip: {ip}}}"));
        let in_slice = list(|ip| {
            format!(
                "{{addresses: [{ip}], conditions: {{ready: true, serving: true, terminating: false}}}}"
            )
        });
        let meta = "metadata: {name: kubernetes, namespace: default, uid: u}";
        vec![
            SERVICE.to_owned(),
            format!(
                "{{apiVersion: v1, kind: Endpoints, {meta}, subsets: [{{addresses: [{in_subset}], ports: [{{name: https, port: 6443, protocol: TCP}}]}}]}}"
            ),
            format!(
                "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, {meta}, addressType: IPv4, endpoints: [{in_slice}], ports: [{{name: https, port: 6443, protocol: TCP}}]}}"
            ),
        ]
    }

    /// The plan where these servers are seen: an address and the seconds of its silence, `?` where unknown.
    async fn planned(servers: &[(&str, &str)], objects: &[String]) -> String {
        let servers: Vec<Server> = servers
            .iter()
            .map(|(ip, silent)| Server {
                address: format!("{ip}:6443").parse().unwrap(),
                silent: silent.parse().ok().map(Duration::from_secs),
            })
            .collect();
        let settings = Settings {
            api: Some(ApiService {
                ip: Ipv4Addr::new(10, 43, 0, 1),
                servers: Arc::new(move || servers.clone()),
            }),
            ..Settings::default()
        };
        let (store, _) = cluster(objects).await;
        decide(
            &CONTROLLER,
            &store.snapshot(),
            "default/kubernetes",
            &settings,
        )
        .to_string()
    }

    #[tokio::test]
    async fn the_living_servers_are_behind_the_service() {
        let again = "again at 2026-01-01T00:01:10Z\n";
        let (one, two, three) = ("192.0.2.1", "192.0.2.2", "192.0.2.3");
        let both = "update endpoints default/kubernetes\nupdate endpointslice default/kubernetes\n";
        let all = [(two, "1"), (one, "0"), (three, "14")];
        for (story, servers, objects, want) in [
            (
                "a new cluster",
                vec![(one, "0")],
                vec![],
                "create service default/kubernetes\ncreate endpoints default/kubernetes\ncreate endpointslice default/kubernetes\n",
            ),
            (
                "as it should be, in another order",
                all.to_vec(),
                listed(&[one, two, three]),
                "",
            ),
            (
                "one is not heard of",
                vec![(one, "0"), (two, "15")],
                listed(&[one, two]),
                both,
            ),
            ("one came", all.to_vec(), listed(&[one, two]), both),
            (
                "a new leader has heard of nobody: who was there stays",
                vec![(one, "0"), (two, "?"), (three, "?")],
                listed(&[one, two]),
                "",
            ),
            (
                "nobody is known: nobody is removed",
                vec![],
                listed(&[one]),
                "",
            ),
            ("nobody is heard of", vec![(one, "99")], listed(&[one]), ""),
            (
                "the Service was deleted",
                vec![(one, "0")],
                listed(&[one])[1..].to_vec(),
                "create service default/kubernetes\n",
            ),
            (
                "the slice was deleted",
                vec![(one, "0")],
                listed(&[one])[..2].to_vec(),
                "create endpointslice default/kubernetes\n",
            ),
        ] {
            // Who is not listed is looked for again soon.
            let again = match story {
                "one is not heard of"
                | "a new leader has heard of nobody: who was there stays"
                | "nobody is heard of" => "again at 2026-01-01T00:01:01Z\n",
                _ => again,
            };
            assert_eq!(
                planned(&servers, &objects).await,
                format!("{want}{again}"),
                "{story}"
            );
        }
    }

    #[tokio::test]
    async fn nothing_is_done_where_no_api_is_named() {
        let (store, _) = cluster(&[SERVICE]).await;
        let plan = decide(
            &CONTROLLER,
            &store.snapshot(),
            "default/kubernetes",
            &Settings::default(),
        );
        assert_eq!(plan.to_string(), "");
    }
}
