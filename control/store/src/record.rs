//! How everything durable is laid out, byte for byte. Every record begins with its version.
//!
//! Fields are big-endian; texts and bodies carry their length. A layout never changes: a new one gets a new version
//! byte. The tests pin each layout, because a record written today is read by a later version, or refused.

use caravel_api::{Encoded, Key, Revision};
use openraft::EntryPayload;
use std::collections::BTreeMap;

use crate::entry::Entry;
use crate::raft::{Batch, LogEntry, LogId, Membership, Vote};

mod bytes;

pub use bytes::{In, Out};

const VERSION: u8 = 1;

/// A record is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("the record is of version {0}, which this program does not know")]
    Version(u8),
    #[error("the record ends early or has an unknown part")]
    Malformed,
    #[error("the record's object cannot be read: {0}")]
    Object(#[from] caravel_api::MetaError),
    #[error("the record's membership cannot be read: {0}")]
    Membership(#[from] serde_json::Error),
}

/// What the persisted state is a state of: written with the objects, in one step.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Applied {
    pub log_id: Option<LogId>,
    pub membership: Membership,
    pub revision: Revision,
    /// How many objects there are: a load that finds another number has found damage.
    pub count: u64,
}

/// Who this disk belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pub cluster: u128,
    pub node: u64,
    /// Random, made with the disk: tells a wiped and refilled one from the one it was.
    pub incarnation: u64,
}

pub(crate) fn log_entry(entry: &LogEntry) -> Vec<u8> {
    let mut out = Out::new();
    out.log_id(&entry.log_id);
    match &entry.payload {
        EntryPayload::Blank => out.u8(0),
        EntryPayload::Normal(batch) => {
            out.u8(1);
            out.proposals(batch);
        }
        EntryPayload::Membership(membership) => {
            out.u8(2);
            out.bytes(
                &serde_json::to_vec(membership).expect("a membership is maps of numbers and text"),
            );
        }
    }
    out.0
}

pub(crate) fn read_log_entry(record: &[u8]) -> Result<LogEntry, RecordError> {
    let mut input = In::versioned(record)?;
    let log_id = input.log_id()?;
    let payload = match input.u8()? {
        0 => EntryPayload::Blank,
        1 => EntryPayload::Normal(input.proposals()?),
        2 => EntryPayload::Membership(serde_json::from_slice(input.bytes()?)?),
        _ => return Err(RecordError::Malformed),
    };
    input.end()?;
    Ok(LogEntry { log_id, payload })
}

pub(crate) fn batch(batch: &Batch) -> Vec<u8> {
    let mut out = Out::new();
    out.proposals(batch);
    out.0
}

pub(crate) fn read_batch(record: &[u8]) -> Result<Batch, RecordError> {
    let mut input = In::versioned(record)?;
    let batch = input.proposals()?;
    input.end()?;
    Ok(batch)
}

pub(crate) fn vote(vote: &Vote) -> Vec<u8> {
    let mut out = Out::new();
    out.vote(vote);
    out.0
}

pub(crate) fn read_vote(record: &[u8]) -> Result<Vote, RecordError> {
    let mut input = In::versioned(record)?;
    let vote = input.vote()?;
    input.end()?;
    Ok(vote)
}

pub(crate) fn log_id(id: &LogId) -> Vec<u8> {
    let mut out = Out::new();
    out.log_id(id);
    out.0
}

pub(crate) fn read_log_id(record: &[u8]) -> Result<LogId, RecordError> {
    let mut input = In::versioned(record)?;
    let id = input.log_id()?;
    input.end()?;
    Ok(id)
}

pub(crate) fn object(entry: &Entry) -> Vec<u8> {
    let mut out = Out::new();
    out.u64(entry.revision.0);
    out.0.extend_from_slice(&entry.json);
    out.0
}

pub(crate) fn read_object(key: Key, record: &[u8]) -> Result<Entry, RecordError> {
    let mut input = In::versioned(record)?;
    let revision = Revision(input.u64()?);
    let object = Encoded::new(input.0)?;
    Ok(Entry::stamped(key, revision, object))
}

pub(crate) fn applied(applied: &Applied) -> Vec<u8> {
    let mut out = Out::new();
    out.u64(applied.revision.0);
    out.u64(applied.count);
    out.some_log_id(&applied.log_id);
    out.bytes(
        &serde_json::to_vec(&applied.membership).expect("a membership is maps of numbers and text"),
    );
    out.0
}

pub(crate) fn read_applied(record: &[u8]) -> Result<Applied, RecordError> {
    let mut input = In::versioned(record)?;
    let revision = Revision(input.u64()?);
    let count = input.u64()?;
    let log_id = input.some_log_id()?;
    let membership = serde_json::from_slice(input.bytes()?)?;
    input.end()?;
    Ok(Applied {
        log_id,
        membership,
        revision,
        count,
    })
}

pub(crate) fn identity(identity: &Identity) -> Vec<u8> {
    let mut out = Out::new();
    out.0.extend_from_slice(&identity.cluster.to_be_bytes());
    out.u64(identity.node);
    out.u64(identity.incarnation);
    out.0
}

