//! Pulls an image from a registry: one transfer per image however many ask, mirrors in order, every byte verified.
//!
//! An unreachable registry costs a short connect time-out and delays no other pull. Nothing is visible in the store
//! before the whole image is there. Reasons follow the kubelet's (pkg/kubelet/images/types.go).

use std::collections::BTreeMap;
use std::io::Write;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use oci_client::client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol};
use oci_client::manifest::OciDescriptor;
use oci_client::secrets::RegistryAuth;
use tokio::io::AsyncWrite;
use tokio::sync::OnceCell;

use crate::blobs::{BlobWriter, digest_of};
use crate::image::Image;
use crate::manifest::{Descriptor, Document, MAX_DOCUMENT};
use crate::reference::Reference;
use crate::registries::Endpoint;
use crate::store::{ImageStore, lock};
use crate::tasks;

const CONNECT: Duration = Duration::from_secs(5);
/// Longest silence in a transfer.
const STALL: Duration = Duration::from_secs(30);
const MANIFEST: Duration = Duration::from_secs(60);
/// Layers of one image in flight at once.
const PARALLEL: usize = 3;
const MAX_LAYER: u64 = 32 << 30;
const ACCEPTED: &[&str] = &[
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];

/// A login for one registry (a host, with its port if it has one), as `imagePullSecrets` carry it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Credential {
    pub registry: String,
    pub username: String,
    pub password: String,
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credential({}@{})", self.username, self.registry)
    }
}

/// The kubelet's word for why a container waits for its image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    InvalidImageName,
    ErrImagePull,
    RegistryUnavailable,
}

impl Reason {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidImageName => "InvalidImageName",
            Self::ErrImagePull => "ErrImagePull",
            Self::RegistryUnavailable => "RegistryUnavailable",
        }
    }
}

#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct PullError {
    pub reason: Reason,
    pub message: String,
}

/// One cell per pull that is under way; whoever asks for the same image with the same logins waits on it.
#[derive(Default)]
pub(crate) struct Flights(Mutex<BTreeMap<Flight, Arc<Outcome>>>);

type Flight = (String, Vec<Credential>);
type Outcome = OnceCell<Result<Image, PullError>>;

impl ImageStore {
    /// Pulls `reference`, also if it is already here (a tag may have moved; blobs that are here are not fetched again).
    pub async fn pull(
        &self,
        reference: &str,
        credentials: &[Credential],
    ) -> Result<Image, PullError> {
        let name = Reference::parse(reference).map_err(|error| PullError {
            reason: Reason::InvalidImageName,
            message: error.to_string(),
        })?;
        let mut logins: Vec<Credential> = credentials
            .iter()
            .filter(|c| serves(&c.registry, &name.registry))
            .cloned()
            .collect();
        logins.dedup();
        let flight = (name.to_string(), logins.clone());
        let cell = lock(&self.inner.flights.0)
            .entry(flight.clone())
            .or_default()
            .clone();
        let result = cell
            .get_or_init(|| self.pull_once(&name, &logins))
            .await
            .clone();
        let mut flights = lock(&self.inner.flights.0);
        if flights
            .get(&flight)
            .is_some_and(|current| Arc::ptr_eq(current, &cell))
        {
            flights.remove(&flight);
        }
        result
    }

    async fn pull_once(&self, name: &Reference, logins: &[Credential]) -> Result<Image, PullError> {
        let mut failures = Vec::new();
        for endpoint in self.inner.registries.endpoints(&name.registry) {
            // Without a secret anonymously, or with the machine's own login; a secret is tried first.
            let mut auths: Vec<RegistryAuth> = logins
                .iter()
                .map(|c| RegistryAuth::Basic(c.username.clone(), c.password.clone()))
                .collect();
            auths.push(
                endpoint
                    .login
                    .clone()
                    .map_or(RegistryAuth::Anonymous, |(user, password)| {
                        RegistryAuth::Basic(user, password)
                    }),
            );
            for auth in auths {
                match self.pull_from(&endpoint, name, &auth).await {
                    Ok(image) => return Ok(image),
                    Err(failure) => {
                        tracing::debug!(image = %name, endpoint = endpoint.host, failure, "pull failed");
                        failures.push(format!("{}: {failure}", endpoint.host));
                    }
                }
            }
        }
        failures.dedup();
        let message = format!(
            "failed to pull and unpack image \"{name}\": {}",
            failures.join("; ")
        );
        Err(PullError {
            reason: Reason::ErrImagePull,
            message,
        })
    }

