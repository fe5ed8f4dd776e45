//! Everything of the store that runs by itself: the disk thread, the proposer, the watch over leadership and the
//! housekeeping. They end with the store.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::{Instant as _, ServerState};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::config::Limits;
use crate::config::StoreConfig;
use crate::io::{self as disk, IoHandle, Writer};
use crate::members::Members;
use crate::mend::Received;
use crate::open::{Found, OpenError, open, open_with_received};
use crate::peer::LastHeard;
use crate::propose::{self, Waiting};
use crate::raft::Raft;
use crate::raft::log::Tail;
use crate::raft::machine::Served;
use crate::raft::transport::Transport;
use crate::room::Alarm;
use crate::seal::Sealer;
use crate::simulation::{self, Latency};
use crate::txn::Epoch;

const HOUSEKEEPING: Duration = Duration::from_secs(5);
/// How often a leader with a full disk tries to let another lead.
const HAND_OVER_EVERY: Duration = Duration::from_secs(60);
/// How often it is looked whether a leader is there.
const CONTACT: Duration = Duration::from_millis(500);

/// Tasks that are stopped when this is dropped.
#[derive(Default)]
pub(crate) struct Owned(Mutex<Vec<JoinHandle<()>>>);

impl Owned {
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.0.lock().push(tokio::spawn(task));
    }

    pub fn stop(&self) {
        for task in self.0.lock().drain(..) {
            task.abort();
        }
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Reads a data directory without holding up an async worker.
pub(crate) async fn open_blocking(config: StoreConfig) -> Result<Found, OpenError> {
    blocking(config, open).await
}

/// The same for one whose objects are another replica's.
pub(crate) async fn mend_blocking(
    config: StoreConfig,
    received: Received,
) -> Result<Found, OpenError> {
    blocking(config, move |config| open_with_received(config, received)).await
}

async fn blocking(
    config: StoreConfig,
    open: impl FnOnce(&StoreConfig) -> Result<Found, OpenError> + Send + 'static,
) -> Result<Found, OpenError> {
    let dir = config.dir.clone();
    let opened = tokio::task::spawn_blocking(move || open(&config)).await;
    opened.unwrap_or_else(|panic| {
        Err(OpenError::Io {
            file: dir,
            cause: io::Error::other(panic.to_string()),
        })
    })
}

/// Starts the disk thread. The receiver learns when it has ended and let go of the disk.
pub(crate) fn start_disk(writer: Writer) -> io::Result<(IoHandle, oneshot::Receiver<()>)> {
    let (jobs, queue) = disk::queue();
    let (ended, end) = oneshot::channel();
    std::thread::Builder::new()
        .name("raft-io".into())
        .spawn(move || {
            disk::run(writer, queue);
            // Nobody may be waiting for it.
            let _ = ended.send(());
        })?;
    Ok((IoHandle::Thread(Arc::new(jobs)), end))
}

/// The disk thread's work as a task, in simulated time.
pub(crate) fn start_simulated_disk(owned: &Owned, writer: Writer, latency: Latency) -> IoHandle {
    // Bounded as the thread's queue is, by what may be under way.
    let (jobs, queue) = mpsc::unbounded_channel();
    owned.spawn(simulation::run(writer, queue, latency));
    IoHandle::Task(jobs)
}

pub(crate) fn start_proposer(
    owned: &Owned,
    raft: Raft,
    transport: Arc<dyn Transport>,
    config: &StoreConfig,
) -> mpsc::Sender<Waiting> {
    let (sender, queue) = mpsc::channel(config.limits.proposals);
    let (entry_bytes, leader_within) = (config.limits.entry_bytes, config.timing.leader_within);
    owned.spawn(propose::run(
        raft,
        transport,
        entry_bytes,
        leader_within,
        queue,
    ));
    sender
}

/// Keeps `leadership` true: this replica leads, and has applied an entry of its own reign.
pub(crate) fn start_leadership(
    owned: &Owned,
    raft: &Raft,
    served: &Served,
    leadership: watch::Sender<Option<Epoch>>,
) {
    let mut metrics = raft.server_metrics();
    let mut applied_under = served.applied_under.subscribe();
    owned.spawn(async move {
        loop {
            let reign = {
                let server = metrics.borrow_watched();
                let epoch = Epoch {
                    term: server.vote.leader_id.term,
                    node: server.vote.leader_id.node_id,
                };
                let leads = server.state == ServerState::Leader
                    && server.vote.committed
                    && epoch.node == server.id;
                leads.then_some(epoch)
            };
            let reign = reign.filter(|epoch| *applied_under.borrow_and_update() == Some(*epoch));
            leadership.send_if_modified(|now| std::mem::replace(now, reign) != reign);
            tokio::select! {
                changed = metrics.changed() => if changed.is_err() { break },
                changed = applied_under.changed() => if changed.is_err() { break },
            }
        }
        leadership.send_replace(None);
    });
}

/// Raft's clock stands still while this replica is the whole cluster: nobody waits for a heartbeat of it then, and those
/// are most of what an idle server costs.
pub(crate) fn start_resting(owned: &Owned, raft: Raft) {
    let mut metrics = raft.server_metrics();
    owned.spawn(async move {
        loop {
            let alone = {
                let server = metrics.borrow_watched();
                server.state == ServerState::Leader
                    && server.vote.committed
                    && server
                        .membership_config
                        .nodes()
                        .map(|(id, _)| *id)
                        .eq([server.id])
            };
            raft.runtime_config().tick(!alone);
            if metrics.changed().await.is_err() {
                break;
            }
        }
    });
}

/// What the watch over the leader reads and tells.
pub(crate) struct Seen {
    pub heard: Arc<LastHeard>,
    pub contact: watch::Sender<bool>,
    pub leaders: Arc<AtomicU64>,
    /// Since when this replica leads, within a tick.
    pub led: Arc<Mutex<Option<Instant>>>,
}

/// Keeps `contact` true: a leader was heard within `within`, or this replica leads and a majority answered within it.
pub(crate) fn start_contact(owned: &Owned, raft: Raft, seen: Seen, within: Duration) {
    owned.spawn(async move {
        let Seen {
            heard,
            contact,
            leaders,
            led,
        } = seen;
        let metrics = raft.metrics();
        let begun = Instant::now();
        let mut last = None;
        let mut tick = interval(CONTACT);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let (leads, alone, answered) = {
                let seen = metrics.borrow_watched();
                if seen.current_leader.is_some() && seen.current_leader != last {
                    last = seen.current_leader;
                    leaders.fetch_add(1, Ordering::Relaxed);
                }
                (
                    seen.state == ServerState::Leader,
                    seen.membership_config.voter_ids().eq([seen.id]),
                    seen.last_quorum_acked.map(|at| at.elapsed()),
                )
            };
            {
                let mut led = led.lock();
                *led = match leads {
                    true => led.or_else(|| Some(Instant::now())),
                    false => None,
                };
            }
            let silent = match leads {
                true if alone => Duration::ZERO,
                true => answered.unwrap_or_else(|| begun.elapsed()),
                false => heard.since().unwrap_or_else(|| begun.elapsed()),
            };
            let is = silent < within;
            if contact.send_if_modified(|was| std::mem::replace(was, is) != is) {
                tracing::warn!(contact = is, ?silent, "a leader with a majority");
            }
        }
    });
}

