//! ConfigMaps, Secrets and tokens that pods of this node use: fetched when needed, and again when they have changed.
//!
//! What the API server says is not there is absent; any other trouble is an error, never absence. Tokens are kept until
//! four fifths of their life are over, as the kubelet's token manager does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use caravel_volumes::{Needs, Objects, TokenRequest};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authentication::v1::{
    BoundObjectReference, TokenRequest as ApiTokenRequest, TokenRequestSpec,
};
use k8s_openapi::api::core::v1::{ConfigMap, Container, Pod, Secret, ServiceAccount};
use kube::api::PostParams;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::api::{Api, code};
use crate::env;
use crate::followed::{self, Followed, Key, Kind};

/// In every namespace, and in every pod that has a token.
const ROOT_CA: &str = "kube-root-ca.crt";

#[derive(Default)]
pub(crate) struct ObjectCache {
    followed: Followed,
    tokens: Mutex<BTreeMap<(String, TokenRequest), Token>>,
}

struct Token {
    text: String,
    /// When a new one is asked for.
    renew: Timestamp,
}

/// A request that neither gave an object nor said that there is none.
#[derive(Debug, thiserror::Error)]
#[error("failed to get {kind} \"{name}\": {source}")]
pub(crate) struct FetchError {
    kind: &'static str,
    name: String,
    source: Box<kube::Error>,
}

impl ObjectCache {
    /// What the pod's volumes are made from.
    pub async fn of_volumes(&self, api: &Api, pod: &Pod) -> Result<Objects, FetchError> {
        let needs = caravel_volumes::needs(pod);
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        // Followed before they are read: no change falls between the two.
        let held = held(pod, &needs);
        self.followed.hold(api, uid, &held);
        let newest: Vec<_> = held
            .into_iter()
            .map(|key| (self.followed.newest(&key), key))
            .collect();
        let tokens = needs
            .tokens
            .into_iter()
            .map(|request| self.token(api, pod, request));
        let (objects, tokens) = tokio::join!(
            fetch(api, pod, needs.config_maps, needs.secrets),
            futures::future::join_all(tokens)
        );
        let mut objects = objects?;
        for (newest, key) in newest {
            // One that was not there is at least as new as the last word on it.
            let read = version(&objects, &key).unwrap_or(0);
            self.followed.used(uid, &key, read.max(newest));
        }
        objects.tokens.extend(tokens);
        Ok(objects)
    }

    /// What a container's environment refers to: for most, nothing.
    pub async fn of_environment(
        &self,
        api: &Api,
        pod: &Pod,
        container: &Container,
    ) -> Result<Objects, FetchError> {
        let (maps, secrets) = env::needs(container);
        fetch(api, pod, maps, secrets).await
    }

    /// Whether the pod's volumes are behind the objects that they are made of.
    pub fn stale(&self, uid: &str) -> bool {
        self.followed.stale(uid)
    }

    /// What wakes the pod's actor when they are.
    pub fn waker(&self, uid: &str) -> Arc<Notify> {
        self.followed.waker(uid)
    }

    /// When the first of the pod's tokens is to be renewed.
    pub fn renewal(&self, uid: &str) -> Option<Timestamp> {
        self.tokens
            .lock()
            .iter()
            .filter(|((pod, _), _)| pod == uid)
            .map(|(_, token)| token.renew)
            .min()
    }

    pub fn forget(&self, api: &Api, uid: &str) {
        self.followed.release(api, uid);
        self.tokens.lock().retain(|(pod, _), _| pod != uid);
    }

