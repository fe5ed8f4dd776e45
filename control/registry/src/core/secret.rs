//! Secrets: typed, of limited size, immutable on request. `stringData` is for writing only.
//!
//! Follows `ValidateSecret` of `pkg/apis/core/validation` and the conversion of `stringData`.

use caravel_api::FieldErrors;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;

use super::config_map::{DATA_MAX, SEALED};
use crate::found::{At, Found, default_text};
use crate::names;
use crate::strategy::Strategy;

const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";

impl Strategy for Secret {
    const FIELDS: &'static [&'static str] = &["type"];

    fn normalise(&mut self) {
        if let Some(plain) = self.string_data.take() {
            let data = self.data.get_or_insert_default();
            data.extend(
                plain
                    .into_iter()
                    .map(|(key, value)| (key, ByteString(value.into_bytes()))),
            );
        }
    }

    fn apply_defaults(&mut self) {
        default_text(&mut self.type_, "Opaque");
    }

    fn prepare_update(&mut self, old: &Self) {
        if self.type_.as_deref().unwrap_or_default().is_empty() {
            self.type_.clone_from(&old.type_);
        }
    }

    fn validate(&self) -> FieldErrors {
        let mut found = Found::new();
        let at = At::Root.child("data");
        let mut size = 0;
        for (key, value) in self.data.iter().flatten() {
            found.faults(&at.key(key), key, names::config_key(key));
            size += value.0.len();
        }
        if size > DATA_MAX {
            found.too_long(&at, DATA_MAX);
        }
        let value = |key: &str| {
            self.data
                .as_ref()
                .and_then(|data| data.get(key))
                .map(|value| value.0.as_slice())
        };
        let mut required = |key: &str, there: bool| {
            if !there {
                found.required(&at.key(key), "");
            }
        };
        match self.type_.as_deref().unwrap_or_default() {
            "kubernetes.io/service-account-token" => {
                let name = self
                    .metadata
                    .annotations
                    .as_ref()
                    .and_then(|set| set.get(ACCOUNT_NAME));
                if name.is_none_or(String::is_empty) {
                    found.required(
                        &At::Root
                            .child("metadata")
                            .child("annotations")
                            .key(ACCOUNT_NAME),
                        "",
                    );
                }
            }
            "kubernetes.io/dockercfg" => {
                docker(&mut found, value(".dockercfg"), &at.key(".dockercfg"))
            }
            "kubernetes.io/dockerconfigjson" => docker(
                &mut found,
                value(".dockerconfigjson"),
                &at.key(".dockerconfigjson"),
            ),
            "kubernetes.io/basic-auth" => {
                let either = value("username").is_some() || value("password").is_some();
                required("username", either);
                required("password", either);
            }
            "kubernetes.io/ssh-auth" => required(
                "ssh-privatekey",
                value("ssh-privatekey").is_some_and(|key| !key.is_empty()),
            ),
            "kubernetes.io/tls" => {
                required("tls.crt", value("tls.crt").is_some());
                required("tls.key", value("tls.key").is_some());
            }
            _ => {}
        }
        found.into_errors()
    }

    fn validate_update(&self, old: &Self) -> FieldErrors {
        let mut found = Found::new();
        found.immutable(&At::Root.child("type"), &self.type_, &old.type_);
        if old.immutable == Some(true) {
            for (name, changed) in [
                ("immutable", self.immutable != Some(true)),
                ("data", self.data != old.data),
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

    fn field(&self, path: &str) -> Option<String> {
        (path == "type").then(|| self.type_.clone().unwrap_or_default())
    }
}

fn docker(found: &mut Found, value: Option<&[u8]>, at: &At) {
    match value.map(serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>) {
        None => found.required(at, ""),
        Some(Err(cause)) => found.invalid(at, "<secret contents redacted>", cause.to_string()),
        Some(Ok(_)) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Resource, Typed};
    use serde_json::json;

    #[test]
    fn secrets() {
        let secrets = Typed::<Secret>::NEW;
        for (given, want) in [
            (json!({"data": {"a": "YQ=="}}), "[]"),
            (json!({"data": {"a b": "YQ=="}}), "data[a b]: Invalid value"),
            (
                json!({"type": "kubernetes.io/tls", "data": {"tls.crt": "YQ=="}}),
                "data[tls.key]: Required value",
            ),
            (
                json!({"type": "kubernetes.io/ssh-auth"}),
                "data[ssh-privatekey]: Required value",
            ),
            (
                json!({"type": "kubernetes.io/basic-auth"}),
                "[data[username]: Required value, data[password]: Required value]",
            ),
            (
                json!({"type": "kubernetes.io/dockerconfigjson", "stringData": {".dockerconfigjson": "x"}}),
                "data[.dockerconfigjson]: Invalid value: \"<secret contents redacted>\"",
            ),
            (
                json!({"type": "kubernetes.io/dockerconfigjson", "stringData": {".dockerconfigjson": "{}"}}),
                "[]",
            ),
            (
                json!({"type": "kubernetes.io/service-account-token"}),
                "metadata.annotations[kubernetes.io/service-account.name]: Required value",
            ),
        ] {
            let mut object = secrets.from_value(given.clone()).unwrap();
            object.meta_mut().name = Some("s".to_owned());
            object.meta_mut().namespace = Some("n".to_owned());
            secrets.apply_defaults(&mut *object);
            let message = secrets.validate(&*object).message();
            assert!(message.contains(want), "{given}: {message}");
        }
        let plain = secrets
            .from_value(json!({"data": {"a": "YQ==", "b": "Yg=="}, "stringData": {"a": "c"}}))
            .unwrap();
        assert_eq!(plain.to_value()["data"], json!({"a": "Yw==", "b": "Yg=="}));
        assert_eq!(plain.to_value().get("stringData"), None);
    }
}
