//! Pod.

use k8s_openapi::api::core::v1::Pod;

use crate::strategy::Strategy;

impl Strategy for Pod {}
