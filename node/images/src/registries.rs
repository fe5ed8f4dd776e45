//! `registries.yaml`: mirrors, plain HTTP, trust and credentials per registry.
//!
//! The file's shape is k3s's (`mirrors: {host: {endpoint: [url]}}`, `configs: {host: {auth, tls}}`), because that is
//! what people already have. An endpoint written with `http://` is the only way to plain HTTP.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registries {
    #[serde(default)]
    pub mirrors: BTreeMap<String, Mirror>,
    #[serde(default)]
    pub configs: BTreeMap<String, RegistryConfig>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mirror {
    /// URLs, tried in order, before the registry itself.
    #[serde(default, alias = "endpoints")]
    pub endpoint: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegistryConfig {
    #[serde(default)]
    pub auth: Option<RegistryLogin>,
    #[serde(default)]
    pub tls: Option<RegistryTls>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegistryLogin {
    #[serde(default)]
    pub username: String,
    #[serde(default)]
    pub password: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegistryTls {
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    #[serde(default)]
    pub insecure_skip_verify: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum RegistriesError {
    #[error("read {path}: {source}")]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{path} is not a valid registries file: {source}")]
    Parse {
        path: PathBuf,
        source: serde_yaml_ng::Error,
    },
    #[error(
        "{path}: mirror of {registry}: endpoint {endpoint:?} must begin with https:// or http:// and name a host"
    )]
    Endpoint {
        path: PathBuf,
        registry: String,
        endpoint: String,
    },
}

/// Where a pull is tried: a host, and how it is spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub host: String,
    pub plain_http: bool,
    pub ca_file: Option<PathBuf>,
    pub skip_verify: bool,
    pub login: Option<(String, String)>,
}

impl Registries {
    /// The file's content, or nothing where there is no such file.
    pub fn load(path: &Path) -> Result<Self, RegistriesError> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(source) => {
                return Err(RegistriesError::Read {
                    path: path.to_owned(),
                    source,
                });
            }
        };
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let registries: Self =
            serde_yaml_ng::from_str(&text).map_err(|source| RegistriesError::Parse {
                path: path.to_owned(),
                source,
            })?;
        for (registry, mirror) in &registries.mirrors {
            if let Some(endpoint) = mirror.endpoint.iter().find(|url| split(url).is_none()) {
                return Err(RegistriesError::Endpoint {
                    path: path.to_owned(),
                    registry: registry.clone(),
                    endpoint: endpoint.clone(),
                });
            }
        }
        Ok(registries)
    }

    /// The endpoints to try for `registry`, in order; the last one is the registry itself.
    pub(crate) fn endpoints(&self, registry: &str) -> Vec<Endpoint> {
        let mirror = self.mirrors.get(registry).or_else(|| self.mirrors.get("*"));
        let mut endpoints: Vec<Endpoint> = mirror
            .into_iter()
            .flat_map(|m| &m.endpoint)
            .filter_map(|url| split(url))
            .map(|(host, plain)| self.endpoint(&host, plain))
            .collect();
        let own = if registry == "docker.io" {
            "registry-1.docker.io"
        } else {
            registry
        };
        if !endpoints.iter().any(|e| e.host == own) {
            let mut endpoint = self.endpoint(own, false);
            if let Some(config) = self.configs.get(registry).filter(|_| own != registry) {
                endpoint.login = endpoint.login.or_else(|| login(config));
            }
            endpoints.push(endpoint);
        }
        endpoints
    }

    fn endpoint(&self, host: &str, plain_http: bool) -> Endpoint {
        let config = self.configs.get(host);
        let tls = config.and_then(|c| c.tls.as_ref());
        Endpoint {
            host: host.to_owned(),
            plain_http,
            ca_file: tls.and_then(|t| t.ca_file.clone()),
            skip_verify: tls.is_some_and(|t| t.insecure_skip_verify),
            login: config.and_then(login),
        }
    }
}

fn login(config: &RegistryConfig) -> Option<(String, String)> {
    config
        .auth
        .as_ref()
        .map(|auth| (auth.username.clone(), auth.password.clone()))
}

/// Host (with port) and whether it is plain HTTP. A path after the host (k3s writes `/v2`) is dropped.
fn split(url: &str) -> Option<(String, bool)> {
    let (rest, plain) = match url.strip_prefix("http://") {
        Some(rest) => (rest, true),
        None => (url.strip_prefix("https://")?, false),
    };
    let host = rest.split('/').next().filter(|host| !host.is_empty())?;
    Some((host.to_owned(), plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_in_order() {
        let registries: Registries = serde_yaml_ng::from_str(
            "mirrors: {docker.io: {endpoint: ['http://10.0.0.1:5000/v2', 'https://mirror']}}\nconfigs: {mirror: {auth: {username: u, password: p}, tls: {insecure_skip_verify: true}}}",
        )
        .unwrap();
        let shown = |registry| {
            registries
                .endpoints(registry)
                .iter()
                .map(|e| {
                    format!(
                        "{} {} {} {:?}",
                        e.host, e.plain_http, e.skip_verify, e.login
                    )
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(
            shown("docker.io"),
            [
                "10.0.0.1:5000 true false None",
                "mirror false true Some((\"u\", \"p\"))",
                "registry-1.docker.io false false None"
            ]
        );
        assert_eq!(shown("quay.io"), ["quay.io false false None"]);
    }
}
