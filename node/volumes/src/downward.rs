//! Facts about a Pod and its machine that containers may be told (the downward API). Pure.
//!
//! Follows upstream's `pkg/fieldpath` and `pkg/api/v1/resource`.

use caravel_api::quantity::Quantity;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};

/// What the Pod object itself does not (yet) say.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// The node's name.
    pub node: String,
    /// The node's addresses.
    pub host_ips: Vec<String>,
    /// The pod's addresses.
    pub pod_ips: Vec<String>,
    /// What the node offers to pods; stands in for a limit that is not set. Milli-CPUs.
    pub allocatable_cpu_milli: i64,
    /// The same of memory, in bytes.
    pub allocatable_memory: i64,
}

/// The value of a `fieldRef`.
///
/// # Errors
/// A sentence, when there is no such field.
pub fn field(pod: &Pod, path: &str, facts: &Facts) -> Result<String, String> {
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    if let Some((map, key)) = path.strip_suffix("']").and_then(|p| p.split_once("['")) {
        let map = match map {
            "metadata.labels" => &meta.labels,
            "metadata.annotations" => &meta.annotations,
            _ => return Err(format!("fieldPath {path:?} does not support subscript")),
        };
        return Ok(map
            .as_ref()
            .and_then(|m| m.get(key))
            .cloned()
            .unwrap_or_default());
    }
    let lines = |map: &Option<std::collections::BTreeMap<String, String>>| {
        map.iter()
            .flatten()
            .map(|(k, v)| format!("{k}={}", quoted(v)))
            .collect::<Vec<_>>()
            .join("\n")
    };
    Ok(match path {
        "metadata.name" => meta.name.clone().unwrap_or_default(),
        "metadata.namespace" => meta.namespace.clone().unwrap_or_default(),
        "metadata.uid" => meta.uid.clone().unwrap_or_default(),
        "metadata.labels" => lines(&meta.labels),
        "metadata.annotations" => lines(&meta.annotations),
        "spec.nodeName" => facts.node.clone(),
        "spec.serviceAccountName" => spec
            .and_then(|s| s.service_account_name.clone())
            .unwrap_or_default(),
        "status.hostIP" => facts.host_ips.first().cloned().unwrap_or_default(),
        "status.hostIPs" => facts.host_ips.join(","),
        "status.podIP" => facts.pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => facts.pod_ips.join(","),
        _ => return Err(format!("unsupported fieldPath: {path}")),
    })
}

/// A value as Go's `%q` writes it.
fn quoted(value: &str) -> String {
    format!("{value:?}")
}

/// The value of a `resourceFieldRef`. `own` is the container that asks; a volume must name one.
///
/// # Errors
/// A sentence, when there is no such container or resource.
pub fn resource(
    pod: &Pod,
    own: Option<&str>,
    asked: &ResourceFieldSelector,
    facts: &Facts,
) -> Result<String, String> {
    let name = asked
        .container_name
        .as_deref()
        .filter(|n| !n.is_empty())
        .or(own)
        .unwrap_or_default();
    let spec = pod.spec.as_ref();
    let all = spec.iter().flat_map(|s| {
        s.containers
            .iter()
            .chain(s.init_containers.iter().flatten())
    });
    let container = all
        .into_iter()
        .find(|c| c.name == name)
        .ok_or(format!("container {name} not found"))?;
    let (kind, resource) = asked.resource.split_once('.').ok_or(format!(
        "unsupported container resource : {}",
        asked.resource
    ))?;
    let divisor = match asked.divisor.as_ref().map(|d| d.0.as_str()) {
        None | Some("" | "0") => "1",
        Some(other) => other,
    };
    let divisor = Quantity::parse(divisor).map_err(|e| e.to_string())?;
    let found = amount(container, kind, resource);
    let limit = |fallback: i64| {
        found.as_ref().map_or(fallback, |q| {
            if resource == "cpu" {
                q.milli()
            } else {
                q.value()
            }
        })
    };
    let up = |value: i64, by: i64| {
        if by <= 0 {
            value
        } else {
            (value + by - 1) / by
        }
    };
    match (kind, resource) {
        ("limits", "cpu") => {
            Ok(up(limit(facts.allocatable_cpu_milli), divisor.milli()).to_string())
        }
        ("requests", "cpu") => Ok(up(limit(0), divisor.milli()).to_string()),
        ("limits", "memory") => {
            Ok(up(limit(facts.allocatable_memory), divisor.value()).to_string())
        }
        ("requests" | "limits", "memory" | "ephemeral-storage") => {
            Ok(up(limit(0), divisor.value()).to_string())
        }
        ("requests" | "limits", r) if r.starts_with("hugepages-") => {
            Ok(up(limit(0), divisor.value()).to_string())
        }
        _ => Err(format!(
            "unsupported container resource : {}",
            asked.resource
        )),
    }
}

fn amount(container: &Container, kind: &str, resource: &str) -> Option<Quantity> {
    let resources = container.resources.as_ref()?;
    let map = if kind == "limits" {
        &resources.limits
    } else {
        &resources.requests
    };
    Quantity::parse(&map.as_ref()?.get(resource)?.0).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u", "labels": {"a": "1", "b": "two\"s"}},
            "spec": {"serviceAccountName": "sa", "containers": [{"name": "c", "resources":
                {"limits": {"cpu": "250m", "memory": "64Mi"}, "requests": {"cpu": "125m", "memory": "32Mi"}}}, {"name": "bare"}]}
        }))
        .unwrap()
    }

    #[test]
    fn fields_and_resources() {
        let facts = Facts {
            node: "n1".into(),
            host_ips: vec!["1.2.3.4".into()],
            pod_ips: vec!["10.42.0.2".into()],
            allocatable_cpu_milli: 1900,
            allocatable_memory: 1 << 30,
        };
        for (path, expected) in [
            ("metadata.name", "p"),
            ("metadata.labels", "a=\"1\"\nb=\"two\\\"s\""),
            ("metadata.labels['a']", "1"),
            ("metadata.annotations['none']", ""),
            ("spec.nodeName", "n1"),
            ("spec.serviceAccountName", "sa"),
            ("status.podIP", "10.42.0.2"),
        ] {
            assert_eq!(field(&pod(), path, &facts).unwrap(), expected, "{path}");
        }
        assert!(field(&pod(), "spec.containers", &facts).is_err());
        for (container, name, divisor, expected) in [
            ("c", "limits.cpu", "", "1"),
            ("c", "limits.cpu", "1m", "250"),
            ("c", "requests.cpu", "1m", "125"),
            ("c", "limits.memory", "1Mi", "64"),
            ("c", "requests.memory", "", "33554432"),
            ("bare", "limits.cpu", "1m", "1900"),
            ("bare", "limits.memory", "1Mi", "1024"),
            ("bare", "requests.cpu", "", "0"),
        ] {
            let asked =
                serde_json::from_value(json!({"resource": name, "divisor": divisor})).unwrap();
            assert_eq!(
                resource(&pod(), Some(container), &asked, &facts).unwrap(),
                expected,
                "{container} {name} {divisor}"
            );
        }
    }
}
