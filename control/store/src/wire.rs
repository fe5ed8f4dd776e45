//! What replicas say to each other, byte for byte, in the layout of records.
//!
//! Every message begins with its version, so that servers of two releases understand or refuse each other, and never
//! guess. The tests pin each layout. Who may speak at all is the transport's business.

use caravel_api::{Key, Revision};
use openraft::alias::{SnapshotMetaOf, VoteOf};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError,
    StreamAppendResult, TransferLeaderError, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};

use crate::level;
use crate::raft::{Batch, LogId, Outcomes, Refusal, TypeConfig};
use crate::record::{self, In, Out, RecordError};
use crate::txn::Committed;

/// A message between replicas.
pub trait Wire: Sized {
    /// The newest version of this message, and the one that this message is of: as old as it can be, so that servers that
    /// know no newer one read it.
    const NEWEST: u8 = record::VERSION;
    fn version(&self) -> u8 {
        record::VERSION
    }

    fn put(&self, out: &mut Out);
    fn take(input: &mut In<'_>) -> Result<Self, RecordError>;
}

/// A message as bytes.
pub fn encode<T: Wire>(message: &T) -> Vec<u8> {
    let mut out = Out::of(message.version());
    message.put(&mut out);
    out.0
}

/// A message from bytes.
///
/// # Errors
/// Bytes of a version that this program does not know, or that are no such message.
pub fn decode<T: Wire>(bytes: &[u8]) -> Result<T, RecordError> {
    let (_, mut input) = In::up_to(T::NEWEST, bytes)?;
    let message = T::take(&mut input)?;
    input.end()?;
    Ok(message)
}

impl Wire for AppendEntriesRequest<TypeConfig> {
    fn put(&self, out: &mut Out) {
        out.vote(&self.vote);
        out.some_log_id(&self.prev_log_id);
        out.some_log_id(&self.leader_commit);
        out.u32(self.entries.len());
        for entry in &self.entries {
            out.bytes(&record::log_entry(entry));
        }
    }

    fn take(input: &mut In<'_>) -> Result<Self, RecordError> {
        let (vote, prev_log_id, leader_commit) =
            (input.vote()?, input.some_log_id()?, input.some_log_id()?);
        let mut entries = Vec::new();
        for _ in 0..input.u32()? {
            entries.push(record::read_log_entry(input.bytes()?)?);
        }
        Ok(Self {
            vote,
            prev_log_id,
            entries,
            leader_commit,
        })
    }
}

impl Wire for AppendEntriesResponse<TypeConfig> {
    fn put(&self, out: &mut Out) {
        match self {
            Self::Success => out.u8(0),
            Self::PartialSuccess(id) => {
                out.u8(1);
                out.some_log_id(id);
            }
            Self::Conflict => out.u8(2),
            Self::HigherVote(vote) => {
                out.u8(3);
                out.vote(vote);
            }
        }
    }

    fn take(input: &mut In<'_>) -> Result<Self, RecordError> {
        Ok(match input.u8()? {
            0 => Self::Success,
            1 => Self::PartialSuccess(input.some_log_id()?),
            2 => Self::Conflict,
            3 => Self::HigherVote(input.vote()?),
            _ => return Err(RecordError::Malformed),
        })
    }
}

impl Wire for StreamAppendResult<TypeConfig> {
    fn put(&self, out: &mut Out) {
        match self {
            Ok(id) => {
                out.u8(0);
                out.some_log_id(id);
            }
            Err(StreamAppendError::Conflict(id)) => {
                out.u8(1);
                out.log_id(id);
            }
            Err(StreamAppendError::HigherVote(vote)) => {
                out.u8(2);
                out.vote(vote);
            }
        }
    }

