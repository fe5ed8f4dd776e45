//! What a store is opened with, and its limits. Every limit of the store is named here.

use std::path::PathBuf;
use std::time::Duration;

use crate::level::Level;
use crate::simulation::Digests;
use crate::watch::RingLimits;

/// The largest object kept, in bytes of JSON (as etcd's default request limit).
pub const MAX_OBJECT: usize = 3 << 19;
/// The most changes in one transaction.
pub const MAX_CHANGES: usize = 1024;

/// Where a store keeps what must survive a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendKind {
    /// On disk.
    Sled,
    /// Nowhere: for tests and simulations.
    Memory,
}

/// What a store is opened with.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// Directory of the database and its guard file; created at the first start.
    pub dir: PathBuf,
    /// Directory of the keys that everything durable is sealed with; created (0600) at the first start. Must not
    /// lie in `dir`: whoever copies the data must not get the keys with it.
    pub keys_dir: PathBuf,
    pub backend: BackendKind,
    /// The number that a new disk gets. A disk that has one keeps it; a number is never given to another disk.
    pub node_id: u64,
    /// The cluster that a new disk belongs to; a new one of its own where none is named.
    pub cluster: Option<u128>,
    /// Where other replicas reach this one; kept in the membership.
    pub address: String,
    /// Begin a new cluster of this one voter when the directory is empty. Without it an empty replica waits to be added.
    pub bootstrap: bool,
    pub timing: Timing,
    pub limits: Limits,
    pub rings: RingLimits,
    /// The highest level that this replica supports. Lower than the program's only in tests, where it plays an older
    /// release.
    pub supports: Level,
    /// Where to write down each state, in tests.
    pub digests: Option<Digests>,
}

impl StoreConfig {
    /// A single voter on disk with default limits.
    pub fn single(dir: impl Into<PathBuf>, keys_dir: impl Into<PathBuf>) -> Self {
        // Nobody waits for a lone voter's heartbeat, and it asks for its own vote at once; an idle one should rest.
        let timing = Timing {
            heartbeat: Duration::from_millis(500),
            election_min: Duration::from_millis(1500),
            election_max: Duration::from_millis(3000),
            ..Timing::default()
        };
        // Nobody lags behind it either, and a start reads the whole log.
        let limits = Limits {
            log_entries: 5_000,
            log_bytes: 32 << 20,
            tail_bytes: 8 << 20,
            ..Limits::default()
        };
        StoreConfig {
            dir: dir.into(),
            keys_dir: keys_dir.into(),
            backend: BackendKind::Sled,
            node_id: 1,
            cluster: None,
            address: String::new(),
            bootstrap: true,
            timing,
            limits,
            rings: RingLimits::default(),
            supports: Level::HIGHEST,
            digests: None,
        }
    }

    /// A single voter that forgets everything when dropped.
    pub fn memory() -> Self {
        // A log that is gone with the process need not be long.
        let limits = Limits {
            log_entries: 500,
            log_bytes: 8 << 20,
            tail_bytes: 4 << 20,
            snapshot_every: 500,
            ..Limits::default()
        };
        StoreConfig {
            backend: BackendKind::Memory,
            limits,
            ..StoreConfig::single("", "")
        }
    }
}

/// Raft's clock. One setting for the whole cluster.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    pub heartbeat: Duration,
    pub election_min: Duration,
    pub election_max: Duration,
    /// A write that is not acknowledged by then has an unknown outcome.
    pub commit: Duration,
    /// How long a write or a consistent read waits for a leader while there is none.
    pub leader_within: Duration,
    /// A replica that has heard no leader for this long is out of touch.
    pub contact: Duration,
    /// How long sending a whole snapshot to another replica may take.
    pub snapshot: Duration,
    /// How long a read or a watch waits for a revision that this replica has not reached.
    pub catch_up: Duration,
}

impl Timing {
    /// Milliseconds between heartbeats, and the least after which a silent leader is replaced, where nothing else is said.
    pub const HEARTBEAT_MS: u64 = 65;
    pub const ELECTION_MS: u64 = 330;

    /// A follower waits the most for a leader that it had, and then a random part between the least and the most: 0.8 to 1 s by
    /// default, about what etcd's one time-out of 1 s comes to.
    #[must_use]
    pub fn of(heartbeat_ms: u64, election_ms: u64) -> Self {
        Timing {
            heartbeat: Duration::from_millis(heartbeat_ms),
            election_min: Duration::from_millis(election_ms),
            election_max: Duration::from_millis(election_ms * 3 / 2),
            commit: Duration::from_secs(10),
            leader_within: Duration::from_secs(4),
            contact: Duration::from_secs(10),
            snapshot: Duration::from_secs(600),
            catch_up: Duration::from_secs(3),
        }
    }
}

impl Default for Timing {
    fn default() -> Self {
        Timing::of(Timing::HEARTBEAT_MS, Timing::ELECTION_MS)
    }
}

/// Bounds of what is under way and of what is kept.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Transactions waiting to be acknowledged; past it they are refused with `Busy`.
    pub proposals: usize,
    /// Bytes of those.
    pub proposal_bytes: usize,
    /// Bytes of transactions that one log entry carries (a larger single transaction has an entry to itself).
    pub entry_bytes: usize,
    /// Log entries kept for replicas that lag.
    pub log_entries: u64,
    /// Bytes of those.
    pub log_bytes: u64,
    /// Bytes of the log's end kept in memory.
    pub tail_bytes: usize,
    /// sled's page cache.
    pub cache_bytes: u64,
    /// Entries between two (free) snapshots; what lets the log be purged.
    pub snapshot_every: u64,
    pub behind: WriteBehind,
}

/// When objects are written, whose changes the log has already. The longer it takes, the more changes of one object are
/// written once; what is not written is redone at a start.
#[derive(Clone, Copy, Debug)]
pub struct WriteBehind {
    /// The oldest change waits so long at most.
    pub after: Duration,
    /// Past so many bytes of changes they do not wait any longer.
    pub bytes: usize,
    /// Bytes written between two flushes, more when much waits: a commit waits for them.
    pub step: usize,
    /// Between two steps that no flush separates.
    pub pace: Duration,
}

impl Default for WriteBehind {
    fn default() -> Self {
        WriteBehind {
            after: Duration::from_secs(5),
            bytes: 16 << 20,
            step: 8 << 10,
            pace: Duration::from_millis(5),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            proposals: 8192,
            proposal_bytes: 64 << 20,
            entry_bytes: 1 << 20,
            log_entries: 50_000,
            log_bytes: 256 << 20,
            tail_bytes: 16 << 20,
            cache_bytes: 32 << 20,
            snapshot_every: 5_000,
            behind: WriteBehind::default(),
        }
    }
}
