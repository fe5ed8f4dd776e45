//! What the writer of a pod (or of a template) should know although it is allowed.
//!
//! Follows `pkg/api/pod/warnings.go`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ContainerPort, PodSpec};

use crate::found::At;

/// Labels of nodes that have a newer name.
const OLD_LABELS: &[(&str, &str)] = &[
    ("beta.kubernetes.io/arch", "kubernetes.io/arch"),
    ("beta.kubernetes.io/os", "kubernetes.io/os"),
    (
        "failure-domain.beta.kubernetes.io/region",
        "topology.kubernetes.io/region",
    ),
    (
        "failure-domain.beta.kubernetes.io/zone",
        "topology.kubernetes.io/zone",
    ),
    (
        "beta.kubernetes.io/instance-type",
        "node.kubernetes.io/instance-type",
    ),
];

pub fn of_spec(spec: &PodSpec, at: &At) -> Vec<String> {
    let mut warnings = Vec::new();
    for key in spec.node_selector.iter().flatten().map(|(key, _)| key) {
        if let Some((_, newer)) = OLD_LABELS.iter().find(|(old, _)| old == key) {
            warnings.push(format!(
                "{}: deprecated since v1.14; use \"{newer}\" instead",
                at.child("nodeSelector").key(key).path()
            ));
        }
    }
    for (index, volume) in spec.volumes.iter().flatten().enumerate() {
        let list = at.child("volumes");
        let at = list.index(index);
        if volume.git_repo.is_some() {
            warnings.push(format!(
                "{}: deprecated in v1.11",
                at.child("gitRepo").path()
            ));
        }
        if volume.glusterfs.is_some() {
            warnings.push(format!("{}: deprecated in v1.25, this feature will be removed soon after in a subsequent release", at.child("glusterfs").path()));
        }
    }
    for (index, alias) in spec.host_aliases.iter().flatten().enumerate() {
        let earlier = spec
            .host_aliases
            .iter()
            .flatten()
            .take(index)
            .any(|other| other.ip == alias.ip);
        if earlier {
            warnings.push(format!(
                "{}: duplicate ip {:?}",
                at.child("hostAliases").index(index).child("ip").path(),
                alias.ip
            ));
        }
    }
    for (index, secret) in spec.image_pull_secrets.iter().flatten().enumerate() {
        let at = at.child("imagePullSecrets").index(index).path();
        if secret.name.is_empty() {
            warnings.push(format!("{at}: invalid empty name {:?}", secret.name));
        } else if spec
            .image_pull_secrets
            .iter()
            .flatten()
            .take(index)
            .any(|other| other.name == secret.name)
        {
            warnings.push(format!("{at}: duplicate name {:?}", secret.name));
        }
    }
    containers(spec, at, &mut warnings);
    if spec
        .termination_grace_period_seconds
        .is_some_and(|seconds| seconds < 0)
    {
        warnings.push(format!(
            "{}: must be >= 0; negative values are invalid and will be treated as 1",
            at.child("terminationGracePeriodSeconds").path()
        ));
    }
    warnings
}

fn containers(spec: &PodSpec, at: &At, warnings: &mut Vec<String>) {
    let lists = [
        ("containers", spec.containers.as_slice()),
        (
            "initContainers",
            spec.init_containers.as_deref().unwrap_or_default(),
        ),
    ];
    for (list, containers) in lists {
        for (index, container) in containers.iter().enumerate() {
            let list_at = at.child(list);
            let at = list_at.index(index);
            let vars = container.env.as_deref().unwrap_or_default();
            for (index, var) in vars.iter().enumerate() {
                if vars[..index].iter().any(|earlier| earlier.name == var.name) {
                    let at = at.child("env").index(index).path();
                    warnings.push(format!("{at}: hides previous definition of {:?}, which may be dropped when using apply", var.name));
                }
            }
            let mut seen: BTreeMap<(i32, &str), usize> = BTreeMap::new();
            for (index, port) in container.ports.iter().flatten().enumerate() {
                if let Some(first) = seen.insert(port_key(port), index) {
                    let list = at.child("ports");
                    warnings.push(format!(
                        "{}: duplicate port definition with {}",
                        list.index(index).path(),
                        list.index(first).path()
                    ));
                }
            }
            let resources = container.resources.as_ref();
            let (limits, requests) = (
                resources.and_then(|list| list.limits.as_ref()),
                resources.and_then(|list| list.requests.as_ref()),
            );
            for (which, amounts) in [("limits", limits), ("requests", requests)] {
                if let Some(amount) = amounts
                    .and_then(|amounts| amounts.get("memory"))
                    .filter(|amount| amount.0.ends_with('m'))
                {
                    let at = at.child("resources").child(which).key("memory").path();
                    warnings.push(format!(
                        "{at}: fractional byte value {:?} is invalid, must be an integer",
                        amount.0
                    ));
                }
            }
        }
    }
}

fn port_key(port: &ContainerPort) -> (i32, &str) {
    (
        port.container_port,
        port.protocol.as_deref().unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_worth_a_word() {
        for (spec, want) in [
            (json!({"containers": [{"name": "a"}]}), None),
            (
                json!({"containers": [{"name": "a", "env": [{"name": "X"}, {"name": "Y"}, {"name": "X"}]}]}),
                Some(
                    "spec.containers[0].env[2]: hides previous definition of \"X\", which may be dropped when using apply",
                ),
            ),
            (
                json!({"containers": [], "nodeSelector": {"beta.kubernetes.io/os": "linux"}}),
                Some(
                    "spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead",
                ),
            ),
            (
                json!({"containers": [{"name": "a", "ports": [{"containerPort": 80}, {"containerPort": 80}]}]}),
                Some(
                    "spec.containers[0].ports[1]: duplicate port definition with spec.containers[0].ports[0]",
                ),
            ),
            (
                json!({"containers": [{"name": "a", "resources": {"limits": {"memory": "100m"}}}]}),
                Some(
                    "spec.containers[0].resources.limits[memory]: fractional byte value \"100m\" is invalid, must be an integer",
                ),
            ),
        ] {
            let spec: PodSpec = serde_json::from_value(spec).unwrap();
            assert_eq!(
                of_spec(&spec, &At::Root.child("spec")),
                Vec::from_iter(want.map(str::to_owned))
            );
        }
    }
}
