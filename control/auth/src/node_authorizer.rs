//! What a node may do: its own Node, its pods, and of secrets, config maps and claims only those that its pods use.
//!
//! Follows upstream's `plugin/pkg/auth/authorizer/node` (with selectors). It is first in the chain and never denies:
//! what it does not allow may still be allowed by RBAC.

use crate::attributes::Attributes;
use crate::authz::Decision;
use crate::{policy, rbac};
use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod, PodSpec};
use std::sync::{Arc, OnceLock};

pub trait NodeView {
    /// Every pod whose `spec.nodeName` is `node`.
    fn pods_on(&self, node: &str) -> Vec<Arc<Pod>>;
    /// The PersistentVolume that a claim is bound to.
    fn volume_of_claim(&self, namespace: &str, claim: &str) -> Option<String>;
}

const NODE_LEASES: &str = "kube-node-lease";

pub fn authorize<V: NodeView + ?Sized>(request: &Attributes<'_>, view: &V) -> Decision {
    let Some(node) = request.user.as_node() else {
        return Decision::NoOpinion(String::new());
    };
    let no = |reason: &str| Decision::NoOpinion(reason.to_owned());
    let related = |uses: &dyn Fn(&Pod) -> bool| {
        if view.pods_on(node).iter().any(|pod| uses(pod)) {
            Decision::Allow(String::new())
        } else {
            Decision::NoOpinion(format!(
                "no relationship found between node '{node}' and this object"
            ))
        }
    };
    let in_namespace =
        |pod: &Pod| pod.metadata.namespace.as_deref().unwrap_or_default() == request.namespace;
    match (request.group, request.resource) {
        ("", resource @ ("secrets" | "configmaps")) => {
            if !request.is_read_only() {
                return no("can only read resources of this type");
            }
            if !request.subresource.is_empty() {
                return no("cannot read subresource");
            }
            if request.namespace.is_empty() {
                return no("can only read namespaced object of this type");
            }
            if request.name.is_empty() {
                return no("No Object name found");
            }
            let kind = if resource == "secrets" {
                Reference::Secret
            } else {
                Reference::ConfigMap
            };
            related(&|pod| in_namespace(pod) && refers(pod, kind, request.name))
        }
        ("", "persistentvolumeclaims") => match (request.verb, request.subresource) {
            ("get", "") | ("update" | "patch", "status") => {
                related(&|pod| in_namespace(pod) && refers(pod, Reference::Claim, request.name))
            }
            (_, "status") => no("can only get/update/patch this type"),
            _ => no("can only get individual resources of this type"),
        },
        ("", "persistentvolumes") => match (request.verb, request.subresource) {
            ("get", "") => related(&|pod| {
                let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
                claims(pod).any(|claim| {
                    view.volume_of_claim(namespace, claim).as_deref() == Some(request.name)
                })
            }),
            ("get", _) => no("cannot get subresource"),
            _ => no("can only get individual resources of this type"),
        },
        ("", "serviceaccounts") if request.verb != "create" || request.name.is_empty() => {
            no("can only create tokens for individual service accounts")
        }
        ("", "serviceaccounts") if request.subresource != "token" => {
            no("can only create token subresource of serviceaccount")
        }
        ("", "serviceaccounts") => {
            related(&|pod| in_namespace(pod) && service_account(pod) == request.name)
        }
        ("coordination.k8s.io", "leases") => match request.verb {
            "get" | "create" | "update" | "patch" | "delete"
                if request.namespace != NODE_LEASES =>
            {
                Decision::NoOpinion(format!(
                    "can only access leases in the {NODE_LEASES:?} system namespace"
                ))
            }
            "create" => Decision::Allow(String::new()),
            "get" | "update" | "patch" | "delete" if request.name == node => {
                Decision::Allow(String::new())
            }
            "get" | "update" | "patch" | "delete" => {
                no("can only access node lease with the same name as the requesting node")
            }
            _ => no("can only get, create, update, patch, or delete a node lease"),
        },
        ("storage.k8s.io", "csinodes") => match request.verb {
            _ if !request.subresource.is_empty() => no("cannot authorize CSINode subresources"),
            "create" => Decision::Allow(String::new()),
            "get" | "update" | "patch" | "delete" if request.name == node => {
                Decision::Allow(String::new())
            }
            "get" | "update" | "patch" | "delete" => {
                no("can only access CSINode with the same name as the requesting node")
            }
            _ => no("can only get, create, update, patch, or delete a CSINode"),
        },
        ("", "nodes") => match (request.verb, request.subresource) {
            // Which node is left to admission: the name of a create is not known here.
            ("create" | "update" | "patch", "") | ("update" | "patch", "status") => {
                Decision::Allow(String::new())
            }
            ("get" | "list" | "watch", "") if request.name == node => {
                Decision::Allow(String::new())
            }
            ("get" | "list" | "watch", "") if request.name.is_empty() => Decision::NoOpinion(
                format!("node '{node}' cannot read all nodes, only its own Node object"),
            ),
            ("get" | "list" | "watch", "") => Decision::NoOpinion(format!(
                "node '{node}' cannot read '{}', only its own Node object",
                request.name
            )),
            _ => no(""),
        },
        ("", "pods") => match (request.verb, request.subresource) {
            ("create" | "delete", "") | ("update" | "patch", "status") | ("create", "eviction") => {
                Decision::Allow(String::new())
            }
            ("get", "" | "status") => related(&|pod| {
                in_namespace(pod) && pod.metadata.name.as_deref() == Some(request.name)
            }),
            ("list" | "watch", "") => {
                let own = request
                    .fields
                    .iter()
                    .any(|(path, value)| path == "spec.nodeName" && value == node);
                let one = |pod: &Pod| {
                    in_namespace(pod)
                        && !request.name.is_empty()
                        && pod.metadata.name.as_deref() == Some(request.name)
                };
                if own || view.pods_on(node).iter().any(|pod| one(pod)) {
                    Decision::Allow(String::new())
                } else {
                    no("can only list/watch pods with spec.nodeName field selector")
                }
            }
            _ => no(""),
        },
        _ => {
            static RULES: OnceLock<Vec<k8s_openapi::api::rbac::v1::PolicyRule>> = OnceLock::new();
            let rules = RULES.get_or_init(policy::node_rules);
            if rules.iter().any(|rule| rbac::rule_allows(request, rule)) {
                Decision::Allow(String::new())
            } else {
                no("")
            }
        }
    }
}

