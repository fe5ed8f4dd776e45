//! How many requests run at once, and who waits: priority and fairness. A request of a person, a node or a workload gets a seat, or
//! waits for one in a bounded queue of its flow for a bounded time; else 429 with Retry-After.
//!
//! Follows `apiserver/pkg/util/flowcontrol` with upstream's default levels and schemas ([`schema`]); the decision is [`fair`]'s. Long-running
//! requests (watches, logs, exec) take no seat, as upstream's after their start. Administrators (`system:masters`) are exempt.

mod fair;
mod metrics;
pub(crate) mod schema;

use crate::info::RequestInfo;
use caravel_api::ApiError;
use caravel_auth::UserInfo;
use caravel_exporter::{MetricsError, Registry};
use fair::{Arrival, Hall, Place};
use metrics::{Labels, Metrics, labels};
use parking_lot::Mutex;
use schema::LEVELS;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// Upstream's defaults of `--max-requests-inflight` + `--max-mutating-requests-inflight`.
const SEATS: usize = 600;
/// A quarter of a request's deadline, as upstream.
const PATIENCE: Duration = Duration::from_secs(15);

/// The seats, the queues and their figures.
pub(crate) struct Flow {
    room: Arc<Room>,
    metrics: Metrics,
    hasher: RandomState,
}

struct Room {
    hall: Mutex<Hall<Waiter>>,
}

/// Who waits: is given its seat.
struct Waiter {
    number: u64,
    give: oneshot::Sender<Seat>,
}

/// A seat; dropping it lets the next one in.
struct Seat {
    room: Arc<Room>,
    place: Place,
    taken: bool,
}

/// Leave to run, until dropped.
pub(crate) struct Permit {
    _seat: Option<Seat>,
    _running: metrics::Held,
}

impl Flow {
    pub(crate) fn new(registry: &Registry) -> Result<Self, MetricsError> {
        Self::with(registry, SEATS)
    }

    fn with(registry: &Registry, seats: usize) -> Result<Self, MetricsError> {
        let metrics = Metrics::new(registry)?;
        let hall = Hall::new(LEVELS, seats);
        for (at, level) in LEVELS.iter().enumerate() {
            metrics.nominal(level.name, hall.nominal(at));
        }
        Ok(Self {
            room: Arc::new(Room {
                hall: Mutex::new(hall),
            }),
            metrics,
            hasher: RandomState::new(),
        })
    }

    /// A seat to run in, at once or after a wait in its flow's queue.
    pub(crate) async fn enter(
        &self,
        user: &UserInfo,
        info: &RequestInfo,
    ) -> Result<Permit, ApiError> {
        let schema = schema::classify(user, info);
        let labels = labels(schema);
        let seat = match LEVELS
            .iter()
            .position(|level| Some(level.name) == schema.level)
        {
            Some(level) => {
                let flow = self.hasher.hash_one((schema.name, schema.flow(user, info)));
                Some(self.seat(level, flow, labels).await?)
            }
            None => None,
        };
        Ok(Permit {
            _seat: seat,
            _running: self.metrics.running(labels),
        })
    }

    async fn seat(&self, level: usize, flow: u64, labels: Labels) -> Result<Seat, ApiError> {
        let arrival = Room::arrive(&self.room, level, flow);
        let mut waiting = match arrival {
            Ok(Entry::Seated(seat)) => {
                self.metrics.waited(labels, true, Duration::ZERO);
                return Ok(seat);
            }
            Ok(Entry::Waiting(waiting)) => waiting,
            Err(why) => {
                self.metrics.rejected(labels, why.reason());
                return Err(refused());
            }
        };
        let since = Instant::now();
        let queued = self.metrics.queued(labels);
        let seat = waiting.seat().await;
        drop(queued);
        self.metrics.waited(labels, seat.is_some(), since.elapsed());
        seat.ok_or_else(|| {
            self.metrics.rejected(labels, "time-out");
            refused()
        })
    }
}

fn refused() -> ApiError {
    ApiError::too_many_requests("Too many requests, please try again later.", 1)
}

enum Entry {
    Seated(Seat),
    Waiting(Waiting),
}

impl Room {
    fn arrive(this: &Arc<Self>, level: usize, flow: u64) -> Result<Entry, fair::Refused> {
        let mut hall = this.hall.lock();
        match hall.arrive(level, flow) {
            Arrival::Runs(place) => Ok(Entry::Seated(Seat::new(this, place))),
            Arrival::Refused(why) => Err(why),
            Arrival::Waits(place) => {
                let (give, seat) = oneshot::channel();
                let number = hall.number();
                hall.wait(place, Waiter { number, give });
                Ok(Entry::Waiting(Waiting {
                    room: this.clone(),
                    place,
                    number,
                    seat,
                }))
            }
        }
    }

    /// Gives every free seat to who is next.
    fn let_in(this: &Arc<Self>) {
        loop {
            let next = this.hall.lock().next();
            let Some((place, waiter)) = next else { return };
            if let Err(mut seat) = waiter.give.send(Seat::new(this, place)) {
                // Gone in this moment: its seat goes to the next, here rather than by a drop within a drop.
                seat.taken = false;
                this.hall.lock().leave(place);
            }
        }
    }
}

