//! The server's TLS: its own certificate, and client certificates of the cluster's CA where a client has one.

use std::sync::Arc;

use anyhow::Context;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio_rustls::TlsAcceptor;

use super::Certificates;

pub(super) fn acceptor(certificates: &Certificates<'_>) -> anyhow::Result<TlsAcceptor> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(certificates.client_ca.as_bytes()) {
        roots
            .add(certificate.context("read the client CA")?)
            .context("read the client CA")?;
    }
    // Without a certificate a token may still do.
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .context("read the client CA")?;
    let chain = CertificateDer::pem_slice_iter(certificates.cert.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .context("read the serving certificate")?;
    let key = PrivateKeyDer::from_pem_slice(certificates.key.as_bytes())
        .context("read the serving key")?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("TLS versions")?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .context("serving certificate and key")?;
    // Upgrades are a matter of HTTP/1.1.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
