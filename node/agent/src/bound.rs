//! The pods that are bound to this node: one actor for each, from the API server's watch and from what the runtime has.
//!
//! Keyed by UID: two pods of one name are two pods. A pod that the API server no longer knows is ended, never kept.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use caravel_runtime::Container;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::watcher::{self, Event};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::pod::actor::{Actor, Handed};
use crate::pod::observed::label;
use crate::tasks;
use crate::world::World;

/// Before a watch that failed is begun again.
const AGAIN: Duration = Duration::from_millis(500);

pub(crate) struct Bound {
    world: Arc<World>,
    actors: BTreeMap<String, watch::Sender<Handed>>,
    running: JoinSet<String>,
    /// What the runtime had when this daemon began, by pod UID, until an actor takes it.
    containers: BTreeMap<String, Vec<Container>>,
    sandboxes: BTreeMap<String, BTreeMap<String, String>>,
}

impl Bound {
    pub async fn open(world: Arc<World>) -> Result<Self, caravel_runtime::RuntimeError> {
        let mut containers: BTreeMap<String, Vec<Container>> = BTreeMap::new();
        for container in world.runtime.list().await? {
            containers
                .entry(container.spec.pod_uid.clone())
                .or_default()
                .push(container);
        }
        let sandboxes = world
            .runtime
            .sandboxes()
            .await?
            .into_iter()
            .map(|s| (s.spec.pod_uid.clone(), s.spec.labels))
            .collect();
        Ok(Self {
            world,
            actors: BTreeMap::new(),
            running: JoinSet::new(),
            containers,
            sandboxes,
        })
    }

    /// Until the daemon ends.
    pub async fn run(mut self) {
        let shutdown = self.world.shutdown.clone();
        loop {
            let pods = kube::Api::<Pod>::all(self.world.api.client());
            let config = watcher::Config::default()
                .fields(&format!("spec.nodeName={}", self.world.config.name));
            let mut events = watcher::watcher(pods, config).boxed();
            let mut listed = BTreeSet::new();
            loop {
                tokio::select! {
                    () = shutdown.cancelled() => return self.end().await,
                    Some(ended) = self.running.join_next() => {
                        if let Ok(uid) = ended { self.actors.remove(&uid); }
                    }
                    event = events.next() => match event {
                        Some(Ok(event)) => self.heard(event, &mut listed),
                        Some(Err(error)) => {
                            tracing::warn!(%error, "watch of this node's pods interrupted");
                            // A request of its own finds out whether another server has to be sought.
                            let probe = self.world.api.client();
                            let _ = self.world.api.request(probe.apiserver_version()).await;
                            break;
                        }
                        None => break,
                    },
                }
            }
            tokio::select! {
                () = shutdown.cancelled() => return self.end().await,
                () = tokio::time::sleep(AGAIN) => {}
            }
        }
    }

    async fn end(mut self) {
        while self.running.join_next().await.is_some() {}
    }

    fn heard(&mut self, event: Event<Pod>, listed: &mut BTreeSet<String>) {
        match event {
            Event::Init => listed.clear(),
            Event::InitApply(pod) => {
                listed.extend(pod.metadata.uid.clone());
                self.apply(pod);
            }
            Event::InitDone => self.all_listed(listed),
            Event::Apply(pod) => self.apply(pod),
            Event::Delete(pod) => {
                if let Some(actor) = pod
                    .metadata
                    .uid
                    .as_ref()
                    .and_then(|uid| self.actors.get(uid))
                {
                    actor.send_replace(Handed {
                        pod: Arc::new(pod),
                        gone: true,
                    });
                }
            }
        }
    }

    fn apply(&mut self, pod: Pod) {
        let Some(uid) = pod.metadata.uid.clone() else {
            return;
        };
        let handed = Handed {
            pod: Arc::new(pod),
            gone: false,
        };
        match self.actors.get(&uid) {
            Some(actor) => drop(actor.send_replace(handed)),
            None => self.begin(uid, handed),
        }
    }

    fn begin(&mut self, uid: String, handed: Handed) {
        let found = self.containers.remove(&uid).unwrap_or_default();
        let sandboxed = self.sandboxes.remove(&uid).is_some();
        let actor = Actor::new(self.world.clone(), &handed, found, sandboxed);
        let (sender, receiver) = watch::channel(handed);
        self.actors.insert(uid.clone(), sender);
        tasks::step(&mut self.running, async move {
            Box::pin(actor.run(receiver)).await;
            uid
        });
    }

    /// After a full list: whoever was not on it is gone, and what the runtime has of unknown pods is taken down.
    fn all_listed(&mut self, listed: &BTreeSet<String>) {
        for (uid, actor) in &self.actors {
            if !listed.contains(uid) {
                actor.send_if_modified(|handed| !std::mem::replace(&mut handed.gone, true));
            }
        }
        let orphans: BTreeSet<String> = self
            .containers
            .keys()
            .chain(self.sandboxes.keys())
            .cloned()
            .collect();
        for uid in orphans {
            let labels = self.sandboxes.get(&uid).or_else(|| {
                self.containers
                    .get(&uid)
                    .and_then(|c| c.first())
                    .map(Container::labels)
            });
            let text = |name: &str| labels.and_then(|l| l.get(name)).cloned();
            let metadata = ObjectMeta {
                name: text(label::POD),
                namespace: text(label::NAMESPACE),
                uid: Some(uid.clone()),
                ..ObjectMeta::default()
            };
            tracing::info!(
                pod = metadata.name,
                namespace = metadata.namespace,
                uid,
                "pod is no longer known: taking it down"
            );
            let pod = Pod {
                metadata,
                spec: Some(Default::default()),
                status: None,
            };
            self.begin(
                uid,
                Handed {
                    pod: Arc::new(pod),
                    gone: true,
                },
            );
        }
    }
}
