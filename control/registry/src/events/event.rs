//! Event.

use k8s_openapi::api::events::v1::Event;

use crate::strategy::Strategy;

impl Strategy for Event {}
