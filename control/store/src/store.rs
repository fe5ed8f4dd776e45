//! The one shared state of a cluster, behind a few verbs. Nothing else in the server remembers anything.
//!
//! Acknowledged means: on the disks of a majority. Reads come from memory and never wait for a disk. Follows
//! upstream's `storage.Interface` in what a revision, a list and a watch mean, and etcd in what a commit means.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::Bytes;
use caravel_api::{KeyRange, Revision};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::{Config, ServerState, SnapshotPolicy};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};

use crate::backup::{self, BackupHead};
use crate::config::{BackendKind, MAX_CHANGES, MAX_OBJECT, StoreConfig};
use crate::io::{IoHandle, Job};
use crate::latency::Durations;
use crate::level::Halt;
use crate::members::{Members, founders};
use crate::mend::Received;
use crate::open::{Found, OpenError, open};
use crate::peer::LastHeard;
use crate::propose::Waiting;
use crate::raft::log::LogStore;
use crate::raft::machine::{Image, Machine, Served};
use crate::raft::transport::{Alone, Factory, Transport};
use crate::raft::{Proposal, Raft};
use crate::record::Identity;
use crate::room::Alarm;
use crate::seal::Sealer;
use crate::simulation::Latency;
use crate::snapshot::Snapshot;
use crate::tasks::{self, Owned};
use crate::txn::{Change, CommitError, Committed, Conflict, Epoch, Txn};
use crate::watch::{Hub, Watch, WatchError};

mod level;
mod read;
mod status;

pub use read::{NoQuorum, TooNew};
pub use status::Status;

/// How long a lone voter may take to lead itself.
const ALONE_WITHIN: Duration = Duration::from_secs(30);
/// How long the parts of a shutdown may take, each.
const SHUTDOWN_WITHIN: Duration = Duration::from_secs(10);

/// Why no backup could be made.
#[derive(Debug, thiserror::Error)]
pub enum BackupRefused {
    #[error(transparent)]
    NoQuorum(#[from] NoQuorum),
    #[error(transparent)]
    Keys(#[from] crate::keys::KeyError),
}

/// The shared state, as one replica holds it. Cheap to clone; stops when the last clone is dropped.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    config: StoreConfig,
    identity: Identity,
    served: Arc<Served>,
    raft: Raft,
    log: LogStore,
    io: IoHandle,
    sealer: Arc<Sealer>,
    transport: Arc<dyn Transport>,
    rounds: read::Rounds,
    leadership: watch::Sender<Option<Epoch>>,
    heard: Arc<LastHeard>,
    contact: watch::Sender<bool>,
    leaders: Arc<AtomicU64>,
    led: Arc<Mutex<Option<Instant>>>,
    flushes: Arc<Durations>,
    appends: Arc<Durations>,
    commits: Durations,
    proposer: mpsc::Sender<Waiting>,
    /// Transactions and bytes that may still be under way.
    count: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    tasks: Owned,
    disk_ended: Mutex<Option<oneshot::Receiver<()>>>,
    alarm: Option<Alarm>,
    halt: Halt,
    /// Held while the level rises and while a member is added, so that neither goes by what the other changes.
    level_gate: tokio::sync::Mutex<()>,
}

/// Who does the writing.
pub(crate) enum Owner {
    /// A thread of its own.
    Thread,
    /// Whoever has something to write, at once: there is no disk.
    Sender,
    /// A task, in simulated time.
    Task(Latency),
}

impl Store {
    /// Opens one replica that reaches no other.
    pub async fn open(config: StoreConfig) -> Result<Store, OpenError> {
        Store::open_with(config, Arc::new(Alone)).await
    }

    /// A single voter that needs no disk and forgets everything when dropped: for tests.
    pub async fn memory() -> Result<Store, OpenError> {
        Store::open(StoreConfig::memory()).await
    }

    /// Opens one replica that reaches the others by `transport`. A lone voter leads when this returns.
    pub async fn open_with(
        config: StoreConfig,
        transport: Arc<dyn Transport>,
    ) -> Result<Store, OpenError> {
        let found = match config.backend {
            BackendKind::Memory => open(&config)?,
            BackendKind::Sled => tasks::open_blocking(config.clone()).await?,
        };
        let owner = match config.backend {
            BackendKind::Memory => Owner::Sender,
            BackendKind::Sled => Owner::Thread,
        };
        Store::start(config, found, transport, owner).await
    }

