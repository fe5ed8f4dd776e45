//! Following changes: one ring of past events per kind, and cursors that read it at their own pace.
//!
//! A watch delivers every change of its range after its revision, once and in order, or ends with `Gone`. It never
//! drops silently and costs no memory for being slow: what a cursor has not read lies only in the ring, and when the
//! ring lets it go the cursor is told. An event is seen only once a snapshot of its revision can be had.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use caravel_api::{KeyRange, Revision};
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::event::Event;
use crate::latency::{Counted, Durations};
use crate::sabotage::{self, Sabotage};
use crate::state::single_kind;

/// The changes after the given revision are no longer kept: list again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the changes after this revision are no longer kept")]
pub struct Gone;

/// Why a watch could not begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    #[error("the changes after this revision are no longer kept")]
    Gone,
    #[error("the revision is ahead of this server")]
    NotYet,
}

/// What a watch yields.
#[derive(Clone, Debug)]
pub enum WatchItem {
    Event(Arc<Event>),
    /// Nothing else happened up to this revision (a bookmark).
    Progress(Revision),
}

/// Limits of the rings.
#[derive(Clone, Copy, Debug)]
pub struct RingLimits {
    /// Bytes of past events kept per kind.
    pub bytes: usize,
    /// Events older than this may go although there is room.
    pub age: Duration,
    /// An idle watch reports how far it is this often.
    pub progress: Duration,
}

impl Default for RingLimits {
    fn default() -> Self {
        RingLimits {
            bytes: 16 << 20,
            age: Duration::from_secs(900),
            progress: Duration::from_secs(60),
        }
    }
}

/// All rings of a replica.
pub(crate) struct Hub {
    limits: RingLimits,
    /// The newest revision that readers may see.
    published: watch::Sender<Revision>,
    rings: RwLock<Rings>,
    watchers: AtomicU64,
    /// From a change's being seen here until a watcher took it.
    delays: Durations,
}

struct Rings {
    by_kind: BTreeMap<Arc<str>, Arc<Ring>>,
    /// Nothing up to here is in any ring.
    floor: Revision,
}

struct Ring {
    wake: watch::Sender<()>,
    past: Mutex<Past>,
}

struct Past {
    events: VecDeque<Arc<Event>>,
    bytes: usize,
    /// Everything up to here may be missing.
    floor: Revision,
}

impl Hub {
    pub fn new(limits: RingLimits, floor: Revision) -> Self {
        Hub {
            limits,
            published: watch::Sender::new(floor),
            rings: RwLock::new(Rings {
                by_kind: BTreeMap::new(),
                floor,
            }),
            watchers: AtomicU64::new(0),
            delays: Durations::default(),
        }
    }

    /// How many watches are open.
    pub fn watchers(&self) -> u64 {
        self.watchers.load(Ordering::Relaxed)
    }

    /// How long changes waited for their watchers.
    pub fn delays(&self) -> Counted {
        self.delays.read()
    }

    pub fn published(&self) -> watch::Receiver<Revision> {
        self.published.subscribe()
    }

    /// Keeps `events` (in revision order), runs `show` to make the new state readable, then lets everybody know.
    pub fn publish(&self, events: Vec<Arc<Event>>, revision: Revision, show: impl FnOnce()) {
        let mut touched: Vec<Arc<Ring>> = Vec::new();
        for event in events {
            if sabotage::on(Sabotage::DropEvent) && event.revision.0 % 50 == 7 {
                continue;
            }
            let ring = self.ring(event.entry.key.kind_prefix());
            ring.push(event, self.limits.bytes);
            if !touched.iter().any(|seen| Arc::ptr_eq(seen, &ring)) {
                touched.push(ring);
            }
        }
        show();
        self.published.send_replace(revision);
        for ring in touched {
            ring.wake.send_replace(());
        }
    }

    /// Forgets all events: the state was replaced by one at `revision`. Every watch that is behind ends.
    pub fn reset(&self, revision: Revision, show: impl FnOnce()) {
        let mut rings = self.rings.write();
        rings.floor = revision;
        for ring in rings.by_kind.values() {
            *ring.past.lock() = Past {
                events: VecDeque::new(),
                bytes: 0,
                floor: revision,
            };
        }
        show();
        self.published.send_replace(revision);
        for ring in rings.by_kind.values() {
            ring.wake.send_replace(());
        }
    }

    /// Lets events go that were seen before the age limit.
    pub fn expire(&self, now: Instant) {
        let rings: Vec<_> = self.rings.read().by_kind.values().cloned().collect();
        for ring in rings {
            ring.past.lock().expire(now, self.limits.age);
        }
    }

