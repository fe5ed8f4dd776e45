//! The list of kinds that have rules: which strategy serves which row. Never any rule itself.

use caravel_api::Row;
use k8s_openapi::api::{apps, coordination, core, discovery, events, networking, rbac};

use crate::resource::{Resource, Typed};

macro_rules! resources {
    ($($type:path),* $(,)?) => {
        static RESOURCES: &[&dyn Resource] = &[$(&Typed::<$type>::NEW),*];
    };
}

resources! {
    core::v1::ConfigMap,
    core::v1::Endpoints,
    core::v1::Event,
    core::v1::Namespace,
    core::v1::Node,
    core::v1::Pod,
    core::v1::Secret,
    core::v1::Service,
    core::v1::ServiceAccount,
    apps::v1::Deployment,
    apps::v1::ReplicaSet,
    coordination::v1::Lease,
    discovery::v1::EndpointSlice,
    events::v1::Event,
    networking::v1::IPAddress,
    networking::v1::ServiceCIDR,
    rbac::v1::ClusterRole,
    rbac::v1::ClusterRoleBinding,
    rbac::v1::Role,
    rbac::v1::RoleBinding,
}

/// The rules of a stored kind. Every stored row of the table of kinds has some (a test keeps it so).
///
/// # Panics
/// For a row that is not stored (reviews): use [`resource_for`] where that may be.
pub fn resource(row: &Row) -> &'static dyn Resource {
    resource_for(row).expect("every stored kind has a strategy; a test compares the two tables")
}

/// As [`resource`], `None` for kinds that are not stored.
pub fn resource_for(row: &Row) -> Option<&'static dyn Resource> {
    RESOURCES
        .iter()
        .copied()
        .find(|resource| std::ptr::eq(resource.row(), row) || resource.row() == row)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stored_kind_has_a_strategy() {
        for row in caravel_api::KINDS {
            assert_eq!(
                resource_for(row).is_some(),
                row.is_stored(),
                "{} {}",
                row.api_version(),
                row.kind
            );
        }
    }
}
