//! Node.

use k8s_openapi::api::core::v1::Node;

use crate::strategy::Strategy;

impl Strategy for Node {}
