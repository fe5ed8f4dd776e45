//! Events about pods and the node, as `kubectl describe` shows them.
//!
//! Never holds up who tells: a bounded queue, what does not fit is dropped. The same event again is counted on the one
//! that is there (upstream: client-go/tools/record/events_cache.go).

use std::collections::HashMap;

use caravel_api::time;
use k8s_openapi::api::core::v1::{Event, EventSource, Node, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams, PostParams};
use tokio::sync::mpsc;

use crate::api::{Api, code};

const QUEUE: usize = 1024;
/// Events remembered for counting.
const REMEMBERED: usize = 4096;
/// One event tells at most this much.
const MESSAGE: usize = 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Normal,
    Warning,
}

#[derive(Clone, Debug)]
pub(crate) struct Told {
    about: ObjectReference,
    kind: Kind,
    reason: String,
    message: String,
}

#[derive(Clone)]
pub(crate) struct Events(mpsc::Sender<Told>);

impl Events {
    pub fn new() -> (Self, mpsc::Receiver<Told>) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        (Self(sender), receiver)
    }

    pub fn pod(&self, pod: &Pod, kind: Kind, reason: &str, message: impl Into<String>) {
        self.tell(reference(pod), kind, reason, message.into());
    }

    /// About one container of a pod.
    pub fn container(
        &self,
        pod: &Pod,
        container: &str,
        kind: Kind,
        reason: &str,
        message: impl Into<String>,
    ) {
        let init = pod
            .spec
            .iter()
            .flat_map(|s| s.init_containers.iter().flatten())
            .any(|c| c.name == container);
        let list = if init { "initContainers" } else { "containers" };
        let about = ObjectReference {
            field_path: Some(format!("spec.{list}{{{container}}}")),
            ..reference(pod)
        };
        self.tell(about, kind, reason, message.into());
    }

    pub fn node(&self, node: &Node, kind: Kind, reason: &str, message: impl Into<String>) {
        let name = node.metadata.name.clone();
        let about = ObjectReference {
            kind: Some("Node".into()),
            uid: name.clone(),
            name,
            ..ObjectReference::default()
        };
        self.tell(about, kind, reason, message.into());
    }

    fn tell(&self, about: ObjectReference, kind: Kind, reason: &str, mut message: String) {
        if message.len() > MESSAGE {
            let end = (0..=MESSAGE)
                .rev()
                .find(|at| message.is_char_boundary(*at))
                .unwrap_or(0);
            message.truncate(end);
        }
        if self
            .0
            .try_send(Told {
                about,
                kind,
                reason: reason.to_owned(),
                message,
            })
            .is_err()
        {
            tracing::debug!(reason, "event dropped: too many at once");
        }
    }
}

fn reference(pod: &Pod) -> ObjectReference {
    let meta = &pod.metadata;
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path: None,
    }
}

#[derive(Default)]
pub(crate) struct Recorder {
    known: HashMap<(String, String, String, String), (String, i32)>,
}

impl Recorder {
    pub async fn record(&mut self, api: &Api, host: &str, told: Told) {
        let Told {
            about,
            kind,
            reason,
            message,
        } = told;
        let namespace = about.namespace.clone().unwrap_or_else(|| "default".into());
        let key = (
            about.uid.clone().unwrap_or_default(),
            about.field_path.clone().unwrap_or_default(),
            reason.clone(),
            message.clone(),
        );
        let events = api.namespaced::<Event>(&namespace);
        let now = time::time(time::now());
        if let Some((name, count)) = self.known.get(&key).cloned() {
            let patch = serde_json::json!({"count": count + 1, "lastTimestamp": now});
            let patched = api
                .request(events.patch(&name, &PatchParams::default(), &Patch::Merge(&patch)))
                .await;
            match patched {
                Ok(_) => drop(self.known.insert(key, (name, count + 1))),
                // It has expired: the next one is a new one.
                Err(error) if code(&error) == Some(404) => drop(self.known.remove(&key)),
                Err(error) => tracing::debug!(%error, reason, "event not counted"),
            }
            return;
        }
        let name = format!(
            "{}.{:x}",
            about.name.clone().unwrap_or_default(),
            time::now_micro().as_nanosecond()
        );
        let event = Event {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(namespace),
                ..ObjectMeta::default()
            },
            involved_object: about,
            type_: Some(
                if kind == Kind::Normal {
                    "Normal"
                } else {
                    "Warning"
                }
                .into(),
            ),
            reason: Some(reason.clone()),
            message: Some(message),
            count: Some(1),
            first_timestamp: Some(now.clone()),
            last_timestamp: Some(now),
            source: Some(EventSource {
                component: Some("kubelet".into()),
                host: Some(host.to_owned()),
            }),
            reporting_component: Some("kubelet".into()),
            reporting_instance: Some(host.to_owned()),
            ..Event::default()
        };
        match api
            .request(events.create(&PostParams::default(), &event))
            .await
        {
            Ok(_) => {
                if self.known.len() >= REMEMBERED {
                    self.known.clear();
                }
                self.known.insert(key, (name, 1));
            }
            // The namespace is going: nobody will read it.
            Err(error) => tracing::debug!(%error, reason, "event not recorded"),
        }
    }
}
