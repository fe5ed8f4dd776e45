//! Nobody grants what they do not hold. Upstream: pkg/registry/rbac/{role,rolebinding,...}/policybased.

use super::{Admission, Operation};
use caravel_api::ApiError;
use caravel_auth::escalation::{self, Escalation};
use caravel_registry::Object;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};

pub(super) fn escalation(
    write: &mut Admission<'_>,
    object: &mut Option<&mut dyn Object>,
    old: Option<&dyn Object>,
) -> Result<(), ApiError> {
    if write.operation == Operation::Delete
        || write.target.row.group != "rbac.authorization.k8s.io"
        || write.user.is_master()
    {
        return Ok(());
    }
    let Some(object) = object.as_deref() else {
        return Ok(());
    };
    let (user, view, target) = (write.user, write.view(), write.target);
    let (namespace, name) = (target.namespace.as_str(), target.name.as_str());
    let judged = if let Some(role) = object.typed::<Role>() {
        if old
            .and_then(|old| old.typed::<Role>())
            .is_some_and(|old| old.rules == role.rules)
        {
            return Ok(());
        }
        escalation::check_role(
            user,
            "roles",
            namespace,
            name,
            role.rules.as_deref().unwrap_or_default(),
            &view,
        )
    } else if let Some(role) = object.typed::<ClusterRole>() {
        let unchanged = old
            .and_then(|old| old.typed::<ClusterRole>())
            .is_some_and(|old| {
                old.rules == role.rules && old.aggregation_rule == role.aggregation_rule
            });
        if unchanged {
            return Ok(());
        }
        escalation::check_role(
            user,
            "clusterroles",
            "",
            name,
            role.rules.as_deref().unwrap_or_default(),
            &view,
        )
        .and_then(|()| {
            if role.aggregation_rule.is_some() {
                escalation::check_aggregation(user, name, &view)
            } else {
                Ok(())
            }
        })
    } else if let Some(binding) = object.typed::<RoleBinding>() {
        if old
            .and_then(|old| old.typed::<RoleBinding>())
            .is_some_and(|old| old.role_ref == binding.role_ref && old.subjects == binding.subjects)
        {
            return Ok(());
        }
        escalation::check_binding(user, namespace, &binding.role_ref, &view)
    } else if let Some(binding) = object.typed::<ClusterRoleBinding>() {
        if old
            .and_then(|old| old.typed::<ClusterRoleBinding>())
            .is_some_and(|old| old.role_ref == binding.role_ref && old.subjects == binding.subjects)
        {
            return Ok(());
        }
        escalation::check_binding(user, "", &binding.role_ref, &view)
    } else {
        return Ok(());
    };
    judged.map_err(|refused| match refused {
        Escalation::Forbidden(why) => write.forbidden(why),
        Escalation::NoSuchRole { resource, name } => {
            ApiError::not_found_in("rbac.authorization.k8s.io", resource, &name)
        }
    })
}
