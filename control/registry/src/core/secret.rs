//! Secret.

use k8s_openapi::api::core::v1::Secret;

use crate::strategy::Strategy;

impl Strategy for Secret {}
