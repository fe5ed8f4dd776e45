//! The loop that runs every controller: watches, queues keys, decides on a snapshot, carries out, waits for what it
//! wrote, and looks again. Runs only while this replica leads, under that leadership's epoch.
//!
//! The only place of this crate where tasks are spawned.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use caravel_api::{KeyRange, ObjectName, time};
use caravel_store::{Epoch, EventKind, Snapshot, Store, WatchItem};
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::CONTROLLERS;
use crate::action::Outcomes;
use crate::carry_out::CarryOut;
use crate::events::EventRecord;
use crate::hand::Hand;
use crate::queue::Queue;
use crate::recorder;
use crate::row::{Changed, Row, Situation};
use crate::settings::Settings;

/// How long to wait until this replica shows what it wrote.
const SHOWN_WITHIN: Duration = Duration::from_secs(10);
/// Before a watch that was refused is asked for again.
const WATCH_AGAIN: Duration = Duration::from_millis(200);

struct World {
    store: Store,
    hand: Arc<dyn Hand>,
    settings: Settings,
    epoch: Epoch,
    since: Timestamp,
    events: mpsc::Sender<EventRecord>,
}

/// Runs every controller while this replica leads, until `cancel`.
pub async fn run(store: Store, hand: Arc<dyn Hand>, settings: Settings, cancel: CancellationToken) {
    run_rows(CONTROLLERS, store, hand, settings, cancel).await;
}

/// As [`run`], with another list of controllers (the scheduler's, a test's).
pub async fn run_rows(rows: &'static [Row], store: Store, hand: Arc<dyn Hand>, settings: Settings, cancel: CancellationToken) {
    let mut leadership = store.leadership();
    loop {
        let epoch = *leadership.borrow_and_update();
        let mut reign = JoinSet::new();
        if let Some(epoch) = epoch {
            tracing::info!(?epoch, controllers = rows.len(), "this server leads: starting the controllers");
            let (events, records) = mpsc::channel(recorder::WAITING);
            let world = Arc::new(World { store: store.clone(), hand: hand.clone(), settings: settings.clone(), epoch, since: time::now(), events });
            reign.spawn(recorder::record(store.clone(), hand.clone(), epoch, records));
            for row in rows {
                reign.spawn(control(row, world.clone()));
            }
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

/// One key was worked on.
struct Worked {
    key: ObjectName,
    outcomes: Outcomes,
    success: bool,
    again: Option<Instant>,
}

async fn control(row: &'static Row, world: Arc<World>) {
    let mut queue = Queue::default();
    let mut last: BTreeMap<ObjectName, Outcomes> = BTreeMap::new();
    let mut workers: JoinSet<Worked> = JoinSet::new();
    loop {
        let snapshot = world.store.snapshot();
        let mut watch = match world.store.watch(KeyRange::all(), snapshot.revision()).await {
            Ok(watch) => watch,
            Err(error) => {
                tracing::debug!(controller = row.name, ?error, "cannot watch yet");
                sleep(WATCH_AGAIN).await;
                continue;
            }
        };
        for entry in snapshot.list(&KeyRange::all()) {
            wake(row, &mut queue, &Changed { entry, previous: None, deleted: false, cluster: &snapshot });
        }
        drop(snapshot);
        loop {
            queue.wake(Instant::now());
            while workers.len() < row.workers
                && let Some(key) = queue.take()
            {
                let last = last.remove(&key).unwrap_or_default();
                workers.spawn(work(row, world.clone(), key, last));
            }
            let due = queue.next_due().unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
            tokio::select! {
                item = watch.next() => match item {
                    Ok(WatchItem::Event(event)) => {
                        let cluster = world.store.snapshot();
                        let deleted = event.kind == EventKind::Deleted;
                        wake(row, &mut queue, &Changed { entry: &event.entry, previous: event.previous.as_ref(), deleted, cluster: &cluster });
                    }
                    Ok(_) => {}
                    Err(_) => break,
                },
                Some(worked) = workers.join_next(), if !workers.is_empty() => match worked {
                    Ok(worked) => {
                        if !worked.outcomes.refused.is_empty() {
                            last.insert(worked.key.clone(), worked.outcomes);
                        }
                        queue.done(&worked.key, worked.success, worked.again, Instant::now());
                    }
                    Err(error) => tracing::error!(controller = row.name, %error, "a worker ended badly"),
                },
                () = sleep_until(due) => {}
            }
        }
    }
}

fn wake(row: &Row, queue: &mut Queue, changed: &Changed<'_>) {
    for wake in row.wakes {
        let concerned = (wake.kind)().is_none_or(|kind| changed.entry.key.kind_prefix() == kind.prefix(None).start.as_str());
        if concerned {
            for key in (wake.keys)(changed) {
                queue.add(key);
            }
        }
    }
}

async fn work(row: &'static Row, world: Arc<World>, key: ObjectName, last: Outcomes) -> Worked {
    let snapshot = world.store.snapshot();
    let Some(plan) = decide(row, &world, &snapshot, &key, &last) else {
        return Worked { key, outcomes: last, success: false, again: None };
    };
    drop(snapshot);
    let again = plan.again_at.map(instant);
    let carry_out = CarryOut { hand: &*world.hand, epoch: world.epoch, identity: row.identity, events: &world.events };
    let done = carry_out.plan(plan.actions).await;
    for (action, error) in &done.outcomes.refused {
        if error.is_conflict() {
            tracing::debug!(controller = row.name, %key, action, %error, "decided on an old state");
        } else {
            tracing::warn!(controller = row.name, %key, action, %error, "refused");
        }
    }
    if done.unknown {
        // What may have happened must be seen before the next decision.
        let _ = world.store.fresh_snapshot().await;
    }
    let _ = world.store.at_least(done.revision, Instant::now() + SHOWN_WITHIN).await;
    let success = done.outcomes.refused.is_empty();
    Worked { key, outcomes: done.outcomes, success, again }
}

fn decide(row: &Row, world: &World, snapshot: &Snapshot, key: &ObjectName, last: &Outcomes) -> Option<crate::Plan> {
    let situation = Situation { last, now: time::now(), settings: &world.settings, since: world.since };
    match catch_unwind(AssertUnwindSafe(|| (row.reconcile)(snapshot, key, &situation))) {
        Ok(Ok(plan)) => Some(plan),
        Ok(Err(error)) => {
            tracing::error!(controller = row.name, %key, %error, "cannot decide");
            None
        }
        Err(_) => {
            tracing::error!(controller = row.name, %key, "the decision panicked; this is a bug");
            None
        }
    }
}

fn instant(at: Timestamp) -> Instant {
    let wait = at.as_millisecond() - Timestamp::now().as_millisecond();
    Instant::now() + Duration::from_millis(u64::try_from(wait).unwrap_or_default())
}
