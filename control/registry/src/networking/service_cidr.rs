//! ServiceCIDR.

use k8s_openapi::api::networking::v1::ServiceCIDR;

use crate::strategy::Strategy;

impl Strategy for ServiceCIDR {}
