//! Writing and reading the fields of records: big-endian numbers, texts and bodies with their length, options with a tag.
//!
//! Bounded by what is there: a length that a record claims and does not hold is `Malformed`, never an allocation.

use std::sync::Arc;

use bytes::Bytes;
use caravel_api::{Encoded, Key, Revision};
use openraft::impls::leader_id_adv::LeaderId;

use super::{RecordError, VERSION};
use crate::level::{Level, Raise};
use crate::raft::{Batch, LogId, Proposal, Vote};
use crate::splice::Splice;
use crate::txn::{Change, Epoch, Expect, Txn};

/// A record being written.
pub struct Out(pub(crate) Vec<u8>);

impl Out {
    pub(crate) fn new() -> Self {
        Out::of(VERSION)
    }

    pub(crate) fn of(version: u8) -> Self {
        Out(vec![version])
    }

    pub fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub fn u32(&mut self, value: usize) {
        let value = u32::try_from(value)
            .expect("lengths are bounded far below 4 GiB by MAX_OBJECT and MAX_CHANGES");
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    pub fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    pub fn bytes(&mut self, bytes: &[u8]) {
        self.u32(bytes.len());
        self.0.extend_from_slice(bytes);
    }

    pub fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    pub fn vote(&mut self, vote: &Vote) {
        self.u64(vote.leader_id.term);
        self.u64(vote.leader_id.node_id);
        self.u8(vote.committed.into());
    }

    pub fn some_log_id(&mut self, id: &Option<LogId>) {
        match id {
            None => self.u8(0),
            Some(id) => {
                self.u8(1);
                self.log_id(id);
            }
        }
    }

    pub fn log_id(&mut self, id: &LogId) {
        self.u64(id.leader_id.term);
        self.u64(id.leader_id.node_id);
        self.u64(id.index);
    }

    pub fn proposals(&mut self, batch: &Batch) {
        self.u32(batch.0.len());
        for proposal in batch.0.iter() {
            match proposal.epoch {
                None => self.u8(0),
                Some(Epoch { term, node }) => {
                    self.u8(1);
                    self.u64(term);
                    self.u64(node);
                }
            }
            self.u32(proposal.txn.changes.len());
            for change in &proposal.txn.changes {
                self.change(change);
            }
        }
    }

    pub fn change(&mut self, change: &Change) {
        self.u8(match change {
            Change::Put { .. } => 0,
            Change::Delete { .. } => 1,
            Change::Check { .. } => 2,
            Change::Splice { .. } => 3,
        });
        self.bytes(change.key().as_bytes());
        match change.expect() {
            Expect::Any => self.u8(0),
            Expect::Absent => self.u8(1),
            Expect::At(revision) => {
                self.u8(2);
                self.u64(revision.0);
            }
        }
        match change {
            Change::Put { object, .. } => self.bytes(&object.json),
            Change::Splice { splice, .. } => {
                self.u32(splice.head as usize);
                self.u32(splice.tail as usize);
                self.bytes(&splice.middle);
            }
            Change::Delete { .. } | Change::Check { .. } => {}
        }
    }

    pub fn raise(&mut self, raise: &Raise) {
        self.u64(raise.epoch.term);
        self.u64(raise.epoch.node);
        self.u32(raise.to.0 as usize);
    }
}

/// A record being read.
pub struct In<'a>(pub(crate) &'a [u8]);

impl<'a> In<'a> {
    pub(crate) fn versioned(record: &'a [u8]) -> Result<Self, RecordError> {
        In::up_to(VERSION, record).map(|(_, input)| input)
    }

    /// A record of which there are versions from the first to `newest`, and which it is.
    pub(crate) fn up_to(newest: u8, record: &'a [u8]) -> Result<(u8, Self), RecordError> {
        match record.split_first() {
            Some((version, rest)) if (VERSION..=newest).contains(version) => {
                Ok((*version, In(rest)))
            }
            Some((&other, _)) => Err(RecordError::Version(other)),
            None => Err(RecordError::Malformed),
        }
    }

