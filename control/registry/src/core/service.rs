//! Service.

use k8s_openapi::api::core::v1::Service;

use crate::strategy::Strategy;

impl Strategy for Service {}
