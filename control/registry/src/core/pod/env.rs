//! What is wrong with environment variables and with references to a pod's own fields.
//!
//! Follows `ValidateEnv`, `ValidateEnvFrom` and the downward API of `pkg/apis/core/{validation,pods}`.

use k8s_openapi::api::core::v1::{
    EnvFromSource, EnvVar, ObjectFieldSelector, ResourceFieldSelector,
};

use crate::found::{At, Found, text};
use crate::names;

/// Fields that an environment variable may take its value from.
pub const ENV_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
/// Fields that a file may take its content from.
pub const VOLUME_FIELDS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
];
/// Every field that the downward API knows, for any use.
const KNOWN: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.serviceAccountName",
    "spec.schedulerName",
    "status.phase",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const RESOURCES: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];
const BYTES: &[&str] = &[
    "1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei",
];

pub fn validate(found: &mut Found, vars: &[EnvVar], at: &At) {
    for (index, var) in vars.iter().enumerate() {
        let at = at.index(index);
        if var.name.is_empty() {
            found.required(&at.child("name"), "");
        } else {
            found.faults(&at.child("name"), &var.name, names::env_name(&var.name));
        }
        value_from(found, var, &at.child("valueFrom"));
    }
}

fn value_from(found: &mut Found, var: &EnvVar, at: &At) {
    let Some(from) = &var.value_from else { return };
    let mut count = 0;
    if let Some(reference) = &from.field_ref {
        count += 1;
        field_ref(found, reference, ENV_FIELDS, &at.child("fieldRef"));
    }
    if let Some(reference) = &from.resource_field_ref {
        count += 1;
        resource_ref(found, reference, false, &at.child("resourceFieldRef"));
    }
    if let Some(reference) = &from.config_map_key_ref {
        count += 1;
        key_ref(
            found,
            &reference.name,
            &reference.key,
            &at.child("configMapKeyRef"),
        );
    }
    if let Some(reference) = &from.secret_key_ref {
        count += 1;
        key_ref(
            found,
            &reference.name,
            &reference.key,
            &at.child("secretKeyRef"),
        );
    }
    if let Some(reference) = &from.file_key_ref {
        count += 1;
        let at = at.child("fileKeyRef");
        for (name, value) in [
            ("key", &reference.key),
            ("volumeName", &reference.volume_name),
            ("path", &reference.path),
        ] {
            if value.is_empty() {
                found.required(&at.child(name), "");
            }
        }
    }
    if count == 0 {
        found.invalid(at, "", "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`");
    } else if text(&var.value).is_some() {
        found.invalid(at, "", "may not be specified when `value` is not empty");
    } else if count > 1 {
        found.invalid(
            at,
            "",
            "may not have more than one field specified at a time",
        );
    }
}

fn key_ref(found: &mut Found, name: &str, key: &str, at: &At) {
    found.faults(&at.child("name"), name, names::dns_subdomain(name));
    if key.is_empty() {
        found.required(&at.child("key"), "");
    } else {
        found.faults(&at.child("key"), key, names::config_key(key));
    }
}

/// `metadata.labels['key']` -> (`metadata.labels`, `key`).
fn subscript(path: &str) -> Option<(&str, &str)> {
    path.strip_suffix("']")?.split_once("['")
}

pub fn field_ref(found: &mut Found, reference: &ObjectFieldSelector, allowed: &[&str], at: &At) {
    if text(&reference.api_version).is_none() {
        return found.required(&at.child("apiVersion"), "");
    }
    let path = reference.field_path.as_str();
    let path_at = at.child("fieldPath");
    if path.is_empty() {
        return found.required(&path_at, "");
    }
    if let Some((map, key)) = subscript(path) {
        return match map {
            "metadata.annotations" => {
                found.faults(at, key, names::qualified_name(&key.to_lowercase()))
            }
            "metadata.labels" => found.faults(at, key, names::qualified_name(key)),
            _ => found.invalid(
                &path_at,
                path,
                format!(
                    "error converting fieldPath: field label does not support subscript: {path}"
                ),
            ),
        };
    }
    if !KNOWN.contains(&path) {
        found.invalid(
            &path_at,
            path,
            format!("error converting fieldPath: field label not supported: {path}"),
        );
    } else if !allowed.contains(&path) {
        found.not_supported(&path_at, path, allowed);
    }
}

