//! ConfigMaps and Secrets that volumes of this node's pods are made of: one watch for each, open while a pod holds it.
//!
//! A watch carries metadata alone and says only that a pod should look again; what goes into a volume is always read
//! anew. Follows pkg/kubelet/util/manager (WatchChangeDetectionStrategy).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{PartialObjectMeta, WatchEvent, WatchParams};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinSet};

use crate::api::Api;
use crate::tasks;

/// Before a watch that failed is begun again: doubled from the first to the last.
const AGAIN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// Seconds that one watch request lasts, and what is added at random, as upstream's reflectors.
const LAST: (u32, u32) = (300, 300);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    ConfigMap,
    Secret,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub kind: Kind,
    pub namespace: String,
    pub name: String,
}

/// Every followed object of the node. Its watches end with it.
#[derive(Default)]
pub(crate) struct Followed {
    known: Arc<Mutex<Known>>,
    watches: Mutex<Watches>,
}

#[derive(Default)]
struct Watches {
    open: BTreeMap<Key, AbortHandle>,
    running: JoinSet<()>,
}

/// Who holds what, and in which revision. Pure.
#[derive(Default)]
struct Known {
    objects: BTreeMap<Key, Object>,
    /// By pod UID: how its actor is woken.
    pods: BTreeMap<String, Arc<Notify>>,
}

#[derive(Default)]
struct Object {
    /// Newest revision that the watch told of; a deletion has one too.
    seen: u64,
    /// By pod UID: the revision that its volumes were made from.
    used: BTreeMap<String, u64>,
}

impl Known {
    fn hold(&mut self, pod: &str, wanted: &BTreeSet<Key>) {
        for (key, object) in &mut self.objects {
            if !wanted.contains(key) {
                object.used.remove(pod);
            }
        }
        for key in wanted {
            let object = self.objects.entry(key.clone()).or_default();
            object.used.entry(pod.to_owned()).or_default();
        }
        self.objects.retain(|_, object| !object.used.is_empty());
    }

    fn seen(&mut self, key: &Key, revision: u64) {
        let Some(object) = self.objects.get_mut(key) else {
            return;
        };
        object.seen = object.seen.max(revision);
        for (pod, used) in &object.used {
            if *used < object.seen
                && let Some(wake) = self.pods.get(pod)
            {
                wake.notify_one();
            }
        }
    }

    fn used(&mut self, pod: &str, key: &Key, revision: u64) {
        if let Some(used) = self
            .objects
            .get_mut(key)
            .and_then(|object| object.used.get_mut(pod))
        {
            *used = (*used).max(revision);
        }
    }

    fn stale(&self, pod: &str) -> bool {
        self.objects
            .values()
            .any(|object| object.used.get(pod).is_some_and(|used| *used < object.seen))
    }
}

impl Followed {
    /// What wakes the pod's actor when an object that it holds has changed.
    pub fn waker(&self, pod: &str) -> Arc<Notify> {
        let mut known = self.known.lock();
        known.pods.entry(pod.to_owned()).or_default().clone()
    }

    /// From now on the pod holds these and no others.
    pub fn hold(&self, api: &Api, pod: &str, wanted: &BTreeSet<Key>) {
        let mut watches = self.watches.lock();
        let held: BTreeSet<Key> = {
            let mut known = self.known.lock();
            known.hold(pod, wanted);
            known.objects.keys().cloned().collect()
        };
        let Watches { open, running } = &mut *watches;
        open.retain(|key, watch| {
            let kept = held.contains(key);
            if !kept {
                watch.abort();
            }
            kept
        });
        while running.try_join_next().is_some() {}
        for key in held {
            open.entry(key.clone()).or_insert_with(|| {
                let (api, known) = (api.clone(), self.known.clone());
                tasks::step(running, async move {
                    match key.kind {
                        Kind::ConfigMap => follow::<ConfigMap>(&api, &known, &key).await,
                        Kind::Secret => follow::<Secret>(&api, &known, &key).await,
                    }
                })
            });
        }
    }

    /// The pod has ended.
    pub fn release(&self, api: &Api, pod: &str) {
        self.hold(api, pod, &BTreeSet::new());
        self.known.lock().pods.remove(pod);
    }

    /// The newest revision known of an object that is about to be read.
    pub fn newest(&self, key: &Key) -> u64 {
        self.known.lock().objects.get(key).map_or(0, |o| o.seen)
    }

    /// The pod's volumes are now made from this revision or a later one.
    pub fn used(&self, pod: &str, key: &Key, revision: u64) {
        self.known.lock().used(pod, key, revision);
    }

