//! How everything durable is laid out, byte for byte. Every record begins with its version.
//!
//! Fields are big-endian; texts and bodies carry their length. A layout never changes: a new one gets a new version
//! byte. The tests pin each layout, because a record written today is read by a later version, or refused.

use caravel_api::{Encoded, Key, Revision};
use openraft::EntryPayload;
use std::collections::BTreeMap;

use crate::entry::Entry;
use crate::level::{self, Level};
use crate::raft::{Command, LogEntry, LogId, Membership, Vote};
use crate::state::redo::Skipped;

mod bytes;

pub use bytes::{In, Out};

pub(crate) const VERSION: u8 = 1;
/// Of what servers below level 2 do not know.
pub(crate) const VERSION_2: u8 = 2;

/// A record is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error(
        "the record is of version {0}, which this release does not know. Start the release that wrote it, or a newer one"
    )]
    Version(u8),
    #[error("the record ends early or has an unknown part")]
    Malformed,
    #[error("the record's object cannot be read: {0}")]
    Object(#[from] caravel_api::MetaError),
    #[error("the record's membership cannot be read: {0}")]
    Membership(#[from] serde_json::Error),
}

impl RecordError {
    /// It is no damage: a newer release wrote it.
    #[must_use]
    pub fn is_newer(&self) -> bool {
        matches!(self, RecordError::Version(_))
    }

    /// What reading it from the disk comes to.
    pub(crate) fn kind(&self) -> std::io::ErrorKind {
        match self.is_newer() {
            true => std::io::ErrorKind::Unsupported,
            false => std::io::ErrorKind::InvalidData,
        }
    }
}

/// What the persisted state is a state of: written with the objects, in one step.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Applied {
    pub log_id: Option<LogId>,
    pub membership: Membership,
    pub revision: Revision,
    pub level: Level,
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
    let mut out = Out::of(version(level::entry_needs(entry)));
    out.log_id(&entry.log_id);
    match &entry.payload {
        EntryPayload::Blank => out.u8(0),
        EntryPayload::Normal(command) => put_command(&mut out, command),
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
    let (_, mut input) = In::up_to(VERSION_2, record)?;
    let log_id = input.log_id()?;
    let payload = match input.u8()? {
        0 => EntryPayload::Blank,
        2 => EntryPayload::Membership(serde_json::from_slice(input.bytes()?)?),
        kind => EntryPayload::Normal(take_command(&mut input, kind)?),
    };
    input.end()?;
    Ok(LogEntry { log_id, payload })
}

/// The version of a record that needs this level to be read.
pub(crate) fn version(needs: Level) -> u8 {
    match needs > Level::FIRST {
        true => VERSION_2,
        false => VERSION,
    }
}

fn put_command(out: &mut Out, command: &Command) {
    match command {
        Command::Batch(batch) => {
            out.u8(1);
            out.proposals(batch);
        }
        Command::Raise(raise) => {
            out.u8(3);
            out.raise(raise);
        }
    }
}

fn take_command(input: &mut In<'_>, kind: u8) -> Result<Command, RecordError> {
    match kind {
        1 => Ok(Command::Batch(input.proposals()?)),
        3 => Ok(Command::Raise(input.raise()?)),
        _ => Err(RecordError::Malformed),
    }
}

pub(crate) fn command(command: &Command) -> Vec<u8> {
    let mut out = Out::of(version(level::needs(command)));
    put_command(&mut out, command);
    out.0
}

pub(crate) fn read_command(record: &[u8]) -> Result<Command, RecordError> {
    let (_, mut input) = In::up_to(VERSION_2, record)?;
    let kind = input.u8()?;
    let command = take_command(&mut input, kind)?;
    input.end()?;
    Ok(command)
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

/// At level 1 as releases that know no other read it.
pub(crate) fn applied(applied: &Applied) -> Vec<u8> {
    let mut out = Out::of(version(applied.level));
    out.u64(applied.revision.0);
    out.u64(applied.count);
    if applied.level > Level::FIRST {
        out.u32(applied.level.0 as usize);
    }
    out.some_log_id(&applied.log_id);
    out.bytes(
        &serde_json::to_vec(&applied.membership).expect("a membership is maps of numbers and text"),
    );
    out.0
}

pub(crate) fn read_applied(record: &[u8]) -> Result<Applied, RecordError> {
    let (version, mut input) = In::up_to(VERSION_2, record)?;
    let revision = Revision(input.u64()?);
    let count = input.u64()?;
    let level = match version {
        VERSION => Level::FIRST,
        _ => Level(input.number()?),
    };
    let log_id = input.some_log_id()?;
    let membership = serde_json::from_slice(input.bytes()?)?;
    input.end()?;
    Ok(Applied {
        log_id,
        membership,
        revision,
        level,
        count,
    })
}

/// Up to where a state's objects may be newer than its applied record, and what has to be known to redo the log over them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Redo {
    /// Of the state.
    pub generation: u64,
    pub until: Applied,
    pub skipped: Vec<Skipped>,
}

pub(crate) fn redo(redo: &Redo) -> Vec<u8> {
    let mut out = Out::new();
    out.u64(redo.generation);
    out.bytes(&applied(&redo.until));
    out.u32(redo.skipped.len());
    for skipped in &redo.skipped {
        out.u64(skipped.index);
        out.u32(skipped.proposal as usize);
        match skipped.change {
            None => out.u8(0),
            Some(change) => {
                out.u8(1);
                out.u32(change as usize);
            }
        }
    }
    out.0
}

pub(crate) fn read_redo(record: &[u8]) -> Result<Redo, RecordError> {
    let mut input = In::versioned(record)?;
    let generation = input.u64()?;
    let until = read_applied(input.bytes()?)?;
    let mut skipped = Vec::new();
    for _ in 0..input.number()? {
        skipped.push(Skipped {
            index: input.u64()?,
            proposal: input.number()?,
            change: match input.u8()? {
                0 => None,
                1 => Some(input.number()?),
                _ => return Err(RecordError::Malformed),
            },
        });
    }
    input.end()?;
    Ok(Redo {
        generation,
        until,
        skipped,
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
    pub const REDO: &str = "redo";
}

/// What `meta` holds, opened.
pub(crate) type MetaRecords = BTreeMap<String, Vec<u8>>;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::level::Raise;
    use crate::raft::{Batch, Proposal};
    use crate::splice::Splice;
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
        proposed(txn)
    }

    fn proposed(txn: Txn) -> Batch {
        Batch(Arc::new(vec![Proposal {
            epoch: Some(Epoch { term: 2, node: 3 }),
            txn,
        }]))
    }

    /// What level 2 brought: an update as what it changes, and the order to raise the level.
    fn of_level_2() -> [Command; 2] {
        let txn = Txn::new().with(Change::Splice {
            key: Key::from("k"),
            at: Revision(7),
            splice: Splice {
                head: 258,
                tail: 3,
                middle: "mid".into(),
            },
        });
        let raise = Raise {
            epoch: Epoch { term: 2, node: 3 },
            to: Level(2),
        };
        [Command::Batch(proposed(txn)), Command::Raise(raise)]
    }

    fn entry_of(command: Command) -> LogEntry {
        LogEntry {
            log_id: id(1, 2, 3),
            payload: EntryPayload::Normal(command),
        }
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
        let entry = entry_of(Command::Batch(sample_batch()));
        let [spliced, raise] = of_level_2();
        let expected_spliced = format!(
            "00000001 01{}{} 00000001 03000000016b 02{} 00000102 00000003 00000003{}",
            u64_hex(2),
            u64_hex(3),
            u64_hex(7),
            hex(b"mid")
        )
        .replace(' ', "");
        let head = format!("01{}{}{}", u64_hex(1), u64_hex(2), u64_hex(3));
        for (name, record, expected) in [
            (
                "batch",
                command(&Command::Batch(sample_batch())),
                format!("0101{expected_batch}"),
            ),
            (
                "entry with a splice",
                log_entry(&entry_of(spliced)),
                format!("02{}01{expected_spliced}", &head[2..]),
            ),
            (
                "raise",
                log_entry(&entry_of(raise)),
                format!("02{}03{}{}00000002", &head[2..], u64_hex(2), u64_hex(3)),
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
                "redo",
                redo(&Redo {
                    generation: 4,
                    until: Applied::default(),
                    skipped: [None, Some(7)]
                        .map(|change| Skipped {
                            index: 5,
                            proposal: 6,
                            change,
                        })
                        .into(),
                }),
                format!(
                    "01{}{:08x}{}00000002{}0000000600{}000000060100000007",
                    u64_hex(4),
                    applied(&Applied::default()).len(),
                    hex(&applied(&Applied::default())),
                    u64_hex(5),
                    u64_hex(5)
                ),
            ),
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
            (
                "applied at level 2",
                applied(&Applied {
                    revision: Revision(4),
                    level: Level(2),
                    count: 5,
                    log_id: Some(id(1, 2, 3)),
                    ..Applied::default()
                }),
                format!(
                    "02{}{}0000000201{}{}",
                    u64_hex(4),
                    u64_hex(5),
                    &head[2..],
                    {
                        let json = r#"{"log_id":null,"membership":{"configs":[],"nodes":{}}}"#;
                        format!("{:08x}{}", json.len(), hex(json.as_bytes()))
                    }
                ),
            ),
        ] {
            assert_eq!(hex(&record), expected, "{name}");
        }
    }

    #[test]
    fn records_read_back_and_cut_ones_are_refused() {
        let [spliced, raise] = of_level_2();
        for command in [spliced, raise, Command::Batch(sample_batch())] {
            let record = log_entry(&entry_of(command));
            assert_eq!(log_entry(&read_log_entry(&record).unwrap()), record);
            for length in 0..record.len() {
                assert!(read_log_entry(&record[..length]).is_err(), "{length}");
            }
        }
        for level in [1, 2, 7] {
            let state = Applied {
                revision: Revision(4),
                level: Level(level),
                count: 5,
                log_id: Some(id(1, 2, 3)),
                ..Applied::default()
            };
            assert_eq!(read_applied(&applied(&state)).unwrap(), state);
        }
        let mut other = log_entry(&entry_of(Command::Batch(sample_batch())));
        other[0] = 9;
        assert!(matches!(
            read_log_entry(&other),
            Err(RecordError::Version(9))
        ));
    }
}
