//! The default roles and bindings that every cluster starts with, and the aggregation of ClusterRoles.
//!
//! Tables in upstream's words (`plugin/pkg/auth/authorizer/rbac/bootstrappolicy`), built into objects on request. At
//! start-up the server creates what is missing and adds rules and subjects that were removed, unless an object carries
//! `rbac.authorization.kubernetes.io/autoupdate: "false"`.

use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding};

pub mod aggregate;
pub mod controllers;
pub mod roles;
mod table;

pub use aggregate::aggregate;
pub use roles::node_rules;

/// Everything that must exist.
#[derive(Clone, Debug, Default)]
pub struct Bootstrap {
    pub cluster_roles: Vec<ClusterRole>,
    pub cluster_role_bindings: Vec<ClusterRoleBinding>,
    pub roles: Vec<Role>,
    pub role_bindings: Vec<RoleBinding>,
}

/// Aggregated roles (admin, edit, view) come with their rules already filled in.
pub fn bootstrap() -> Bootstrap {
    let mut all = roles::bootstrap();
    let (roles, bindings) = controllers::bootstrap();
    all.cluster_roles.extend(roles);
    all.cluster_role_bindings.extend(bindings);
    let filled: Vec<(usize, Vec<PolicyRule>)> =
        all.cluster_roles.iter().enumerate().filter_map(|(i, role)| aggregate(role, all.cluster_roles.iter()).map(|rules| (i, rules))).collect();
    for (i, rules) in filled {
        all.cluster_roles[i].rules = Some(rules);
    }
    // An aggregated role may be a part of another (edit of admin): a second pass reaches the fixed point.
    let again: Vec<(usize, Vec<PolicyRule>)> =
        all.cluster_roles.iter().enumerate().filter_map(|(i, role)| aggregate(role, all.cluster_roles.iter()).map(|rules| (i, rules))).collect();
    for (i, rules) in again {
        all.cluster_roles[i].rules = Some(rules);
    }
    all
}
