//! What each name of the cluster domain stands for. Pure: Services and EndpointSlices in, answers out.
//!
//! Follows <https://github.com/kubernetes/dns/blob/master/docs/specification.md> and, where that is
//! silent, CoreDNS' kubernetes plugin.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;

/// One record's value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Data {
    /// An IPv4 address.
    A(Ipv4Addr),
    /// An IPv6 address.
    Aaaa(Ipv6Addr),
    /// Another name for it.
    Cname(String),
    /// The name of an address.
    Ptr(String),
    /// A port and the name of its host.
    Srv {
        /// The port.
        port: u16,
        /// The host's name.
        target: String,
    },
    /// Text.
    Txt(String),
}

/// What is known of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Records of the type asked for, or a CNAME.
    Found(Vec<Data>),
    /// The name exists, but not with this type.
    NoData,
    /// The name does not exist.
    NoName,
    /// Not a name of the cluster's.
    NotOurs,
}

/// Type of a question, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// A.
    A,
    /// AAAA.
    Aaaa,
    /// SRV.
    Srv,
    /// PTR.
    Ptr,
    /// TXT.
    Txt,
    /// CNAME.
    Cname,
    /// Any other type.
    Other,
}

#[derive(Debug, Default)]
struct Named {
    addresses: Vec<IpAddr>,
    /// (port name, protocol in lower case, number)
    ports: BTreeSet<(String, String, u16)>,
    external: Option<String>,
    headless: bool,
    hosts: HashMap<String, Vec<IpAddr>>,
}

/// Everything the server answers for, at one moment.
#[derive(Debug, Default)]
pub struct Zone {
    domain: String,
    services: HashMap<(String, String), Named>,
    namespaces: BTreeSet<String>,
    pointers: HashMap<IpAddr, Vec<String>>,
}