#[derive(Clone, Copy)]
enum Reference {
    Secret,
    ConfigMap,
    Claim,
}

fn service_account(pod: &Pod) -> &str {
    let account = pod
        .spec
        .as_ref()
        .and_then(|s| s.service_account_name.as_deref());
    account.filter(|a| !a.is_empty()).unwrap_or("default")
}

fn claims(pod: &Pod) -> impl Iterator<Item = &str> {
    let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    volumes
        .filter_map(|v| v.persistent_volume_claim.as_ref())
        .map(|c| c.claim_name.as_str())
}

fn refers(pod: &Pod, kind: Reference, name: &str) -> bool {
    let Some(spec) = &pod.spec else { return false };
    match kind {
        Reference::Claim => {
            let pod_name = pod.metadata.name.as_deref().unwrap_or_default();
            let ephemeral = spec.volumes.iter().flatten().any(|v| {
                v.ephemeral.is_some()
                    && name
                        .strip_prefix(pod_name)
                        .and_then(|r| r.strip_prefix('-'))
                        == Some(v.name.as_str())
            });
            ephemeral || claims(pod).any(|claim| claim == name)
        }
        Reference::Secret | Reference::ConfigMap => {
            pod_names(spec, kind).into_iter().any(|n| n == name)
        }
    }
}

/// The names of all secrets or config maps in a pod's spec: pull secrets, environment, volumes.
pub(crate) fn secret_names(spec: &PodSpec) -> Vec<&str> {
    pod_names(spec, Reference::Secret)
}

pub(crate) fn config_map_names(spec: &PodSpec) -> Vec<&str> {
    pod_names(spec, Reference::ConfigMap)
}

fn pod_names(spec: &PodSpec, kind: Reference) -> Vec<&str> {
    let secrets = matches!(kind, Reference::Secret);
    let mut names: Vec<&str> = Vec::new();
    if secrets {
        names.extend(
            spec.image_pull_secrets
                .iter()
                .flatten()
                .map(|r| r.name.as_str()),
        );
    }
    let all = spec
        .init_containers
        .iter()
        .flatten()
        .chain(&spec.containers);
    for Container { env, env_from, .. } in all {
        environment(env.as_deref(), env_from.as_deref(), secrets, &mut names);
    }
    for EphemeralContainer { env, env_from, .. } in spec.ephemeral_containers.iter().flatten() {
        environment(env.as_deref(), env_from.as_deref(), secrets, &mut names);
    }
    for volume in spec.volumes.iter().flatten() {
        let projected = volume
            .projected
            .iter()
            .flat_map(|p| p.sources.iter().flatten());
        if secrets {
            names.extend(
                volume
                    .secret
                    .iter()
                    .filter_map(|s| s.secret_name.as_deref()),
            );
            names.extend(
                projected
                    .filter_map(|s| s.secret.as_ref())
                    .map(|s| s.name.as_str()),
            );
            names.extend(
                volume
                    .csi
                    .iter()
                    .filter_map(|c| c.node_publish_secret_ref.as_ref())
                    .map(|r| r.name.as_str()),
            );
            names.extend(
                volume
                    .cephfs
                    .iter()
                    .filter_map(|c| c.secret_ref.as_ref())
                    .map(|r| r.name.as_str()),
            );
            names.extend(
                volume
                    .iscsi
                    .iter()
                    .filter_map(|c| c.secret_ref.as_ref())
                    .map(|r| r.name.as_str()),
            );
            names.extend(
                volume
                    .rbd
                    .iter()
                    .filter_map(|c| c.secret_ref.as_ref())
                    .map(|r| r.name.as_str()),
            );
        } else {
            names.extend(volume.config_map.iter().map(|c| c.name.as_str()));
            names.extend(
                projected
                    .filter_map(|s| s.config_map.as_ref())
                    .map(|c| c.name.as_str()),
            );
        }
    }
    names
}