pub fn resource_ref(
    found: &mut Found,
    reference: &ResourceFieldSelector,
    in_volume: bool,
    at: &At,
) {
    let resource = reference.resource.as_str();
    let huge =
        resource.starts_with("limits.hugepages-") || resource.starts_with("requests.hugepages-");
    if in_volume && text(&reference.container_name).is_none() {
        found.required(&at.child("containerName"), "");
    } else if resource.is_empty() {
        found.required(&at.child("resource"), "");
    } else if !RESOURCES.contains(&resource) && !huge {
        found.not_supported(&at.child("resource"), resource, RESOURCES);
    }
    let Some(divisor) = reference
        .divisor
        .as_ref()
        .map(|divisor| divisor.0.as_str())
        .filter(|divisor| !matches!(*divisor, "" | "0"))
    else {
        return;
    };
    let (allowed, said, what): (&[&str], &str, &str) = match resource {
        "limits.cpu" | "requests.cpu" => (&["1m", "1"], "1m and 1", "cpu"),
        "limits.memory" | "requests.memory" => (
            BYTES,
            "1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei",
            "memory",
        ),
        "limits.ephemeral-storage" | "requests.ephemeral-storage" => (
            BYTES,
            "1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei",
            "local ephemeral storage",
        ),
        _ if huge => (
            BYTES,
            "1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei",
            "hugepages",
        ),
        _ => return,
    };
    if !allowed.contains(&divisor) {
        found.invalid(
            &at.child("divisor"),
            resource,
            format!("only divisor's values {said} are supported with the {what} resource"),
        );
    }
}

pub fn validate_from(found: &mut Found, sources: &[EnvFromSource], at: &At) {
    for (index, source) in sources.iter().enumerate() {
        let item = at.index(index);
        if let Some(prefix) = text(&source.prefix) {
            found.faults(&item.child("prefix"), prefix, names::env_name(prefix));
        }
        let named = [
            (
                "configMapRef",
                source
                    .config_map_ref
                    .as_ref()
                    .map(|reference| &reference.name),
            ),
            (
                "secretRef",
                source.secret_ref.as_ref().map(|reference| &reference.name),
            ),
        ];
        for (member, name) in named
            .iter()
            .filter_map(|(member, name)| name.map(|name| (member, name)))
        {
            let member_at = item.child(member);
            let name_at = member_at.child("name");
            if name.is_empty() {
                found.required(&name_at, "");
            } else {
                found.faults(&name_at, name, names::dns_subdomain(name));
            }
        }
        match named.iter().filter(|(_, name)| name.is_some()).count() {
            0 => found.invalid(at, "", "must specify one of: `configMapRef` or `secretRef`"),
            1 => {}
            _ => found.invalid(
                at,
                "",
                "may not have more than one field specified at a time",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn variables() {
        let field = |path: &str| json!({"name": "A", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}});
        for (given, want) in [
            (json!({"name": "A", "value": "b"}), "[]"),
            (json!({"name": ""}), "e[0].name: Required value"),
            (
                json!({"name": "A=B"}),
                "e[0].name: Invalid value: \"A=B\": a valid environment variable name",
            ),
            (field("metadata.name"), "[]"),
            (field("metadata.labels['app']"), "[]"),
            (
                field("metadata.labels"),
                "e[0].valueFrom.fieldRef.fieldPath: Unsupported value: \"metadata.labels\": supported values: \"metadata.name\"",
            ),
            (
                field("status.pid"),
                "e[0].valueFrom.fieldRef.fieldPath: Invalid value: \"status.pid\": error converting fieldPath: field label not supported: status.pid",
            ),
            (
                json!({"name": "A", "valueFrom": {}}),
                "e[0].valueFrom: Invalid value: \"\": must specify one of: `fieldRef`",
            ),
            (
                json!({"name": "A", "value": "b", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}),
                "e[0].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty",
            ),
            (
                json!({"name": "A", "valueFrom": {"configMapKeyRef": {"name": "c", "key": ""}}}),
                "e[0].valueFrom.configMapKeyRef.key: Required value",
            ),
            (
                json!({"name": "A", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "2"}}}),
                "only divisor's values 1m and 1 are supported",
            ),
            (
                json!({"name": "A", "valueFrom": {"resourceFieldRef": {"resource": "limits.gpu"}}}),
                "resourceFieldRef.resource: Unsupported value: \"limits.gpu\"",
            ),
        ] {
            let vars: Vec<EnvVar> = serde_json::from_value(json!([given])).unwrap();
            let mut found = Found::new();
            validate(&mut found, &vars, &At::Root.child("e"));
            let message = found.into_errors().message();
            assert!(message.contains(want), "{given}: {message}");
        }
    }
}
