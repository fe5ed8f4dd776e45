//! Rows as `kubectl get` prints them: which columns a kind has, and what stands in them.
//!
//! Follows `pkg/printers/internalversion/printers.go`. Cells are made from an object's JSON in any served version.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::columns::{access, cluster, endpoints, pod, workload};
use crate::kinds::Row;
use crate::time;

/// One column of a Table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    pub name: &'static str,
    /// `string`, `integer`, `date`
    pub kind: &'static str,
    pub format: &'static str,
    pub description: &'static str,
    /// 0 is always shown, 1 only with `-o wide`.
    pub priority: i32,
}

impl Column {
    pub(crate) const fn text(name: &'static str, description: &'static str) -> Column {
        Column {
            name,
            kind: "string",
            format: "",
            description,
            priority: 0,
        }
    }

    pub(crate) const fn number(name: &'static str, description: &'static str) -> Column {
        Column {
            name,
            kind: "integer",
            format: "",
            description,
            priority: 0,
        }
    }

    pub(crate) const fn wide(self) -> Column {
        Column {
            priority: 1,
            ..self
        }
    }

    /// As it stands in a Table's `columnDefinitions`.
    pub fn definition(&self) -> Value {
        json!({"name": self.name, "type": self.kind, "format": self.format, "description": self.description, "priority": self.priority})
    }
}

pub(crate) const NAME: Column = Column {
    name: "Name",
    kind: "string",
    format: "name",
    description: "Name must be unique within a namespace. Is required when creating resources, although some resources may allow a client to request the generation of an appropriate name automatically.",
    priority: 0,
};
pub(crate) const AGE: Column = Column::text(
    "Age",
    "CreationTimestamp is a timestamp representing the server time when this object was created. It is represented in RFC3339 form and is in UTC.",
);
pub(crate) const CREATED_AT: Column = Column {
    name: "Created At",
    kind: "date",
    format: "",
    description: AGE.description,
    priority: 0,
};

/// How one kind is printed. The cells are as many as the columns.
pub(crate) struct Printer {
    pub columns: &'static [Column],
    pub cells: fn(&Value, Timestamp) -> Vec<Value>,
}

/// What kinds without a printer of their own show.
const DEFAULT: Printer = Printer {
    columns: &[NAME, CREATED_AT],
    cells: |object, _| vec![name(object), created_at(object)],
};

fn printer(row: &Row) -> &'static Printer {
    match (row.group, row.kind) {
        ("", "Pod") => &pod::POD,
        ("", "Node") => &cluster::NODE,
        ("", "Namespace") => &cluster::NAMESPACE,
        ("", "Event") | ("events.k8s.io", "Event") => &cluster::EVENT,
        ("coordination.k8s.io", "Lease") => &cluster::LEASE,
        ("", "Service") => &endpoints::SERVICE,
        ("", "Endpoints") => &endpoints::ENDPOINTS,
        ("discovery.k8s.io", "EndpointSlice") => &endpoints::ENDPOINT_SLICE,
        ("networking.k8s.io", "ServiceCIDR") => &endpoints::SERVICE_CIDR,
        ("networking.k8s.io", "IPAddress") => &endpoints::IP_ADDRESS,
        ("apps", "Deployment") => &workload::DEPLOYMENT,
        ("apps", "ReplicaSet") => &workload::REPLICA_SET,
        ("", "ConfigMap") => &access::CONFIG_MAP,
        ("", "Secret") => &access::SECRET,
        ("", "ServiceAccount") => &access::SERVICE_ACCOUNT,
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => &access::BINDING,
        _ => &DEFAULT,
    }
}

pub fn columns(row: &Row) -> &'static [Column] {
    printer(row).columns
}

/// What stands in the columns for `object`, in their order.
pub fn cells(row: &Row, object: &Value, now: Timestamp) -> Vec<Value> {
    (printer(row).cells)(object, now)
}

pub(crate) fn at<'a>(object: &'a Value, path: &str) -> &'a Value {
    path.split('.').fold(object, |value, name| &value[name])
}

/// The text at `path`; empty where there is none.
pub(crate) fn text<'a>(object: &'a Value, path: &str) -> &'a str {
    at(object, path).as_str().unwrap_or_default()
}

pub(crate) fn or_none(text: &str) -> Value {
    Value::from(if text.is_empty() { "<none>" } else { text })
}

pub(crate) fn number(object: &Value, path: &str) -> i64 {
    at(object, path).as_i64().unwrap_or_default()
}

pub(crate) fn list<'a>(object: &'a Value, path: &str) -> &'a [Value] {
    at(object, path).as_array().map_or(&[], Vec::as_slice)
}

pub(crate) fn name(object: &Value) -> Value {
    Value::from(text(object, "metadata.name"))
}

fn created_at(object: &Value) -> Value {
    at(object, "metadata.creationTimestamp").clone()
}

pub(crate) fn age(object: &Value, now: Timestamp) -> Value {
    Value::from(since(text(object, "metadata.creationTimestamp"), now))
}

pub(crate) fn since(at: &str, now: Timestamp) -> String {
    at.parse()
        .map_or_else(|_| "<unknown>".to_owned(), |at| time::since(at, now))
}

/// `a=b,c=d`, or `<none>`.
pub(crate) fn labels(map: &Value) -> String {
    let pairs: Vec<String> = map
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    if pairs.is_empty() {
        "<none>".to_owned()
    } else {
        pairs.join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::KINDS;

    #[test]
    fn every_kind_has_as_many_cells_as_columns() {
        for row in KINDS {
            let empty = json!({"metadata": {"name": "a"}});
            assert_eq!(
                cells(row, &empty, time::now()).len(),
                columns(row).len(),
                "{}",
                row.kind
            );
        }
    }
}