fn environment<'a>(
    env: Option<&'a [k8s_openapi::api::core::v1::EnvVar]>,
    from: Option<&'a [k8s_openapi::api::core::v1::EnvFromSource]>,
    secrets: bool,
    names: &mut Vec<&'a str>,
) {
    for source in env
        .into_iter()
        .flatten()
        .filter_map(|e| e.value_from.as_ref())
    {
        match (secrets, &source.secret_key_ref, &source.config_map_key_ref) {
            (true, Some(r), _) => names.push(&r.name),
            (false, _, Some(r)) => names.push(&r.name),
            _ => {}
        }
    }
    for source in from.into_iter().flatten() {
        match (secrets, &source.secret_ref, &source.config_map_ref) {
            (true, Some(r), _) => names.push(&r.name),
            (false, _, Some(r)) => names.push(&r.name),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::user::UserInfo;

    struct View(Vec<Arc<Pod>>);
    impl NodeView for View {
        fn pods_on(&self, node: &str) -> Vec<Arc<Pod>> {
            self.0
                .iter()
                .filter(|p| p.spec.as_ref().and_then(|s| s.node_name.as_deref()) == Some(node))
                .cloned()
                .collect()
        }
        fn volume_of_claim(&self, _: &str, claim: &str) -> Option<String> {
            Some(format!("pv-{claim}"))
        }
    }

    #[test]
    fn a_node_reaches_what_its_pods_use() {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "p", "namespace": "ns"},
            "spec": {"nodeName": "n1", "serviceAccountName": "sa", "imagePullSecrets": [{"name": "pull"}],
                "containers": [{"name": "c", "envFrom": [{"secretRef": {"name": "env"}}], "env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "conf", "key": "k"}}}]}],
                "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}, {"name": "t", "projected": {"sources": [{"configMap": {"name": "root"}}]}}]}
        })).unwrap();
        let view = View(vec![Arc::new(pod)]);
        let (n1, n2, jane) = (
            UserInfo::node("n1"),
            UserInfo::node("n2"),
            UserInfo::new("jane", &[]),
        );
        let own = [("spec.nodeName".to_owned(), "n1".to_owned())];
        let secret =
            |user, verb, name| Attributes::resource(user, verb, "", "secrets", "ns").named(name);
        let cases = [
            (secret(&n1, "get", "pull"), true),
            (secret(&n1, "watch", "env"), true),
            (secret(&n1, "get", "other"), false),
            (secret(&n1, "update", "env"), false),
            (secret(&n1, "list", ""), false),
            (secret(&n2, "get", "pull"), false),
            (secret(&jane, "get", "pull"), false),
            (
                Attributes::resource(&n1, "get", "", "configmaps", "ns").named("root"),
                true,
            ),
            (
                Attributes::resource(&n1, "get", "", "configmaps", "other").named("root"),
                false,
            ),
            (
                Attributes::resource(&n1, "get", "", "persistentvolumes", "").named("pv-data"),
                true,
            ),
            (
                Attributes::resource(&n1, "create", "", "serviceaccounts", "ns")
                    .named("sa")
                    .sub("token"),
                true,
            ),
            (
                Attributes::resource(&n1, "create", "", "serviceaccounts", "ns")
                    .named("admin")
                    .sub("token"),
                false,
            ),
            (Attributes::resource(&n1, "list", "", "pods", ""), false),
            (
                Attributes {
                    fields: &own,
                    ..Attributes::resource(&n1, "watch", "", "pods", "")
                },
                true,
            ),
            (
                Attributes {
                    fields: &own,
                    ..Attributes::resource(&n2, "watch", "", "pods", "")
                },
                false,
            ),
            (
                Attributes::resource(&n1, "update", "coordination.k8s.io", "leases", NODE_LEASES)
                    .named("n1"),
                true,
            ),
            (
                Attributes::resource(&n1, "update", "coordination.k8s.io", "leases", NODE_LEASES)
                    .named("n2"),
                false,
            ),
            (
                Attributes::resource(&n1, "create", "authentication.k8s.io", "tokenreviews", ""),
                true,
            ),
            (
                Attributes::resource(&n1, "delete", "apps", "deployments", "ns").named("d"),
                false,
            ),
        ];
        for (request, allowed) in cases {
            assert_eq!(
                authorize(&request, &view).is_allowed(),
                allowed,
                "{}",
                request.denial("")
            );
        }
    }
}
