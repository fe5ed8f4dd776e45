//! The nodes with what is on them, kept up to date change by change.
//!
//! A decided pod is assumed to be on its node at once, before the store shows it; until it does, news of the pod
//! without a node does not take it off again. Upstream: `pkg/scheduler/backend/cache`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use caravel_api::{ObjectName, Quantity};
use indexmap::IndexMap;
use k8s_openapi::api::core::v1::{Node, Taint};

use crate::pod::{HostPort, PodView};
use crate::resources::Amounts;

#[derive(Clone, Debug, Default)]
pub struct NodeView {
    pub name: String,
    /// Is there such a node, or only pods that name it?
    pub known: bool,
    pub labels: BTreeMap<String, String>,
    pub taints: Vec<Taint>,
    pub unschedulable: bool,
    pub allocatable: Amounts,
    pub max_pods: i64,
    pub pods: BTreeMap<ObjectName, Arc<PodView>>,
    /// What its pods ask for together.
    pub requested: Amounts,
    /// The same, with assumed amounts where pods ask for nothing.
    pub assumed: Amounts,
    pub ports: Vec<HostPort>,
}

impl NodeView {
    fn describe(&mut self, node: &Node) {
        let spec = node.spec.as_ref();
        let list = node
            .status
            .as_ref()
            .and_then(|status| status.allocatable.as_ref().or(status.capacity.as_ref()));
        self.known = true;
        self.labels = node.metadata.labels.clone().unwrap_or_default();
        self.taints = spec
            .and_then(|spec| spec.taints.clone())
            .unwrap_or_default();
        self.unschedulable = spec.and_then(|spec| spec.unschedulable).unwrap_or(false);
        self.allocatable = Amounts::read(list);
        let pods = list
            .and_then(|list| list.get("pods"))
            .and_then(|pods| Quantity::try_from(pods).ok());
        self.max_pods = pods.map_or(0, |pods| pods.value());
    }

    /// Does it look the same to scheduling?
    fn is_same(&self, other: &NodeView) -> bool {
        self.known == other.known
            && self.labels == other.labels
            && self.taints == other.taints
            && self.unschedulable == other.unschedulable
            && self.allocatable == other.allocatable
            && self.max_pods == other.max_pods
    }

    pub fn add(&mut self, pod: Arc<PodView>) {
        self.requested.add(&pod.requests);
        self.assumed.add(&pod.assumed_requests);
        self.ports.extend(pod.ports.iter().cloned());
        self.pods.insert(pod.name.clone(), pod);
    }

    pub fn take(&mut self, name: &ObjectName) -> Option<Arc<PodView>> {
        let pod = self.pods.remove(name)?;
        self.requested.subtract(&pod.requests);
        self.assumed.subtract(&pod.assumed_requests);
        for port in &pod.ports {
            if let Some(index) = self.ports.iter().position(|other| other == port) {
                self.ports.swap_remove(index);
            }
        }
        Some(pod)
    }
}

/// All nodes.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    nodes: IndexMap<String, NodeView>,
    /// Where each placed pod is.
    places: HashMap<ObjectName, String>,
    /// Pods placed by us that the store does not show yet, by uid.
    assumed: HashMap<ObjectName, String>,
    /// Pods for which others were made to go, with the nodes where they are to have the room.
    nominated: BTreeMap<ObjectName, (String, Arc<PodView>)>,
    /// Placed pods with rules about other pods.
    ruled: BTreeMap<ObjectName, Arc<PodView>>,
}

