//! Deployment.

use k8s_openapi::api::apps::v1::Deployment;

use crate::strategy::Strategy;

impl Strategy for Deployment {}
