//! The loop: watches pods and nodes, places one pod after the other, binds several at a time.
//!
//! Runs only while this replica leads, under that leadership's epoch. The only place of this crate that spawns.

use std::sync::Arc;
use std::time::Duration;

use caravel_api::{ApiError, Kind, KeyRange, NodeName, ObjectName, Uid};
use caravel_controllers::action::reference;
use caravel_controllers::{Action, EventRecord, Hand, recorder};
use caravel_store::{Entry, Epoch, EventKind, Store, WatchItem};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, PodCondition};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::cluster::Cluster;
use crate::place::{Unfit, place};
use crate::pod::PodView;
use crate::queue::Queue;

/// Who this is, in Events and to the API. Pods ask for it by this name.
const NAME: &str = "default-scheduler";
/// Writes under way at once.
const WRITES: usize = 64;
/// Pods placed before looking at changes again.
const IN_A_ROW: usize = 128;
const DEADLINE: Duration = Duration::from_secs(30);
const WATCH_AGAIN: Duration = Duration::from_millis(200);

/// Runs while this replica leads, until `cancel`.
pub async fn run(store: Store, hand: Arc<dyn Hand>, cancel: CancellationToken) {
    let mut leadership = store.leadership();
    loop {
        let epoch = *leadership.borrow_and_update();
        let mut reign = JoinSet::new();
        if let Some(epoch) = epoch {
            let (events, records) = mpsc::channel(recorder::WAITING);
            reign.spawn(recorder::record(store.clone(), hand.clone(), epoch, records));
            reign.spawn(schedule(World { store: store.clone(), hand: hand.clone(), epoch, events }));
        }
        let ended = tokio::select! {
            () = cancel.cancelled() => true,
            changed = leadership.changed() => changed.is_err(),
        };
        reign.shutdown().await;
        if ended {
            return;
        }
    }
}

#[derive(Clone)]
struct World {
    store: Store,
    hand: Arc<dyn Hand>,
    epoch: Epoch,
    events: mpsc::Sender<EventRecord>,
}

/// A write that ended.
enum Wrote {
    Bound { pod: ObjectName, uid: String, result: Result<(), ApiError> },
    Told,
}

struct Scheduler {
    world: World,
    cluster: Cluster,
    queue: Queue,
    writes: JoinSet<Wrote>,
    turn: usize,
}

async fn schedule(world: World) {
    loop {
        let snapshot = world.store.snapshot();
        let mut watch = match world.store.watch(KeyRange::all(), snapshot.revision()).await {
            Ok(watch) => watch,
            Err(error) => {
                tracing::debug!(?error, "the scheduler cannot watch yet");
                sleep(WATCH_AGAIN).await;
                continue;
            }
        };
        let mut scheduler =
            Scheduler { world: world.clone(), cluster: Cluster::default(), queue: Queue::default(), writes: JoinSet::new(), turn: 0 };
        for kind in [Node::row(), Pod::row()] {
            for entry in snapshot.list(&kind.prefix(None)) {
                scheduler.changed(entry, None, false);
            }
        }
        drop(snapshot);
        loop {
            loop {
                match watch.try_next() {
                    Ok(Some(event)) => scheduler.changed(&event.entry, event.previous.as_ref(), event.kind == EventKind::Deleted),
                    Ok(None) | Err(_) => break, // what is gone is told by `next` below
                }
            }
            scheduler.queue.tick(Instant::now());
            let mut busy = false;
            for _ in 0..IN_A_ROW {
                if scheduler.writes.len() >= WRITES || !scheduler.one() {
                    break;
                }
                busy = true;
            }
            if busy {
                tokio::task::yield_now().await;
                while let Some(wrote) = scheduler.writes.try_join_next() {
                    scheduler.wrote(wrote);
                }
                if scheduler.writes.len() < WRITES {
                    continue;
                }
            }
            let due = scheduler.queue.next_due().unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
            tokio::select! {
                item = watch.next() => match item {
                    Ok(WatchItem::Event(event)) => scheduler.changed(&event.entry, event.previous.as_ref(), event.kind == EventKind::Deleted),
                    Ok(_) => {}
                    Err(_) => break,
                },
                Some(wrote) = scheduler.writes.join_next(), if !scheduler.writes.is_empty() => scheduler.wrote(wrote),
                () = sleep_until(due) => {}
            }
        }
    }
}

/// Whether this scheduler is to find a node for the pod.
fn is_ours(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    spec.node_name.as_deref().unwrap_or_default().is_empty()
        && pod.metadata.deletion_timestamp.is_none()
        && spec.scheduling_gates.as_ref().is_none_or(Vec::is_empty)
        && matches!(spec.scheduler_name.as_deref(), None | Some("" | NAME))
}

fn has_ended(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"))
}

impl Scheduler {
    fn changed(&mut self, entry: &Arc<Entry>, before: Option<&Arc<Entry>>, deleted: bool) {
        let kind = entry.key.kind_prefix();
        if kind == Pod::row().prefix(None).start.as_str() {
            match entry.decode::<Pod>() {
                Ok(pod) => {
                    let before = before.and_then(|entry| entry.decode::<Pod>().ok());
                    self.pod_changed(pod, before, deleted);
                }
                Err(error) => tracing::error!(%error, "a pod cannot be read"),
            }
        } else if kind == Node::row().prefix(None).start.as_str() {
            match entry.decode::<Node>() {
                Ok(node) if deleted => self.cluster.remove_node(node.metadata.name.as_deref().unwrap_or_default()),
                Ok(node) => {
                    if self.cluster.put_node(&node) {
                        self.queue.wake();
                    }
                }
                Err(error) => tracing::error!(%error, "a node cannot be read"),
            }
        }
    }

