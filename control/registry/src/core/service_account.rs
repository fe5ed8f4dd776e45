//! ServiceAccounts.
//!
//! Follows `ValidateServiceAccount` of `pkg/apis/core/validation`: metadata is all there is to check. Secrets of a new
//! account are the cluster's to make.

use k8s_openapi::api::core::v1::ServiceAccount;

use crate::strategy::Strategy;

impl Strategy for ServiceAccount {
    fn prepare_create(&mut self) {
        self.secrets = self.secrets.take().filter(|secrets| !secrets.is_empty());
    }
}
