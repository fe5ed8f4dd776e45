//! ConfigMap: keys that are file names, a size, and immutability on request.

use k8s_openapi::api::core::v1::ConfigMap;

use crate::strategy::Strategy;

impl Strategy for ConfigMap {}
