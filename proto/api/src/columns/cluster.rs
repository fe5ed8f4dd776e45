//! Columns of Nodes, Namespaces, Events and Leases.

use jiff::Timestamp;
use serde_json::Value;

use crate::table::{AGE, Column, NAME, Printer, age, at, list, name, or_none, since, text};

pub(crate) const NODE: Printer = Printer {
    columns: &[
        NAME,
        Column::text("Status", "The status of the node"),
        Column::text("Roles", "The roles of the node"),
        AGE,
        Column::text("Version", "Kubelet Version reported by the node."),
        Column::text("Internal-IP", "List of addresses reachable to the node.").wide(),
        Column::text("External-IP", "List of addresses reachable to the node.").wide(),
        Column::text("OS-Image", "OS Image reported by the node from /etc/os-release (e.g. Debian GNU/Linux 7 (wheezy)).").wide(),
        Column::text("Kernel-Version", "Kernel Version reported by the node from 'uname -r' (e.g. 3.16.0-0.bpo.4-amd64).").wide(),
        Column::text("Container-Runtime", "ContainerRuntime Version reported by the node through runtime remote API (e.g. docker://1.5.0).").wide(),
    ],
    cells: |node, now| {
        let address = |kind: &str| list(node, "status.addresses").iter().find(|address| text(address, "type") == kind).map_or("", |address| text(address, "address"));
        let info = |field: &str| {
            let value = text(node, &format!("status.nodeInfo.{field}"));
            Value::from(if value.is_empty() { "<unknown>" } else { value })
        };
        vec![
            name(node),
            node_status(node).into(),
            node_roles(node).into(),
            age(node, now),
            text(node, "status.nodeInfo.kubeletVersion").into(),
            or_none(address("InternalIP")),
            or_none(address("ExternalIP")),
            info("osImage"),
            info("kernelVersion"),
            info("containerRuntimeVersion"),
        ]
    },
};

fn node_status(node: &Value) -> String {
    let ready = list(node, "status.conditions")
        .iter()
        .find(|condition| text(condition, "type") == "Ready");
    let status = match ready.map(|condition| text(condition, "status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    };
    if at(node, "spec.unschedulable") == true {
        format!("{status},SchedulingDisabled")
    } else {
        status.to_owned()
    }
}

fn node_roles(node: &Value) -> String {
    let mut roles: Vec<&str> = Vec::new();
    for (key, value) in node["metadata"]["labels"].as_object().into_iter().flatten() {
        match (
            key.strip_prefix("node-role.kubernetes.io/"),
            key.as_str(),
            value.as_str(),
        ) {
            (Some(role), ..) if !role.is_empty() => roles.push(role),
            (None, "kubernetes.io/role", Some(role)) if !role.is_empty() => roles.push(role),
            _ => {}
        }
    }
    roles.sort_unstable();
    roles.dedup();
    if roles.is_empty() {
        "<none>".to_owned()
    } else {
        roles.join(",")
    }
}

pub(crate) const NAMESPACE: Printer = Printer {
    columns: &[
        NAME,
        Column::text("Status", "The status of the namespace"),
        AGE,
    ],
    cells: |object, now| {
        vec![
            name(object),
            text(object, "status.phase").into(),
            age(object, now),
        ]
    },
};

pub(crate) const LEASE: Printer = Printer {
    columns: &[
        NAME,
        Column::text(
            "Holder",
            "holderIdentity contains the identity of the holder of a current lease.",
        ),
        AGE,
    ],
    cells: |object, now| {
        vec![
            name(object),
            text(object, "spec.holderIdentity").into(),
            age(object, now),
        ]
    },
};

pub(crate) const EVENT: Printer = Printer {
    columns: &[
        Column::text("Last Seen", "The time at which the most recent occurrence of this event was recorded."),
        Column::text("Type", "Type of this event (Normal, Warning), new types could be added in the future"),
        Column::text("Reason", "This should be a short, machine understandable string that gives the reason for the transition into the object's current status."),
        Column::text("Object", "The object that this event is about."),
        Column::text("Subobject", "If referring to a piece of an object instead of an entire object, this should contain a valid JSON/Go field access statement.").wide(),
        Column::text("Source", "The component reporting this event.").wide(),
        Column::text("Message", "A human-readable description of the status of this operation."),
        Column::text("First Seen", "The time at which the event was first recorded.").wide(),
        Column::number("Count", "The number of times this event has occurred.").wide(),
        Column { name: "Name", kind: "string", format: "name", description: NAME.description, priority: 1 },
    ],
    cells: event,
};

/// Reads either version's name of a field.
fn either<'a>(event: &'a Value, core: &str, events: &str) -> &'a Value {
    let value = at(event, core);
    if value.is_null() {
        at(event, events)
    } else {
        value
    }
}

