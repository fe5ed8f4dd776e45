//! Columns of Services and what lies behind them.

use serde_json::Value;

use crate::table::{AGE, Column, NAME, Printer, age, labels, list, name, number, or_none, text};

/// How many ports or endpoints are written out before `+ N more...`.
const SHOWN: usize = 3;

pub(crate) const SERVICE: Printer = Printer {
    columns: &[
        NAME,
        Column::text("Type", "type determines how the Service is exposed."),
        Column::text(
            "Cluster-IP",
            "clusterIP is the IP address of the service and is usually assigned randomly.",
        ),
        Column::text(
            "External-IP",
            "externalIPs is a list of IP addresses for which nodes in the cluster will also accept traffic for this service.",
        ),
        Column::text(
            "Port(s)",
            "The list of ports that are exposed by this service.",
        ),
        AGE,
        Column::text(
            "Selector",
            "Route service traffic to pods with label keys and values matching this selector.",
        )
        .wide(),
    ],
    cells: |service, now| {
        vec![
            name(service),
            text(service, "spec.type").into(),
            or_none(text(service, "spec.clusterIP")),
            external_ip(service).into(),
            ports(service),
            age(service, now),
            labels(&service["spec"]["selector"]).into(),
        ]
    },
};

fn joined(values: &[Value]) -> String {
    values
        .iter()
        .filter_map(Value::as_str)
        .collect::<Vec<_>>()
        .join(",")
}

fn external_ip(service: &Value) -> String {
    let own = joined(list(service, "spec.externalIPs"));
    match text(service, "spec.type") {
        "ExternalName" => text(service, "spec.externalName").to_owned(),
        "LoadBalancer" => {
            let given: Vec<&str> = list(service, "status.loadBalancer.ingress")
                .iter()
                .map(|ingress| {
                    if text(ingress, "ip").is_empty() {
                        text(ingress, "hostname")
                    } else {
                        text(ingress, "ip")
                    }
                })
                .chain(
                    list(service, "spec.externalIPs")
                        .iter()
                        .filter_map(Value::as_str),
                )
                .collect();
            if given.is_empty() {
                "<pending>".to_owned()
            } else {
                given.join(",")
            }
        }
        _ if own.is_empty() => "<none>".to_owned(),
        _ => own,
    }
}

fn ports(service: &Value) -> Value {
    let ports: Vec<String> = list(service, "spec.ports")
        .iter()
        .map(
            |port| match (number(port, "nodePort"), text(port, "protocol")) {
                (0, protocol) => format!("{}/{protocol}", number(port, "port")),
                (node_port, protocol) => format!("{}:{node_port}/{protocol}", number(port, "port")),
            },
        )
        .collect();
    or_none(&ports.join(","))
}

/// The first few, then how many more there are; `nothing` where there are none.
fn abridged(all: &[String], nothing: &str) -> Value {
    match all.len() {
        0 => nothing.into(),
        count if count > SHOWN => {
            format!("{} + {} more...", all[..SHOWN].join(","), count - SHOWN).into()
        }
        _ => all.join(",").into(),
    }
}

pub(crate) const ENDPOINTS: Printer = Printer {
    columns: &[
        NAME,
        Column::text(
            "Endpoints",
            "The set of all endpoints is the union of all subsets.",
        ),
        AGE,
    ],
    cells: |endpoints, now| {
        let mut all = Vec::new();
        for subset in list(endpoints, "subsets") {
            let addresses = || {
                list(subset, "addresses")
                    .iter()
                    .map(|address| text(address, "ip"))
            };
            if list(subset, "ports").is_empty() {
                all.extend(addresses().map(str::to_owned));
            }
            for port in list(subset, "ports") {
                all.extend(addresses().map(|ip| format!("{ip}:{}", number(port, "port"))));
            }
        }
        vec![
            name(endpoints),
            abridged(&all, "<none>"),
            age(endpoints, now),
        ]
    },
};