    /// Opens a replica whose objects are lost (`OpenError::Lost`) with those of another one.
    pub async fn open_mended(
        config: StoreConfig,
        transport: Arc<dyn Transport>,
        received: Received,
    ) -> Result<Store, OpenError> {
        let found = tasks::mend_blocking(config.clone(), received).await?;
        Store::start(config, found, transport, Owner::Thread).await
    }

    pub(crate) async fn start(
        config: StoreConfig,
        found: Found,
        transport: Arc<dyn Transport>,
        owner: Owner,
    ) -> Result<Store, OpenError> {
        let Found {
            mut writer,
            tail,
            state,
            applied,
            membership,
            identity,
            lost,
        } = found;
        if let Some(lost) = lost {
            return Err(OpenError::Lost(Box::new(lost)));
        }
        let (flushes, appends) = (writer.flushes(), writer.appends());
        let sealer = writer.sealer();
        let alarm =
            (config.backend == BackendKind::Sled).then(|| writer.watch_room(config.dir.clone()));
        let tasks = Owned::default();
        let (io, disk_ended) = match owner {
            Owner::Sender => (IoHandle::Inline(Arc::new(Mutex::new(writer))), None),
            Owner::Task(latency) => {
                let io = tasks::start_simulated_disk(&tasks, writer, latency);
                (io, None)
            }
            Owner::Thread => {
                let started = tasks::start_disk(writer).map_err(|cause| OpenError::Io {
                    file: config.dir.clone(),
                    cause,
                })?;
                (started.0, Some(started.1))
            }
        };
        let hub = Hub::new(config.rings, state.revision());
        let served = Arc::new(Served::new(state, hub, applied));
        let log = LogStore::new(tail, io.clone(), config.supports);
        let machine = Machine::new(served.clone(), applied, membership, io.clone(), &config);
        let settings =
            raft_config(&config).map_err(|error| OpenError::Config(error.to_string()))?;
        let raft = Raft::new(
            identity.node,
            Arc::new(settings),
            Factory(transport.clone()),
            log.clone(),
            machine,
        )
        .await
        .map_err(|error| OpenError::Raft(error.to_string()))?;
        let leadership = watch::Sender::new(None);
        let (heard, contact) = (Arc::new(LastHeard::default()), watch::Sender::new(true));
        let leaders = Arc::new(AtomicU64::new(0));
        let led: Arc<Mutex<Option<Instant>>> = Arc::default();
        let seen = tasks::Seen {
            heard: heard.clone(),
            contact: contact.clone(),
            leaders: leaders.clone(),
            led: led.clone(),
        };
        tasks::start_contact(&tasks, raft.clone(), seen, config.timing.contact);
        tasks::start_leadership(&tasks, &raft, &served, leadership.clone());
        tasks::start_resting(&tasks, raft.clone());
        tasks::start_housekeeping(
            &tasks,
            raft.clone(),
            &served,
            (&log.tail, &sealer),
            &config.limits,
        );
        if let Some(alarm) = &alarm {
            alarm.hear(transport.clone());
            tasks::start_hand_over(&tasks, raft.clone(), alarm.clone());
        }
        let proposer = tasks::start_proposer(&tasks, raft.clone(), transport.clone(), &config);
        let count = Arc::new(Semaphore::new(config.limits.proposals));
        let bytes = Arc::new(Semaphore::new(config.limits.proposal_bytes));
        let disk_ended = Mutex::new(disk_ended);
        let inner = Inner {
            config,
            identity,
            served,
            raft,
            log,
            io,
            sealer,
            transport,
            rounds: read::Rounds::default(),
            leadership,
            heard,
            contact,
            leaders,
            led,
            flushes,
            appends,
            commits: Durations::default(),
            proposer,
            count,
            bytes,
            tasks,
            disk_ended,
            alarm,
            halt: Halt::default(),
            level_gate: tokio::sync::Mutex::default(),
        };
        let store = Store {
            inner: Arc::new(inner),
        };
        store.begin().await?;
        Ok(store)
    }

