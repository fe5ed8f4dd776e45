//! Leases.
//!
//! Follows `pkg/apis/coordination/validation`.

use caravel_api::FieldErrors;
use k8s_openapi::api::coordination::v1::Lease;

use crate::found::{At, Found};
use crate::names;
use crate::strategy::Strategy;

impl Strategy for Lease {
    fn validate(&self) -> FieldErrors {
        let mut found = Found::new();
        let Some(spec) = &self.spec else {
            return found.into_errors();
        };
        let at = At::Root.child("spec");
        if let Some(seconds) = spec.lease_duration_seconds.filter(|seconds| *seconds <= 0) {
            found.invalid(
                &at.child("leaseDurationSeconds"),
                seconds,
                "must be greater than 0",
            );
        }
        if let Some(count) = spec.lease_transitions {
            found.not_negative(&at.child("leaseTransitions"), i64::from(count));
        }
        match spec.strategy.as_deref() {
            None if spec
                .preferred_holder
                .as_ref()
                .is_some_and(|holder| !holder.is_empty()) =>
            {
                found.forbidden(
                    &at.child("preferredHolder"),
                    "may only be specified when `strategy` is defined",
                );
            }
            None | Some("OldestEmulationVersion") => {}
            Some(strategy) if strategy.contains('/') => {
                found.faults(
                    &at.child("strategy"),
                    strategy,
                    names::qualified_name(strategy),
                );
            }
            Some(strategy) => {
                found.not_supported(&at.child("strategy"), strategy, &["OldestEmulationVersion"])
            }
        }
        found.into_errors()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn leases() {
        for (spec, want) in [
            (
                json!({"leaseDurationSeconds": 40, "holderIdentity": "n"}),
                "[]",
            ),
            (
                json!({"leaseDurationSeconds": 0}),
                "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0",
            ),
            (
                json!({"leaseTransitions": -1}),
                "spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0",
            ),
        ] {
            let lease: Lease = serde_json::from_value(json!({"spec": spec})).unwrap();
            assert_eq!(lease.validate().message(), want);
        }
    }
}
