//! Admission for nodes: a node changes only its own Node, lease, pods' status and pods' tokens, and relabels itself only so far.
//!
//! Follows upstream's `plugin/pkg/admission/noderestriction`. The returned text goes after `is forbidden: `.

use crate::node_authorizer::{NodeView, config_map_names, secret_names};
use crate::user::UserInfo;
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{Node, Pod};
use std::any::Any;
use std::collections::BTreeMap;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
}

/// A write that passed authorization. `object` and `old` are the typed objects (`Pod`, `Node`, `TokenRequest`).
pub struct Change<'a> {
    pub user: &'a UserInfo,
    pub operation: Operation,
    pub group: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
    pub object: Option<&'a dyn Any>,
    /// For an eviction or a pod's deletion: the pod.
    pub old: Option<&'a dyn Any>,
}

const MIRROR: &str = "kubernetes.io/config.mirror";

pub fn admit<V: NodeView + ?Sized>(change: &Change<'_>, view: &V) -> Result<(), String> {
    use Operation::{Create, Delete, Update};
    let Some(node) = change.user.as_node() else {
        return Ok(());
    };
    let pod = |any: Option<&'_ dyn Any>| any.and_then(<dyn Any>::downcast_ref::<Pod>).cloned();
    match (change.group, change.resource, change.subresource) {
        ("", "pods", "") => match change.operation {
            Create => pod(change.object).map_or(Ok(()), |pod| admit_mirror_pod(node, &pod)),
            Delete => match pod(change.old) {
                Some(old) if node_of(&old) != node => Err(format!(
                    "node {node:?} can only delete pods with spec.nodeName set to itself"
                )),
                _ => Ok(()),
            },
            Update => Err(format!(
                "unexpected operation \"UPDATE\", node {node:?} can only create and delete mirror pods"
            )),
        },
        ("", "pods", "status") => match (pod(change.old), pod(change.object)) {
            (Some(old), _) if node_of(&old) != node => Err(format!(
                "node {node:?} can only update pod status for pods with spec.nodeName set to itself"
            )),
            (Some(old), Some(new)) if old.metadata.labels != new.metadata.labels => Err(format!(
                "node {node:?} cannot update labels through pod status"
            )),
            _ => Ok(()),
        },
        ("", "pods", "eviction") => match pod(change.old) {
            Some(old) if node_of(&old) != node => Err(format!(
                "node {node} can only evict pods with spec.nodeName set to itself"
            )),
            _ => Ok(()),
        },
        ("", "pods", other) => Err(format!(
            "unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed"
        )),
        ("", "nodes", _) => {
            if change.name != node {
                return Err(format!(
                    "node {node:?} is not allowed to modify node {:?}",
                    change.name
                ));
            }
            let as_node =
                |any: Option<&'_ dyn Any>| any.and_then(<dyn Any>::downcast_ref::<Node>).cloned();
            admit_node(
                node,
                change.operation,
                as_node(change.object),
                as_node(change.old),
            )
        }
        ("", "serviceaccounts", "token") if change.operation == Create => {
            let Some(request) = change.object.and_then(|o| o.downcast_ref::<TokenRequest>()) else {
                return Ok(());
            };
            admit_token(node, change, request, view)
        }
        ("coordination.k8s.io", "leases", _) => {
            if change.namespace != "kube-node-lease" {
                return Err(
                    "can only access leases in the \"kube-node-lease\" system namespace".into(),
                );
            }
            if change.name != node {
                return Err(
                    "can only access node lease with the same name as the requesting node".into(),
                );
            }
            Ok(())
        }
        ("storage.k8s.io", "csinodes", _) if change.name != node => {
            Err("can only access CSINode with the same name as the requesting node".into())
        }
        _ => Ok(()),
    }
}

fn node_of(pod: &Pod) -> &str {
    pod.spec
        .as_ref()
        .and_then(|s| s.node_name.as_deref())
        .unwrap_or_default()
}

fn admit_mirror_pod(node: &str, pod: &Pod) -> Result<(), String> {
    if !pod
        .metadata
        .annotations
        .as_ref()
        .is_some_and(|a| a.contains_key(MIRROR))
    {
        return Err(format!(
            "pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"
        ));
    }
    if node_of(pod) != node {
        return Err(format!(
            "node {node:?} can only create pods with spec.nodeName set to itself"
        ));
    }
    match pod.metadata.owner_references.as_deref().unwrap_or_default() {
        [owner] if owner.api_version != "v1" || owner.kind != "Node" || owner.name != node => {
            return Err(format!(
                "node {node:?} can only create pods with an owner reference set to itself"
            ));
        }
        [owner] if owner.controller != Some(true) => {
            return Err(format!(
                "node {node:?} can only create pods with a controller owner reference set to itself"
            ));
        }
        [owner] if owner.block_owner_deletion == Some(true) => {
            return Err(format!(
                "node {node:?} must not set blockOwnerDeletion on an owner reference"
            ));
        }
        [_] => {}
        [] => {
            return Err(format!(
                "node {node:?} can only create pods with an owner reference set to itself"
            ));
        }
        _ => {
            return Err(format!(
                "node {node:?} can only create pods with a single owner reference set to itself"
            ));
        }
    }
    let Some(spec) = &pod.spec else { return Ok(()) };
    let refused = if spec
        .service_account_name
        .as_ref()
        .is_some_and(|n| !n.is_empty())
    {
        "a service account"
    } else if !secret_names(spec).is_empty() {
        "secrets"
    } else if !config_map_names(spec).is_empty() {
        "configmaps"
    } else if spec
        .volumes
        .iter()
        .flatten()
        .any(|v| v.persistent_volume_claim.is_some())
    {
        "persistentvolumeclaims"
    } else {
        return Ok(());
    };
    Err(format!(
        "node {node:?} can not create pods that reference {refused}"
    ))
}