    /// Begins a new cluster if asked to; makes a lone voter lead without waiting for an election time-out.
    async fn begin(&self) -> Result<(), OpenError> {
        let failed = |error: &dyn std::fmt::Display| OpenError::Raft(error.to_string());
        let Inner {
            config,
            raft,
            identity,
            ..
        } = &*self.inner;
        let initialized = raft
            .is_initialized()
            .await
            .map_err(|error| failed(&error))?;
        if !initialized {
            if !config.bootstrap {
                return Ok(());
            }
            let members = BTreeMap::from([(identity.node, config.address.clone())]);
            self.form(members).await?;
        }
        let me = identity.node;
        let lone = raft
            .with_raft_state(move |state| state.membership_state.effective().voter_ids().eq([me]))
            .await;
        let lone = lone.map_err(|error| failed(&error))?;
        if lone {
            if initialized {
                raft.trigger()
                    .elect(false)
                    .await
                    .map_err(|error| failed(&error))?;
            }
            let mut leadership = self.leadership();
            let led = tokio::select! {
                biased;
                // What it cannot apply is the reason, not the time that it took.
                why = self.failure() => return Err(OpenError::Raft(why)),
                led = timeout(ALONE_WITHIN, leadership.wait_for(Option::is_some)) => led,
            };
            if !matches!(led, Ok(Ok(_))) {
                return Err(OpenError::Raft(
                    "this server could not make itself the leader in time".into(),
                ));
            }
        }
        Ok(())
    }

    /// Begins a new cluster of these voters (number and address). Only ever on explicit request, on one of them.
    pub async fn form(&self, members: BTreeMap<u64, String>) -> Result<(), OpenError> {
        self.inner
            .raft
            .initialize(founders(members))
            .await
            .map_err(|error| OpenError::Raft(error.to_string()))
    }

    /// This replica's state now. O(1); never blocks; may lag the leader.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::new(self.inner.served.state.read().clone())
    }

    /// Would `txn` commit on this replica's state? What a dry run asks.
    pub fn check(&self, txn: &Txn) -> Result<(), Conflict> {
        self.snapshot().state().check(txn)
    }

    /// All changes or none. When it returns, this replica serves them if it is the leader.
    pub async fn commit(&self, txn: Txn) -> Result<Committed, CommitError> {
        self.propose(None, txn).await
    }

    /// As `commit`, but only under the leadership that `epoch` names; never done under another leader.
    pub async fn commit_under(&self, epoch: Epoch, txn: Txn) -> Result<Committed, CommitError> {
        if *self.inner.leadership.borrow() != Some(epoch) {
            return Err(CommitError::Deposed);
        }
        self.propose(Some(epoch), txn).await
    }