impl Seat {
    fn new(room: &Arc<Room>, place: Place) -> Self {
        Self {
            room: room.clone(),
            place,
            taken: true,
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if self.taken {
            self.room.hall.lock().leave(self.place);
            Room::let_in(&self.room);
        }
    }
}

/// A place in a queue; dropping it gives it up.
struct Waiting {
    room: Arc<Room>,
    place: Place,
    number: u64,
    seat: oneshot::Receiver<Seat>,
}

impl Waiting {
    async fn seat(&mut self) -> Option<Seat> {
        match tokio::time::timeout(PATIENCE, &mut self.seat).await {
            Ok(seat) => seat.ok(),
            Err(_) if self.give_up() => None,
            // Let in at the last moment.
            Err(_) => self.seat.try_recv().ok(),
        }
    }

    fn give_up(&self) -> bool {
        let mut hall = self.room.hall.lock();
        hall.give_up(self.place, |waiter| waiter.number == self.number)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.give_up();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::Query;
    use futures::FutureExt;
    use futures::future::join_all;

    fn pods(namespace: &str) -> RequestInfo {
        let path = format!("/api/v1/namespaces/{namespace}/pods");
        RequestInfo::parse(&http::Method::GET, &path, &Query::default())
    }

    fn user(name: &str) -> UserInfo {
        UserInfo::new(name, &["system:authenticated"])
    }

    /// 24 seats: `global-default` keeps one of its two and may borrow what others lend.
    fn flow() -> (Flow, Registry) {
        let registry = Registry::new();
        (Flow::with(&registry, 24).unwrap(), registry)
    }

    fn figure(registry: &Registry, line: &str) -> bool {
        let text = String::from_utf8(registry.text().unwrap()).unwrap();
        text.lines().any(|found| found == line)
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_refused_and_others_run() {
        let (flow, registry) = flow();
        let (joe, ann, info) = (user("joe"), user("ann"), pods("a"));
        let mut inside = Vec::new();
        while let Some(Ok(permit)) = flow.enter(&joe, &info).now_or_never() {
            inside.push(permit);
        }
        assert!(inside.len() > 2 && inside.len() < 24, "{}", inside.len());
        // An administrator and a node still run.
        let masters = UserInfo::new("admin", &["system:masters"]);
        assert!(flow.enter(&masters, &info).now_or_never().is_some());
        assert!(
            flow.enter(&UserInfo::node("n"), &info)
                .now_or_never()
                .is_some()
        );
        // joe's queues fill up, then he is refused, at once.
        let mut waiting: Vec<_> = (0..400).map(|_| flow.enter(&joe, &info).boxed()).collect();
        let answered = join_all(
            waiting
                .iter_mut()
                .map(|entry| async { entry.now_or_never() }),
        )
        .await;
        let refused: Vec<_> = answered.into_iter().flatten().collect();
        assert_eq!(refused.len(), 400 - 6 * 50);
        for refused in refused {
            let error = refused.err().unwrap();
            assert_eq!((error.code, error.retry_after_seconds()), (429, Some(1)));
        }
        // ann waits for one seat only, not for all of joe's.
        let mut ann_waits = flow.enter(&ann, &info).boxed();
        assert!(ann_waits.as_mut().now_or_never().is_none());
        inside.pop();
        assert!(
            ann_waits
                .as_mut()
                .now_or_never()
                .is_some_and(|entry| entry.is_ok())
        );
        assert!(figure(
            &registry,
            "apiserver_flowcontrol_rejected_requests_total{flow_schema=\"global-default\",priority_level=\"global-default\",reason=\"queue-full\"} 100"
        ));
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_too_long_is_refused_and_who_goes_leaves_nothing() {
        let (flow, registry) = flow();
        let (joe, info) = (user("joe"), pods("a"));
        let mut inside = Vec::new();
        while let Some(Ok(permit)) = flow.enter(&joe, &info).now_or_never() {
            inside.push(permit);
        }
        let all = inside.len();
        // The clock is paused: it moves when nothing else can.
        let error = flow.enter(&joe, &info).await.err().unwrap();
        assert_eq!(error.code, 429);
        let mut gone = flow.enter(&joe, &info).boxed();
        assert!(gone.as_mut().now_or_never().is_none());
        drop(gone);
        // Let in, and gone before it noticed.
        let mut late = flow.enter(&joe, &info).boxed();
        assert!(late.as_mut().now_or_never().is_none());
        inside.pop();
        drop(late);
        inside.clear();
        while let Some(Ok(permit)) = flow.enter(&joe, &info).now_or_never() {
            inside.push(permit);
        }
        assert_eq!(inside.len(), all, "no seat was lost");
        for (line, holds) in [
            (
                "apiserver_flowcontrol_current_inqueue_requests{flow_schema=\"global-default\",priority_level=\"global-default\"} 0",
                true,
            ),
            (
                "apiserver_flowcontrol_rejected_requests_total{flow_schema=\"global-default\",priority_level=\"global-default\",reason=\"time-out\"} 1",
                true,
            ),
        ] {
            assert_eq!(figure(&registry, line), holds, "{line}");
        }
    }
}
