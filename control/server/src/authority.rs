//! The cluster's authority: made once, kept as one record in the (sealed) state, and the certificates this server needs from it.

use crate::config::ServerConfig;
use anyhow::{Context, Result};
use caravel_api::{Encoded, Key};
use caravel_auth::{Authority, AuthorityPem, authority::DEFAULT_ISSUER, certificate, tls};
use caravel_store::{CommitError, Store, Txn};
use rustls::RootCertStore;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// No kind lies here, so that no API request ever reads it.
const KEY: &str = "/registry/caravel/authority/authority";

#[derive(Serialize, Deserialize)]
struct Record {
    authority: AuthorityPem,
}

/// The authority as this replica has it, without asking anybody.
pub(crate) fn local(store: &Store) -> Result<Option<Authority>> {
    let Some(entry) = store.snapshot().entry(&Key::from(KEY)) else {
        return Ok(None);
    };
    let record: Record = serde_json::from_slice(&entry.json)
        .context("the cluster's authority in the store cannot be read")?;
    Ok(Some(Authority::load(&record.authority, DEFAULT_ISSUER)?))
}

/// Loads the authority, or creates it in an empty cluster.
pub(crate) async fn load_or_create(store: &Store) -> Result<Authority> {
    let key = Key::from(KEY);
    for _ in 0..2 {
        store.fresh_snapshot().await?;
        if let Some(known) = local(store)? {
            return Ok(known);
        }
        let made = Authority::create(DEFAULT_ISSUER)?;
        let mut record = serde_json::to_value(Record {
            authority: made.to_pem(),
        })?;
        if let Value::Object(members) = &mut record {
            members.insert("metadata".to_owned(), json!({ "name": "authority" }));
        }
        let txn = Txn::create(key.clone(), Encoded::new(record.to_string())?);
        match store.commit(txn).await {
            Ok(_) => return Ok(made),
            // Another server was first: take its.
            Err(CommitError::Conflict(..)) => {}
            Err(error) => return Err(error).context("keep the cluster's new authority"),
        }
    }
    anyhow::bail!("the cluster's authority was created by another server but cannot be found")
}

/// The serving side: a fresh certificate at every start, for every name this server is reached by.
pub(crate) fn serving(
    authority: &Authority,
    config: &ServerConfig,
) -> Result<Arc<rustls::ServerConfig>> {
    let domain = &config.domain;
    let mut dns: Vec<String> = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "localhost",
    ]
    .map(str::to_owned)
    .to_vec();
    dns.push(format!("kubernetes.default.svc.{domain}"));
    dns.push(config.name.clone());
    let mut ips = vec![
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::LOCALHOST),
        config.advertise,
        IpAddr::V4(config.kubernetes_ip()),
    ];
    if !config.listen.ip().is_unspecified() {
        ips.push(config.listen.ip());
    }
    for san in &config.tls_sans {
        match san.parse() {
            Ok(ip) => ips.push(ip),
            Err(_) => dns.push(san.clone()),
        }
    }
    dns.sort();
    dns.dedup();
    ips.sort();
    ips.dedup();
    let issued = authority.issue_server(&dns, &ips)?;
    Ok(tls::server_config(&issued.cert_pem, &issued.key_pem)?)
}

/// How this server speaks with nodes: it believes the cluster's CA and shows its own certificate.
pub(crate) fn kubelet_client(authority: &Authority) -> Result<Arc<rustls::ClientConfig>> {
    let issued = authority.issue_kubelet_client()?;
    let mut roots = RootCertStore::empty();
    roots.add(authority.cluster_ca().der().clone())?;
    let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes())
        .map_err(|error| anyhow::anyhow!("read the kubelet client's key: {error}"))?;
    let config = rustls::ClientConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(certificate::parse_pem(&issued.cert_pem), key)?;
    Ok(Arc::new(config))
}
