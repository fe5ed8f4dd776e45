//! Kinds of the group `rbac.authorization.k8s.io`.

pub mod binding;
pub mod role;