    fn take(input: &mut In<'_>) -> Result<Self, RecordError> {
        Ok(match input.u8()? {
            0 => Ok(input.some_log_id()?),
            1 => Err(StreamAppendError::Conflict(input.log_id()?)),
            2 => Err(StreamAppendError::HigherVote(input.vote()?)),
            _ => return Err(RecordError::Malformed),
        })
    }
}

impl Wire for VoteRequest<TypeConfig> {
    fn put(&self, out: &mut Out) {
        out.vote(&self.vote);
        out.some_log_id(&self.last_log_id);
        out.u8(self.leadership_transfer.into());
    }

    fn take(input: &mut In<'_>) -> Result<Self, RecordError> {
        Ok(Self {
            vote: input.vote()?,
            last_log_id: input.some_log_id()?,
            leadership_transfer: input.u8()? != 0,
        })
    }
}

impl Wire for VoteResponse<TypeConfig> {
    fn put(&self, out: &mut Out) {
        out.vote(&self.vote);
        out.u8(self.vote_granted.into());
        out.some_log_id(&self.last_log_id);
    }

    fn take(input: &mut In<'_>) -> Result<Self, RecordError> {
        Ok(Self {
            vote: input.vote()?,
            vote_granted: input.u8()? != 0,
            last_log_id: input.some_log_id()?,
        })
    }
}

/// What comes before a snapshot's frames.
#[derive(Clone, Debug, PartialEq)]
pub struct SnapshotHead {
    /// The leader's vote.
    pub vote: VoteOf<TypeConfig>,
    pub meta: SnapshotMetaOf<TypeConfig>,
}

impl Wire for SnapshotHead {
    fn put(&self, out: &mut Out) {
        out.vote(&self.vote);
        out.some_log_id(&self.meta.last_log_id);
        out.bytes(
            &serde_json::to_vec(&self.meta.last_membership)
                .expect("a membership is maps of numbers and text"),
        );
    }

    fn take(input: &mut In<'_>) -> Result<Self, RecordError> {
        Ok(Self {
            vote: input.vote()?,
            meta: SnapshotMetaOf::<TypeConfig> {
                last_log_id: input.some_log_id()?,
                last_membership: serde_json::from_slice(input.bytes()?)?,
            },
        })
    }
}

impl Wire for SnapshotResponse<TypeConfig> {
    fn put(&self, out: &mut Out) {
        out.vote(&self.vote);
    }

    fn take(input: &mut In<'_>) -> Result<Self, RecordError> {
        Ok(Self {
            vote: input.vote()?,
        })
    }
}

impl Wire for TransferLeaderRequest<TypeConfig> {
    fn put(&self, out: &mut Out) {
        out.vote(self.from_leader());
        out.u64(*self.to_node_id());
        out.some_log_id(&self.last_log_id().copied());
    }

    fn take(input: &mut In<'_>) -> Result<Self, RecordError> {
        Ok(Self::new(input.vote()?, input.u64()?, input.some_log_id()?))
    }
}

impl Wire for TransferLeaderResponse<TypeConfig> {
    fn put(&self, out: &mut Out) {
        match self {
            Ok(()) => out.u8(0),
            Err(TransferLeaderError::VoteChanged { expected, actual }) => {
                out.u8(1);
                out.vote(expected);
                out.vote(actual);
            }
            Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
                out.u8(2);
                out.some_log_id(expected);
                out.some_log_id(actual);
            }
        }
    }

    fn take(input: &mut In<'_>) -> Result<Self, RecordError> {
        Ok(match input.u8()? {
            0 => Ok(()),
            1 => Err(TransferLeaderError::VoteChanged {
                expected: input.vote()?,
                actual: input.vote()?,
            }),
            2 => Err(TransferLeaderError::LogNotFlushed {
                expected: input.some_log_id()?,
                actual: input.some_log_id()?,
            }),
            _ => return Err(RecordError::Malformed),
        })
    }
}

impl Wire for Batch {
    const NEWEST: u8 = record::VERSION_2;

    fn version(&self) -> u8 {
        record::version(level::batch_needs(self))
    }

    fn put(&self, out: &mut Out) {
        out.proposals(self);
    }

