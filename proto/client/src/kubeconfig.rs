//! The kubeconfig file: written for people and nodes, and read back. One cluster, one user, one context.
//!
//! Format as `client-go/tools/clientcmd/api/v1`. What others put into a kubeconfig beyond the current context's
//! cluster, certificate and token (exec plugins, proxies) is not understood here; `kubectl` is the tool for these.

use crate::connect::{Config, Credential};
use base64::Engine as _;
use serde::{Deserialize, Serialize};

#[derive(Debug, thiserror::Error)]
pub enum KubeconfigError {
    #[error("the kubeconfig is not readable: {0}")]
    Yaml(#[from] serde_yaml_ng::Error),
    #[error("the kubeconfig has no {0}")]
    Missing(&'static str),
    #[error("the kubeconfig's {0} is not base64 of PEM text")]
    Encoding(&'static str),
    #[error("the kubeconfig names the file {0}, which cannot be read: {1}")]
    File(String, std::io::Error),
}

/// What a kubeconfig is made from.
#[derive(Clone, Debug)]
pub struct Kubeconfig {
    pub cluster: String,
    pub user: String,
    pub server: String,
    pub ca: String,
    pub credential: Credential,
    pub namespace: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct File {
    #[serde(rename = "apiVersion")]
    api_version: String,
    kind: String,
    current_context: String,
    clusters: Vec<NamedCluster>,
    contexts: Vec<NamedContext>,
    users: Vec<NamedUser>,
}

#[derive(Serialize, Deserialize)]
struct NamedCluster {
    name: String,
    cluster: ClusterEntry,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct ClusterEntry {
    server: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    certificate_authority_data: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    certificate_authority: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct NamedContext {
    name: String,
    context: ContextEntry,
}

#[derive(Serialize, Deserialize)]
struct ContextEntry {
    cluster: String,
    user: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct NamedUser {
    name: String,
    user: UserEntry,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct UserEntry {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client_certificate_data: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client_key_data: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client_certificate: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client_key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    token: Option<String>,
}

impl Kubeconfig {
    /// The YAML text. It holds a secret: write it 0600.
    pub fn to_yaml(&self) -> Result<String, KubeconfigError> {
        let mut user = UserEntry::default();
        match &self.credential {
            Credential::Certificate { cert, key } => {
                user.client_certificate_data = Some(encode(cert.as_bytes()));
                user.client_key_data = Some(encode(key.as_bytes()));
            }
            Credential::Token(token) => user.token = Some(token.clone()),
            Credential::Anonymous => {}
        }
        let context = format!("{}@{}", self.user, self.cluster);
        let file = File {
            api_version: "v1".into(),
            kind: "Config".into(),
            current_context: context.clone(),
            clusters: vec![NamedCluster {
                name: self.cluster.clone(),
                cluster: ClusterEntry {
                    server: self.server.clone(),
                    certificate_authority_data: Some(encode(self.ca.as_bytes())),
                    certificate_authority: None,
                },
            }],
            contexts: vec![NamedContext {
                name: context,
                context: ContextEntry {
                    cluster: self.cluster.clone(),
                    user: self.user.clone(),
                    namespace: self.namespace.clone(),
                },
            }],
            users: vec![NamedUser {
                name: self.user.clone(),
                user,
            }],
        };
        Ok(serde_yaml_ng::to_string(&file)?)
    }

    /// The current context of a kubeconfig file's text.
    pub fn parse(text: &str) -> Result<Self, KubeconfigError> {
        let file: File = serde_yaml_ng::from_str(text)?;
        let context = file
            .contexts
            .into_iter()
            .find(|c| c.name == file.current_context)
            .ok_or(KubeconfigError::Missing("current context"))?
            .context;
        let cluster = file
            .clusters
            .into_iter()
            .find(|c| c.name == context.cluster)
            .ok_or(KubeconfigError::Missing("cluster of its current context"))?
            .cluster;
        let user = file
            .users
            .into_iter()
            .find(|u| u.name == context.user)
            .ok_or(KubeconfigError::Missing("user of its current context"))?
            .user;
        let ca = text_of(
            cluster.certificate_authority_data,
            cluster.certificate_authority,
            "certificate authority",
        )?
        .ok_or(KubeconfigError::Missing("certificate authority"))?;
        let cert = text_of(
            user.client_certificate_data,
            user.client_certificate,
            "client certificate",
        )?;
        let key = text_of(user.client_key_data, user.client_key, "client key")?;
        let credential = match (cert, key, user.token) {
            (Some(cert), Some(key), _) => Credential::Certificate { cert, key },
            (_, _, Some(token)) => Credential::Token(token),
            _ => Credential::Anonymous,
        };
        Ok(Self {
            cluster: context.cluster,
            user: context.user,
            server: cluster.server,
            ca,
            credential,
            namespace: context.namespace,
        })
    }

    /// The same cluster and user under another address (a load balancer's, another server's).
    #[must_use]
    pub fn at(mut self, server: &str) -> Self {
        server.clone_into(&mut self.server);
        self
    }

    pub fn config(&self) -> Config {
        Config {
            servers: vec![self.server.clone()],
            ca: self.ca.clone(),
            credential: self.credential.clone(),
            namespace: self.namespace.clone(),
        }
    }
}

pub(crate) fn encode(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

fn text_of(
    data: Option<String>,
    path: Option<String>,
    what: &'static str,
) -> Result<Option<String>, KubeconfigError> {
    if let Some(data) = data {
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(data.trim())
            .map_err(|_| KubeconfigError::Encoding(what))?;
        return String::from_utf8(bytes)
            .map(Some)
            .map_err(|_| KubeconfigError::Encoding(what));
    }
    path.map(|path| std::fs::read_to_string(&path).map_err(|e| KubeconfigError::File(path, e)))
        .transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let written = Kubeconfig {
            cluster: "caravel".into(),
            user: "admin".into(),
            server: "https://127.0.0.1:6443".into(),
            ca: "CA".into(),
            credential: Credential::Certificate {
                cert: "CERT".into(),
                key: "KEY".into(),
            },
            namespace: None,
        };
        let text = written.to_yaml().unwrap();
        let read = Kubeconfig::parse(&text).unwrap().at("https://other:1");
        assert_eq!(
            (read.server.as_str(), read.ca.as_str()),
            ("https://other:1", "CA")
        );
        assert!(
            matches!(read.credential, Credential::Certificate { cert, key } if cert == "CERT" && key == "KEY")
        );
        assert!(text.contains("certificate-authority-data: Q0E="));
    }
}
