//! The loop: watches pods and nodes, looks at one pod after the other, and has several writes under way.
//!
//! Runs only while this replica leads, under that leadership's epoch. The only place of this crate that spawns.

use std::sync::Arc;
use std::time::Duration;

use caravel_api::{ApiError, Kind, NodeName, ObjectName, Uid};
use caravel_controllers::{Action, EventRecord, Hand, recorder};
use caravel_store::{Epoch, EventKind, Gone, Store, Watch, WatchError, WatchItem};
use k8s_openapi::api::core::v1::{Node, Pod};
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::pod::SCHEDULER;
use crate::scheduler::{Scheduler, Step};
use crate::tell;

/// Writes under way at once. The store puts those that wait together into one flush.
const WRITES: usize = 128;
/// Pods looked at before changes are looked at again.
const IN_A_ROW: usize = 32;
const DEADLINE: Duration = Duration::from_secs(30);
const WATCH_AGAIN: Duration = Duration::from_millis(200);

/// Schedules while this replica leads, until `cancel`.
pub async fn run(store: Store, hand: Arc<dyn Hand>, cancel: CancellationToken) {
    let mut leadership = store.leadership();
    loop {
        let epoch = *leadership.borrow_and_update();
        let mut reign = JoinSet::new();
        if let Some(epoch) = epoch {
            let (events, records) = mpsc::channel(recorder::WAITING);
            reign.spawn(recorder::record(
                store.clone(),
                hand.clone(),
                epoch,
                records,
            ));
            reign.spawn(schedule(World {
                store: store.clone(),
                hand: hand.clone(),
                epoch,
                events,
            }));
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
    Bound(ObjectName, Result<(), ApiError>),
    Told,
}

struct Watches {
    pods: Watch,
    nodes: Watch,
}

async fn schedule(world: World) {
    loop {
        let mut scheduler = Scheduler::default();
        match begin(&world, &mut scheduler).await {
            Ok(mut watches) => {
                if work(&world, &mut scheduler, &mut watches).await.is_err() {
                    tracing::warn!(
                        "the scheduler fell behind the store's changes and looks at everything again"
                    );
                }
            }
            Err(error) => {
                tracing::debug!(?error, "the scheduler cannot watch yet");
                sleep(WATCH_AGAIN).await;
            }
        }
    }
}

/// Everything there is, and what changes after it. Nodes first: pods are placed on them.
async fn begin(world: &World, scheduler: &mut Scheduler) -> Result<Watches, WatchError> {
    let snapshot = world.store.snapshot();
    let watch = async |range| world.store.watch(range, snapshot.revision()).await;
    let watches = Watches {
        pods: watch(Pod::row().prefix(None)).await?,
        nodes: watch(Node::row().prefix(None)).await?,
    };
    let now = Instant::now();
    for entry in snapshot.list(&Node::row().prefix(None)) {
        scheduler.node_changed(entry, false, now);
    }
    for entry in snapshot.list(&Pod::row().prefix(None)) {
        scheduler.pod_changed(entry, false, &snapshot, now);
    }
    Ok(watches)
}

async fn work(world: &World, scheduler: &mut Scheduler, watches: &mut Watches) -> Result<(), Gone> {
    let mut writes: JoinSet<Wrote> = JoinSet::new();
    loop {
        catch_up(world, scheduler, watches)?;
        while let Some(wrote) = writes.try_join_next() {
            ended(scheduler, wrote);
        }
        scheduler.flush(Instant::now());
        let idle = look(world, scheduler, &mut writes);
        if !idle && writes.len() < WRITES {
            tokio::task::yield_now().await;
            continue;
        }
        let due = scheduler
            .next_due()
            .unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
        tokio::select! {
            item = watches.pods.next() => if let WatchItem::Event(event) = item? {
                scheduler.pod_changed(&event.entry, event.kind == EventKind::Deleted, &world.store.snapshot(), Instant::now());
            },
            item = watches.nodes.next() => if let WatchItem::Event(event) = item? {
                scheduler.node_changed(&event.entry, event.kind == EventKind::Deleted, Instant::now());
            },
            Some(wrote) = writes.join_next(), if !writes.is_empty() => ended(scheduler, wrote),
            () = sleep_until(due) => {}
        }
    }
}

/// Takes in what has changed already.
fn catch_up(world: &World, scheduler: &mut Scheduler, watches: &mut Watches) -> Result<(), Gone> {
    while let Some(event) = watches.nodes.try_next()? {
        scheduler.node_changed(
            &event.entry,
            event.kind == EventKind::Deleted,
            Instant::now(),
        );
    }
    let mut snapshot = None;
    while let Some(event) = watches.pods.try_next()? {
        let snapshot = snapshot.get_or_insert_with(|| world.store.snapshot());
        scheduler.pod_changed(
            &event.entry,
            event.kind == EventKind::Deleted,
            snapshot,
            Instant::now(),
        );
    }
    Ok(())
}

/// Looks at some pods. True when none waits.
fn look(world: &World, scheduler: &mut Scheduler, writes: &mut JoinSet<Wrote>) -> bool {
    let snapshot = world.store.snapshot();
    for _ in 0..IN_A_ROW {
        if writes.len() >= WRITES {
            return false;
        }
        match scheduler.next(&snapshot, Instant::now()) {
            Step::Idle => return true,
            Step::Skip => {}
            Step::Bind { pod, node } => {
                writes.spawn(bind(world.clone(), pod, node));
            }
            Step::Tell { actions, events } => {
                events.into_iter().for_each(|event| world.emit(event));
                if !actions.is_empty() {
                    writes.spawn(carry_out(world.clone(), actions));
                }
            }
        }
    }
    false
}

fn ended(scheduler: &mut Scheduler, wrote: Result<Wrote, JoinError>) {
    match wrote {
        Ok(Wrote::Bound(pod, result)) => {
            if let Err(error) = &result {
                tracing::warn!(%pod, %error, "not bound");
            }
            scheduler.bound(&pod, &result, Instant::now());
        }
        Ok(Wrote::Told) => {}
        Err(error) => tracing::error!(%error, "a write ended badly"),
    }
}

async fn bind(world: World, pod: Arc<Pod>, node: String) -> Wrote {
    let name = caravel_controllers::action::name_of(&*pod);
    let uid = Uid::from(pod.metadata.uid.as_deref().unwrap_or_default());
    let result = world
        .apply(Action::Bind {
            pod: name.clone(),
            uid,
            node: NodeName::new(node.as_str()),
        })
        .await;
    match &result {
        Ok(()) => world.emit(tell::scheduled(&pod, &node)),
        Err(error) if error.is_not_found() || error.is_conflict() => {}
        Err(error) => world.emit(tell::failed(&pod, &format!("binding rejected: {error}"))),
    }
    Wrote::Bound(name, result)
}

/// In order; one that is refused does not hold up the others, since every one is decided on again anyway.
async fn carry_out(world: World, actions: Vec<Action>) -> Wrote {
    for action in actions {
        let line = action.to_string();
        if let Err(error) = world.apply(action).await {
            tracing::debug!(action = line, %error, "refused");
        }
    }
    Wrote::Told
}

impl World {
    async fn apply(&self, action: Action) -> Result<(), ApiError> {
        match timeout(DEADLINE, self.hand.apply(self.epoch, SCHEDULER, action)).await {
            Ok(result) => result.map(drop),
            Err(_) => Err(ApiError::timeout(
                "the write took too long; it may have been committed",
                0,
            )),
        }
    }

    fn emit(&self, record: EventRecord) {
        // Events are best effort: when too many wait, this one is dropped.
        if self.events.try_send(record).is_err() {
            tracing::debug!("an event was dropped");
        }
    }
}

#[cfg(test)]
mod tests;