    fn take(input: &mut In<'_>) -> Result<Self, RecordError> {
        input.proposals()
    }
}

impl Wire for Outcomes {
    fn put(&self, out: &mut Out) {
        out.u32(self.0.len());
        for outcome in &self.0 {
            match outcome {
                Ok(committed) => {
                    out.u8(0);
                    out.u64(committed.revision.0);
                    out.u32(committed.revisions.len());
                    committed
                        .revisions
                        .iter()
                        .for_each(|revision| out.u64(revision.0));
                }
                Err(Refusal::Conflict(key, revision)) => {
                    out.u8(1);
                    out.bytes(key.as_bytes());
                    out.u64(revision.0);
                }
                Err(Refusal::Deposed) => out.u8(2),
            }
        }
    }

    fn take(input: &mut In<'_>) -> Result<Self, RecordError> {
        let mut outcomes = Vec::new();
        for _ in 0..input.u32()? {
            outcomes.push(match input.u8()? {
                0 => {
                    let revision = Revision(input.u64()?);
                    let mut revisions = Vec::new();
                    for _ in 0..input.u32()? {
                        revisions.push(Revision(input.u64()?));
                    }
                    Ok(Committed {
                        revision,
                        revisions,
                    })
                }
                1 => Err(Refusal::Conflict(
                    Key::from(input.text()?),
                    Revision(input.u64()?),
                )),
                2 => Err(Refusal::Deposed),
                _ => return Err(RecordError::Malformed),
            });
        }
        Ok(Outcomes(outcomes))
    }
}

/// How far a replica must have applied.
impl Wire for Option<LogId> {
    fn put(&self, out: &mut Out) {
        out.some_log_id(self);
    }