impl Zone {
    /// The zone of these objects under `domain` (without a dot at its end).
    pub fn build<'a>(
        domain: &str,
        services: impl IntoIterator<Item = &'a Service>,
        slices: impl IntoIterator<Item = &'a EndpointSlice>,
    ) -> Self {
        let mut zone = Self {
            domain: domain.to_lowercase(),
            ..Self::default()
        };
        for service in services {
            zone.add_service(service);
        }
        for slice in slices {
            zone.add_slice(slice);
        }
        zone
    }

    fn add_service(&mut self, service: &Service) {
        let (Some(namespace), Some(name), Some(spec)) = (
            &service.metadata.namespace,
            &service.metadata.name,
            &service.spec,
        ) else {
            return;
        };
        let full = format!("{name}.{namespace}.svc.{}", self.domain);
        let mut named = Named::default();
        if spec.type_.as_deref() == Some("ExternalName") {
            named.external = spec.external_name.clone();
        } else {
            let single = spec.cluster_ip.iter();
            let ips = spec.cluster_ips.iter().flatten().chain(single);
            let mut addresses: Vec<IpAddr> = ips.filter_map(|ip| ip.parse().ok()).collect();
            addresses.dedup();
            addresses.truncate(2);
            named.headless = spec.cluster_ip.as_deref() == Some("None");
            for ip in &addresses {
                self.pointers.entry(*ip).or_default().push(full.clone());
            }
            named.addresses = addresses;
        }
        if !named.headless {
            named.ports = spec
                .ports
                .iter()
                .flatten()
                .filter_map(|p| {
                    let protocol = p.protocol.as_deref().unwrap_or("TCP").to_lowercase();
                    Some((
                        p.name.clone().unwrap_or_default(),
                        protocol,
                        u16::try_from(p.port).ok()?,
                    ))
                })
                .collect();
        }
        self.namespaces.insert(namespace.clone());
        self.services
            .insert((namespace.clone(), name.clone()), named);
    }

    fn add_slice(&mut self, slice: &EndpointSlice) {
        let owner = slice
            .metadata
            .labels
            .as_ref()
            .and_then(|l| l.get("kubernetes.io/service-name"));
        let (Some(namespace), Some(name)) = (&slice.metadata.namespace, owner) else {
            return;
        };
        let Some(named) = self.services.get_mut(&(namespace.clone(), name.clone())) else {
            return;
        };
        if !named.headless {
            return;
        }
        for port in slice.ports.iter().flatten() {
            if let Some(number) = port.port.and_then(|p| u16::try_from(p).ok()) {
                let protocol = port.protocol.as_deref().unwrap_or("TCP").to_lowercase();
                named
                    .ports
                    .insert((port.name.clone().unwrap_or_default(), protocol, number));
            }
        }
        for endpoint in slice.endpoints.iter().flatten() {
            if endpoint.conditions.as_ref().and_then(|c| c.ready) == Some(false) {
                continue;
            }
            for ip in endpoint
                .addresses
                .iter()
                .filter_map(|a| a.parse::<IpAddr>().ok())
            {
                let host = endpoint.hostname.clone().unwrap_or_else(|| dashed(ip));
                self.pointers
                    .entry(ip)
                    .or_default()
                    .push(format!("{host}.{name}.{namespace}.svc.{}", self.domain));
                if !named.addresses.contains(&ip) {
                    named.addresses.push(ip);
                }
                named.hosts.entry(host).or_default().push(ip);
            }
        }
    }

    /// The answer to a question. `name` is in lower case, without a dot at its end.
    pub fn answer(&self, name: &str, asked: Asked) -> Answer {
        if let Some(ip) = reverse(name) {
            return match self.pointers.get(&ip) {
                Some(names) if asked == Asked::Ptr => {
                    Answer::Found(names.iter().cloned().map(Data::Ptr).collect())
                }
                Some(_) => Answer::NoData,
                None => Answer::NotOurs,
            };
        }
        let inside = match name.strip_suffix(self.domain.as_str()) {
            Some("") => return Answer::NoData,
            Some(rest) => match rest.strip_suffix('.') {
                Some(rest) => rest,
                None => return Answer::NotOurs,
            },
            None => return Answer::NotOurs,
        };
        let labels: Vec<&str> = inside.split('.').collect();
        match labels[..] {
            ["dns-version"] => found_if(asked == Asked::Txt, || vec![Data::Txt("1.1.0".into())]),
            ["svc" | "pod"] => Answer::NoData,
            [namespace, "svc" | "pod"] => match self.namespaces.contains(namespace) {
                true => Answer::NoData,
                false => Answer::NoName,
            },
            [dashes, _namespace, "pod"] => match undashed(dashes) {
                Some(ip) => addresses(&[ip], asked),
                None => Answer::NoName,
            },
            [name, namespace, "svc"] => match self.service(namespace, name) {
                Some(named) => self.service_answer(named, name, namespace, asked),
                None => Answer::NoName,
            },
            [port, protocol, name, namespace, "svc"]
                if port.starts_with('_') && protocol.starts_with('_') =>
            {
                match self.service(namespace, name) {
                    Some(named) => self.srv(
                        named,
                        name,
                        namespace,
                        Some((&port[1..], &protocol[1..])),
                        asked,
                    ),
                    None => Answer::NoName,
                }
            }
            [host, name, namespace, "svc"] => {
                match self
                    .service(namespace, name)
                    .and_then(|named| named.hosts.get(host))
                {
                    Some(ips) => addresses(ips, asked),
                    None => Answer::NoName,
                }
            }
            _ => Answer::NoName,
        }
    }

    fn service(&self, namespace: &str, name: &str) -> Option<&Named> {
        self.services.get(&(namespace.to_owned(), name.to_owned()))
    }

    fn service_answer(&self, named: &Named, name: &str, namespace: &str, asked: Asked) -> Answer {
        match (&named.external, asked) {
            (Some(external), Asked::A | Asked::Aaaa | Asked::Cname) => {
                Answer::Found(vec![Data::Cname(external.trim_end_matches('.').to_owned())])
            }
            (Some(_), _) => Answer::NoData,
            // A headless Service without endpoints does not exist, as CoreDNS has it.
            (None, _) if named.headless && named.addresses.is_empty() => Answer::NoName,
            (None, Asked::Srv) => self.srv(named, name, namespace, None, asked),
            (None, _) => addresses(&named.addresses, asked),
        }
    }

    fn srv(
        &self,
        named: &Named,
        name: &str,
        namespace: &str,
        wanted: Option<(&str, &str)>,
        asked: Asked,
    ) -> Answer {
        let ports: Vec<u16> = named
            .ports
            .iter()
            .filter(|(port, protocol, _)| wanted.is_none_or(|(p, t)| port == p && protocol == t))
            .map(|(_, _, number)| *number)
            .collect();
        if ports.is_empty() {
            return Answer::NoName;
        }
        if asked != Asked::Srv {
            return Answer::NoData;
        }
        let base = format!("{name}.{namespace}.svc.{}", self.domain);
        let mut targets: Vec<String> = match named.headless {
            true => named
                .hosts
                .keys()
                .map(|host| format!("{host}.{base}"))
                .collect(),
            false => vec![base],
        };
        targets.sort();
        let records = targets
            .iter()
            .flat_map(|target| {
                ports.iter().map(|port| Data::Srv {
                    port: *port,
                    target: target.clone(),
                })
            })
            .collect();
        Answer::Found(records)
    }
}

fn found_if(is: bool, records: impl FnOnce() -> Vec<Data>) -> Answer {
    match is {
        true => Answer::Found(records()),
        false => Answer::NoData,
    }
}

fn addresses(ips: &[IpAddr], asked: Asked) -> Answer {
    let records: Vec<Data> = ips
        .iter()
        .filter_map(|ip| match (ip, asked) {
            (IpAddr::V4(ip), Asked::A) => Some(Data::A(*ip)),
            (IpAddr::V6(ip), Asked::Aaaa) => Some(Data::Aaaa(*ip)),
            _ => None,
        })
        .collect();
    match records.is_empty() {
        true => Answer::NoData,
        false => Answer::Found(records),
    }
}

fn dashed(ip: IpAddr) -> String {
    ip.to_string().replace(['.', ':'], "-")
}

