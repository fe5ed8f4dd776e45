//! Cluster IPs and node ports: chosen on the snapshot, taken by an `Absent` put in the service's own transaction.
//!
//! A cluster IP is an `IPAddress` object, a node port an internal key; both go in the transaction that frees them. Two services can
//! therefore never hold the same one. Upstream: pkg/registry/core/service/{storage/alloc.go,ipallocator,portallocator}.

use crate::admission::{Admission, Operation};
use caravel_api::{ApiError, Encoded, FieldError, FieldErrors, Key, Kind, Path, generate, time};
use caravel_registry::Object;
use caravel_store::{Change, Expect, Snapshot};
use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::networking::v1::{IPAddress, IPAddressSpec, ParentReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use rand::Rng;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// The network of cluster IPs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ServiceRange {
    first: u32,
    /// Addresses in all, network and broadcast among them.
    size: u32,
}

impl ServiceRange {
    /// Reads `10.43.0.0/16`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (address, bits) = text.split_once('/').ok_or("must be ADDRESS/BITS")?;
        let address: Ipv4Addr = address
            .parse()
            .map_err(|_| "must be an IPv4 network".to_owned())?;
        let bits: u32 = bits
            .parse()
            .ok()
            .filter(|bits| (8..=28).contains(bits))
            .ok_or("must have between 8 and 28 bits")?;
        let size = 1u32 << (32 - bits);
        Ok(Self {
            first: u32::from(address) & !(size - 1),
            size,
        })
    }

    fn at(self, offset: u32) -> Ipv4Addr {
        Ipv4Addr::from(self.first + offset)
    }

    /// Whether an address may be a service's.
    pub(crate) fn holds(self, address: Ipv4Addr) -> bool {
        let offset = u32::from(address).wrapping_sub(self.first);
        offset > 0 && offset < self.size - 1
    }

    /// A free address. The lower band (at most 256) is left to those who choose their own, as long as there is another.
    fn free(self, snapshot: &Snapshot) -> Option<Ipv4Addr> {
        let low = (self.size / 16).clamp(16, 256).min(self.size / 2);
        let usable = self.size - 1;
        let is_free = |offset: &u32| snapshot.entry(&ip_key(self.at(*offset))).is_none();
        let start = rand::rng().random_range(low..usable);
        (start..usable)
            .chain(low..start)
            .chain(1..low)
            .find(is_free)
            .map(|offset| self.at(offset))
    }
}

fn ip_key(address: Ipv4Addr) -> Key {
    <IPAddress as Kind>::row().key("", &address.to_string())
}

fn port_key(port: u16) -> Key {
    Key::from(format!("/registry/caravel/nodeports/{port}"))
}

fn address_of(service: &Service) -> Option<Ipv4Addr> {
    service.spec.as_ref()?.cluster_ip.as_deref()?.parse().ok()
}

fn ports_of(service: &Service) -> Vec<u16> {
    let Some(spec) = service.spec.as_ref() else {
        return Vec::new();
    };
    let mut ports: Vec<u16> = spec
        .ports
        .iter()
        .flatten()
        .filter_map(|port| port.node_port)
        .chain(spec.health_check_node_port)
        .filter_map(|port| u16::try_from(port).ok())
        .filter(|port| *port != 0)
        .collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

/// What a deleted object gives back.
pub(crate) fn released(old: &dyn Object) -> Vec<Change> {
    let Some(service) = old.typed::<Service>() else {
        return Vec::new();
    };
    let free = |key: Key| Change::Delete {
        key,
        expect: Expect::Any,
    };
    address_of(service)
        .map(|address| free(ip_key(address)))
        .into_iter()
        .chain(
            ports_of(service)
                .into_iter()
                .map(|port| free(port_key(port))),
        )
        .collect()
}

/// The admission step of services.
pub(crate) fn admit(
    write: &mut Admission<'_>,
    object: &mut Option<&mut dyn Object>,
    old: Option<&dyn Object>,
) -> Result<(), ApiError> {
    if write.operation == Operation::Delete || !write.is("", "services") {
        return Ok(());
    }
    let Some(service) = object
        .as_deref_mut()
        .and_then(|object| object.typed_mut::<Service>())
    else {
        return Ok(());
    };
    let old = old.and_then(|old| old.typed::<Service>());
    if old.is_none() && write.snapshot.entry(&write.target.key()).is_some() {
        // It exists: the commit says so, and what it holds is no reason to refuse it in other words.
        return Ok(());
    }
    let mut errors = Vec::new();
    allocate_address(write, service, old, &mut errors);
    allocate_ports(write, service, old, &mut errors);
    if errors.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid(
        <Service as Kind>::row(),
        &write.target.name,
        &FieldErrors(errors),
    ))
}