pub(crate) const ENDPOINT_SLICE: Printer = Printer {
    columns: &[
        NAME,
        Column::text(
            "AddressType",
            "addressType specifies the type of address carried by this EndpointSlice.",
        ),
        Column::text(
            "Ports",
            "ports specifies the list of network ports exposed by each endpoint in this slice.",
        ),
        Column::text(
            "Endpoints",
            "endpoints is a list of unique endpoints in this slice.",
        ),
        AGE,
    ],
    cells: |slice, now| {
        let ports: Vec<String> = list(slice, "ports")
            .iter()
            .map(|port| {
                port["port"]
                    .as_i64()
                    .map_or_else(|| "*".to_owned(), |port| port.to_string())
            })
            .collect();
        let addresses: Vec<String> = list(slice, "endpoints")
            .iter()
            .flat_map(|endpoint| list(endpoint, "addresses"))
            .filter_map(|address| address.as_str().map(str::to_owned))
            .collect();
        vec![
            name(slice),
            text(slice, "addressType").into(),
            abridged(&ports, "<unset>"),
            abridged(&addresses, "<unset>"),
            age(slice, now),
        ]
    },
};

pub(crate) const SERVICE_CIDR: Printer = Printer {
    columns: &[
        NAME,
        Column::text(
            "CIDRs",
            "CIDRs defines the IP blocks in CIDR notation from which to assign service cluster IPs.",
        ),
        AGE,
    ],
    cells: |cidr, now| {
        vec![
            name(cidr),
            joined(list(cidr, "spec.cidrs")).into(),
            age(cidr, now),
        ]
    },
};

pub(crate) const IP_ADDRESS: Printer = Printer {
    columns: &[
        NAME,
        Column::text(
            "ParentRef",
            "ParentRef references the resource that an IPAddress is attached to.",
        ),
    ],
    cells: |address, _| {
        let parent = &address["spec"]["parentRef"];
        let resource = match text(parent, "group") {
            "" => text(parent, "resource").to_owned(),
            group => format!("{}.{group}", text(parent, "resource")),
        };
        let parts = [
            resource.as_str(),
            text(parent, "namespace"),
            text(parent, "name"),
        ];
        let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        vec![name(address), or_none(&parts.join("/"))]
    },
};

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn services_and_endpoints_are_printed_as_upstream() {
        let now = "2026-01-01T00:01:00Z".parse().unwrap();
        let metadata = json!({"name": "s", "creationTimestamp": "2026-01-01T00:00:00Z"});
        for (printer, object, expected) in [
            (
                SERVICE,
                json!({"metadata": metadata, "spec": {"type": "NodePort", "clusterIP": "10.0.0.1", "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}], "selector": {"a": "b"}}}),
                json!([
                    "s",
                    "NodePort",
                    "10.0.0.1",
                    "<none>",
                    "80:30080/TCP,53/UDP",
                    "60s",
                    "a=b"
                ]),
            ),
            (
                SERVICE,
                json!({"metadata": metadata, "spec": {"type": "ExternalName", "externalName": "x.y"}}),
                json!([
                    "s",
                    "ExternalName",
                    "<none>",
                    "x.y",
                    "<none>",
                    "60s",
                    "<none>"
                ]),
            ),
            (
                SERVICE,
                json!({"metadata": metadata, "spec": {"type": "LoadBalancer", "clusterIP": "10.0.0.1"}}),
                json!([
                    "s",
                    "LoadBalancer",
                    "10.0.0.1",
                    "<pending>",
                    "<none>",
                    "60s",
                    "<none>"
                ]),
            ),
            (
                ENDPOINTS,
                json!({"metadata": metadata, "subsets": [{"addresses": [{"ip": "1.1.1.1"}, {"ip": "1.1.1.2"}], "ports": [{"port": 80}, {"port": 81}]}]}),
                json!(["s", "1.1.1.1:80,1.1.1.2:80,1.1.1.1:81 + 1 more...", "60s"]),
            ),
            (
                ENDPOINTS,
                json!({"metadata": metadata}),
                json!(["s", "<none>", "60s"]),
            ),
            (
                ENDPOINT_SLICE,
                json!({"metadata": metadata, "addressType": "IPv4", "ports": [{"port": 80}], "endpoints": [{"addresses": ["1.1.1.1"]}]}),
                json!(["s", "IPv4", "80", "1.1.1.1", "60s"]),
            ),
            (
                IP_ADDRESS,
                json!({"metadata": metadata, "spec": {"parentRef": {"group": "", "resource": "services", "namespace": "a", "name": "b"}}}),
                json!(["s", "services/a/b"]),
            ),
        ] {
            assert_eq!(Value::from((printer.cells)(&object, now)), expected);
        }
    }
}
