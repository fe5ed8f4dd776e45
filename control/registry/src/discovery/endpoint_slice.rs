//! EndpointSlice.

use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::strategy::Strategy;

impl Strategy for EndpointSlice {}
