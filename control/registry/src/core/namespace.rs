//! Namespace.

use k8s_openapi::api::core::v1::Namespace;

use crate::strategy::Strategy;

impl Strategy for Namespace {}
