//! The pods that are bound to this node: one actor for each, from the API server's watch and from what the runtime has.
//!
//! Keyed by UID: two pods of one name are two pods. A pod that the API server no longer knows is ended, never kept. One
//! that is new is taken or refused here, one after the other, so that no two are counted against the same room.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use caravel_runtime::Container;
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher::{self, Event};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::admission::{self, Refusal};
use crate::events::Kind;
use crate::pod::actor::{Actor, Handed, Taken};
use crate::pod::observed::label;
use crate::pod::status::pod_format;
use crate::tasks;
use crate::world::World;

/// Before a watch that failed is begun again.
const AGAIN: Duration = Duration::from_millis(500);

pub(crate) struct Bound {
    world: Arc<World>,
    nodes: Store<Node>,
    /// The Node as it was registered, until the watch knows it.
    registered: Node,
    actors: BTreeMap<String, watch::Sender<Handed>>,
    running: JoinSet<String>,
    /// Of the actors' pods, those that this node has refused: they take no room.
    refused: BTreeSet<String>,
    /// What the runtime had when this daemon began, by pod UID, until an actor takes it.
    containers: BTreeMap<String, Vec<Container>>,
    sandboxes: BTreeMap<String, BTreeMap<String, String>>,
}

impl Bound {
    pub async fn open(
        world: Arc<World>,
        nodes: Store<Node>,
        registered: Node,
    ) -> Result<Self, caravel_runtime::RuntimeError> {
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
            nodes,
            registered,
            actors: BTreeMap::new(),
            running: JoinSet::new(),
            refused: BTreeSet::new(),
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
            let mut listed = BTreeMap::new();
            loop {
                tokio::select! {
                    () = shutdown.cancelled() => return self.end().await,
                    Some(ended) = self.running.join_next() => {
                        if let Ok(uid) = ended {
                            self.actors.remove(&uid);
                            self.refused.remove(&uid);
                        }
                    }
                    event = events.next() => match event {
                        Some(Ok(event)) => Box::pin(self.heard(event, &mut listed)).await,
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

    async fn heard(&mut self, event: Event<Pod>, listed: &mut BTreeMap<String, Pod>) {
        match event {
            Event::Init => listed.clear(),
            Event::InitApply(pod) => {
                if let Some(uid) = pod.metadata.uid.clone() {
                    listed.insert(uid, pod);
                }
            }
            Event::InitDone => self.all_listed(std::mem::take(listed)).await,
            Event::Apply(pod) => self.apply(pod).await,
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

    async fn apply(&mut self, pod: Pod) {
        let Some(uid) = pod.metadata.uid.clone() else {
            return;
        };
        let handed = Handed {
            pod: Arc::new(pod),
            gone: false,
        };
        match self.actors.get(&uid) {
            Some(actor) => drop(actor.send_replace(handed)),
            None => {
                let refused = self.refusal(&uid, &handed.pod).await;
                self.begin(uid, handed, refused);
            }
        }
    }

    /// Why this node does not take the pod. One that it has taken before stays taken.
    async fn refusal(&self, uid: &str, pod: &Pod) -> Option<Refusal> {
        let begun = pod.status.as_ref().is_some_and(|s| s.start_time.is_some());
        if begun
            || pod.metadata.deletion_timestamp.is_some()
            || self.containers.contains_key(uid)
            || self.sandboxes.contains_key(uid)
        {
            return None;
        }
        let others: Vec<Arc<Pod>> = self
            .actors
            .iter()
            .filter_map(|(uid, a)| self.counts(uid, a))
            .collect();
        let others: Vec<&Pod> = others.iter().map(AsRef::as_ref).collect();
        let name = &self.world.config.name;
        let known = self.nodes.get(&ObjectRef::new(name));
        let node = known.as_deref().unwrap_or(&self.registered);
        let mut refusal = admission::admit(pod, node, &others).err()?;
        if refusal.depends_on_node() {
            // Somebody may just have changed the Node, and this watch not have told it yet.
            let nodes = kube::Api::<Node>::all(self.world.api.client());
            match self.world.api.request(nodes.get(name)).await {
                Ok(newest) => refusal = admission::admit(pod, &newest, &others).err()?,
                Err(error) => tracing::warn!(%error, "the node's own object not read"),
            }
        }
        tracing::info!(pod = %pod_format(pod), reason = refusal.reason, refusal.message, "pod refused");
        let event = (refusal.reason.as_str(), refusal.message.clone());
        self.world.events.pod(pod, Kind::Warning, event.0, event.1);
        Some(refusal)
    }

    /// The pod, while it takes room on this node.
    fn counts(&self, uid: &str, actor: &watch::Sender<Handed>) -> Option<Arc<Pod>> {
        let handed = actor.borrow();
        let seen = self.world.pods.by_uid(uid);
        let status = |pod: &Pod| pod.status.as_ref().and_then(|s| s.phase.clone());
        let over = |phase: Option<String>| matches!(phase.as_deref(), Some("Succeeded" | "Failed"));
        let ended = over(status(&handed.pod)) || seen.is_some_and(|view| over(status(&view.pod)));
        (!handed.gone && !ended && !self.refused.contains(uid)).then(|| handed.pod.clone())
    }

    fn begin(&mut self, uid: String, handed: Handed, refused: Option<Refusal>) {
        if refused.is_some() {
            self.refused.insert(uid.clone());
        }
        let taken = Taken {
            found: self.containers.remove(&uid).unwrap_or_default(),
            sandboxed: self.sandboxes.remove(&uid).is_some(),
            refused,
        };
        let actor = Actor::new(self.world.clone(), &handed, taken);
        let (sender, receiver) = watch::channel(handed);
        self.actors.insert(uid.clone(), sender);
        tasks::step(&mut self.running, async move {
            Box::pin(actor.run(receiver)).await;
            uid
        });
    }

    /// After a full list: whoever is not on it is gone, which makes room; then the others, the oldest first; and what the
    /// runtime has of unknown pods is taken down.
    async fn all_listed(&mut self, listed: BTreeMap<String, Pod>) {
        for (uid, actor) in &self.actors {
            if !listed.contains_key(uid) {
                actor.send_if_modified(|handed| !std::mem::replace(&mut handed.gone, true));
            }
        }
        let mut pods: Vec<Pod> = listed.into_values().collect();
        let begun = |pod: &Pod| pod.status.as_ref().is_some_and(|s| s.start_time.is_some());
        let created = |pod: &Pod| pod.metadata.creation_timestamp.as_ref().map(|t| t.0);
        // Those that were taken before count before any new one is looked at.
        pods.sort_by_key(|pod| (!begun(pod), created(pod)));
        for pod in pods {
            self.apply(pod).await;
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
                None,
            );
        }
    }
}
