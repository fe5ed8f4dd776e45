//! ReplicaSet.

use k8s_openapi::api::apps::v1::ReplicaSet;

use crate::strategy::Strategy;

impl Strategy for ReplicaSet {}
