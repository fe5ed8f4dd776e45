//! One `kube` client for a cluster of several servers: the first that answers.
//!
//! A client stays with its server. Who sees its requests fail connects again, and so moves to a living one.

use crate::kubeconfig::Kubeconfig;
use std::time::Duration;

/// Servers are asked in order, each for this long.
const PROBE: Duration = Duration::from_secs(3);

#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("no API server answered: {0}")]
    NoServer(String),
    #[error("no API server is configured")]
    NoServers,
    #[error("{0} is no address of an API server: {1}")]
    Address(String, String),
    #[error("the client cannot be set up: {0}")]
    Client(String),
}

/// Who the client is. Everything is PEM text, not a path.
#[derive(Clone, Debug)]
pub enum Credential {
    Certificate { cert: String, key: String },
    Token(String),
    Anonymous,
}

#[derive(Clone, Debug)]
pub struct Config {
    /// `https://ADDRESS:PORT`, in order of preference.
    pub servers: Vec<String>,
    /// The cluster CA, PEM.
    pub ca: String,
    pub credential: Credential,
    /// Namespace of requests that name none.
    pub namespace: Option<String>,
}

/// Makes ring the process's TLS provider; calling it again does no harm.
pub fn install_crypto() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// A client of the first server that accepts a connection.
pub async fn connect(config: &Config) -> Result<kube::Client, ConnectError> {
    let server = first_reachable(&config.servers).await?;
    client(config, &server)
}

/// A client of this server, without asking whether it answers.
pub fn client(config: &Config, server: &str) -> Result<kube::Client, ConnectError> {
    install_crypto();
    let uri: http::Uri = server.parse().map_err(|e: http::uri::InvalidUri| {
        ConnectError::Address(server.to_owned(), e.to_string())
    })?;
    let mut kube = kube::Config::new(uri);
    let cas = rustls_cas(&config.ca);
    if cas.is_empty() {
        return Err(ConnectError::Client(
            "the cluster CA holds no certificate in PEM form".into(),
        ));
    }
    kube.root_cert = Some(cas);
    kube.connect_timeout = Some(Duration::from_secs(5));
    if let Some(namespace) = &config.namespace {
        kube.default_namespace.clone_from(namespace);
    }
    match &config.credential {
        Credential::Certificate { cert, key } => {
            kube.auth_info.client_certificate_data = Some(base64(cert));
            kube.auth_info.client_key_data = Some(base64(key).into());
        }
        Credential::Token(token) => kube.auth_info.token = Some(token.clone().into()),
        Credential::Anonymous => {}
    }
    kube::Client::try_from(kube).map_err(|e| ConnectError::Client(e.to_string()))
}

/// A client for the current context of a kubeconfig file's text.
pub async fn from_kubeconfig(text: &str) -> Result<kube::Client, ConnectError> {
    let kubeconfig = Kubeconfig::parse(text).map_err(|e| ConnectError::Client(e.to_string()))?;
    connect(&kubeconfig.config()).await
}

async fn first_reachable(servers: &[String]) -> Result<String, ConnectError> {
    let mut refused = Vec::new();
    for server in servers {
        let address = authority(server)?;
        match tokio::time::timeout(PROBE, tokio::net::TcpStream::connect(&address)).await {
            Ok(Ok(_)) => return Ok(server.clone()),
            Ok(Err(error)) => refused.push(format!("{server}: {error}")),
            Err(_) => refused.push(format!("{server}: no answer within {} s", PROBE.as_secs())),
        }
    }
    Err(if refused.is_empty() {
        ConnectError::NoServers
    } else {
        ConnectError::NoServer(refused.join("; "))
    })
}

/// `host:port` of a server's URL.
pub(crate) fn authority(server: &str) -> Result<String, ConnectError> {
    let bad = |why: &str| ConnectError::Address(server.to_owned(), why.to_owned());
    let uri: http::Uri = server.parse().map_err(|_| bad("not a URL"))?;
    if uri.scheme_str() != Some("https") {
        return Err(bad("it must begin with https://"));
    }
    let host = uri.host().ok_or_else(|| bad("it names no host"))?;
    Ok(format!("{host}:{}", uri.port_u16().unwrap_or(6443)))
}

fn rustls_cas(pem: &str) -> Vec<Vec<u8>> {
    use rustls::pki_types::{CertificateDer, pem::PemObject as _};
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .filter_map(Result::ok)
        .map(|c| c.as_ref().to_vec())
        .collect()
}

fn base64(text: &str) -> String {
    crate::kubeconfig::encode(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::authority;

    #[test]
    fn addresses_of_servers() {
        for (url, expected) in [
            ("https://10.0.0.1:6443", Some("10.0.0.1:6443")),
            ("https://a", Some("a:6443")),
            ("https://[fd00::1]:1", Some("[fd00::1]:1")),
            ("http://a", None),
            ("a:1", None),
        ] {
            assert_eq!(authority(url).ok().as_deref(), expected, "{url}");
        }
    }
}
