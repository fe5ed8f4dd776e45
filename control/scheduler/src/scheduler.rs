//! What the scheduler knows and what it makes of it: changes come in, steps to carry out go out. No task, no socket.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use caravel_api::{ApiError, Kind, ObjectName, time};
use caravel_controllers::{Action, Deletion, EventRecord};
use caravel_store::{Entry, Snapshot};
use k8s_openapi::api::core::v1::{Node, Pod};
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::decide::{Refusal, decide};
use crate::explain::explain;
use crate::pod::{self, PodView};
use crate::preemption::{Victims, preempt};
use crate::queue::Queue;
use crate::{peers, tell};

/// What one look at a pod came to.
pub enum Step {
    /// Nothing waits.
    Idle,
    /// The pod needs no node any more.
    Skip,
    Bind {
        pod: Arc<Pod>,
        node: String,
    },
    /// There is no node: carry these out in order, and tell this.
    Tell {
        actions: Vec<Action>,
        events: Vec<EventRecord>,
    },
}

#[derive(Default)]
pub struct Scheduler {
    cluster: Cluster,
    queue: Queue,
    /// Pods that wait, as they were last seen.
    waiting: HashMap<ObjectName, PodView>,
    /// Those of them that a pod's coming may help.
    looking: HashSet<ObjectName>,
    /// Where the next look at nodes begins.
    start: usize,
}

impl Scheduler {
    pub fn next_due(&self) -> Option<Instant> {
        self.queue.next_due()
    }

    pub fn flush(&mut self, now: Instant) {
        self.queue.flush(now);
    }

    pub fn node_changed(&mut self, entry: &Arc<Entry>, deleted: bool, now: Instant) {
        if deleted {
            self.cluster.remove_node(&entry.meta.name);
            return;
        }
        match entry.decode::<Node>() {
            Ok(node) => {
                if self.cluster.set_node(&node) {
                    self.queue.wake(now, |_| true);
                }
            }
            Err(error) => tracing::error!(%error, "a node cannot be read"),
        }
    }

    pub fn pod_changed(
        &mut self,
        entry: &Arc<Entry>,
        deleted: bool,
        cluster: &Snapshot,
        now: Instant,
    ) {
        let pod = match entry.decode::<Pod>() {
            Ok(pod) => pod,
            Err(error) => {
                tracing::error!(%error, "a pod cannot be read");
                return;
            }
        };
        let name = entry.key.object();
        if deleted || pod::is_finished(&pod) {
            self.waits_no_more(&name);
            if self.cluster.remove_pod(&name) {
                self.queue.wake(now, |_| true);
            }
            return;
        }
        let mut view = PodView::read(&pod);
        if view.node.is_some() {
            self.waits_no_more(&name);
            view.pods
                .resolve(|selector| peers::namespaces(selector, cluster));
            if self.cluster.set_pod(view) {
                self.queue.wake(now, |_| true);
            } else if !self.looking.is_empty() {
                // A pod that came may be the one that others want to be near to, or evens the spread.
                self.queue.wake(now, |name| self.looking.contains(name));
            }
        } else if pod::is_ours(&pod) {
            let same = self.waiting.get(&name).is_some_and(|old| *old == view);
            if !same {
                self.queue.add(&name, view.priority, view.created, now);
                if view.pods.near.is_empty() && view.spread.is_empty() {
                    self.looking.remove(&name);
                } else {
                    self.looking.insert(name.clone());
                }
                self.waiting.insert(name, view);
            }
        } else {
            self.waits_no_more(&name);
        }
    }

    fn waits_no_more(&mut self, name: &ObjectName) {
        self.queue.remove(name);
        self.waiting.remove(name);
        self.looking.remove(name);
        self.cluster.forget_nomination(name);
    }

    /// Looks at the next pod.
    pub fn next(&mut self, snapshot: &Snapshot, now: Instant) -> Step {
        let Some(name) = self.queue.take() else {
            return Step::Idle;
        };
        let pod = match snapshot.get::<Pod>(&name) {
            Ok(Some(pod)) if pod::is_ours(&pod) => pod,
            Ok(_) => {
                self.waits_no_more(&name);
                return Step::Skip;
            }
            Err(error) => {
                tracing::error!(%error, "a pod cannot be read");
                self.queue.failed(&name, now);
                return Step::Skip;
            }
        };
        let mut view = PodView::read(&pod);
        peers::complete(&mut view, &pod, snapshot);
        match decide(&view, &self.cluster, self.start, &mut |equals| {
            rand::random_range(0..equals)
        }) {
            Ok(choice) => {
                self.start = self.start.wrapping_add(choice.looked_at);
                self.cluster.assume(&view, &choice.node);
                Step::Bind {
                    pod,
                    node: choice.node,
                }
            }
            Err(refusal) => {
                self.queue.hopeless(&name, now);
                self.refused(&pod, &view, &refusal, snapshot)
            }
        }
    }

    fn refused(
        &mut self,
        pod: &Arc<Pod>,
        view: &PodView,
        refusal: &Refusal,
        snapshot: &Snapshot,
    ) -> Step {
        let (mut actions, mut events) = (Vec::new(), Vec::new());
        let outcome = if self.waits_for_victims(view) {
            Err("not eligible due to a terminating pod on the nominated node.".to_owned())
        } else {
            preempt(view, &self.cluster, refusal)
        };
        let message = match &outcome {
            Ok(_) => explain(refusal, ""),
            Err(why) => explain(refusal, why),
        };
        let nominated = outcome.as_ref().ok().map(|victims| victims.node.as_str());
        events.push(tell::failed(pod, &message));
        actions.extend(
            tell::unschedulable(pod, &message, nominated, time::now())
                .map(|told| Action::update_status(&told)),
        );
        if let Ok(victims) = &outcome {
            self.cluster.nominate(view, &victims.node);
            dismiss(victims, &view.uid, snapshot, &mut actions, &mut events);
        }
        Step::Tell { actions, events }
    }

    /// Are there still pods going from the node where this one is to have room?
    fn waits_for_victims(&self, view: &PodView) -> bool {
        let node = self
            .cluster
            .nomination(&view.name)
            .and_then(|node| self.cluster.node(node));
        node.is_some_and(|node| {
            node.pods
                .values()
                .any(|other| other.terminating && other.priority < view.priority)
        })
    }

    /// A binding ended.
    pub fn bound(&mut self, name: &ObjectName, result: &Result<(), ApiError>, now: Instant) {
        match result {
            Ok(()) => self.waits_no_more(name),
            Err(error) => {
                // If it was bound after all, the watch says so.
                self.cluster.forget(name);
                if error.is_not_found() {
                    self.waits_no_more(name)
                } else {
                    self.queue.failed(name, now)
                }
            }
        }
    }
}

/// Makes the victims go.
fn dismiss(
    victims: &Victims,
    by: &str,
    snapshot: &Snapshot,
    actions: &mut Vec<Action>,
    events: &mut Vec<EventRecord>,
) {
    for name in &victims.pods {
        let Ok(Some(victim)) = snapshot.get::<Pod>(name) else {
            continue;
        };
        events.push(tell::preempted(&victim, by, &victims.node));
        if victim.metadata.deletion_timestamp.is_some() {
            continue;
        }
        actions.push(Action::update_status(&tell::disrupted(
            &victim,
            time::now(),
        )));
        let how = Deletion {
            uid: victim.metadata.uid.as_deref().unwrap_or_default().into(),
            ..Deletion::default()
        };
        actions.push(Action::Delete {
            row: Pod::row(),
            name: name.clone(),
            how,
            note: None,
        });
    }
}