pub(crate) fn read_identity(record: &[u8]) -> Result<Identity, RecordError> {
    let mut input = In::versioned(record)?;
    let cluster = u128::from_be_bytes(input.array()?);
    let identity = Identity {
        cluster,
        node: input.u64()?,
        incarnation: input.u64()?,
    };
    input.end()?;
    Ok(identity)
}

pub(crate) fn number(value: u64) -> Vec<u8> {
    let mut out = Out::new();
    out.u64(value);
    out.0
}

pub(crate) fn read_number(record: &[u8]) -> Result<u64, RecordError> {
    let mut input = In::versioned(record)?;
    let value = input.u64()?;
    input.end()?;
    Ok(value)
}

/// Names in the `meta` tree.
pub(crate) mod names {
    pub const IDENTITY: &str = "identity";
    pub const VOTE: &str = "vote";
    pub const COMMITTED: &str = "committed";
    pub const PURGED: &str = "purged";
    pub const GENERATION: &str = "generation";
}

/// What `meta` holds, opened.
pub(crate) type MetaRecords = BTreeMap<String, Vec<u8>>;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::Proposal;
    use crate::txn::{Change, Epoch, Expect, Txn};
    use openraft::impls::leader_id_adv::LeaderId;
    use std::sync::Arc;

    fn sample_batch() -> Batch {
        let object = Encoded::new(r#"{"metadata":{"resourceVersion":""}}"#).unwrap();
        let txn = Txn::create(Key::from("/registry/a/b/c"), object)
            .with(Change::Delete {
                key: Key::from("d"),
                expect: Expect::At(Revision(7)),
            })
            .with(Change::Check {
                key: Key::from("e"),
                expect: Expect::Any,
            });
        Batch(Arc::new(vec![Proposal {
            epoch: Some(Epoch { term: 2, node: 3 }),
            txn,
        }]))
    }

    fn id(term: u64, node_id: u64, index: u64) -> LogId {
        LogId {
            leader_id: LeaderId { term, node_id },
            index,
        }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn layouts_are_pinned() {
        let zeros = |n: usize| "00".repeat(n);
        let u64_hex = |n: u64| format!("{n:016x}");
        let key = hex(b"/registry/a/b/c");
        let json = hex(br#"{"metadata":{"resourceVersion":""}}"#);
        let expected_batch = format!(
            "00000001 01{}{} 00000003 000000000f{key}01 00000023{json} 010000000164 02{} 020000000165 00",
            u64_hex(2),
            u64_hex(3),
            u64_hex(7)
        )
        .replace(' ', "");
        let entry = LogEntry {
            log_id: id(1, 2, 3),
            payload: EntryPayload::Normal(sample_batch()),
        };
        let head = format!("01{}{}{}", u64_hex(1), u64_hex(2), u64_hex(3));
        for (name, record, expected) in [
            (
                "batch",
                batch(&sample_batch()),
                format!("01{expected_batch}"),
            ),
            (
                "entry",
                log_entry(&entry),
                format!("{head}01{expected_batch}"),
            ),
            (
                "blank",
                log_entry(&LogEntry {
                    log_id: id(1, 2, 3),
                    payload: EntryPayload::Blank,
                }),
                format!("{head}00"),
            ),
            ("log id", log_id(&id(1, 2, 3)), head.clone()),
            (
                "vote",
                vote(&Vote {
                    leader_id: LeaderId {
                        term: 1,
                        node_id: 2,
                    },
                    committed: true,
                }),
                format!("01{}{}01", u64_hex(1), u64_hex(2)),
            ),
            (
                "identity",
                identity(&Identity {
                    cluster: 1,
                    node: 2,
                    incarnation: 3,
                }),
                format!("01{}01{}{}", zeros(15), u64_hex(2), u64_hex(3)),
            ),
            ("number", number(9), format!("01{}", u64_hex(9))),
            (
                "applied",
                applied(&Applied {
                    revision: Revision(4),
                    count: 5,
                    log_id: Some(id(1, 2, 3)),
                    ..Applied::default()
                }),
                format!("01{}{}01{}{}", u64_hex(4), u64_hex(5), &head[2..], {
                    let json = r#"{"log_id":null,"membership":{"configs":[],"nodes":{}}}"#;
                    format!("{:08x}{}", json.len(), hex(json.as_bytes()))
                }),
            ),
        ] {
            assert_eq!(hex(&record), expected, "{name}");
        }
    }

    #[test]
    fn records_read_back_and_cut_ones_are_refused() {
        let entry = LogEntry {
            log_id: id(1, 2, 3),
            payload: EntryPayload::Normal(sample_batch()),
        };
        let record = log_entry(&entry);
        assert_eq!(log_entry(&read_log_entry(&record).unwrap()), record);
        for length in 0..record.len() {
            assert!(read_log_entry(&record[..length]).is_err(), "{length}");
        }
        let state = Applied {
            revision: Revision(4),
            count: 5,
            log_id: Some(id(1, 2, 3)),
            ..Applied::default()
        };
        assert_eq!(read_applied(&applied(&state)).unwrap(), state);
        let mut other = record;
        other[0] = 9;
        assert!(matches!(
            read_log_entry(&other),
            Err(RecordError::Version(9))
        ));
    }
}
