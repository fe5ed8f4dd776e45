//! ConfigMaps: keys that are file names, a limited size, immutable on request.
//!
//! Follows `ValidateConfigMap` and `ValidateConfigMapUpdate` of `pkg/apis/core/validation`.

use caravel_api::FieldErrors;
use k8s_openapi::api::core::v1::ConfigMap;

use crate::found::{At, Found};
use crate::names;
use crate::strategy::Strategy;

/// All values of a ConfigMap (or Secret) together, in bytes.
pub const DATA_MAX: usize = 1024 * 1024;
pub const SEALED: &str = "field is immutable when `immutable` is set";

impl Strategy for ConfigMap {
    fn validate(&self) -> FieldErrors {
        let mut found = Found::new();
        let (data_at, binary_at) = (At::Root.child("data"), At::Root.child("binaryData"));
        let mut size = 0;
        for (key, value) in self.data.iter().flatten() {
            found.faults(&data_at.key(key), key, names::config_key(key));
            if self
                .binary_data
                .as_ref()
                .is_some_and(|binary| binary.contains_key(key))
            {
                found.invalid(
                    &data_at.key(key),
                    key.as_str(),
                    "duplicate of key present in binaryData",
                );
            }
            size += value.len();
        }
        for (key, value) in self.binary_data.iter().flatten() {
            found.faults(&binary_at.key(key), key, names::config_key(key));
            size += value.0.len();
        }
        if size > DATA_MAX {
            found.too_long(&At::Root.child(""), DATA_MAX);
        }
        found.into_errors()
    }

    fn validate_update(&self, old: &Self) -> FieldErrors {
        let mut found = Found::new();
        if old.immutable == Some(true) {
            for (name, changed) in [
                ("immutable", self.immutable != Some(true)),
                ("data", self.data != old.data),
                ("binaryData", self.binary_data != old.binary_data),
            ] {
                if changed {
                    found.forbidden(&At::Root.child(name), SEALED);
                }
            }
        }
        let mut errors = found.into_errors();
        errors.extend(self.validate());
        errors
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn config_maps() {
        let map = |value| serde_json::from_value::<ConfigMap>(value).unwrap();
        for (given, want) in [
            (json!({"data": {"a.b": "c"}}), "[]"),
            (
                json!({"data": {"a b": "c"}}),
                "data[a b]: Invalid value: \"a b\": a valid config key must consist",
            ),
            (
                json!({"data": {"a": "c"}, "binaryData": {"a": "YQ=="}}),
                "data[a]: Invalid value: \"a\": duplicate of key present in binaryData",
            ),
            (
                json!({"data": {"a": "x".repeat(DATA_MAX + 1)}}),
                "Too long: may not be more than 1048576 bytes",
            ),
        ] {
            let message = map(given).validate().message();
            assert!(message.contains(want), "{message}");
        }
        let sealed = map(json!({"immutable": true, "data": {"a": "b"}}));
        assert_eq!(
            map(json!({"data": {"a": "c"}}))
                .validate_update(&sealed)
                .len(),
            2
        );
        assert_eq!(sealed.validate_update(&sealed).len(), 0);
    }
}