    /// Whether something that the pod holds is newer than its volumes.
    pub fn stale(&self, pod: &str) -> bool {
        self.known.lock().stale(pod)
    }
}

/// Until nobody holds the object.
async fn follow<K>(api: &Api, known: &Mutex<Known>, key: &Key)
where
    K: kube::Resource<Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    K::DynamicType: Default,
{
    let mut version = String::new();
    let mut pause = AGAIN.0;
    loop {
        match once::<K>(api, known, key, &mut version).await {
            Ok(()) => pause = AGAIN.0,
            Err(error) => {
                // Its beginning is forgotten: what was missed is told by the first event of the next one.
                version.clear();
                tracing::debug!(?key, %error, "watch of one object interrupted");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(AGAIN.1);
            }
        }
    }
}

/// One request. Without a version it begins with the object as it is, if it is there.
async fn once<K>(
    api: &Api,
    known: &Mutex<Known>,
    key: &Key,
    version: &mut String,
) -> kube::Result<()>
where
    K: kube::Resource<Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    K::DynamicType: Default,
{
    let objects = api.namespaced::<K>(&key.namespace);
    let params = WatchParams::default()
        .fields(&format!("metadata.name={}", key.name))
        .timeout(LAST.0 + rand::random_range(0..LAST.1));
    let from = if version.is_empty() {
        "0"
    } else {
        version.as_str()
    };
    let events = api.request(objects.watch_metadata(&params, from)).await?;
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        let (revision, gone) = match event? {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => (revision(&object), false),
            WatchEvent::Deleted(object) => (revision(&object), true),
            WatchEvent::Bookmark(bookmark) => {
                *version = bookmark.metadata.resource_version;
                continue;
            }
            WatchEvent::Error(status) => return Err(kube::Error::Api(status)),
        };
        tracing::debug!(
            ?key,
            revision,
            gone,
            "an object of this node's pods changed"
        );
        *version = revision.to_string();
        known.lock().seen(key, revision);
    }
    Ok(())
}

fn revision<K>(object: &PartialObjectMeta<K>) -> u64 {
    number(object.metadata.resource_version.as_deref())
}

/// A resource version as a number, as upstream lets clients compare them; 0 where there is none.
pub(crate) fn number(version: Option<&str>) -> u64 {
    version.and_then(|v| v.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key {
            kind: Kind::ConfigMap,
            namespace: "n".into(),
            name: name.into(),
        }
    }

    fn keys(names: &[&str]) -> BTreeSet<Key> {
        names.iter().map(|name| key(name)).collect()
    }

    #[test]
    fn a_pod_is_stale_until_it_used_what_was_seen() {
        let mut known = Known::default();
        known.hold("p", &keys(&["a"]));
        known.hold("q", &keys(&["a", "b"]));
        known.used("p", &key("a"), 5);
        known.used("q", &key("a"), 5);
        known.seen(&key("a"), 5);
        assert!(
            !known.stale("p"),
            "its volumes were made from this very one"
        );
        known.seen(&key("a"), 7);
        assert!(known.stale("p") && known.stale("q"));
        known.used("p", &key("a"), 9);
        assert!(!known.stale("p") && known.stale("q"), "each pod for itself");
        known.seen(&key("a"), 8);
        assert!(!known.stale("p"), "a watch that lags is no news");
        known.seen(&key("b"), 3);
        known.used("q", &key("a"), 8);
        assert!(
            known.stale("q"),
            "of another object it has used nothing yet"
        );
    }

    #[test]
    fn an_object_is_known_while_somebody_holds_it() {
        let mut known = Known::default();
        known.hold("p", &keys(&["a", "b"]));
        known.hold("q", &keys(&["a"]));
        known.hold("p", &keys(&["b"]));
        assert_eq!(
            known.objects.keys().cloned().collect::<BTreeSet<_>>(),
            keys(&["a", "b"])
        );
        known.hold("q", &BTreeSet::new());
        known.seen(&key("a"), 4);
        assert_eq!(
            known.objects.keys().cloned().collect::<BTreeSet<_>>(),
            keys(&["b"])
        );
    }

    #[tokio::test]
    async fn who_holds_it_is_woken() {
        let mut known = Known::default();
        let wake = Arc::<Notify>::default();
        known.pods.insert("p".into(), wake.clone());
        known.hold("p", &keys(&["a"]));
        known.seen(&key("a"), 1);
        wake.notified().await;
    }
}
