//! The loop that runs every controller: watches, queues keys, decides on a snapshot, carries out, waits for what it
//! wrote, and looks again. Runs only while this replica leads, under that leadership's epoch.
//!
//! The only place of this crate where tasks are spawned.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use caravel_api::{KeyRange, ObjectName, clock, time};
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
pub async fn run_rows(
    rows: &'static [Row],
    store: Store,
    hand: Arc<dyn Hand>,
    settings: Settings,
    cancel: CancellationToken,
) {
    let mut leadership = store.leadership();
    loop {
        let epoch = *leadership.borrow_and_update();
        let mut reign = JoinSet::new();
        if let Some(epoch) = epoch {
            tracing::info!(
                ?epoch,
                controllers = rows.len(),
                "this server leads: starting the controllers"
            );
            let (events, records) = mpsc::channel(recorder::WAITING);
            let world = Arc::new(World {
                store: store.clone(),
                hand: hand.clone(),
                settings: settings.clone(),
                epoch,
                since: time::now(),
                events,
            });
            reign.spawn(recorder::record(
                store.clone(),
                hand.clone(),
                epoch,
                records,
            ));
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
        let mut watch = match world
            .store
            .watch(KeyRange::all(), snapshot.revision())
            .await
        {
            Ok(watch) => watch,
            Err(error) => {
                tracing::debug!(controller = row.name, ?error, "cannot watch yet");
                sleep(WATCH_AGAIN).await;
                continue;
            }
        };
        for entry in snapshot.list(&KeyRange::all()) {
            wake(
                row,
                &mut queue,
                &Changed {
                    entry,
                    previous: None,
                    deleted: false,
                    cluster: &snapshot,
                },
            );
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
            let due = queue
                .next_due()
                .unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
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
        let concerned = (wake.kind)()
            .is_none_or(|kind| changed.entry.key.kind_prefix() == kind.prefix(None).start.as_str());
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
        return Worked {
            key,
            outcomes: last,
            success: false,
            again: None,
        };
    };
    drop(snapshot);
    let again = plan.again_at.map(instant);
    let carry_out = CarryOut {
        hand: &*world.hand,
        epoch: world.epoch,
        identity: row.identity,
        events: &world.events,
    };
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
    let _ = world
        .store
        .at_least(done.revision, Instant::now() + SHOWN_WITHIN)
        .await;
    let success = done.outcomes.refused.is_empty();
    Worked {
        key,
        outcomes: done.outcomes,
        success,
        again,
    }
}

fn decide(
    row: &Row,
    world: &World,
    snapshot: &Snapshot,
    key: &ObjectName,
    last: &Outcomes,
) -> Option<crate::Plan> {
    let situation = Situation {
        last,
        now: time::now(),
        settings: &world.settings,
        since: world.since,
    };
    match catch_unwind(AssertUnwindSafe(|| {
        (row.reconcile)(snapshot, key, &situation)
    })) {
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
    let wait = at.as_millisecond() - clock::now().as_millisecond();
    Instant::now() + Duration::from_millis(u64::try_from(wait).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use caravel_api::{Kind, ObjectName, time};
    use caravel_store::{Snapshot, Store};
    use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
    use k8s_openapi::api::core::v1::{ConfigMap, Endpoints, Event, Namespace, Pod, PodCondition};
    use tokio_util::sync::CancellationToken;

    use crate::fake::FakeHand;
    use crate::testing::{cluster, eventually};
    use crate::{Action, Hand, Settings};

    const OBJECTS: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: a, uid: n}, spec: {finalizers: [kubernetes]}, status: {phase: Active}}
---
{apiVersion: v1, kind: Node, metadata: {name: n1, uid: n1}}
---
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: a, uid: s}, spec: {selector: {app: web}, ports: [{port: 80}]}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: a, uid: d, generation: 1}
spec:
  replicas: 3
  progressDeadlineSeconds: 600
  selector: {matchLabels: {app: web}}
  strategy: {type: RollingUpdate}
  template: {metadata: {labels: {app: web}}, spec: {containers: [{name: c, image: v1}]}}
";

    /// Runs every pod at once, and ends those that are deleted.
    async fn make_believe_node(store: Store, hand: Arc<FakeHand>) {
        let mut revisions = store.revisions();
        let epoch = store.leadership().borrow().expect("a memory store leads");
        loop {
            let snapshot = store.snapshot();
            for pod in snapshot.all::<Pod>(None).filter_map(Result::ok) {
                if pod
                    .status
                    .as_ref()
                    .is_some_and(|status| status.pod_ip.is_some())
                {
                    continue;
                }
                let mut pod = (*pod).clone();
                let status = pod.status.get_or_insert_default();
                status.phase = Some("Running".to_owned());
                status.pod_ip = Some("10.42.0.9".to_owned());
                let ready = PodCondition {
                    type_: "Ready".to_owned(),
                    status: "True".to_owned(),
                    last_transition_time: Some(time::time(time::now())),
                    ..PodCondition::default()
                };
                status.conditions = Some(vec![ready]);
                let _ = hand.apply(epoch, "n1", Action::update_status(&pod)).await;
            }
            if revisions.changed().await.is_err() {
                return;
            }
        }
    }

    fn images(snapshot: &Snapshot) -> Vec<String> {
        let pods = snapshot.all::<Pod>(Some("a")).filter_map(Result::ok);
        let mut images: Vec<String> = pods
            .filter_map(|pod| pod.spec.as_ref()?.containers[0].image.clone())
            .collect();
        images.sort();
        images
    }

    fn deployment(snapshot: &Snapshot) -> Arc<Deployment> {
        snapshot.get(&ObjectName::new("a", "web")).unwrap().unwrap()
    }

    fn settled(snapshot: &Snapshot) -> bool {
        let status = deployment(snapshot).status.clone().unwrap_or_default();
        let wanted = deployment(snapshot).spec.replicas;
        status.observed_generation == deployment(snapshot).metadata.generation
            && (
                status.replicas,
                status.available_replicas,
                status.updated_replicas,
            ) == (wanted, wanted, wanted)
    }

    #[tokio::test]
    async fn a_deployment_lives_rolls_and_goes_with_its_namespace() {
        let (store, hand) = cluster(&[OBJECTS]).await;
        let cancel = CancellationToken::new();
        let settings = Settings {
            root_ca: "CA".to_owned(),
            ..Settings::default()
        };
        let controllers = tokio::spawn(super::run(
            store.clone(),
            hand.clone(),
            settings,
            cancel.clone(),
        ));
        let node = tokio::spawn(make_believe_node(store.clone(), hand.clone()));
        let epoch = store.leadership().borrow().unwrap();

        eventually(&store, "three pods run", |snapshot| {
            images(snapshot) == ["v1", "v1", "v1"] && settled(snapshot)
        })
        .await;
        eventually(&store, "the service shows them", |snapshot| {
            let endpoints = snapshot
                .get::<Endpoints>(&ObjectName::new("a", "web"))
                .unwrap();
            endpoints.is_some_and(|endpoints| {
                endpoints
                    .subsets
                    .iter()
                    .flatten()
                    .flat_map(|subset| subset.addresses.iter().flatten())
                    .count()
                    == 3
            })
        })
        .await;
        eventually(&store, "the CA is published", |snapshot| {
            snapshot
                .get::<ConfigMap>(&ObjectName::new("a", "kube-root-ca.crt"))
                .unwrap()
                .is_some()
        })
        .await;
        eventually(&store, "it is told", |snapshot| {
            let messages: Vec<String> = snapshot
                .all::<Event>(Some("a"))
                .filter_map(|event| event.unwrap().message.clone())
                .collect();
            messages.iter().any(|message| {
                message.starts_with("Scaled up replica set web-")
                    && message.ends_with(" from 0 to 3")
            }) && messages
                .iter()
                .filter(|message| message.starts_with("Created pod: web-"))
                .count()
                == 3
        })
        .await;

        let mut new = (*deployment(&store.snapshot())).clone();
        new.spec.template.spec.as_mut().unwrap().containers[0].image = Some("v2".to_owned());
        new.metadata.resource_version = None;
        hand.apply(epoch, "test", Action::update(&new))
            .await
            .unwrap();
        eventually(&store, "the new image is rolled out", |snapshot| {
            images(snapshot) == ["v2", "v2", "v2"] && settled(snapshot)
        })
        .await;
        eventually(&store, "the old set is kept at nothing", |snapshot| {
            let mut sizes: Vec<_> = snapshot
                .all::<ReplicaSet>(Some("a"))
                .map(|set| set.unwrap().spec.replicas)
                .collect();
            sizes.sort();
            sizes == [Some(0), Some(3)]
        })
        .await;

        let namespace = store
            .snapshot()
            .get::<Namespace>(&ObjectName::cluster("a"))
            .unwrap()
            .unwrap();
        hand.apply(epoch, "test", Action::delete(&*namespace))
            .await
            .unwrap();
        eventually(
            &store,
            "the namespace is gone with all that was in it",
            |snapshot| {
                snapshot.entry(&Namespace::row().key("", "a")).is_none()
                    && snapshot.count(&Pod::row().prefix(None)) == 0
            },
        )
        .await;
        cancel.cancel();
        controllers.await.unwrap();
        node.abort();
    }
    #[tokio::test]
    async fn a_refused_pod_is_told_of_and_tried_again() {
        let (store, hand) = cluster(&[OBJECTS]).await;
        *hand.refuse.lock() = Some((
            "create pod".to_owned(),
            caravel_api::ApiError::forbidden_because("", "pods", "", "exceeded quota"),
        ));
        let cancel = CancellationToken::new();
        let controllers = tokio::spawn(super::run(
            store.clone(),
            hand.clone(),
            Settings::default(),
            cancel.clone(),
        ));
        let condition = |snapshot: &Snapshot| {
            let status = deployment(snapshot).status.clone().unwrap_or_default();
            let failure = status
                .conditions
                .into_iter()
                .flatten()
                .find(|condition| condition.type_.as_deref() == Some("ReplicaFailure"));
            failure.map(|failure| {
                format!(
                    "{} {}",
                    failure.reason.unwrap_or_default(),
                    failure.message.unwrap_or_default()
                )
            })
        };
        eventually(&store, "the failure is a condition", |snapshot| {
            condition(snapshot).as_deref() == Some("FailedCreate pods is forbidden: exceeded quota")
        })
        .await;
        eventually(&store, "the failure is an event", |snapshot| {
            let messages: Vec<String> = snapshot
                .all::<Event>(Some("a"))
                .filter_map(|event| event.unwrap().message.clone())
                .collect();
            messages.contains(&"Error creating: pods is forbidden: exceeded quota".to_owned())
        })
        .await;
        *hand.refuse.lock() = None;
        eventually(
            &store,
            "the pods are made and the condition goes",
            |snapshot| images(snapshot).len() == 3 && condition(snapshot).is_none(),
        )
        .await;
        cancel.cancel();
        controllers.await.unwrap();
    }
}
