//! The revision log: every replica's copy of the cluster's state, agreed on by Raft and kept in sled.
//!
//! [`Store`] is the whole interface. Everything that is durable is sealed, flushed before it is acknowledged, and
//! refused at open when damaged. Nothing here knows what a kind means; see `docs/adr` for why it is laid out so.

mod backend;
pub mod backup;
mod config;
mod entry;
mod event;
mod guard;
mod io;
pub mod keys;
pub mod latency;
mod level;
mod members;
mod mend;
mod open;
mod peer;
mod propose;
mod raft;
mod record;
mod room;
mod sabotage;
mod seal;
pub mod simulation;
mod snapshot;
mod splice;
mod state;
mod store;
mod tasks;
mod transfer;
mod txn;
mod watch;
pub mod wire;

pub use config::{BackendKind, Limits, MAX_CHANGES, MAX_OBJECT, StoreConfig, Timing, WriteBehind};
pub use entry::{Entry, Undecodable};
pub use event::{Event, EventKind, frame};
pub use keys::KeyError;
pub use level::{Level, LevelError, Raise, RaiseError};
pub use members::{MemberError, Members, Replica};
pub use mend::{Lost, Received};
pub use open::{OpenError, cluster_of, is_begun};
pub use peer::{Links, Peer};
pub use raft::machine::Image;
pub use raft::transport::{Alone, Appended, ForwardError, Target, Transport};
pub use raft::{Batch, Command, LogId, Outcomes, Proposal, Refusal, TypeConfig, Vote};
pub use record::{Identity, RecordError};
pub use seal::Sealing;
pub use snapshot::Snapshot;
pub use splice::Splice;
pub use state::State;
pub use store::{BackupRefused, NoQuorum, Status, Store, TooNew};
pub use transfer::{Assembly, TransferError};
pub use txn::{Change, CommitError, Committed, Conflict, Epoch, Expect, Txn};
pub use watch::{Gone, RingLimits, Watch, WatchError, WatchItem};
