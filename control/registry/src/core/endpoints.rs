//! Endpoints.
//!
//! Follows `ValidateEndpoints` of `pkg/apis/core/validation` and `pkg/api/v1/endpoints` (deprecated since 1.33).

use caravel_api::FieldErrors;
use k8s_openapi::api::core::v1::{EndpointAddress, Endpoints};

use super::pod::container::PROTOCOLS;
use crate::found::{At, Found, default_text, drop_zero, text};
use crate::names;
use crate::strategy::Strategy;

impl Strategy for Endpoints {
    fn normalise(&mut self) {
        for subset in self.subsets.iter_mut().flatten() {
            for address in subset
                .addresses
                .iter_mut()
                .flatten()
                .chain(subset.not_ready_addresses.iter_mut().flatten())
            {
                drop_zero(&mut address.hostname);
            }
            for port in subset.ports.iter_mut().flatten() {
                drop_zero(&mut port.name);
                drop_zero(&mut port.protocol);
            }
        }
    }

    fn apply_defaults(&mut self) {
        for port in self
            .subsets
            .iter_mut()
            .flatten()
            .flat_map(|subset| subset.ports.iter_mut().flatten())
        {
            default_text(&mut port.protocol, "TCP");
        }
    }

    fn validate(&self) -> FieldErrors {
        let mut found = Found::new();
        let at = At::Root.child("subsets");
        for (index, subset) in self.subsets.iter().flatten().enumerate() {
            let at = at.index(index);
            let none =
                |list: &Option<Vec<EndpointAddress>>| list.as_ref().is_none_or(Vec::is_empty);
            if none(&subset.addresses) && none(&subset.not_ready_addresses) {
                found.required(&at, "must specify `addresses` or `notReadyAddresses`");
            }
            for (name, list) in [
                ("addresses", &subset.addresses),
                ("notReadyAddresses", &subset.not_ready_addresses),
            ] {
                for (index, address) in list.iter().flatten().enumerate() {
                    let at = at.child(name);
                    validate_address(&mut found, address, &at.index(index));
                }
            }
            let ports = subset.ports.as_deref().unwrap_or_default();
            for (index, port) in ports.iter().enumerate() {
                let at = at.child("ports");
                let at = at.index(index);
                match text(&port.name) {
                    Some(name) => found.faults(&at.child("name"), name, names::dns_label(name)),
                    None if ports.len() > 1 => found.required(&at.child("name"), ""),
                    None => {}
                }
                found.number_faults(
                    &at.child("port"),
                    i64::from(port.port),
                    names::port_number(port.port),
                );
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
        found.into_errors()
    }

    fn warnings(&self, _: Option<&Self>) -> Vec<String> {
        vec![
            "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"
                .to_owned(),
        ]
    }
}

fn validate_address(found: &mut Found, address: &EndpointAddress, at: &At) {
    if let Some(name) = text(&address.hostname) {
        found.faults(&at.child("hostname"), name, names::dns_label(name));
    }
    if let Some(node) = &address.node_name {
        found.faults(&at.child("nodeName"), node, names::dns_subdomain(node));
    }
    non_special_ip(found, &address.ip, &at.child("ip"));
}

/// An address that traffic may be sent to: not unspecified, loopback or link-local.
pub fn non_special_ip(found: &mut Found, text: &str, at: &At) {
    let Ok(ip) = text.parse::<std::net::IpAddr>() else {
        return found.faults(at, text, names::ip(text));
    };
    let (link_local, link_local_multicast) = match ip {
        std::net::IpAddr::V4(ip) => (ip.is_link_local(), ip.octets()[..3] == [224, 0, 0]),
        std::net::IpAddr::V6(ip) => (
            ip.segments()[0] & 0xffc0 == 0xfe80,
            ip.segments()[0] & 0xff0f == 0xff02,
        ),
    };
    if ip.is_unspecified() {
        found.invalid(at, text, format!("may not be unspecified ({text})"));
    }
    if ip.is_loopback() {
        found.invalid(
            at,
            text,
            "may not be in the loopback range (127.0.0.0/8, ::1/128)",
        );
    }
    if link_local {
        found.invalid(
            at,
            text,
            "may not be in the link-local range (169.254.0.0/16, fe80::/10)",
        );
    }
    if link_local_multicast {
        found.invalid(
            at,
            text,
            "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn endpoints() {
        for (subset, want) in [
            (
                json!({"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80}]}),
                "[]",
            ),
            (
                json!({"ports": [{"port": 80}]}),
                "subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`",
            ),
            (
                json!({"addresses": [{"ip": "127.0.0.1"}]}),
                "may not be in the loopback range",
            ),
            (
                json!({"addresses": [{"ip": "x"}]}),
                "subsets[0].addresses[0].ip: Invalid value: \"x\": must be a valid IP address",
            ),
            (
                json!({"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80, "name": "a"}, {"port": 81}]}),
                "subsets[0].ports[1].name: Required value",
            ),
            (
                json!({"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 0}]}),
                "subsets[0].ports[0].port: Invalid value: 0",
            ),
        ] {
            let mut endpoints: Endpoints =
                serde_json::from_value(json!({"subsets": [subset.clone()]})).unwrap();
            endpoints.apply_defaults();
            let message = endpoints.validate().message();
            assert!(message.contains(want), "{subset}: {message}");
        }
    }
}