/// Lets old events go and keeps the log within its bytes.
pub(crate) fn start_housekeeping(
    owned: &Owned,
    raft: Raft,
    served: &Arc<Served>,
    (tail, sealer): (&Arc<Mutex<Tail>>, &Arc<Sealer>),
    limits: &Limits,
) {
    let (hub, tail, log_bytes) = (served.hub.clone(), tail.clone(), limits.log_bytes);
    let sealer = sealer.clone();
    owned.spawn(async move {
        let mut tick = interval(HOUSEKEEPING);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut rounds = 0_u64;
        loop {
            tick.tick().await;
            rounds += 1;
            if rounds.is_multiple_of(12) {
                hub.expire(Instant::now());
            }
            let over = tail.lock().purge_point(log_bytes);
            // Entries that a replaced key sealed go, however small the log is.
            let old = sealer.old_log_below.load(Ordering::Relaxed).checked_sub(1);
            if let Some(index) = over.max(old) {
                // A snapshot is free; the purge needs one that covers it.
                let purged = match raft.trigger().snapshot().await {
                    Ok(_) => raft.trigger().purge_log(index).await,
                    Err(error) => Err(error),
                };
                if purged.is_err() {
                    break;
                }
            }
        }
    });
}

/// A leader whose disk is full lets another lead, if one can. Now and then only: the other's may be full, too.
pub(crate) fn start_hand_over(owned: &Owned, raft: Raft, alarm: Alarm) {
    owned.spawn(async move {
        let members = Members { raft: raft.clone() };
        let mut tick = interval(HOUSEKEEPING);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last: Option<Instant> = None;
        loop {
            tick.tick().await;
            let due = last.is_none_or(|at| at.elapsed() >= HAND_OVER_EVERY);
            let leads_others = {
                let metrics = raft.metrics();
                let seen = metrics.borrow_watched();
                seen.state == ServerState::Leader && seen.membership_config.voter_ids().count() > 1
            };
            if due && leads_others && alarm.text().is_some() {
                last = Some(Instant::now());
                match members.transfer(None, Instant::now() + HOUSEKEEPING).await {
                    Ok(to) => tracing::warn!(to, "the disk is full: another server leads now"),
                    Err(error) => {
                        tracing::warn!(%error, "the disk is full, and no other server took over")
                    }
                }
            }
        }
    });
}