fn allocate_address(
    write: &mut Admission<'_>,
    service: &mut Service,
    old: Option<&Service>,
    errors: &mut Vec<FieldError>,
) {
    let (namespace, name) = (write.target.namespace.clone(), write.target.name.clone());
    let spec = service.spec.get_or_insert_default();
    let held = old.and_then(address_of);
    if spec.type_.as_deref() == Some("ExternalName") {
        spec.cluster_ip = None;
        spec.cluster_ips = None;
        spec.ip_families = None;
        spec.ip_family_policy = None;
        if let Some(address) = held {
            write.changes.push(Change::Delete {
                key: ip_key(address),
                expect: Expect::Any,
            });
        }
        return;
    }
    spec.ip_families
        .get_or_insert_with(|| vec!["IPv4".to_owned()]);
    spec.ip_family_policy
        .get_or_insert_with(|| "SingleStack".to_owned());
    let given = spec
        .cluster_ip
        .clone()
        .or_else(|| {
            spec.cluster_ips
                .as_ref()
                .and_then(|addresses| addresses.first().cloned())
        })
        .or_else(|| old.and_then(|old| old.spec.as_ref()?.cluster_ip.clone()))
        .unwrap_or_default();
    if given == "None" {
        spec.cluster_ip = Some(given.clone());
        spec.cluster_ips = Some(vec![given]);
        return;
    }
    let path = Path::new("spec").child("clusterIPs");
    let address = if given.is_empty() {
        match write.api.services.free(write.snapshot) {
            Some(address) => address,
            None => {
                errors.push(FieldError::internal(
                    &Path::new("spec").child("clusterIP"),
                    "failed to allocate a serviceIP: range is full",
                ));
                return;
            }
        }
    } else {
        // A text that is no address is the validation's to refuse.
        let Ok(address) = given.parse::<Ipv4Addr>() else {
            return;
        };
        if held != Some(address) {
            let refused = |why: String| {
                FieldError::invalid(
                    &path,
                    json!([given.clone()]),
                    format!("failed to allocate IP {address}: {why}"),
                )
            };
            if !write.api.services.holds(address) {
                let (range, last) = (write.api.services, write.api.services.size);
                errors.push(refused(format!("the provided IP ({address}) is not in the valid range. The range of valid IPs is {}/{}", range.at(0), last.leading_zeros() + 1)));
                return;
            }
            if write.snapshot.entry(&ip_key(address)).is_some() {
                errors.push(refused("provided IP is already allocated".to_owned()));
                return;
            }
        }
        address
    };
    spec.cluster_ip = Some(address.to_string());
    spec.cluster_ips = Some(vec![address.to_string()]);
    if held == Some(address) {
        return;
    }
    if let Some(held) = held {
        write.changes.push(Change::Delete {
            key: ip_key(held),
            expect: Expect::Any,
        });
    }
    let object = IPAddress {
        metadata: ObjectMeta {
            name: Some(address.to_string()),
            uid: Some(generate::uid().to_string()),
            creation_timestamp: Some(time::time(time::now())),
            labels: Some(BTreeMap::from([
                (
                    "ipaddress.kubernetes.io/ip-family".to_owned(),
                    "IPv4".to_owned(),
                ),
                (
                    "ipaddress.kubernetes.io/managed-by".to_owned(),
                    "ipallocator.k8s.io".to_owned(),
                ),
            ])),
            ..ObjectMeta::default()
        },
        spec: IPAddressSpec {
            parent_ref: ParentReference {
                group: Some(String::new()),
                resource: "services".to_owned(),
                namespace: Some(namespace),
                name,
            },
        },
    };
    if let Ok(object) = Encoded::new(object.to_vec()) {
        write.changes.push(Change::Put {
            key: ip_key(address),
            expect: Expect::Absent,
            object,
        });
    }
}

fn needs_ports(service: &Service) -> bool {
    let Some(spec) = service.spec.as_ref() else {
        return false;
    };
    match spec.type_.as_deref() {
        Some("NodePort") => true,
        Some("LoadBalancer") => spec.allocate_load_balancer_node_ports.unwrap_or(true),
        _ => false,
    }
}

