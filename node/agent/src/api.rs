//! The API server as this node sees it: one client, exchanged for another server's when its own stops answering.
//!
//! Every request has a deadline. Decides nothing about objects.

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::NamespaceResourceScope;
use kube::Client;
use kube::api::{Patch, PatchParams};
use parking_lot::RwLock;
use serde::Serialize;
use serde::de::DeserializeOwned;

const DEADLINE: Duration = Duration::from_secs(10);
/// Another server is sought at most this often.
const RECONNECT: Duration = Duration::from_secs(2);

#[derive(Clone)]
pub(crate) struct Api(Arc<Inner>);

struct Inner {
    config: caravel_client::Config,
    client: RwLock<Client>,
    sought: tokio::sync::Mutex<Option<Instant>>,
}

impl Api {
    /// Waits for a server as long as it takes.
    pub async fn connect(config: caravel_client::Config) -> Self {
        loop {
            match caravel_client::connect(&config).await {
                Ok(client) => {
                    return Self(Arc::new(Inner {
                        config,
                        client: RwLock::new(client),
                        sought: tokio::sync::Mutex::default(),
                    }));
                }
                Err(error) => tracing::warn!(%error, "no API server yet"),
            }
            tokio::time::sleep(RECONNECT).await;
        }
    }

    pub fn client(&self) -> Client {
        self.0.client.read().clone()
    }

    pub fn namespaced<K>(&self, namespace: &str) -> kube::Api<K>
    where
        K: kube::Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        kube::Api::namespaced(self.client(), namespace)
    }

    /// Runs one request under the deadline; moves to another server where this one cannot be reached.
    pub async fn request<T>(
        &self,
        request: impl Future<Output = kube::Result<T>>,
    ) -> kube::Result<T> {
        match tokio::time::timeout(DEADLINE, request).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => {
                if !matches!(error, kube::Error::Api(_)) {
                    self.move_on().await;
                }
                Err(error)
            }
            Err(_) => {
                self.move_on().await;
                Err(kube::Error::Service(
                    "the API server did not answer within 10 s".into(),
                ))
            }
        }
    }

    async fn move_on(&self) {
        if self.0.config.servers.len() < 2 {
            return;
        }
        let mut sought = self.0.sought.lock().await;
        if sought.is_some_and(|at| at.elapsed() < RECONNECT) {
            return;
        }
        if let Ok(client) = caravel_client::connect(&self.0.config).await {
            *self.0.client.write() = client;
        }
        *sought = Some(Instant::now());
    }

    pub async fn patch_status<K>(
        &self,
        namespace: &str,
        name: &str,
        patch: &(impl Serialize + std::fmt::Debug),
    ) -> kube::Result<K>
    where
        K: kube::Resource<Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug,
        K::DynamicType: Default,
    {
        let api = self.namespaced::<K>(namespace);
        self.request(api.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch)))
            .await
    }
}

pub(crate) fn code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}
