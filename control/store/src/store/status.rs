//! What a person or a metric wants to know of one replica. Read from memory; never waits.

use std::sync::atomic::Ordering;
use std::time::Duration;

use caravel_api::Revision;
use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;

use super::Store;
use crate::latency::Counted;
use crate::level::Level;
use crate::room::Alarm;

/// What a person or a metric wants to know of a replica.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Status {
    pub node_id: u64,
    pub leader: Option<u64>,
    pub leads: bool,
    /// For how long, within half a second.
    pub led: Option<Duration>,
    pub term: u64,
    pub voters: Vec<u64>,
    pub revision: Revision,
    /// Of the cluster, as far as this replica has applied the log; and what it supports.
    pub level: Level,
    pub supports: Level,
    pub objects: usize,
    pub last_log: u64,
    pub applied: u64,
    pub log_bytes: u64,
    pub ring_bytes: usize,
    /// Bytes of all objects as JSON.
    pub object_bytes: u64,
    /// Leaders seen since the start.
    pub leader_changes: u64,
    pub flushes: Counted,
    pub commits: Counted,
    /// How long entries took to be on this replica's disk.
    pub appends: Counted,
    /// Watches that are open, and how long changes waited for theirs.
    pub watchers: u64,
    pub watch_delays: Counted,
    /// The last entries that a snapshot covers and that were purged from the log.
    pub snapshot: u64,
    pub purged: u64,
    /// False once a disk error has stopped this replica.
    pub healthy: bool,
    /// Why writes are refused here while this replica leads: its disk is full.
    pub full: Option<String>,
}

impl Store {
    pub fn status(&self) -> Status {
        let snapshot = self.snapshot();
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        Status {
            node_id: metrics.id,
            leader: metrics.current_leader,
            leads: metrics.state == ServerState::Leader,
            led: self.inner.led.lock().map(|since| since.elapsed()),
            term: metrics.current_term,
            voters: metrics.membership_config.voter_ids().collect(),
            revision: snapshot.revision(),
            level: snapshot.state().level(),
            supports: self.inner.config.supports,
            objects: snapshot.state().count(),
            last_log: metrics.last_log_index.unwrap_or(0),
            applied: metrics.last_applied.map_or(0, |applied| applied.index),
            log_bytes: self.inner.log.tail.lock().total,
            ring_bytes: self.inner.served.hub.bytes(),
            object_bytes: snapshot.state().bytes(),
            leader_changes: self.inner.leaders.load(Ordering::Relaxed),
            flushes: self.inner.flushes.read(),
            commits: self.inner.commits.read(),
            appends: self.inner.appends.read(),
            watchers: self.inner.served.hub.watchers(),
            watch_delays: self.inner.served.hub.delays(),
            snapshot: metrics.snapshot.map_or(0, |snapshot| snapshot.index),
            purged: metrics.purged.map_or(0, |purged| purged.index),
            healthy: metrics.running_state.is_ok() && !self.inner.halt.is_halted(),
            full: self.inner.alarm.as_ref().and_then(Alarm::text),
        }
    }
}
