//! Event.

use k8s_openapi::api::core::v1::Event;

use crate::strategy::Strategy;

impl Strategy for Event {}
