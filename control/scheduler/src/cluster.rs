//! The nodes and what is on them, kept up to date change by change. Pure.
//!
//! A pod that was just given a node is counted there at once (assumed), before the store shows it; the store's own
//! word replaces the assumption, since pods are counted by uid.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Taint};

use crate::pod::{PodView, Resources};

/// A node and what is on it.
#[derive(Debug, Clone)]
pub struct NodeView {
    /// The node's name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its taints.
    pub taints: Vec<Taint>,
    /// Cordoned.
    pub unschedulable: bool,
    /// What it offers.
    pub allocatable: Resources,
    /// How many pods it takes.
    pub max_pods: i64,
    /// What its pods ask.
    pub requested: Resources,
    /// What its pods ask, with something for those that ask nothing: cpu, memory.
    pub weight: (i64, i64),
    /// Its pods by uid.
    pub pods: HashMap<String, Arc<PodView>>,
}

impl NodeView {
    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            labels: BTreeMap::new(),
            taints: Vec::new(),
            unschedulable: false,
            allocatable: Resources::default(),
            max_pods: 0,
            requested: Resources::default(),
            weight: (0, 0),
            pods: HashMap::new(),
        }
    }

    /// Takes over what the object says; tells whether that could make a waiting pod fit.
    fn describe(&mut self, node: &Node) -> bool {
        let spec = node.spec.as_ref();
        let status = node.status.as_ref();
        let list = status.and_then(|s| s.allocatable.as_ref().or(s.capacity.as_ref()));
        let labels = node.metadata.labels.clone().unwrap_or_default();
        let taints = spec.and_then(|s| s.taints.clone()).unwrap_or_default();
        let unschedulable = spec.and_then(|s| s.unschedulable).unwrap_or(false);
        let allocatable = Resources::read(list);
        let max_pods = list.and_then(|l| l.get("pods")).and_then(|q| q.0.parse().ok()).unwrap_or(0);
        let changed = (&self.labels, &self.taints, self.unschedulable, &self.allocatable, self.max_pods)
            != (&labels, &taints, unschedulable, &allocatable, max_pods);
        (self.labels, self.taints, self.unschedulable, self.allocatable, self.max_pods) =
            (labels, taints, unschedulable, allocatable, max_pods);
        changed
    }

    fn put(&mut self, pod: Arc<PodView>) {
        self.take(pod.uid());
        self.requested.add(&pod.requests);
        self.weight = (self.weight.0 + pod.weight.0, self.weight.1 + pod.weight.1);
        self.pods.insert(pod.uid().to_owned(), pod);
    }

    fn take(&mut self, uid: &str) -> bool {
        let Some(pod) = self.pods.remove(uid) else { return false };
        self.requested.remove(&pod.requests);
        self.weight = (self.weight.0 - pod.weight.0, self.weight.1 - pod.weight.1);
        true
    }
}

/// All nodes.
#[derive(Debug, Clone, Default)]
pub struct Cluster {
    nodes: BTreeMap<String, NodeView>,
    known: BTreeMap<String, ()>,
    /// Where each pod is.
    places: HashMap<String, String>,
}

impl Cluster {
    /// Nodes that exist, by name. (Pods may be on nodes that do not exist any more.)
    pub fn nodes(&self) -> impl Iterator<Item = &NodeView> + Clone {
        self.known.keys().filter_map(|name| self.nodes.get(name))
    }

    /// One node.
    pub fn node(&self, name: &str) -> Option<&NodeView> {
        self.known.get(name).and_then(|()| self.nodes.get(name))
    }

    /// How many nodes there are.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// A node came or changed. Returns whether a waiting pod could fit now.
    pub fn put_node(&mut self, node: &Node) -> bool {
        let name = node.metadata.name.clone().unwrap_or_default();
        let fresh = self.known.insert(name.clone(), ()).is_none();
        self.nodes.entry(name.clone()).or_insert_with(|| NodeView::new(&name)).describe(node) || fresh
    }

    /// A node went.
    pub fn remove_node(&mut self, name: &str) {
        self.known.remove(name);
        if self.nodes.get(name).is_some_and(|n| n.pods.is_empty()) {
            self.nodes.remove(name);
        }
    }

    /// A pod is on a node (or is assumed to be).
    pub fn put_pod(&mut self, pod: Arc<PodView>, node: &str) {
        let uid = pod.uid().to_owned();
        if self.places.get(&uid).is_some_and(|place| place != node) {
            self.remove_pod(&uid);
        }
        self.nodes.entry(node.to_owned()).or_insert_with(|| NodeView::new(node)).put(pod);
        self.places.insert(uid, node.to_owned());
    }

    /// A pod is gone or has ended. Returns whether that made room.
    pub fn remove_pod(&mut self, uid: &str) -> bool {
        let Some(place) = self.places.remove(uid) else { return false };
        let Some(node) = self.nodes.get_mut(&place) else { return false };
        let made_room = node.take(uid);
        if node.pods.is_empty() && !self.known.contains_key(&place) {
            self.nodes.remove(&place);
        }
        made_room
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(uid: &str, cpu: &str) -> Arc<PodView> {
        let pod = json!({"metadata": {"uid": uid}, "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}});
        Arc::new(PodView::new(Arc::new(serde_json::from_value(pod).unwrap())))
    }

    #[test]
    fn pods_are_counted_once_wherever_they_go() {
        let mut cluster = Cluster::default();
        let node = |labels: serde_json::Value| serde_json::from_value(json!({"metadata": {"name": "n", "labels": labels}})).unwrap();
        assert!(cluster.put_node(&node(json!({}))));
        assert!(!cluster.put_node(&node(json!({}))), "a heartbeat changes nothing");
        assert!(cluster.put_node(&node(json!({"a": "b"}))));
        cluster.put_pod(pod("p", "100m"), "n");
        cluster.put_pod(pod("p", "300m"), "n");
        assert_eq!(cluster.node("n").unwrap().requested.cpu, 300);
        cluster.put_pod(pod("p", "300m"), "other");
        assert_eq!(cluster.node("n").unwrap().requested.cpu, 0);
        assert_eq!(cluster.len(), 1, "a node that only a pod speaks of does not exist");
        assert!(cluster.remove_pod("p") && !cluster.remove_pod("p"));
        cluster.put_pod(pod("q", "1"), "n");
        cluster.remove_node("n");
        assert!(cluster.node("n").is_none() && cluster.nodes().count() == 0);
    }
}