fn allocate_ports(
    write: &mut Admission<'_>,
    service: &mut Service,
    old: Option<&Service>,
    errors: &mut Vec<FieldError>,
) {
    let held = old.map(ports_of).unwrap_or_default();
    let old_ports: Vec<ServicePort> = old
        .and_then(|old| old.spec.as_ref()?.ports.clone())
        .unwrap_or_default();
    let mut taken = Vec::new();
    if needs_ports(service) {
        let range = write.api.node_ports.clone();
        let spec = service.spec.get_or_insert_default();
        let path = Path::new("spec").child("ports");
        let ports = spec.ports.get_or_insert_default();
        // A port that an update leaves out keeps the number it has.
        for port in ports
            .iter_mut()
            .filter(|port| port.node_port.unwrap_or(0) == 0)
        {
            port.node_port = old_ports
                .iter()
                .find(|old| {
                    old.port == port.port
                        && old.protocol == port.protocol
                        && old.node_port.unwrap_or(0) != 0
                })
                .and_then(|old| old.node_port);
        }
        taken.extend(
            ports
                .iter()
                .filter_map(|port| port.node_port)
                .filter_map(|port| u16::try_from(port).ok())
                .filter(|port| *port != 0),
        );
        for (index, port) in ports.iter_mut().enumerate() {
            let at = path.index(index).child("nodePort");
            match port
                .node_port
                .and_then(|port| u16::try_from(port).ok())
                .filter(|port| *port != 0)
            {
                Some(number) if held.contains(&number) => {}
                Some(number) if !range.contains(&number) => {
                    let why = format!(
                        "provided port is not in the valid range. The range of valid ports is {}-{}",
                        range.start(),
                        range.end()
                    );
                    errors.push(FieldError::invalid(&at, number, why));
                }
                Some(number) if write.snapshot.entry(&port_key(number)).is_some() => {
                    errors.push(FieldError::invalid(
                        &at,
                        number,
                        "provided port is already allocated",
                    ));
                }
                Some(_) => {}
                None => {
                    let size = u32::from(range.end() - range.start()) + 1;
                    let start = rand::rng().random_range(0..size);
                    let free = (0..size)
                        .map(|step| {
                            range.start() + u16::try_from((start + step) % size).unwrap_or(0)
                        })
                        .find(|number| {
                            !taken.contains(number)
                                && !held.contains(number)
                                && write.snapshot.entry(&port_key(*number)).is_none()
                        });
                    match free {
                        Some(number) => {
                            port.node_port = Some(i32::from(number));
                            taken.push(number);
                        }
                        None => errors.push(FieldError::internal(
                            &at,
                            "failed to allocate a nodePort: range is full",
                        )),
                    }
                }
            }
        }
    } else if let Some(spec) = service.spec.as_mut() {
        // Turned into a ClusterIP service: numbers that it only had by allocation go, unless the writer insists on new ones.
        for port in spec.ports.iter_mut().flatten() {
            if port
                .node_port
                .and_then(|port| u16::try_from(port).ok())
                .is_some_and(|port| held.contains(&port))
            {
                port.node_port = None;
            }
        }
    }
    taken.sort_unstable();
    taken.dedup();
    let owner: Value =
        json!({ "metadata": { "name": write.target.name, "namespace": write.target.namespace } });
    for number in taken.iter().filter(|number| !held.contains(number)) {
        if let Ok(object) = Encoded::new(owner.to_string()) {
            write.changes.push(Change::Put {
                key: port_key(*number),
                expect: Expect::Absent,
                object,
            });
        }
    }
    for number in held.iter().filter(|number| !taken.contains(number)) {
        write.changes.push(Change::Delete {
            key: port_key(*number),
            expect: Expect::Any,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let range = ServiceRange::parse("10.43.0.0/16").unwrap();
        assert_eq!(range.at(1), Ipv4Addr::new(10, 43, 0, 1));
        for (address, holds) in [
            ("10.43.0.0", false),
            ("10.43.0.1", true),
            ("10.43.255.254", true),
            ("10.43.255.255", false),
            ("10.44.0.1", false),
        ] {
            assert_eq!(range.holds(address.parse().unwrap()), holds, "{address}");
        }
        for bad in ["", "10.43.0.0", "x/16", "10.0.0.0/33", "fd00::/108"] {
            assert!(ServiceRange::parse(bad).is_err(), "{bad}");
        }
    }
}