    async fn propose(&self, epoch: Option<Epoch>, txn: Txn) -> Result<Committed, CommitError> {
        let too_large = |change: &Change| matches!(change, Change::Put { object, .. } if object.json.len() > MAX_OBJECT);
        if txn.changes.len() > MAX_CHANGES || txn.changes.iter().any(too_large) {
            return Err(CommitError::TooLarge);
        }
        let Inner {
            config,
            count,
            bytes,
            proposer,
            alarm,
            raft,
            ..
        } = &*self.inner;
        // Where another leads, its disk counts.
        if let Some(why) = alarm.as_ref().and_then(|it| it.refusal(raft))
            && raft.metrics().borrow_watched().state == ServerState::Leader
        {
            return Err(CommitError::Full(why));
        }
        let txn = self.told(txn);
        let cost = txn.cost() + 64;
        let share = u32::try_from(cost).map_err(|_| CommitError::TooLarge)?;
        let _count = count
            .clone()
            .try_acquire_owned()
            .map_err(|_| CommitError::Busy)?;
        let _bytes = bytes
            .clone()
            .try_acquire_many_owned(share)
            .map_err(|_| CommitError::Busy)?;
        let (answer, answered) = oneshot::channel();
        let waiting = Waiting {
            proposal: Proposal { epoch, txn },
            cost,
            answer,
            _count,
            _bytes,
        };
        proposer.try_send(waiting).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => CommitError::Busy,
            mpsc::error::TrySendError::Closed(_) => CommitError::NoQuorum,
        })?;
        let begun = Instant::now();
        match timeout(config.timing.commit, answered).await {
            Ok(Ok(outcome)) => {
                if outcome.is_ok() {
                    self.inner.commits.add(begun.elapsed());
                }
                outcome
            }
            Ok(Err(_)) | Err(_) => Err(CommitError::Unknown),
        }
    }

    /// This replica's reign, once it has applied its own first entry. Only the leader acts.
    pub fn leadership(&self) -> watch::Receiver<Option<Epoch>> {
        self.inner.leadership.subscribe()
    }

    /// Whether this replica is in touch with a leader that has a majority (or is it). One that is not for
    /// `Timing::contact` serves nothing: what it has may be long out of date.
    pub fn contact(&self) -> watch::Receiver<bool> {
        self.inner.contact.subscribe()
    }

    /// Every change in `range` after `after`, once, in order, then `Gone` if it cannot go on. Waits a little for a
    /// revision from the future.
    pub async fn watch(&self, range: KeyRange, after: Revision) -> Result<Watch, WatchError> {
        let deadline = Instant::now() + self.inner.config.timing.catch_up;
        self.at_least(after, deadline)
            .await
            .map_err(|TooNew { .. }| WatchError::NotYet)?;
        self.inner.served.hub.watch(range, after)
    }

    /// The newest revision that this replica serves, as it changes.
    pub fn revisions(&self) -> watch::Receiver<Revision> {
        self.inner.served.hub.published()
    }

    /// Who this replica is, in every message between replicas.
    pub fn identity(&self) -> Identity {
        self.inner.identity
    }

    /// Returns once this replica can no longer take part (a disk error, most likely), and says why. The server must
    /// end then: what it has on disk is whole, and a restart will tell whether the disk can be used.
    pub async fn failure(&self) -> String {
        let mut metrics = self.inner.raft.metrics();
        loop {
            if let Err(fatal) = &metrics.borrow_watched().running_state {
                return fatal.to_string();
            }
            tokio::select! {
                biased;
                why = self.inner.halt.reason() => return why,
                changed = metrics.changed() => if changed.is_err() {
                    return "consensus has stopped".into();
                },
            }
        }
    }

    pub(crate) fn served(&self) -> &Served {
        &self.inner.served
    }

    pub(crate) fn log(&self) -> &LogStore {
        &self.inner.log
    }

    /// What a transport hands other replicas' requests to.
    pub fn peer(&self) -> crate::Peer {
        let Inner {
            raft,
            heard,
            alarm,
            halt,
            ..
        } = &*self.inner;
        crate::Peer::new(raft.clone(), heard.clone(), alarm.clone(), halt.clone())
    }

    /// The whole state now, as the pieces of a backup; `created` is in seconds since 1970. Current when this returns.
    pub async fn backup(
        &self,
        created: u64,
    ) -> Result<(BackupHead, impl Iterator<Item = Bytes> + Send + use<>), BackupRefused> {
        let snapshot = self.fresh_snapshot().await?;
        let image = Image(snapshot.shared());
        let head = BackupHead {
            cluster: format!("{:032x}", self.inner.identity.cluster),
            revision: snapshot.revision().0,
            objects: image.0.count() as u64,
            created,
        };
        let pieces = backup::pieces(image, &head, &self.inner.config.keys_dir)?;
        Ok((head, pieces))
    }

    /// Who belongs to the quorum, and how to change that.
    pub fn members(&self) -> Members {
        Members {
            raft: self.inner.raft.clone(),
        }
    }

    /// Writes and flushes what is left and lets go of the disk. Safe to call twice.
    pub async fn shutdown(&self) {
        let Inner {
            raft,
            io,
            tasks,
            disk_ended,
            leadership,
            ..
        } = &*self.inner;
        leadership.send_replace(None);
        if timeout(SHUTDOWN_WITHIN, raft.shutdown()).await.is_err() {
            tracing::warn!("consensus did not stop in time");
        }
        tasks.stop();
        match timeout(SHUTDOWN_WITHIN, io.ask(|reply| Job::Shutdown { reply })).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::debug!(%error, "the store's disk was not flushed at shutdown")
            }
            Err(_) => tracing::warn!("the store's disk did not stop in time"),
        }
        let ended = disk_ended.lock().take();
        if let Some(ended) = ended
            && timeout(SHUTDOWN_WITHIN, ended).await.is_err()
        {
            tracing::warn!("the store's disk thread did not end in time");
        }
    }
}

fn raft_config(config: &StoreConfig) -> Result<Config, openraft::ConfigError> {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    Config {
        cluster_name: "caravel".into(),
        heartbeat_interval: millis(config.timing.heartbeat),
        election_timeout_min: millis(config.timing.election_min),
        election_timeout_max: millis(config.timing.election_max),
        install_snapshot_timeout: millis(config.timing.snapshot),
        snapshot_policy: SnapshotPolicy::LogsSinceLast(config.limits.snapshot_every),
        max_in_snapshot_log_to_keep: config.limits.log_entries,
        purge_batch_size: 512,
        enable_pre_vote: Some(true),
        // A leader sends entries before its own disk has them. Killed and back under the same reign it would give their
        // numbers to other entries, which no follower could tell apart.
        enable_leader_restore: Some(false),
        ..Config::default()
    }
    .validate()
}

#[cfg(test)]
mod behind_tests;
#[cfg(test)]
mod fault_tests;
mod sealing;