impl Cluster {
    /// The nodes there are.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeView> {
        self.nodes.values().filter(|node| node.known)
    }

    pub fn node(&self, name: &str) -> Option<&NodeView> {
        self.nodes.get(name).filter(|node| node.known)
    }

    /// Placed pods that have rules about other pods, with their nodes.
    pub fn ruled(&self) -> impl Iterator<Item = (&PodView, &NodeView)> {
        self.ruled
            .values()
            .filter_map(|pod| Some((&**pod, self.node(self.places.get(&pod.name)?)?)))
    }

    /// A node appeared or changed. Says whether that matters to scheduling.
    pub fn set_node(&mut self, node: &Node) -> bool {
        let name = node.metadata.name.clone().unwrap_or_default();
        let view = self.nodes.entry(name.clone()).or_insert_with(|| NodeView {
            name,
            ..NodeView::default()
        });
        let before = NodeView {
            pods: BTreeMap::new(),
            ..view.clone()
        };
        view.describe(node);
        !view.is_same(&before)
    }

    pub fn remove_node(&mut self, name: &str) {
        if let Some(node) = self.nodes.get_mut(name) {
            node.known = false;
            if node.pods.is_empty() {
                self.nodes.swap_remove(name);
            }
        }
    }

    /// A pod is, or is not any more, on the node that it names. Says whether room was made.
    pub fn set_pod(&mut self, pod: PodView) -> bool {
        match pod.node.clone() {
            Some(node) => {
                let pod = pod.placed();
                self.assumed.remove(&pod.name);
                let unchanged = self.placed(&pod.name).is_some_and(|old| **old == pod);
                if !unchanged {
                    let smaller = self.take(&pod.name).is_some();
                    self.put(pod, node);
                    return smaller;
                }
                false
            }
            None if self.assumed.get(&pod.name) == Some(&pod.uid) => false,
            None => self.remove_pod(&pod.name),
        }
    }

    /// A pod is gone or finished. Says whether it had a place.
    pub fn remove_pod(&mut self, name: &ObjectName) -> bool {
        self.assumed.remove(name);
        self.take(name).is_some()
    }

    /// A pod was decided on: it takes its place at once.
    pub fn assume(&mut self, pod: &PodView, node: &str) {
        self.take(&pod.name);
        self.assumed.insert(pod.name.clone(), pod.uid.clone());
        let placed = PodView {
            node: Some(node.to_owned()),
            ..pod.clone()
        };
        self.put(placed.placed(), node.to_owned());
    }

    /// A decision could not be carried out.
    pub fn forget(&mut self, name: &ObjectName) {
        if self.assumed.remove(name).is_some() {
            self.take(name);
        }
    }

    /// Others go from `node` so that this pod may come.
    pub fn nominate(&mut self, pod: &PodView, node: &str) {
        self.nominated
            .insert(pod.name.clone(), (node.to_owned(), Arc::new(pod.clone())));
    }

    /// The pod has its place, or has gone.
    pub fn forget_nomination(&mut self, name: &ObjectName) {
        self.nominated.remove(name);
    }

    /// The node where a pod is to have room.
    pub fn nomination(&self, name: &ObjectName) -> Option<&str> {
        self.nominated.get(name).map(|(node, _)| node.as_str())
    }

    /// The node as it will be when those have come that were promised room and matter as much as `pod`.
    pub fn with_promised(&self, node: &NodeView, pod: &PodView) -> Option<NodeView> {
        let mut promised = self
            .nominated
            .values()
            .filter(|(place, other)| {
                *place == node.name && other.priority >= pod.priority && other.name != pod.name
            })
            .peekable();
        promised.peek()?;
        let mut fuller = node.clone();
        promised.for_each(|(_, other)| fuller.add(other.clone()));
        Some(fuller)
    }

    fn placed(&self, name: &ObjectName) -> Option<&Arc<PodView>> {
        self.nodes.get(self.places.get(name)?)?.pods.get(name)
    }

    fn put(&mut self, pod: PodView, node: String) {
        let pod = Arc::new(pod);
        self.places.insert(pod.name.clone(), node.clone());
        if !pod.pods.is_empty() {
            self.ruled.insert(pod.name.clone(), pod.clone());
        }
        let view = self.nodes.entry(node.clone()).or_insert_with(|| NodeView {
            name: node,
            ..NodeView::default()
        });
        view.add(pod);
    }

    fn take(&mut self, name: &ObjectName) -> Option<Arc<PodView>> {
        let node = self.places.remove(name)?;
        self.ruled.remove(name);
        let view = self.nodes.get_mut(&node)?;
        let pod = view.take(name);
        if !view.known && view.pods.is_empty() {
            self.nodes.swap_remove(&node);
        }
        pod
    }
}
