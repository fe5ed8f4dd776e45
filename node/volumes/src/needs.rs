//! Which objects a Pod's volumes are made from. Pure: the daemon fetches them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};

/// A token that a projected volume asks for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TokenRequest {
    /// Whom it is for; empty: the API server.
    pub audience: String,
    /// How long it should last, in seconds.
    pub expiration_seconds: i64,
}

/// What must be fetched before a Pod's volumes can be set up, all in the Pod's namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needs {
    /// ConfigMaps by name.
    pub config_maps: BTreeSet<String>,
    /// Secrets by name.
    pub secrets: BTreeSet<String>,
    /// Tokens of the Pod's service account.
    pub tokens: BTreeSet<TokenRequest>,
}

/// What was fetched. What is not in here does not exist.
#[derive(Debug, Clone, Default)]
pub struct Objects {
    /// ConfigMaps by name.
    pub config_maps: BTreeMap<String, Arc<ConfigMap>>,
    /// Secrets by name.
    pub secrets: BTreeMap<String, Arc<Secret>>,
    /// Tokens, or why there is none.
    pub tokens: BTreeMap<TokenRequest, Result<String, String>>,
}

/// What this Pod's volumes need.
pub fn needs(pod: &Pod) -> Needs {
    let mut needs = Needs::default();
    for volume in pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()) {
        if let Some(source) = &volume.config_map {
            needs.config_maps.insert(source.name.clone());
        }
        if let Some(name) = volume.secret.as_ref().and_then(|s| s.secret_name.clone()) {
            needs.secrets.insert(name);
        }
        for source in volume
            .projected
            .iter()
            .flat_map(|p| p.sources.iter().flatten())
        {
            if let Some(source) = &source.config_map {
                needs.config_maps.insert(source.name.clone());
            }
            if let Some(source) = &source.secret {
                needs.secrets.insert(source.name.clone());
            }
            if let Some(token) = &source.service_account_token {
                needs.tokens.insert(request(token));
            }
        }
    }
    needs
}

/// The token that a projection asks for.
pub(crate) fn request(
    token: &k8s_openapi::api::core::v1::ServiceAccountTokenProjection,
) -> TokenRequest {
    TokenRequest {
        audience: token.audience.clone().unwrap_or_default(),
        expiration_seconds: token.expiration_seconds.unwrap_or(3600),
    }
}