fn undashed(label: &str) -> Option<IpAddr> {
    let v4 = label
        .replace('-', ".")
        .parse::<Ipv4Addr>()
        .ok()
        .map(IpAddr::V4);
    v4.or_else(|| {
        label
            .replace('-', ":")
            .parse::<Ipv6Addr>()
            .ok()
            .map(IpAddr::V6)
    })
}

/// The address that a name under `in-addr.arpa` or `ip6.arpa` asks about.
fn reverse(name: &str) -> Option<IpAddr> {
    if let Some(rest) = name.strip_suffix(".in-addr.arpa") {
        let parts: Vec<&str> = rest.rsplit('.').collect();
        return (parts.len() == 4)
            .then(|| parts.join(".").parse().ok())
            .flatten();
    }
    let digits: String = name.strip_suffix(".ip6.arpa")?.rsplit('.').collect();
    let bits = (digits.len() == 32)
        .then(|| u128::from_str_radix(&digits, 16).ok())
        .flatten()?;
    Some(IpAddr::V6(Ipv6Addr::from(bits)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn zone() -> Zone {
        let services: Vec<Service> = [
            json!({"metadata": {"namespace": "ns", "name": "web"}, "spec": {"clusterIP": "10.43.0.5", "ports": [{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]}}),
            json!({"metadata": {"namespace": "ns", "name": "db"}, "spec": {"clusterIP": "None"}}),
            json!({"metadata": {"namespace": "ns", "name": "bare"}, "spec": {"clusterIP": "None"}}),
            json!({"metadata": {"namespace": "ns", "name": "ext"}, "spec": {"type": "ExternalName", "externalName": "example.org."}}),
        ]
        .map(|v| serde_json::from_value(v).unwrap())
        .into();
        let slices: Vec<EndpointSlice> = [json!({
            "metadata": {"namespace": "ns", "name": "db-1", "labels": {"kubernetes.io/service-name": "db"}}, "addressType": "IPv4",
            "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}],
            "endpoints": [{"addresses": ["10.42.1.3"], "hostname": "db-0"}, {"addresses": ["10.42.1.4"]},
                {"addresses": ["10.42.1.5"], "conditions": {"ready": false}}]})]
        .map(|v| serde_json::from_value(v).unwrap())
        .into();
        Zone::build("cluster.local", &services, &slices)
    }

    #[test]
    fn names() {
        use Asked::*;
        let zone = zone();
        let show = |answer| match answer {
            Answer::Found(data) => data
                .into_iter()
                .map(|d| match d {
                    Data::A(ip) => ip.to_string(),
                    Data::Aaaa(ip) => ip.to_string(),
                    Data::Cname(n) => format!("cname {n}"),
                    Data::Ptr(n) => format!("ptr {n}"),
                    Data::Srv { port, target } => format!("{target}:{port}"),
                    Data::Txt(t) => t,
                })
                .collect::<Vec<_>>()
                .join(" "),
            other => format!("{other:?}"),
        };
        for (name, asked, expected) in [
            ("web.ns.svc.cluster.local", A, "10.43.0.5"),
            ("web.ns.svc.cluster.local", Aaaa, "NoData"),
            ("web.other.svc.cluster.local", A, "NoName"),
            ("none.ns.svc.cluster.local", A, "NoName"),
            ("db.ns.svc.cluster.local", A, "10.42.1.3 10.42.1.4"),
            ("bare.ns.svc.cluster.local", A, "NoName"),
            ("db-0.db.ns.svc.cluster.local", A, "10.42.1.3"),
            ("10-42-1-4.db.ns.svc.cluster.local", A, "10.42.1.4"),
            ("10-42-1-5.db.ns.svc.cluster.local", A, "NoName"),
            (
                "_http._tcp.web.ns.svc.cluster.local",
                Srv,
                "web.ns.svc.cluster.local:80",
            ),
            ("_http._udp.web.ns.svc.cluster.local", Srv, "NoName"),
            (
                "_sql._tcp.db.ns.svc.cluster.local",
                Srv,
                "10-42-1-4.db.ns.svc.cluster.local:5432 db-0.db.ns.svc.cluster.local:5432",
            ),
            ("ext.ns.svc.cluster.local", A, "cname example.org"),
            ("10-42-7-7.ns.pod.cluster.local", A, "10.42.7.7"),
            ("nonsense.ns.pod.cluster.local", A, "NoName"),
            ("ns.svc.cluster.local", A, "NoData"),
            ("other.svc.cluster.local", A, "NoName"),
            ("cluster.local", A, "NoData"),
            ("dns-version.cluster.local", Txt, "1.1.0"),
            (
                "5.0.43.10.in-addr.arpa",
                Ptr,
                "ptr web.ns.svc.cluster.local",
            ),
            (
                "3.1.42.10.in-addr.arpa",
                Ptr,
                "ptr db-0.db.ns.svc.cluster.local",
            ),
            ("9.9.9.9.in-addr.arpa", Ptr, "NotOurs"),
            ("www.example.org", A, "NotOurs"),
            ("notcluster.local", A, "NotOurs"),
        ] {
            assert_eq!(show(zone.answer(name, asked)), expected, "{name} {asked:?}");
        }
    }
}
