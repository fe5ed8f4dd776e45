//! The cluster's state as authentication and authorization need to see it: one snapshot behind their view traits.
//!
//! What cannot be decoded counts as absent here, which always means less access, never more.

use caravel_api::ObjectName;
use caravel_auth::authn::BoundObject;
use caravel_auth::{IdentityView, NodeView, RbacView};
use caravel_store::Snapshot;
use k8s_openapi::Metadata;
use k8s_openapi::api::core::v1::{Node, Pod, Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use std::sync::Arc;

/// One snapshot, seen as a source of identities and rights.
pub(crate) struct View<'a>(pub &'a Snapshot);

impl View<'_> {
    fn get<K: caravel_api::Kind>(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.0
            .get::<K>(&ObjectName::new(namespace, name))
            .inspect_err(
                |error| tracing::error!(%error, "an object that decides access cannot be read"),
            )
            .ok()
            .flatten()
    }

    fn all<K: caravel_api::Kind>(&self, namespace: Option<&str>) -> Vec<Arc<K>> {
        self.0
            .all::<K>(namespace)
            .filter_map(|found| {
                found.inspect_err(|error| tracing::error!(%error, "an object that decides access cannot be read")).ok()
            })
            .collect()
    }

    fn bound<K: caravel_api::Kind>(&self, namespace: &str, name: &str) -> Option<BoundObject> {
        let object = self.get::<K>(namespace, name)?;
        let meta = Metadata::metadata(&*object);
        Some(BoundObject {
            uid: meta.uid.clone().unwrap_or_default(),
            deleted: meta
                .deletion_timestamp
                .as_ref()
                .and_then(|at| u64::try_from(at.0.as_second()).ok()),
        })
    }
}

impl RbacView for View<'_> {
    fn cluster_role(&self, name: &str) -> Option<Arc<ClusterRole>> {
        self.get("", name)
    }

    fn role(&self, namespace: &str, name: &str) -> Option<Arc<Role>> {
        self.get(namespace, name)
    }

    fn cluster_role_bindings(&self) -> Vec<Arc<ClusterRoleBinding>> {
        self.all(None)
    }

    fn role_bindings(&self, namespace: &str) -> Vec<Arc<RoleBinding>> {
        self.all(Some(namespace))
    }
}

impl NodeView for View<'_> {
    fn pods_on(&self, node: &str) -> Vec<Arc<Pod>> {
        let pods = <Pod as caravel_api::Kind>::row().prefix(None);
        self.0
            .on_node(node)
            .filter(|entry| pods.contains(&entry.key))
            .filter_map(|entry| entry.decode().ok())
            .collect()
    }

    fn volume_of_claim(&self, _: &str, _: &str) -> Option<String> {
        None
    }
}

impl IdentityView for View<'_> {
    fn service_account_uid(&self, namespace: &str, name: &str) -> Option<String> {
        self.get::<ServiceAccount>(namespace, name)?
            .metadata
            .uid
            .clone()
    }

    fn pod(&self, namespace: &str, name: &str) -> Option<BoundObject> {
        self.bound::<Pod>(namespace, name)
    }

    fn secret(&self, namespace: &str, name: &str) -> Option<BoundObject> {
        self.bound::<Secret>(namespace, name)
    }

    fn node(&self, name: &str) -> Option<BoundObject> {
        self.bound::<Node>("", name)
    }
}
