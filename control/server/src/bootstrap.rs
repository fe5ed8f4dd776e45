//! What every cluster has from its first start on: namespaces, default policy, the service network, and the Services of the API and of DNS.
//!
//! Level-triggered: run at every start, it makes what is missing and leaves alone what is there, but for what upstream restores too.

use crate::config::ServerConfig;
use anyhow::{Context, Result};
use caravel_api::{ApiError, Kind, ObjectName, Row};
use caravel_apiserver::{ApiServer, Internal};
use caravel_auth::join::Scope;
use caravel_auth::{UserInfo, join, policy};
use caravel_store::{NoQuorum, Store};
use k8s_openapi::api::rbac::v1::{
    ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, Subject,
};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;

const NAMESPACES: &[&str] = &["default", "kube-system", "kube-public", "kube-node-lease"];
const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// Makes everything.
pub(crate) async fn bootstrap(api: &Arc<ApiServer>, config: &ServerConfig) -> Result<()> {
    let verbs = api
        .internal(UserInfo::apiserver(), None)
        .manager("kube-apiserver");
    for name in NAMESPACES {
        let object =
            json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
        ensure(&verbs, "", "namespaces", "", object).await?;
    }
    default_policy(&verbs, api.store()).await?;
    let cidr = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
        "metadata": { "name": "kubernetes" },
        "spec": { "cidrs": [config.service_cidr.to_string()] },
    });
    ensure(&verbs, "networking.k8s.io", "servicecidrs", "", cidr).await?;
    let (api_service, dns_service) = services(config);
    ensure(&verbs, "", "services", "default", api_service).await?;
    ensure(&verbs, "", "services", "kube-system", dns_service).await
}

fn row(group: &str, plural: &str) -> Result<&'static Row> {
    caravel_api::kinds::by_resource(group, "v1", plural)
        .with_context(|| format!("{plural} is no kind of this server"))
}

/// Creates an object unless it is there.
/// Would it go through a little later? No leader was there, or it was lost, or another server was faster.
pub(crate) fn is_temporary(error: &anyhow::Error) -> bool {
    error.downcast_ref::<NoQuorum>().is_some()
        || error
            .downcast_ref::<ApiError>()
            .is_some_and(|error| matches!(error.code, 409 | 429 | 503 | 504))
}

async fn ensure(
    verbs: &Internal,
    group: &str,
    plural: &str,
    namespace: &str,
    object: Value,
) -> Result<()> {
    let name = object
        .pointer("/metadata/name")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    match verbs.create(row(group, plural)?, namespace, object).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_already_exists() => Ok(()),
        Err(error) => Err(error).with_context(|| format!("create {plural} {name}")),
    }
}

fn services(config: &ServerConfig) -> (Value, Value) {
    let port = config.listen.port();
    let api = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": "kubernetes", "labels": { "component": "apiserver", "provider": "kubernetes" } },
        "spec": {
            "type": "ClusterIP", "clusterIP": config.kubernetes_ip().to_string(), "sessionAffinity": "None",
            "ports": [{ "name": "https", "protocol": "TCP", "port": 443, "targetPort": port }],
        },
    });
    // No selector: every node's proxy sends it to the DNS of its own.
    let dns = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": "kube-dns",
            "labels": { "k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS" },
        },
        "spec": {
            "type": "ClusterIP", "clusterIP": config.dns_ip().to_string(),
            "ports": [
                { "name": "dns", "protocol": "UDP", "port": 53, "targetPort": 53 },
                { "name": "dns-tcp", "protocol": "TCP", "port": 53, "targetPort": 53 },
            ],
        },
    });
    (api, dns)
}

/// Upstream's default roles and bindings: what is missing is made, what was removed from them is put back.
async fn default_policy(verbs: &Internal, store: &Store) -> Result<()> {
    let wanted = policy::bootstrap();
    for role in &wanted.cluster_roles {
        let found = store.snapshot().get::<ClusterRole>(&name(role))?;
        restore(verbs, role, found.as_deref(), |found| {
            add_rules(&mut found.rules, &role.rules)
        })
        .await?;
    }
    for role in &wanted.roles {
        let found = store.snapshot().get::<Role>(&name(role))?;
        restore(verbs, role, found.as_deref(), |found| {
            add_rules(&mut found.rules, &role.rules)
        })
        .await?;
    }
    for binding in &wanted.cluster_role_bindings {
        let found = store.snapshot().get::<ClusterRoleBinding>(&name(binding))?;
        restore(verbs, binding, found.as_deref(), |found| {
            add_subjects(&mut found.subjects, &binding.subjects)
        })
        .await?;
    }
    for binding in &wanted.role_bindings {
        let found = store.snapshot().get::<RoleBinding>(&name(binding))?;
        restore(verbs, binding, found.as_deref(), |found| {
            add_subjects(&mut found.subjects, &binding.subjects)
        })
        .await?;
    }
    Ok(())
}

