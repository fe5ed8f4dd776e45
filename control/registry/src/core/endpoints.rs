//! Endpoints.

use k8s_openapi::api::core::v1::Endpoints;

use crate::strategy::Strategy;

impl Strategy for Endpoints {}
