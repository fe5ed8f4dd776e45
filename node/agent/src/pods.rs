//! What this node knows of its pods, for whoever answers requests about them (logs, exec, stats).
//!
//! Written by the pods' actors, read by the server; a view is a value and never blocks its writer.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use parking_lot::RwLock;

/// One pod as its actor last saw it.
#[derive(Clone, Debug, Default)]
pub struct PodView {
    /// The object with the status that the actor last computed.
    pub pod: Arc<Pod>,
    pub uid: String,
    /// The pod's network namespace; absent on the host's network or before there is one.
    pub netns: Option<PathBuf>,
    pub ip: Option<std::net::IpAddr>,
    /// By container name: init, app and ephemeral containers that were started at least once.
    pub containers: BTreeMap<String, ContainerView>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerView {
    /// The runtime's id of the newest attempt; absent once it was removed.
    pub id: Option<String>,
    pub running: bool,
    /// CRI log of the newest attempt, and of the one before.
    pub log: Option<PathBuf>,
    pub previous_log: Option<PathBuf>,
}

/// Every pod of this node. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Pods(Arc<RwLock<BTreeMap<String, Arc<PodView>>>>);

impl Pods {
    /// By namespace and name; of two with the same name (one is ending) the one that is not ending.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<PodView>> {
        let pods = self.0.read();
        let mut found = pods.values().filter(|view| {
            view.pod.metadata.namespace.as_deref() == Some(namespace)
                && view.pod.metadata.name.as_deref() == Some(name)
        });
        let first = found.next()?.clone();
        match found.find(|view| view.pod.metadata.deletion_timestamp.is_none()) {
            Some(living) if first.pod.metadata.deletion_timestamp.is_some() => Some(living.clone()),
            _ => Some(first),
        }
    }

    pub fn list(&self) -> Vec<Arc<PodView>> {
        self.0.read().values().cloned().collect()
    }

    pub(crate) fn by_uid(&self, uid: &str) -> Option<Arc<PodView>> {
        self.0.read().get(uid).cloned()
    }

    pub(crate) fn put(&self, view: PodView) {
        self.0.write().insert(view.uid.clone(), Arc::new(view));
    }

    pub(crate) fn remove(&self, uid: &str) {
        self.0.write().remove(uid);
    }
}