    async fn pull_from(
        &self,
        endpoint: &Endpoint,
        name: &Reference,
        auth: &RegistryAuth,
    ) -> Result<Image, String> {
        let client = client(endpoint)?;
        let remote = |tag: Option<&String>, digest: Option<&String>| match (digest, tag) {
            (Some(digest), _) => oci_client::Reference::with_digest(
                endpoint.host.clone(),
                name.repository.clone(),
                digest.clone(),
            ),
            (None, tag) => oci_client::Reference::with_tag(
                endpoint.host.clone(),
                name.repository.clone(),
                tag.cloned().unwrap_or_else(|| "latest".into()),
            ),
        };
        let fetch = async |reference: oci_client::Reference| -> Result<(String, Document), String> {
            let pulled = tokio::time::timeout(
                MANIFEST,
                client.pull_manifest_raw(&reference, auth, ACCEPTED),
            )
            .await;
            let (bytes, _) = pulled
                .map_err(|_| "the registry did not answer in time".to_owned())?
                .map_err(|e| chain(&e))?;
            if bytes.len() as u64 > MAX_DOCUMENT {
                return Err("its manifest is too long".into());
            }
            let digest = digest_of(&bytes);
            if let Some(expected) = reference.digest()
                && expected != digest
            {
                return Err(format!(
                    "manifest is {digest}, not {expected} as asked: refused"
                ));
            }
            let document = serde_json::from_slice(&bytes)
                .map_err(|e| format!("its manifest cannot be read: {e}"))?;
            let blobs = self.inner.blobs.clone();
            tasks::blocking(move || blobs.put(&bytes))
                .await
                .map_err(|e| e.to_string())?;
            Ok((digest, document))
        };

        let store = self.clone();
        let _using = tasks::blocking(move || store.inner.using())
            .await
            .map_err(|e| e.to_string())?;
        let reference = remote(name.tag.as_ref(), name.digest.as_ref());
        let (asked, mut document) = fetch(reference.clone()).await?;
        let mut manifest = asked.clone();
        if document.config.is_none() {
            let inner = document
                .for_this_machine()
                .ok_or("no match for platform in manifest: not found")?
                .digest
                .clone();
            (manifest, document) = fetch(remote(None, Some(&inner))).await?;
        }
        let config = document.config.clone().ok_or("it is not an image")?;
        let fetches = document
            .layers
            .iter()
            .chain([&config])
            .map(|blob| self.fetch(&client, &reference, blob));
        futures::stream::iter(fetches.collect::<Vec<_>>())
            .buffer_unordered(PARALLEL)
            .try_collect::<Vec<()>>()
            .await?;

        let mut references = vec![name.at(&asked)];
        if name.digest.is_none() {
            references.insert(0, name.to_string());
        }
        let store = self.clone();
        tasks::blocking(move || store.inner.add(&manifest, &references))
            .await
            .map_err(|e| e.to_string())
    }

    async fn fetch(
        &self,
        client: &oci_client::Client,
        reference: &oci_client::Reference,
        blob: &Descriptor,
    ) -> Result<(), String> {
        if self.inner.blobs.contains(&blob.digest) {
            return Ok(());
        }
        if blob.size > MAX_LAYER {
            return Err(format!("layer {} is too large", blob.digest));
        }
        let mut writer = Blocking(
            self.inner
                .blobs
                .writer(blob.size)
                .map_err(|e| e.to_string())?,
        );
        let descriptor = OciDescriptor {
            media_type: blob.media_type.clone(),
            digest: blob.digest.clone(),
            size: blob.size as i64,
            ..OciDescriptor::default()
        };
        client
            .pull_blob(reference, &descriptor, &mut writer)
            .await
            .map_err(|e| format!("layer {}: {}", blob.digest, chain(&e)))?;
        let expected = blob.digest.clone();
        tasks::blocking(move || writer.0.finish(Some(&expected)))
            .await
            .map(drop)
            .map_err(|e| e.to_string())
    }
}

fn client(endpoint: &Endpoint) -> Result<oci_client::Client, String> {
    // The program has installed one already; a test or a tool may not have.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut config = ClientConfig {
        protocol: if endpoint.plain_http {
            ClientProtocol::Http
        } else {
            ClientProtocol::Https
        },
        accept_invalid_certificates: endpoint.skip_verify,
        connect_timeout: Some(CONNECT),
        read_timeout: Some(STALL),
        user_agent: "caravel",
        ..ClientConfig::default()
    };
    if let Some(path) = &endpoint.ca_file {
        let data = std::fs::read(path)
            .map_err(|e| format!("read the registry's CA file {}: {e}", path.display()))?;
        config.extra_root_certificates = vec![Certificate {
            encoding: CertificateEncoding::Pem,
            data,
        }];
    }
    Ok(oci_client::Client::new(config))
}

/// Whether a secret for `host` is meant for `registry`; docker's files name Docker Hub by an old URL.
fn serves(host: &str, registry: &str) -> bool {
    let host = host
        .trim_start_matches("https://")
        .trim_start_matches("http://");
    let host = host.split('/').next().unwrap_or(host);
    let host = if matches!(host, "index.docker.io" | "registry-1.docker.io") {
        "docker.io"
    } else {
        host
    };
    host == registry
        || host.strip_prefix("*.").is_some_and(|suffix| {
            registry
                .split_once('.')
                .is_some_and(|(_, rest)| rest == suffix)
        })
}

/// An error with its causes: `error sending request` alone helps nobody.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// A blob being written from the network: chunks are small and go to the page cache.
struct Blocking(BlobWriter);

impl AsyncWrite for Blocking {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Poll::Ready(self.0.write(buffer))
    }
    fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(self.0.flush())
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests;