fn event(event: &Value, now: Timestamp) -> Vec<Value> {
    let when = |value: &Value| {
        value
            .as_str()
            .filter(|text| !text.is_empty())
            .map(|text| since(text, now))
    };
    let first = when(either(event, "firstTimestamp", "deprecatedFirstTimestamp"))
        .or_else(|| when(&event["eventTime"]))
        .unwrap_or_else(|| "<unknown>".to_owned());
    let series = &event["series"];
    let last = when(&series["lastObservedTime"])
        .or_else(|| when(either(event, "lastTimestamp", "deprecatedLastTimestamp")))
        .unwrap_or_else(|| first.clone());
    let count = match (
        series["count"].as_i64(),
        either(event, "count", "deprecatedCount")
            .as_i64()
            .unwrap_or_default(),
    ) {
        (Some(count), _) => count,
        (None, 0) => 1,
        (None, count) => count,
    };
    let about = either(event, "involvedObject", "regarding");
    let source = either(event, "source", "deprecatedSource");
    let component = match text(source, "component") {
        "" => either(event, "reportingComponent", "reportingController")
            .as_str()
            .unwrap_or_default(),
        component => component,
    };
    let host = match text(source, "host") {
        "" => text(event, "reportingInstance"),
        host => host,
    };
    let source = if host.is_empty() || host == component {
        component.to_owned()
    } else {
        format!("{component}, {host}")
    };
    vec![
        last.into(),
        text(event, "type").into(),
        text(event, "reason").into(),
        format!(
            "{}/{}",
            text(about, "kind").to_lowercase(),
            text(about, "name")
        )
        .into(),
        text(about, "fieldPath").into(),
        source.into(),
        either(event, "message", "note")
            .as_str()
            .unwrap_or_default()
            .trim()
            .into(),
        first.into(),
        count.into(),
        name(event),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nodes_and_events_are_printed_as_upstream() {
        let now = "2026-01-01T00:01:00Z".parse().unwrap();
        let node = json!({"metadata": {"name": "n", "labels": {"node-role.kubernetes.io/worker": "", "node-role.kubernetes.io/control-plane": ""}, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"unschedulable": true}, "status": {"conditions": [{"type": "Ready", "status": "Unknown"}], "nodeInfo": {"kubeletVersion": "v1"}, "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]}});
        let cells = (NODE.cells)(&node, now);
        assert_eq!(
            Value::from(cells[..6].to_vec()),
            json!([
                "n",
                "NotReady,SchedulingDisabled",
                "control-plane,worker",
                "60s",
                "v1",
                "10.0.0.1"
            ])
        );
        let core = json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "name": "p"}, "type": "Normal", "reason": "R", "message": "m", "count": 2,
            "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:00:30Z", "source": {"component": "c", "host": "h"}});
        let expected = json!([
            "30s", "Normal", "R", "pod/p", "", "c, h", "m", "60s", 2, "e"
        ]);
        assert_eq!(Value::from((EVENT.cells)(&core, now)), expected);
        let mut events = core.clone();
        crate::versions::from_storage(
            crate::kinds::by_kind("events.k8s.io", "v1", "Event").unwrap(),
            &mut events,
        );
        assert_eq!(Value::from((EVENT.cells)(&events, now)), expected);
    }
}
