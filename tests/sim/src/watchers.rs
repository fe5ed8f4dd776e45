//! Clients that follow changes from one server to the next, as clients of the API do: from the revision where they
//! were, and by a new list where that is gone.

use std::time::Duration;

use caravel_api::{KeyRange, Revision};
use caravel_store::{EventKind, WatchError, WatchItem};
use rand::Rng as _;
use tokio::time::{Instant, sleep, timeout};

use crate::model::{Event, marks};
use crate::world::World;

/// How long a watch may be silent before its client looks whether its server is still there.
const PATIENCE: Duration = Duration::from_millis(300);

/// Follows until it has reached the revision that `end` names.
pub async fn follow(world: World, number: u64, end: tokio::sync::watch::Receiver<Option<u64>>) {
    let mut random = world.random(300 + number);
    let range = match number % 3 {
        0 => KeyRange::all(),
        1 => KeyRange::prefix("/registry/core/configmaps/"),
        _ => KeyRange::prefix("/registry/core/pods/sim/"),
    };
    let mut at: Option<u64> = None;
    loop {
        sleep(Duration::from_millis(random.random_range(1..50))).await;
        let done = |at: Option<u64>| end.borrow().is_some_and(|end| at >= Some(end));
        if done(at) {
            return;
        }
        let running = world.running();
        if running.is_empty() {
            continue;
        }
        let node = running[random.random_range(0..running.len())];
        let Some((store, life)) = world.store(node) else {
            continue;
        };
        if !*store.contact().borrow() {
            continue;
        }
        let after = *at.get_or_insert_with(|| store.snapshot().revision().0);
        let mut watch = match store.watch(range.clone(), Revision(after)).await {
            Ok(watch) => watch,
            Err(WatchError::NotYet) => continue,
            Err(WatchError::Gone) => {
                world.count(|totals| totals.relists += 1);
                let now = store.snapshot().revision().0;
                // What is listed anew is not older than what was seen.
                at = (now >= after).then_some(now).or(at);
                continue;
            }
        };
        world.count(|totals| totals.watch_resumptions += 1);
        world.trace(format_args!("w{number} follows {node} from {after}"));
        let leaves = Instant::now() + Duration::from_millis(random.random_range(500..15_000));
        loop {
            let item = timeout(PATIENCE, watch.next()).await;
            if !world.lives(node, life) || !*store.contact().borrow() {
                break;
            }
            let from = at.unwrap_or(0);
            match item {
                Err(_) => {}
                Ok(Err(_)) => break,
                Ok(Ok(WatchItem::Progress(Revision(revision)))) => {
                    world.step();
                    let seen = world.model().watched(&range, from, revision, None);
                    world.require(seen);
                    at = Some(revision);
                }
                Ok(Ok(WatchItem::Event(event))) => {
                    world.step();
                    let Revision(revision) = event.revision;
                    let what = Event {
                        key: event.entry.key.clone(),
                        deleted: event.kind == EventKind::Deleted,
                        value: marks(&event.entry.json).0,
                    };
                    let seen = world.model().watched(&range, from, revision, Some(&what));
                    world.require(seen);
                    world.count(|totals| totals.watch_events += 1);
                    at = Some(revision);
                }
            }
            if done(at) {
                return;
            }
            if Instant::now() > leaves {
                break;
            }
        }
    }
}
