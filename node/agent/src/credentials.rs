//! Logins for registries out of Secrets of type `kubernetes.io/dockerconfigjson` (and the older `dockercfg`). Pure.

use base64::Engine;
use caravel_images::Credential;
use k8s_openapi::api::core::v1::Secret;
use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, Auth>,
}

#[derive(Deserialize)]
struct Auth {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    auth: String,
}

pub(crate) fn of_secret(secret: &Secret) -> Vec<Credential> {
    let data = |key: &str| {
        secret
            .data
            .as_ref()
            .and_then(|d| d.get(key))
            .map(|v| v.0.as_slice())
    };
    let auths = if let Some(bytes) = data(".dockerconfigjson") {
        serde_json::from_slice::<DockerConfig>(bytes)
            .map(|c| c.auths)
            .unwrap_or_default()
    } else if let Some(bytes) = data(".dockercfg") {
        serde_json::from_slice(bytes).unwrap_or_default()
    } else {
        BTreeMap::new()
    };
    auths
        .into_iter()
        .filter_map(|(registry, auth)| credential(registry, &auth))
        .collect()
}

fn credential(registry: String, auth: &Auth) -> Option<Credential> {
    if !auth.username.is_empty() {
        return Some(Credential {
            registry,
            username: auth.username.clone(),
            password: auth.password.clone(),
        });
    }
    let decoded = base64::engine::general_purpose::STANDARD
        .decode(&auth.auth)
        .ok()?;
    let text = String::from_utf8(decoded).ok()?;
    let (username, password) = text.split_once(':')?;
    Some(Credential {
        registry,
        username: username.to_owned(),
        password: password.to_owned(),
    })
}
