//! Joining a cluster: shows a server the token, and believes only a server whose CA has the hash that the token names.
//!
//! The server sends its CA at the end of its TLS chain. That certificate is trusted if and only if its SHA-256 is the
//! expected one, and the chain and the server's name are then checked as always; the secret leaves only after that.

use crate::connect::authority;
use caravel_rpc::cluster::v1::join_client::JoinClient;
use caravel_rpc::cluster::v1::{
    SignNodeRequest, SignNodeResponse, SignServerRequest, SignServerResponse,
};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use sha2::{Digest as _, Sha256};
use std::sync::Arc;
use std::time::Duration;
use tokio_rustls::TlsConnector;
use tonic::transport::Channel;

const DEADLINE: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error("{0} cannot be reached: {1}")]
    Unreachable(String, String),
    #[error(
        "{0} is not the cluster that the token names, or its certificate does not fit its address: {1}"
    )]
    WrongCluster(String, String),
    #[error("{server} refused: {message}")]
    Refused { server: String, message: String },
    #[error("no server to join is given")]
    NoServers,
}

impl JoinError {
    /// Whether trying again later may help.
    pub fn is_temporary(&self) -> bool {
        matches!(self, JoinError::Unreachable(..))
    }
}

/// Where to join, and how to know that it is the right place.
#[derive(Clone, Debug)]
pub struct JoinTarget {
    /// `https://ADDRESS:PORT`, asked in order.
    pub servers: Vec<String>,
    /// SHA-256 of the cluster CA's certificate (DER), hex.
    pub ca_hash: String,
}

/// Joins as a node.
///
/// # Errors
/// See [`JoinError`].
pub async fn join(
    target: &JoinTarget,
    request: SignNodeRequest,
) -> Result<SignNodeResponse, JoinError> {
    let ask = async |mut client: JoinClient<Channel>| client.sign_node(request.clone()).await;
    first_that_answers(target, None, ask).await
}

/// Exchanges a node's certificates for new ones: as joining, without a token, by the client certificate (PEM) that it has.
///
/// # Errors
/// See [`JoinError`].
pub async fn renew(
    target: &JoinTarget,
    cert: &str,
    key: &str,
    request: SignNodeRequest,
) -> Result<SignNodeResponse, JoinError> {
    let ask = async |mut client: JoinClient<Channel>| client.sign_node(request.clone()).await;
    first_that_answers(target, Some((cert, key)), ask).await
}

/// Joins as a server.
///
/// # Errors
/// See [`JoinError`].
pub async fn join_server(
    target: &JoinTarget,
    request: SignServerRequest,
) -> Result<SignServerResponse, JoinError> {
    let ask = async |mut client: JoinClient<Channel>| client.sign_server(request.clone()).await;
    first_that_answers(target, None, ask).await
}

/// A certificate and its key, PEM.
type Shown<'a> = Option<(&'a str, &'a str)>;

async fn first_that_answers<A>(
    target: &JoinTarget,
    shown: Shown<'_>,
    ask: impl AsyncFn(JoinClient<Channel>) -> Result<tonic::Response<A>, tonic::Status>,
) -> Result<A, JoinError> {
    let mut last = JoinError::NoServers;
    for server in &target.servers {
        match tokio::time::timeout(DEADLINE, join_at(server, &target.ca_hash, shown, &ask)).await {
            Ok(Ok(response)) => return Ok(response),
            Ok(Err(error)) if error.is_temporary() => last = error,
            Ok(Err(error)) => return Err(error),
            Err(_) => {
                last = JoinError::Unreachable(
                    server.clone(),
                    format!("no answer within {} s", DEADLINE.as_secs()),
                )
            }
        }
    }
    Err(last)
}

async fn join_at<A>(
    server: &str,
    ca_hash: &str,
    shown: Shown<'_>,
    ask: impl AsyncFn(JoinClient<Channel>) -> Result<tonic::Response<A>, tonic::Status>,
) -> Result<A, JoinError> {
    let address =
        authority(server).map_err(|e| JoinError::Unreachable(server.to_owned(), e.to_string()))?;
    let uri: http::Uri = server
        .parse()
        .map_err(|_| JoinError::Unreachable(server.to_owned(), "not a URL".into()))?;
    let host = uri
        .host()
        .unwrap_or_default()
        .trim_matches(['[', ']'])
        .to_owned();
    let tcp = tokio::net::TcpStream::connect(&address)
        .await
        .map_err(|e| JoinError::Unreachable(server.to_owned(), e.to_string()))?;
    let name = ServerName::try_from(host)
        .map_err(|e| JoinError::Unreachable(server.to_owned(), e.to_string()))?;
    let connector = pinned(ca_hash, shown).map_err(|e| JoinError::Refused {
        server: server.to_owned(),
        message: format!("the certificate to show cannot be used: {e}"),
    })?;
    let tls = connector.connect(name, tcp).await.map_err(|error| {
        match error.get_ref().is_some_and(|e| e.is::<rustls::Error>()) {
            true => JoinError::WrongCluster(server.to_owned(), error.to_string()),
            false => JoinError::Unreachable(server.to_owned(), error.to_string()),
        }
    })?;
    let refused = |message: String| JoinError::Refused {
        server: server.to_owned(),
        message,
    };
    // The connection is made already; the connector hands it out once. The scheme is http because TLS is below it.
    let mut connection = Some(TokioIo::new(tls));
    let connector = tower::service_fn(move |_: http::Uri| {
        let connection = connection
            .take()
            .ok_or_else(|| std::io::Error::other("the connection has ended"));
        async move { connection }
    });
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}"))
        .map_err(|e| refused(e.to_string()))?;
    let channel = endpoint
        .connect_with_connector(connector)
        .await
        .map_err(|e| JoinError::Unreachable(server.to_owned(), e.to_string()))?;
    let answer = ask(JoinClient::new(channel))
        .await
        .map_err(|status| match status.code() {
            tonic::Code::Unavailable | tonic::Code::DeadlineExceeded => {
                JoinError::Unreachable(server.to_owned(), status.message().to_owned())
            }
            _ => refused(format!("{} ({:?})", status.message(), status.code())),
        })?;
    Ok(answer.into_inner())
}

fn pinned(ca_hash: &str, shown: Shown<'_>) -> Result<TlsConnector, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("ring serves TLS 1.2 and 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(PinnedCa {
            hash: ca_hash.to_ascii_lowercase(),
            provider,
        }));
    let mut config = match shown {
        None => config.with_no_client_auth(),
        Some((cert, key)) => {
            let unreadable =
                |e: rustls::pki_types::pem::Error| rustls::Error::General(e.to_string());
            let chain = CertificateDer::pem_slice_iter(cert.as_bytes())
                .collect::<Result<Vec<_>, _>>()
                .map_err(unreadable)?;
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(unreadable)?;
            config.with_client_auth_cert(chain, key)?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

#[derive(Debug)]
struct PinnedCa {
    hash: String,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedCa {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let ca = chain
            .iter()
            .find(|cert| hex::encode(Sha256::digest(cert)) == self.hash);
        let Some(ca) = ca else {
            return Err(CertificateError::UnknownIssuer.into());
        };
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone().into_owned())?;
        let verifier = rustls::client::WebPkiServerVerifier::builder_with_provider(
            Arc::new(roots),
            self.provider.clone(),
        )
        .build()
        .map_err(|e| rustls::Error::General(e.to_string()))?;
        verifier.verify_server_cert(leaf, chain, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
