//! RoleBinding and ClusterRoleBinding.

use k8s_openapi::api::rbac::v1::{ClusterRoleBinding, RoleBinding};

use crate::meta::NameRule;
use crate::strategy::Strategy;

impl Strategy for RoleBinding {
    const NAME: NameRule = NameRule::PathSegment;
}

impl Strategy for ClusterRoleBinding {
    const NAME: NameRule = NameRule::PathSegment;
}
