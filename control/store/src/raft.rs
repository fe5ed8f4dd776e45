//! What consensus is about: the types openraft is used with.
//!
//! A log entry carries a batch of proposals, so that many writers share one entry and one flush. Whether a proposal
//! happened is decided at apply, on every replica alike.

pub(crate) mod log;
pub(crate) mod machine;
#[cfg(test)]
mod suite;
pub mod transport;

use std::fmt;
use std::sync::Arc;

use caravel_api::{Key, Revision};
use openraft::alias::{LogIdOf, StoredMembershipOf};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::level::Raise;
use crate::record;
use crate::txn::{Committed, Epoch, Txn};

openraft::declare_raft_types!(
    /// The types of the one Raft group.
    pub TypeConfig:
        D = Command,
        R = Outcomes,
        NodeId = u64,
        Node = openraft::BasicNode,
);

/// A place in the log.
pub type LogId = LogIdOf<TypeConfig>;
pub(crate) type Membership = StoredMembershipOf<TypeConfig>;
pub(crate) type LogEntry = openraft::alias::EntryOf<TypeConfig>;
/// Whom a replica follows, or has promised to.
pub type Vote = openraft::alias::VoteOf<TypeConfig>;
pub(crate) type Raft = openraft::Raft<TypeConfig, machine::Machine>;

/// One transaction on its way through the log.
#[derive(Clone, Debug)]
pub struct Proposal {
    /// Happens only in an entry of this reign.
    pub epoch: Option<Epoch>,
    pub txn: Txn,
}

/// Proposals that share a log entry. Each is judged by itself, in order.
#[derive(Clone)]
pub struct Batch(pub Arc<Vec<Proposal>>);

impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} proposals", self.0.len())
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a log entry orders: all that changes the state.
#[derive(Clone, Debug)]
pub enum Command {
    Batch(Batch),
    /// The level rises.
    Raise(Raise),
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Command::Batch(batch) => batch.fmt(f),
            Command::Raise(raise) => write!(f, "raise to level {}", raise.to),
        }
    }
}

impl Serialize for Command {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&record::command(self))
    }
}

impl<'de> Deserialize<'de> for Command {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = bytes::Bytes::deserialize(deserializer)?;
        record::read_command(&bytes).map_err(de::Error::custom)
    }
}

/// Why a proposal changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    Conflict(Key, Revision),
    Deposed,
}

/// What became of each proposal of an entry, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcomes(pub Vec<Result<Committed, Refusal>>);
