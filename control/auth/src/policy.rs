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
    // An aggregated role may be a part of another (view of edit, edit of admin): again until nothing changes.
    loop {
        let changed: Vec<(usize, Vec<PolicyRule>)> = (all.cluster_roles.iter().enumerate())
            .filter_map(|(i, role)| {
                aggregate(role, all.cluster_roles.iter()).map(|rules| (i, rules))
            })
            .filter(|(i, rules)| all.cluster_roles[*i].rules.as_ref() != Some(rules))
            .collect();
        if changed.is_empty() {
            break;
        }
        for (i, rules) in changed {
            all.cluster_roles[i].rules = Some(rules);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attributes::Attributes;
    use crate::rbac::rule_allows;
    use crate::user::UserInfo;

    #[test]
    fn the_default_roles_allow_what_their_names_promise() {
        let all = bootstrap();
        let user = UserInfo::new("u", &[]);
        for (role, verb, group, resource, allowed) in [
            ("view", "list", "", "pods", true),
            ("view", "get", "", "secrets", false),
            ("view", "create", "apps", "deployments", false),
            ("edit", "get", "", "secrets", true),
            ("edit", "get", "", "pods", true),
            ("edit", "create", "apps", "deployments", true),
            (
                "edit",
                "create",
                "rbac.authorization.k8s.io",
                "roles",
                false,
            ),
            (
                "admin",
                "create",
                "rbac.authorization.k8s.io",
                "roles",
                true,
            ),
            ("admin", "list", "", "pods", true),
            ("admin", "update", "", "resourcequotas", false),
            ("cluster-admin", "escalate", "any", "thing", true),
        ] {
            let found = all
                .cluster_roles
                .iter()
                .find(|r| r.metadata.name.as_deref() == Some(role))
                .unwrap();
            let request = Attributes::resource(&user, verb, group, resource, "ns");
            assert_eq!(
                found
                    .rules
                    .iter()
                    .flatten()
                    .any(|rule| rule_allows(&request, rule)),
                allowed,
                "{role} {verb} {resource}"
            );
        }
        for binding in &all.cluster_role_bindings {
            assert!(
                all.cluster_roles
                    .iter()
                    .any(|r| r.metadata.name.as_ref() == Some(&binding.role_ref.name)),
                "{}",
                binding.role_ref.name
            );
        }
    }
}