    async fn token(
        &self,
        api: &Api,
        pod: &Pod,
        request: TokenRequest,
    ) -> (TokenRequest, Result<String, String>) {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let key = (uid.clone(), request.clone());
        let now = caravel_api::time::now();
        if let Some(token) = self.tokens.lock().get(&key).filter(|t| t.renew > now) {
            return (request, Ok(token.text.clone()));
        }
        let account = pod
            .spec
            .as_ref()
            .and_then(|s| s.service_account_name.clone())
            .filter(|n| !n.is_empty())
            .unwrap_or_else(|| "default".into());
        let body = ApiTokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: Some(if request.audience.is_empty() {
                    Vec::new()
                } else {
                    vec![request.audience.clone()]
                }),
                expiration_seconds: Some(request.expiration_seconds),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".into()),
                    kind: Some("Pod".into()),
                    name: pod.metadata.name.clone(),
                    uid: Some(uid),
                }),
                ..TokenRequestSpec::default()
            }),
            ..ApiTokenRequest::default()
        };
        let accounts =
            api.namespaced::<ServiceAccount>(pod.metadata.namespace.as_deref().unwrap_or_default());
        let result = match api
            .request(accounts.create_token_request(&account, &PostParams::default(), &body))
            .await
        {
            Ok(answer) => match answer
                .status
                .and_then(|s| s.token.zip(s.expiration_timestamp))
            {
                Some((text, expires)) => {
                    let life = expires.0.duration_since(now);
                    let renew = now
                        .saturating_add(SignedDuration::from_secs(life.as_secs() * 4 / 5))
                        .unwrap_or(now);
                    self.tokens.lock().insert(
                        key,
                        Token {
                            text: text.clone(),
                            renew,
                        },
                    );
                    Ok(text)
                }
                None => Err("the API server's answer holds no token".to_owned()),
            },
            Err(error) => Err(error.to_string()),
        };
        (request, result)
    }
}

/// What is watched for the pod. The cluster's CA is not: every pod has it, and it never changes.
fn held(pod: &Pod, needs: &Needs) -> BTreeSet<Key> {
    let key = |kind, name: &String| Key {
        kind,
        namespace: pod.metadata.namespace.clone().unwrap_or_default(),
        name: name.clone(),
    };
    let maps = needs.config_maps.iter().filter(|name| *name != ROOT_CA);
    maps.map(|name| key(Kind::ConfigMap, name))
        .chain(needs.secrets.iter().map(|name| key(Kind::Secret, name)))
        .collect()
}

fn version(objects: &Objects, key: &Key) -> Option<u64> {
    let metadata = match key.kind {
        Kind::ConfigMap => &objects.config_maps.get(&key.name)?.metadata,
        Kind::Secret => &objects.secrets.get(&key.name)?.metadata,
    };
    Some(followed::number(metadata.resource_version.as_deref()))
}

async fn fetch(
    api: &Api,
    pod: &Pod,
    maps: BTreeSet<String>,
    secrets: BTreeSet<String>,
) -> Result<Objects, FetchError> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let maps = maps
        .into_iter()
        .map(|name| get::<ConfigMap>(api, namespace, name, "configmap"));
    let secrets = secrets
        .into_iter()
        .map(|name| get::<Secret>(api, namespace, name, "secret"));
    let (maps, secrets) = tokio::join!(
        futures::future::try_join_all(maps),
        futures::future::try_join_all(secrets)
    );
    let mut objects = Objects::default();
    objects.config_maps.extend(
        maps?
            .into_iter()
            .filter_map(|(name, map)| Some((name, map?))),
    );
    objects.secrets.extend(
        secrets?
            .into_iter()
            .filter_map(|(name, secret)| Some((name, secret?))),
    );
    Ok(objects)
}

type Named<K> = (String, Option<Arc<K>>);

async fn get<K>(
    api: &Api,
    namespace: &str,
    name: String,
    kind: &'static str,
) -> Result<Named<K>, FetchError>
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + serde::de::DeserializeOwned
        + std::fmt::Debug,
    K::DynamicType: Default,
{
    match api.request(api.namespaced::<K>(namespace).get(&name)).await {
        Ok(object) => Ok((name, Some(Arc::new(object)))),
        Err(error) if code(&error) == Some(404) => Ok((name, None)),
        Err(error) => Err(FetchError {
            kind,
            name,
            source: Box::new(error),
        }),
    }
}
