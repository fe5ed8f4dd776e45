//! Role and ClusterRole.

use k8s_openapi::api::rbac::v1::{ClusterRole, Role};

use crate::meta::NameRule;
use crate::strategy::Strategy;

impl Strategy for Role {
    const NAME: NameRule = NameRule::PathSegment;
}

impl Strategy for ClusterRole {
    const NAME: NameRule = NameRule::PathSegment;
}