    /// Bytes held by all rings.
    pub fn bytes(&self) -> usize {
        self.rings
            .read()
            .by_kind
            .values()
            .map(|ring| ring.past.lock().bytes)
            .sum()
    }

    fn ring(&self, prefix: &str) -> Arc<Ring> {
        if let Some(ring) = self.rings.read().by_kind.get(prefix) {
            return ring.clone();
        }
        let mut rings = self.rings.write();
        let floor = rings.floor;
        let new = || {
            Arc::new(Ring {
                wake: watch::Sender::new(()),
                past: Mutex::new(Past {
                    events: VecDeque::new(),
                    bytes: 0,
                    floor,
                }),
            })
        };
        rings
            .by_kind
            .entry(Arc::from(prefix))
            .or_insert_with(new)
            .clone()
    }

    /// The rings whose keys may lie in `range`, unless all of them were emptied past `position`.
    fn rings_of(&self, range: &KeyRange, position: Revision) -> Result<Vec<Arc<Ring>>, Gone> {
        let rings = self.rings.read();
        if position < rings.floor {
            return Err(Gone);
        }
        let meets = |prefix: &str| {
            let kind = KeyRange::prefix(prefix);
            kind.start < range.end && range.start < kind.end
        };
        Ok(rings
            .by_kind
            .iter()
            .filter(|(prefix, _)| meets(prefix))
            .map(|(_, ring)| ring.clone())
            .collect())
    }

    /// A cursor over `range` that begins after `after`, which this replica must have reached.
    pub fn watch(self: &Arc<Self>, range: KeyRange, after: Revision) -> Result<Watch, WatchError> {
        let ring = single_kind(&range).map(|prefix| self.ring(prefix));
        let wake = match &ring {
            Some(ring) => Wake::Kind(ring.wake.subscribe()),
            None => Wake::Any(self.published()),
        };
        let next_progress = Instant::now() + self.limits.progress;
        self.watchers.fetch_add(1, Ordering::Relaxed);
        let mut watch = Watch {
            hub: self.clone(),
            ring,
            wake,
            range,
            position: after,
            queue: VecDeque::new(),
            next_progress,
        };
        match watch.fill() {
            Ok(()) => Ok(watch),
            Err(Gone) => Err(WatchError::Gone),
        }
    }
}

impl Ring {
    fn push(&self, event: Arc<Event>, limit: usize) {
        let mut past = self.past.lock();
        past.bytes += event.cost();
        past.events.push_back(event);
        // The newest always stays, however large.
        while past.bytes > limit && past.events.len() > 1 {
            past.pop();
        }
    }
}

impl Past {
    fn pop(&mut self) {
        if let Some(event) = self.events.pop_front() {
            self.bytes -= event.cost();
            self.floor = event.revision;
        }
    }

    fn expire(&mut self, now: Instant, age: Duration) {
        while self
            .events
            .front()
            .is_some_and(|event| now.saturating_duration_since(event.seen) > age)
        {
            self.pop();
        }
    }

    /// At most `limit` scanned events after `after`, not past `until`; and how far the scan came.
    fn read(
        &self,
        range: &KeyRange,
        after: Revision,
        until: Revision,
        limit: usize,
        into: &mut impl Extend<Arc<Event>>,
    ) -> Result<Revision, Gone> {
        if after < self.floor {
            return Err(Gone);
        }
        let first = self.events.partition_point(|event| event.revision <= after);
        let scanned = self
            .events
            .range(first..)
            .take(limit)
            .take_while(|event| event.revision <= until);
        let mut last = after;
        let mut count = 0;
        for event in scanned {
            count += 1;
            last = event.revision;
            if range.contains(&event.entry.key) {
                into.extend([event.clone()]);
            }
        }
        Ok(if count == limit {
            last
        } else {
            until.max(after)
        })
    }
}

enum Wake {
    Kind(watch::Receiver<()>),
    Any(watch::Receiver<Revision>),
}

impl Wake {
    fn mark_seen(&mut self) {
        match self {
            Wake::Kind(wake) => wake.mark_unchanged(),
            Wake::Any(wake) => wake.mark_unchanged(),
        }
    }

    async fn changed(&mut self) {
        // The sender lives in the hub that the watch holds, so it cannot be gone.
        let _ = match self {
            Wake::Kind(wake) => wake.changed().await,
            Wake::Any(wake) => wake.changed().await,
        };
    }
}

/// Events a cursor takes from its ring at once.
const READ_AHEAD: usize = 256;

