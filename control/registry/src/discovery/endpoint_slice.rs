//! EndpointSlices.
//!
//! Follows `pkg/apis/discovery/{v1,validation}`.

use std::collections::BTreeSet;

use caravel_api::FieldErrors;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};

use crate::core::endpoints::non_special_ip;
use crate::core::pod::container::PROTOCOLS;
use crate::found::{At, Found, default_text, text};
use crate::names;
use crate::strategy::Strategy;

const ENDPOINTS_MAX: usize = 1000;
const PORTS_MAX: usize = 20_000;
const ADDRESSES_MAX: usize = 100;
const FAMILIES: &[&str] = &["FQDN", "IPv4", "IPv6"];

impl Strategy for EndpointSlice {
    const GENERATION: bool = true;

    fn apply_defaults(&mut self) {
        for port in self.ports.iter_mut().flatten() {
            default_text(&mut port.protocol, "TCP");
            port.name.get_or_insert_with(String::new);
        }
    }

    fn desired_changed(&self, old: &Self) -> bool {
        self.endpoints != old.endpoints
            || self.ports != old.ports
            || self.metadata.labels != old.metadata.labels
    }

    fn validate(&self) -> FieldErrors {
        let mut found = Found::new();
        found.one_of(
            &At::Root.child("addressType"),
            Some(&self.address_type),
            FAMILIES,
        );
        let at = At::Root.child("endpoints");
        let endpoints = self.endpoints.as_deref().unwrap_or_default();
        if endpoints.len() > ENDPOINTS_MAX {
            found.too_many(&at, endpoints.len(), ENDPOINTS_MAX);
        } else {
            for (index, endpoint) in endpoints.iter().enumerate() {
                validate_endpoint(&mut found, endpoint, &self.address_type, &at.index(index));
            }
        }
        validate_ports(
            &mut found,
            self.ports.as_deref().unwrap_or_default(),
            &At::Root.child("ports"),
        );
        found.into_errors()
    }

    fn validate_update(&self, old: &Self) -> FieldErrors {
        let mut errors = self.validate();
        let mut found = Found::new();
        found.immutable(
            &At::Root.child("addressType"),
            &self.address_type,
            &old.address_type,
        );
        errors.extend(found.into_errors());
        errors
    }
}

fn validate_endpoint(found: &mut Found, endpoint: &Endpoint, family: &str, at: &At) {
    let addresses_at = at.child("addresses");
    if endpoint.addresses.is_empty() {
        found.required(&addresses_at, "must contain at least 1 address");
    } else if endpoint.addresses.len() > ADDRESSES_MAX {
        found.too_many(&addresses_at, endpoint.addresses.len(), ADDRESSES_MAX);
    }
    for (index, address) in endpoint.addresses.iter().enumerate() {
        let at = addresses_at.index(index);
        let is_six = address.contains(':');
        match family {
            "IPv4" if is_six || address.parse::<std::net::Ipv4Addr>().is_err() => {
                found.invalid(&at, address.as_str(), "must be a valid IPv4 address");
            }
            "IPv6" if address.parse::<std::net::Ipv6Addr>().is_err() => {
                found.invalid(&at, address.as_str(), "must be a valid IPv6 address");
            }
            "IPv4" | "IPv6" => non_special_ip(found, address, &at),
            _ => found.faults(&at, address, names::dns_subdomain(address)),
        }
    }
    if let Some(node) = &endpoint.node_name {
        found.faults(&at.child("nodeName"), node, names::dns_subdomain(node));
    }
    if let Some(name) = &endpoint.hostname {
        found.faults(&at.child("hostname"), name, names::dns_label(name));
    }
    let mut seen = BTreeSet::new();
    let zones = endpoint
        .hints
        .as_ref()
        .and_then(|hints| hints.for_zones.as_deref())
        .unwrap_or_default();
    for (index, zone) in zones.iter().enumerate() {
        let at = at.child("hints");
        let at = at.child("forZones");
        let at = at.index(index);
        if !seen.insert(zone.name.as_str()) {
            found.duplicate(&at.child("name"), zone.name.as_str());
        }
        found.faults(
            &at.child("name"),
            &zone.name,
            names::label_value(&zone.name),
        );
    }
}

fn validate_ports(found: &mut Found, ports: &[EndpointPort], at: &At) {
    if ports.len() > PORTS_MAX {
        return found.too_many(at, ports.len(), PORTS_MAX);
    }
    let mut seen = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let at = at.index(index);
        let name = port.name.as_deref().unwrap_or_default();
        if let Some(name) = text(&port.name) {
            found.faults(&at.child("name"), name, names::dns_label(name));
        }
        if !seen.insert(name) {
            found.duplicate(&at.child("name"), name);
        }
        if let Some(number) = port.port {
            found.number_faults(
                &at.child("port"),
                i64::from(number),
                names::port_number(number),
            );
        }
        found.one_of(&at.child("protocol"), port.protocol.as_deref(), PROTOCOLS);
        if let Some(protocol) = &port.app_protocol {
            found.faults(
                &at.child("appProtocol"),
                protocol,
                names::qualified_name(protocol),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn slices() {
        for (slice, want) in [
            (
                json!({"addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}], "ports": [{"port": 80}]}),
                "[]",
            ),
            (
                json!({"addressType": "IPv5"}),
                "addressType: Unsupported value: \"IPv5\"",
            ),
            (json!({}), "addressType: Required value"),
            (
                json!({"addressType": "IPv4", "endpoints": [{"addresses": []}]}),
                "endpoints[0].addresses: Required value: must contain at least 1 address",
            ),
            (
                json!({"addressType": "IPv4", "endpoints": [{"addresses": ["::1"]}]}),
                "must be a valid IPv4 address",
            ),
            (
                json!({"addressType": "IPv4", "ports": [{"port": 80}, {"port": 81}]}),
                "ports[1].name: Duplicate value: \"\"",
            ),
        ] {
            let mut object: EndpointSlice = serde_json::from_value(slice.clone()).unwrap();
            object.apply_defaults();
            let message = object.validate().message();
            assert!(message.contains(want), "{slice}: {message}");
        }
    }
}
