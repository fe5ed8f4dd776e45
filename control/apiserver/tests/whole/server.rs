//! A whole API server over a store in memory, for tests.

use caravel_apiserver::{ApiServer, AuditLog, Config};
use caravel_auth::{Authority, authority::DEFAULT_ISSUER, tls};
use caravel_exporter::Registry;
use caravel_store::Store;
use rustls::RootCertStore;
use std::sync::Arc;

pub async fn server(authority: Arc<Authority>, audit: Option<AuditLog>) -> Arc<ApiServer> {
    let kubelet_tls = rustls::ClientConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    ApiServer::new(Config {
        store: Store::memory().await.unwrap(),
        authority,
        service_cidr: "10.43.0.0/16".into(),
        node_ports: 30000..=32767,
        kubelet_tls: Arc::new(kubelet_tls),
        grpc: None,
        metrics: Registry::new(),
        advertise: "192.0.2.1:6443".into(),
        audit,
    })
    .unwrap()
}

pub fn authority() -> Arc<Authority> {
    Arc::new(Authority::create(DEFAULT_ISSUER).unwrap())
}