    pub fn take(&mut self, length: usize) -> Result<&'a [u8], RecordError> {
        let (taken, rest) = self
            .0
            .split_at_checked(length)
            .ok_or(RecordError::Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], RecordError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(RecordError::Malformed)?;
        self.0 = rest;
        Ok(*taken)
    }

    pub fn u8(&mut self) -> Result<u8, RecordError> {
        Ok(self.array::<1>()?[0])
    }

    pub fn u32(&mut self) -> Result<usize, RecordError> {
        Ok(u32::from_be_bytes(self.array()?) as usize)
    }

    pub fn u64(&mut self) -> Result<u64, RecordError> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    pub fn bytes(&mut self) -> Result<&'a [u8], RecordError> {
        let length = self.u32()?;
        self.take(length)
    }

    pub fn end(&self) -> Result<(), RecordError> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(RecordError::Malformed)
        }
    }

    pub fn text(&mut self) -> Result<&'a str, RecordError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| RecordError::Malformed)
    }

    pub fn vote(&mut self) -> Result<Vote, RecordError> {
        Ok(Vote {
            leader_id: LeaderId {
                term: self.u64()?,
                node_id: self.u64()?,
            },
            committed: self.u8()? != 0,
        })
    }

    pub fn some_log_id(&mut self) -> Result<Option<LogId>, RecordError> {
        match self.u8()? {
            0 => Ok(None),
            1 => Ok(Some(self.log_id()?)),
            _ => Err(RecordError::Malformed),
        }
    }

    pub fn log_id(&mut self) -> Result<LogId, RecordError> {
        let leader_id = LeaderId {
            term: self.u64()?,
            node_id: self.u64()?,
        };
        Ok(LogId {
            leader_id,
            index: self.u64()?,
        })
    }

    pub fn proposals(&mut self) -> Result<Batch, RecordError> {
        let mut proposals = Vec::new();
        for _ in 0..self.u32()? {
            let epoch = match self.u8()? {
                0 => None,
                _ => Some(Epoch {
                    term: self.u64()?,
                    node: self.u64()?,
                }),
            };
            let mut changes = Vec::new();
            for _ in 0..self.u32()? {
                changes.push(self.change()?);
            }
            proposals.push(Proposal {
                epoch,
                txn: Txn { changes },
            });
        }
        Ok(Batch(Arc::new(proposals)))
    }

    pub fn change(&mut self) -> Result<Change, RecordError> {
        let tag = self.u8()?;
        let key = Key::from(self.text()?);
        let expect = match self.u8()? {
            0 => Expect::Any,
            1 => Expect::Absent,
            2 => Expect::At(Revision(self.u64()?)),
            _ => return Err(RecordError::Malformed),
        };
        Ok(match tag {
            0 => Change::Put {
                key,
                expect,
                object: Encoded::new(self.bytes()?)?,
            },
            1 => Change::Delete { key, expect },
            2 => Change::Check { key, expect },
            3 => Change::Splice {
                key,
                at: match expect {
                    Expect::At(revision) => revision,
                    Expect::Any | Expect::Absent => return Err(RecordError::Malformed),
                },
                splice: Splice {
                    head: self.number()?,
                    tail: self.number()?,
                    middle: Bytes::copy_from_slice(self.bytes()?),
                },
            },
            _ => return Err(RecordError::Malformed),
        })
    }

    pub fn raise(&mut self) -> Result<Raise, RecordError> {
        Ok(Raise {
            epoch: Epoch {
                term: self.u64()?,
                node: self.u64()?,
            },
            to: Level(self.number()?),
        })
    }

    pub fn number(&mut self) -> Result<u32, RecordError> {
        Ok(u32::from_be_bytes(self.array()?))
    }
}