fn admit_node(
    node: &str,
    operation: Operation,
    new: Option<Node>,
    old: Option<Node>,
) -> Result<(), String> {
    let Some(new) = new else { return Ok(()) };
    let labels = |n: &Node| n.metadata.labels.clone().unwrap_or_default();
    let before = old.as_ref().map(labels).unwrap_or_default();
    let forbidden: Vec<String> = changed(&before, &labels(&new))
        .into_iter()
        .filter(|label| !may_label(label))
        .collect();
    if operation == Operation::Create {
        return if forbidden.is_empty() {
            Ok(())
        } else {
            Err(format!(
                "node {node:?} is not allowed to set the following labels: {}",
                forbidden.join(", ")
            ))
        };
    }
    let Some(old) = old else { return Ok(()) };
    let taints = |n: &Node| {
        n.spec
            .as_ref()
            .and_then(|s| s.taints.clone())
            .unwrap_or_default()
    };
    if taints(&old) != taints(&new) {
        return Err(format!("node {node:?} is not allowed to modify taints"));
    }
    if !forbidden.is_empty() {
        return Err(format!(
            "is not allowed to modify labels: {}",
            forbidden.join(", ")
        ));
    }
    if old.metadata.owner_references.as_deref().unwrap_or_default()
        != new.metadata.owner_references.as_deref().unwrap_or_default()
    {
        return Err(format!(
            "node {node:?} is not allowed to modify ownerReferences"
        ));
    }
    Ok(())
}

fn changed(old: &BTreeMap<String, String>, new: &BTreeMap<String, String>) -> Vec<String> {
    let mut keys: Vec<String> = old
        .keys()
        .chain(new.keys())
        .filter(|k| old.get(*k) != new.get(*k))
        .cloned()
        .collect();
    keys.sort();
    keys.dedup();
    keys
}

/// Labels outside Kubernetes' own domains are free; of its own only the kubelet's, and never those kept for isolation.
fn may_label(label: &str) -> bool {
    const OWN: &[&str] = &[
        "beta.kubernetes.io/arch",
        "beta.kubernetes.io/instance-type",
        "beta.kubernetes.io/os",
        "failure-domain.beta.kubernetes.io/region",
        "failure-domain.beta.kubernetes.io/zone",
        "failure-domain.kubernetes.io/region",
        "failure-domain.kubernetes.io/zone",
        "kubernetes.io/arch",
        "kubernetes.io/hostname",
        "kubernetes.io/instance-type",
        "kubernetes.io/os",
        "node.kubernetes.io/instance-type",
        "topology.kubernetes.io/region",
        "topology.kubernetes.io/zone",
        "node.kubernetes.io/exclude-from-external-load-balancers",
    ];
    let Some((domain, _)) = label.split_once('/') else {
        return true;
    };
    let within = |suffix: &str| domain == suffix || domain.ends_with(&format!(".{suffix}"));
    if within("node-restriction.kubernetes.io") {
        return false;
    }
    if !within("kubernetes.io") && !within("k8s.io") {
        return true;
    }
    OWN.contains(&label) || within("kubelet.kubernetes.io") || within("node.kubernetes.io")
}

fn admit_token<V: NodeView + ?Sized>(
    node: &str,
    change: &Change<'_>,
    request: &TokenRequest,
    view: &V,
) -> Result<(), String> {
    let bound = request
        .spec
        .as_ref()
        .and_then(|s| s.bound_object_ref.as_ref());
    let Some(bound) = bound.filter(|b| {
        b.api_version.as_deref() == Some("v1")
            && b.kind.as_deref() == Some("Pod")
            && b.name.is_some()
    }) else {
        return Err("node requested token not bound to a pod".into());
    };
    if bound.uid.as_deref().unwrap_or_default().is_empty() {
        return Err("node requested token with a pod binding without a uid".into());
    }
    let pods = view.pods_on(node);
    let pod = pods.iter().find(|p| {
        p.metadata.name == bound.name && p.metadata.namespace.as_deref() == Some(change.namespace)
    });
    match pod {
        None => Err("node requested token bound to a pod scheduled on a different node".into()),
        Some(pod) if pod.metadata.uid != bound.uid => Err(format!(
            "the UID in the bound object reference ({}) does not match the UID in record",
            bound.uid.as_deref().unwrap_or_default()
        )),
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_a_node_may_give_itself() {
        for (label, may) in [
            ("disk", true),
            ("example.com/x", true),
            ("kubernetes.io/hostname", true),
            ("node.kubernetes.io/size", true),
            ("kubelet.kubernetes.io/x", true),
            ("node-restriction.kubernetes.io/x", false),
            ("team.node-restriction.kubernetes.io/x", false),
            ("node-role.kubernetes.io/control-plane", false),
            ("kubernetes.io/other", false),
            ("x.k8s.io/y", false),
        ] {
            assert_eq!(may_label(label), may, "{label}");
        }
    }
}