/// One watcher's place in the history of a range.
pub struct Watch {
    hub: Arc<Hub>,
    ring: Option<Arc<Ring>>,
    wake: Wake,
    range: KeyRange,
    /// Everything up to here was delivered or lies in `queue`.
    position: Revision,
    queue: VecDeque<Arc<Event>>,
    next_progress: Instant,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.hub.watchers.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Watch {
    /// The next change, or how far nothing changed. Cancel-safe.
    pub async fn next(&mut self) -> Result<WatchItem, Gone> {
        loop {
            if let Some(item) = self.ready()? {
                return Ok(item);
            }
            if Instant::now() >= self.next_progress {
                self.next_progress = Instant::now() + self.hub.limits.progress;
                return Ok(WatchItem::Progress(self.position));
            }
            tokio::select! {
                () = self.wake.changed() => {}
                () = sleep_until(self.next_progress) => {}
            }
        }
    }

    /// The next change if there is one already.
    pub fn try_next(&mut self) -> Result<Option<Arc<Event>>, Gone> {
        if self.queue.is_empty() {
            self.fill()?;
        }
        let next = self.queue.pop_front();
        if let Some(event) = &next {
            self.hub.delays.add(event.seen.elapsed());
        }
        Ok(next)
    }

    /// Every change of the range up to here has been returned by `next`.
    pub fn progress(&self) -> Revision {
        self.queue
            .front()
            .map_or(self.position, |event| Revision(event.revision.0 - 1))
    }

    fn ready(&mut self) -> Result<Option<WatchItem>, Gone> {
        Ok(self.try_next()?.map(WatchItem::Event))
    }

    /// Reads on until something matches or nothing is left.
    fn fill(&mut self) -> Result<(), Gone> {
        self.wake.mark_seen();
        // Read before the rings: whatever is published is in them already.
        let until = *self.hub.published.borrow();
        while self.queue.is_empty() && self.position < until {
            self.position = match &self.ring {
                Some(ring) => ring.past.lock().read(
                    &self.range,
                    self.position,
                    until,
                    READ_AHEAD,
                    &mut self.queue,
                )?,
                None => {
                    let rings = self.hub.rings_of(&self.range, self.position)?;
                    let mut events: Vec<Arc<Event>> = Vec::new();
                    for ring in rings {
                        ring.past.lock().read(
                            &self.range,
                            self.position,
                            until,
                            usize::MAX,
                            &mut events,
                        )?;
                    }
                    events.sort_by_key(|event| event.revision);
                    self.queue.extend(events);
                    until
                }
            };
        }
        // A ring that was emptied ahead of this cursor ends it even when nothing new came.
        match &self.ring {
            Some(ring) if self.queue.is_empty() && self.position < ring.past.lock().floor => {
                Err(Gone)
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::Entry;
    use crate::event::EventKind;
    use caravel_api::{Encoded, Key};

    fn publish(hub: &Hub, revision: u64) {
        let object = Encoded::new(r#"{"metadata":{"name":"a"}}"#).unwrap();
        let entry = Arc::new(Entry::new(
            Key::from("/registry/core/pods/a/a"),
            Revision(revision),
            &object,
        ));
        hub.publish(
            vec![Arc::new(Event::new(
                EventKind::Modified,
                entry,
                None,
                Instant::now(),
            ))],
            Revision(revision),
            || (),
        );
    }

    #[tokio::test(start_paused = true)]
    async fn old_events_go_and_those_who_have_not_read_them_are_told() {
        let hub = Arc::new(Hub::new(
            RingLimits {
                age: Duration::from_secs(10),
                ..RingLimits::default()
            },
            Revision(5),
        ));
        let pods = KeyRange::prefix("/registry/core/pods/");
        assert!(matches!(
            hub.watch(pods.clone(), Revision(4)),
            Err(WatchError::Gone)
        ));
        let mut behind = hub.watch(pods.clone(), Revision(5)).unwrap();
        publish(&hub, 6);
        tokio::time::advance(Duration::from_secs(8)).await;
        publish(&hub, 7);
        let mut reader = hub.watch(pods.clone(), Revision(6)).unwrap();
        tokio::time::advance(Duration::from_secs(8)).await;
        hub.expire(Instant::now());
        assert_eq!(behind.try_next().unwrap_err(), Gone);
        assert_eq!(
            reader.try_next().unwrap().map(|event| event.revision),
            Some(Revision(7))
        );
        tokio::time::advance(Duration::from_secs(8)).await;
        hub.expire(Instant::now());
        // It has read everything, so nothing is gone for it.
        assert!(reader.try_next().unwrap().is_none());
        assert!(hub.watch(pods.clone(), Revision(7)).is_ok());
        hub.reset(Revision(100), || ());
        assert_eq!(reader.try_next().unwrap_err(), Gone);
        assert!(hub.watch(pods, Revision(100)).is_ok());
    }
}