fn name<K: Kind>(object: &K) -> ObjectName {
    let meta = object.metadata();
    ObjectName::new(
        meta.namespace.clone().unwrap_or_default(),
        meta.name.clone().unwrap_or_default(),
    )
}

async fn restore<K: Kind>(
    verbs: &Internal,
    wanted: &K,
    found: Option<&K>,
    add: impl FnOnce(&mut K) -> bool,
) -> Result<()> {
    let name = name(wanted);
    let row = <K as Kind>::row();
    let outcome: Result<_, ApiError> = match found {
        None => {
            verbs
                .create(row, &name.namespace, serde_json::to_value(wanted)?)
                .await
        }
        Some(found) => {
            let off = found
                .metadata()
                .annotations
                .as_ref()
                .and_then(|all| all.get(AUTOUPDATE))
                .is_some_and(|value| value == "false");
            let mut found = found.clone();
            if off || !add(&mut found) {
                return Ok(());
            }
            verbs
                .update(row, &name.namespace, serde_json::to_value(&found)?)
                .await
        }
    };
    match outcome {
        Ok(_) => Ok(()),
        Err(error) if error.is_already_exists() => Ok(()),
        Err(error) => {
            Err(error).with_context(|| format!("keep the default {} {name}", row.singular))
        }
    }
}

fn add_rules(found: &mut Option<Vec<PolicyRule>>, wanted: &Option<Vec<PolicyRule>>) -> bool {
    add_missing(found, wanted.as_deref().unwrap_or_default())
}

fn add_subjects(found: &mut Option<Vec<Subject>>, wanted: &Option<Vec<Subject>>) -> bool {
    add_missing(found, wanted.as_deref().unwrap_or_default())
}

fn add_missing<T: PartialEq + Clone>(found: &mut Option<Vec<T>>, wanted: &[T]) -> bool {
    let missing: Vec<T> = wanted
        .iter()
        .filter(|one| !found.iter().flatten().any(|have| have == *one))
        .cloned()
        .collect();
    let any = !missing.is_empty();
    if any {
        found.get_or_insert_default().extend(missing);
    }
    any
}

/// The cluster's first join token: the administrator's own, else a new one, kept hashed in the cluster and plain in a 0600 file beside the data.
pub(crate) async fn join_token(api: &Arc<ApiServer>, config: &ServerConfig) -> Result<()> {
    let path = config.data_dir.join("node-token");
    let ca_hash = api.ca_hash();
    let verbs = api
        .internal(UserInfo::apiserver(), None)
        .manager("kube-apiserver");
    let known = std::fs::read_to_string(&path)
        .ok()
        .map(|text| text.trim().to_owned())
        .filter(|text| !text.is_empty());
    let (text, stored) = match (&config.token, known) {
        (Some(given), _) => {
            let full = if given.starts_with("K10") {
                given.clone()
            } else {
                format!("K10{ca_hash}::{given}")
            };
            let token: join::JoinToken = full
                .parse()
                .map_err(|error| anyhow::anyhow!("token: {error}"))?;
            (
                token.to_string(),
                join::store(&token, Scope::Any, None, "the administrator's token"),
            )
        }
        (None, Some(known)) => {
            let token: join::JoinToken = known
                .parse()
                .map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?;
            (
                known,
                join::store(&token, Scope::Node, None, "made at the first start"),
            )
        }
        (None, None) => {
            let (token, stored) =
                join::create(&ca_hash, Scope::Node, None, "made at the first start");
            (token.to_string(), stored)
        }
    };
    write_token(&path, &text)?;
    let secret = serde_json::to_value(stored.to_secret()?)?;
    ensure(&verbs, "", "secrets", join::SECRET_NAMESPACE, secret).await
}

fn write_token(path: &Path, text: &str) -> Result<()> {
    crate::kubeconfig::private(path, &format!("{text}\n"))
        .with_context(|| format!("write the join token {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_leader_is_no_reason_to_end() {
        let of = |code: u16| {
            let error: Result<(), ApiError> = Err(ApiError::new(code, "Reason", "message"));
            is_temporary(&error.context("create namespaces default").unwrap_err())
        };
        assert!(of(504) && of(503) && of(409));
        assert!(!of(422) && !of(403));
        assert!(is_temporary(&NoQuorum.into()));
        assert!(!is_temporary(&anyhow::anyhow!("another")));
    }

    #[test]
    fn only_what_is_missing_is_added() {
        let mut found = Some(vec![1, 2]);
        assert!(add_missing(&mut found, &[2, 3]));
        assert_eq!(found, Some(vec![1, 2, 3]));
        assert!(!add_missing(&mut found, &[1]));
    }
}