    fn pod_changed(&mut self, pod: Arc<Pod>, before: Option<Arc<Pod>>, deleted: bool) {
        let view = PodView::new(pod.clone());
        let node = pod.spec.as_ref().and_then(|s| s.node_name.clone()).filter(|n| !n.is_empty());
        if deleted || has_ended(&pod) {
            self.queue.remove(&view.name());
            if self.cluster.remove_pod(view.uid()) {
                self.queue.wake();
            }
        } else if let Some(node) = node {
            self.queue.remove(&view.name());
            self.cluster.put_pod(Arc::new(view), &node);
            // Pods that must be near this one may fit now.
            self.queue.wake();
        } else if is_ours(&pod) {
            let priority = pod.spec.as_ref().and_then(|s| s.priority).unwrap_or(0);
            // Our own word that the pod fits nowhere changes its status only, and must not wake it.
            let asks_the_same = before.is_some_and(|before| before.spec == pod.spec && before.metadata.labels == pod.metadata.labels);
            if !asks_the_same {
                self.queue.add(view.name(), priority);
            }
        } else {
            self.queue.remove(&view.name());
        }
    }

    /// Tries the next pod. False if there is none.
    fn one(&mut self) -> bool {
        let Some(name) = self.queue.pop() else { return false };
        let pod = match self.world.store.snapshot().get::<Pod>(&name) {
            Ok(Some(pod)) if is_ours(&pod) && !has_ended(&pod) => pod,
            Ok(_) => {
                self.queue.remove(&name);
                return true;
            }
            Err(error) => {
                tracing::error!(%error, "a pod cannot be read");
                self.queue.remove(&name);
                return true;
            }
        };
        let view = Arc::new(PodView::new(pod.clone()));
        self.turn = self.turn.wrapping_add(1);
        match place(&view, &self.cluster, self.turn) {
            Ok(node) => {
                let node = node.name.clone();
                self.cluster.put_pod(view.clone(), &node);
                self.writes.spawn(bind(self.world.clone(), pod, name, node));
            }
            Err(Unfit(why)) => {
                self.queue.refused(&name, Instant::now());
                self.writes.spawn(tell(self.world.clone(), pod, name, why));
            }
        }
        true
    }

    fn wrote(&mut self, wrote: Result<Wrote, tokio::task::JoinError>) {
        match wrote {
            Ok(Wrote::Bound { pod, result: Ok(()), .. }) => self.queue.remove(&pod),
            Ok(Wrote::Bound { pod, uid, result: Err(error) }) => {
                tracing::warn!(%pod, %error, "not bound");
                // If it was bound after all, the watch says so.
                self.cluster.remove_pod(&uid);
                self.queue.failed(&pod, Instant::now());
            }
            Ok(Wrote::Told) => {}
            Err(error) => tracing::error!(%error, "a write ended badly"),
        }
    }
}

async fn bind(world: World, pod: Arc<Pod>, name: ObjectName, node: String) -> Wrote {
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let action = Action::Bind { pod: name.clone(), uid: Uid::from(uid.as_str()), node: NodeName::new(node.as_str()) };
    let result = apply(&world, action).await;
    if result.is_ok() {
        let message = format!("Successfully assigned {name} to {node}");
        world.emit(EventRecord::normal(reference(&*pod), NAME, "Scheduled", message));
    }
    Wrote::Bound { pod: name, uid, result }
}

async fn tell(world: World, pod: Arc<Pod>, name: ObjectName, why: String) -> Wrote {
    world.emit(EventRecord::warning(reference(&*pod), NAME, "FailedScheduling", why.clone()));
    if let Some(told) = with_condition(&pod, &why, caravel_api::time::now())
        && let Err(error) = apply(&world, Action::update_status(&told)).await
    {
        tracing::debug!(%name, %error, "the pod's condition was not written");
    }
    Wrote::Told
}

async fn apply(world: &World, action: Action) -> Result<(), ApiError> {
    match timeout(DEADLINE, world.hand.apply(world.epoch, NAME, action)).await {
        Ok(result) => result.map(drop),
        Err(_) => Err(ApiError::timeout("the write took too long; it may have been committed", 0)),
    }
}

impl World {
    fn emit(&self, record: EventRecord) {
        // Events are best effort: when too many wait, this one is dropped.
        if self.events.try_send(record).is_err() {
            tracing::debug!("an event was dropped");
        }
    }
}

/// The pod with its condition saying that it fits nowhere; none where it says so already.
fn with_condition(pod: &Pod, why: &str, now: Timestamp) -> Option<Pod> {
    let mut pod = pod.clone();
    let conditions = pod.status.get_or_insert_default().conditions.get_or_insert_default();
    let old = conditions.iter().position(|c| c.type_ == "PodScheduled");
    let since = match old.map(|i| &conditions[i]) {
        Some(c) if c.status == "False" && c.reason.as_deref() == Some("Unschedulable") && c.message.as_deref() == Some(why) => return None,
        Some(c) if c.status == "False" => c.last_transition_time.clone(),
        _ => None,
    };
    let condition = PodCondition {
        type_: "PodScheduled".into(),
        status: "False".into(),
        reason: Some("Unschedulable".into()),
        message: Some(why.to_owned()),
        last_transition_time: since.or_else(|| Some(caravel_api::time::time(now))),
        ..PodCondition::default()
    };
    match old {
        Some(i) => conditions[i] = condition,
        None => conditions.push(condition),
    }
    Some(pod)
}
