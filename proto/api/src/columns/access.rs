//! Columns of configuration and of who may do what.

use serde_json::Value;

use crate::table::{AGE, Column, NAME, Printer, age, list, name, text};

fn size(object: &Value, field: &str) -> usize {
    object[field].as_object().map_or(0, serde_json::Map::len)
}

pub(crate) const CONFIG_MAP: Printer = Printer {
    columns: &[
        NAME,
        Column::number("Data", "Data contains the configuration data."),
        AGE,
    ],
    cells: |object, now| {
        vec![
            name(object),
            (size(object, "data") + size(object, "binaryData")).into(),
            age(object, now),
        ]
    },
};

pub(crate) const SECRET: Printer = Printer {
    columns: &[
        NAME,
        Column::text(
            "Type",
            "Used to facilitate programmatic handling of secret data.",
        ),
        Column::number("Data", "Data contains the secret data."),
        AGE,
    ],
    cells: |object, now| {
        vec![
            name(object),
            text(object, "type").into(),
            size(object, "data").into(),
            age(object, now),
        ]
    },
};

pub(crate) const SERVICE_ACCOUNT: Printer = Printer {
    columns: &[
        NAME,
        Column::number(
            "Secrets",
            "Secrets is a list of the secrets in the same namespace that pods running using this ServiceAccount are allowed to use.",
        ),
        AGE,
    ],
    cells: |object, now| {
        vec![
            name(object),
            list(object, "secrets").len().into(),
            age(object, now),
        ]
    },
};

pub(crate) const BINDING: Printer = Printer {
    columns: &[
        NAME,
        Column::text(
            "Role",
            "RoleRef can reference a Role in the current namespace or a ClusterRole in the global namespace.",
        ),
        AGE,
        Column::text("Users", "Users in the roleBinding").wide(),
        Column::text("Groups", "Groups in the roleBinding").wide(),
        Column::text("ServiceAccounts", "ServiceAccounts in the roleBinding").wide(),
    ],
    cells: |object, now| {
        let subjects = |kind: &str| {
            let names: Vec<String> = list(object, "subjects")
                .iter()
                .filter(|subject| text(subject, "kind") == kind)
                .map(|subject| match (kind, text(subject, "namespace")) {
                    ("ServiceAccount", namespace) => {
                        format!("{namespace}/{}", text(subject, "name"))
                    }
                    _ => text(subject, "name").to_owned(),
                })
                .collect();
            Value::from(names.join(", "))
        };
        let role = format!(
            "{}/{}",
            text(object, "roleRef.kind"),
            text(object, "roleRef.name")
        );
        vec![
            name(object),
            role.into(),
            age(object, now),
            subjects("User"),
            subjects("Group"),
            subjects("ServiceAccount"),
        ]
    },
};

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn bindings_and_data_are_printed_as_upstream() {
        let now = "2026-01-01T00:01:00Z".parse().unwrap();
        let metadata = json!({"name": "b", "creationTimestamp": "2026-01-01T00:00:00Z"});
        let binding = json!({"metadata": metadata, "roleRef": {"kind": "ClusterRole", "name": "admin"},
            "subjects": [{"kind": "User", "name": "u"}, {"kind": "ServiceAccount", "namespace": "n", "name": "s"}, {"kind": "Group", "name": "g"}, {"kind": "Group", "name": "h"}]});
        assert_eq!(
            Value::from((BINDING.cells)(&binding, now)),
            json!(["b", "ClusterRole/admin", "60s", "u", "g, h", "n/s"])
        );
        let map = json!({"metadata": metadata, "data": {"a": "1"}, "binaryData": {"b": ""}});
        assert_eq!(
            Value::from((CONFIG_MAP.cells)(&map, now)),
            json!(["b", 2, "60s"])
        );
    }
}