    fn take(input: &mut In<'_>) -> Result<Self, RecordError> {
        input.some_log_id()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::{Command, Proposal};
    use crate::splice::Splice;
    use crate::txn::{Change, Epoch, Expect, Txn};
    use openraft::impls::leader_id_adv::LeaderId;
    use openraft::{Entry, EntryPayload, Membership};
    use std::collections::BTreeSet;
    use std::sync::Arc;

    fn vote(term: u64, committed: bool) -> VoteOf<TypeConfig> {
        VoteOf::<TypeConfig> {
            leader_id: LeaderId { term, node_id: 2 },
            committed,
        }
    }

    fn id(index: u64) -> LogId {
        LogId {
            leader_id: LeaderId {
                term: 5,
                node_id: 2,
            },
            index,
        }
    }

    fn batch() -> Batch {
        let delete = Change::Delete {
            key: Key::from("/registry/core/pods/a/b"),
            expect: Expect::At(Revision(7)),
        };
        Batch(Arc::new(vec![Proposal {
            epoch: Some(Epoch { term: 5, node: 2 }),
            txn: Txn::new().with(delete),
        }]))
    }

    /// The whole message again, and its length pinned: a changed layout needs a new version.
    fn pinned<T: Wire>(message: &T, length: usize) -> T {
        let bytes = encode(message);
        assert_eq!((bytes[0], bytes.len()), (1, length));
        for cut in 0..bytes.len() {
            assert!(decode::<T>(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert!(decode::<T>(&longer).is_err());
        let again = decode::<T>(&bytes).unwrap();
        assert_eq!(encode(&again), bytes);
        again
    }

    #[test]
    fn messages_survive_the_way() {
        let append = AppendEntriesRequest {
            vote: vote(5, true),
            prev_log_id: Some(id(3)),
            leader_commit: None,
            entries: vec![
                Entry {
                    log_id: id(4),
                    payload: EntryPayload::Blank,
                },
                Entry {
                    log_id: id(5),
                    payload: EntryPayload::Normal(Command::Batch(batch())),
                },
            ],
        };
        let again = pinned(&append, 170);
        assert_eq!(again.entries.len(), 2);
        assert_eq!(again.prev_log_id, Some(id(3)));
        for (answer, length) in [
            (AppendEntriesResponse::Success, 2),
            (AppendEntriesResponse::PartialSuccess(Some(id(1))), 27),
            (AppendEntriesResponse::Conflict, 2),
            (AppendEntriesResponse::HigherVote(vote(6, false)), 19),
        ] {
            assert_eq!(pinned(&answer, length), answer);
        }
        let streamed: [(StreamAppendResult<TypeConfig>, usize); 3] = [
            (Ok(Some(id(1))), 27),
            (Err(StreamAppendError::Conflict(id(2))), 26),
            (Err(StreamAppendError::HigherVote(vote(9, true))), 19),
        ];
        for (answer, length) in streamed {
            assert_eq!(pinned(&answer, length), answer);
        }
        let mut asked = VoteRequest::new(vote(8, false), Some(id(2)));
        asked.leadership_transfer = true;
        assert_eq!(pinned(&asked, 44), asked);
        let given = VoteResponse::new(vote(8, false), None, true);
        assert_eq!(pinned(&given, 20), given);
        let head = SnapshotHead {
            vote: vote(5, true),
            meta: SnapshotMetaOf::<TypeConfig> {
                last_log_id: Some(id(9)),
                last_membership: crate::raft::Membership::new(
                    Some(id(1)),
                    Membership::new_with_defaults(vec![BTreeSet::from([1])], []),
                ),
            },
        };
        let length = encode(&head).len();
        assert_eq!(pinned(&head, length), head);
        let transfer: TransferLeaderResponse<TypeConfig> =
            Err(TransferLeaderError::LogNotFlushed {
                expected: Some(id(1)),
                actual: None,
            });
        assert_eq!(pinned(&transfer, 28), transfer);
        let outcomes = Outcomes(vec![
            Ok(Committed {
                revision: Revision(4),
                revisions: vec![Revision(3), Revision(4)],
            }),
            Err(Refusal::Conflict(Key::from("/a"), Revision(1))),
            Err(Refusal::Deposed),
        ]);
        assert_eq!(pinned(&outcomes, 50), outcomes);
    }

    #[test]
    fn a_message_is_only_as_new_as_it_must_be() {
        assert_eq!(encode(&batch())[0], 1);
        let spliced = Txn::new().with(Change::Splice {
            key: Key::from("/registry/core/pods/a/b"),
            at: Revision(7),
            splice: Splice {
                head: 3,
                tail: 4,
                middle: "m".into(),
            },
        });
        let spliced = Batch(Arc::new(vec![Proposal {
            epoch: None,
            txn: spliced,
        }]));
        let bytes = encode(&spliced);
        assert_eq!(bytes[0], 2);
        assert_eq!(encode(&decode::<Batch>(&bytes).unwrap()), bytes);
        // An entry says it by itself, so that a heartbeat beside it is read by everybody.
        let append = AppendEntriesRequest {
            vote: vote(5, true),
            prev_log_id: None,
            leader_commit: None,
            entries: vec![Entry {
                log_id: id(5),
                payload: EntryPayload::Normal(Command::Batch(spliced)),
            }],
        };
        let mut bytes = encode(&append);
        assert_eq!(bytes[0], 1);
        let entry = bytes.len() - encode_entry(&append).len();
        assert_eq!(bytes[entry], 2);
        // What comes after this release is refused as that, not as damage.
        bytes[entry] = 3;
        let error = decode::<AppendEntriesRequest<TypeConfig>>(&bytes).unwrap_err();
        assert!(error.is_newer(), "{error}");
    }

    fn encode_entry(append: &AppendEntriesRequest<TypeConfig>) -> Vec<u8> {
        record::log_entry(&append.entries[0])
    }

    #[test]
    fn another_version_is_refused() {
        assert!(matches!(
            decode::<Option<LogId>>(&[2, 0]),
            Err(RecordError::Version(2))
        ));
    }
}
