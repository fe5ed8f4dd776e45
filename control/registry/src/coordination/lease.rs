//! Lease.

use k8s_openapi::api::coordination::v1::Lease;

use crate::strategy::Strategy;

impl Strategy for Lease {}
