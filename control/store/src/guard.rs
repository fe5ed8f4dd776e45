//! The second witness of what is on the disk: a small file beside the database.
//!
//! sled ends recovery silently at the first bad record, so a torn or damaged log looks like a shorter one. This file
//! remembers who the disk belongs to, the vote and the last flushed log index; an open that finds less in the
//! database refuses. It has two checksummed slots, and writes between two syncs all go to the same one: a power cut may tear
//! that, and leaves the other.
//!
//! It never claims more than is flushed: it is written after a flush, and lowered and synced before a truncation.
//! A vote is synced at once; an index is written at once (which a killed process keeps) and synced within
//! [`SYNC_EVERY`] (a power cut may leave it that much behind, which only makes the check weaker, never wrong).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::raft::Vote;
use crate::record::{self, Identity};

const MAGIC: &[u8; 8] = b"CRVGUARD";
const SLOT: usize = 4096;
/// How long an index may be unsynced.
const SYNC_EVERY: Duration = Duration::from_millis(50);

/// What the guard testifies.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Testimony {
    pub identity: Identity,
    pub vote: Option<Vote>,
    /// The last log index that was flushed, plus one; 0 for an empty log.
    pub flushed: u64,
}

pub(crate) struct Guard {
    file: File,
    sequence: u64,
    /// Where the next write goes. What the other one holds is synced.
    slot: u64,
    now: Testimony,
    dirty: bool,
    synced: Instant,
}

impl Guard {
    /// Makes the file for a new disk.
    pub fn create(path: &Path, identity: Identity) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        let now = Testimony {
            identity,
            vote: None,
            flushed: 0,
        };
        let mut guard = Guard {
            file,
            sequence: 0,
            slot: 0,
            now,
            dirty: false,
            synced: Instant::now(),
        };
        for slot in [0, 1] {
            guard.slot = slot;
            guard.write()?;
            guard.file.sync_all()?;
        }
        guard.slot = 0;
        guard.dirty = false;
        Ok(guard)
    }

    /// Opens the file of a known disk: the newer of the slots that are whole.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let slots =
            [0, 1].map(|slot| read(&file, slot).map(|(sequence, now)| (sequence, slot, now)));
        let newest = slots
            .into_iter()
            .flatten()
            .max_by_key(|(sequence, ..)| *sequence);
        let (sequence, slot, now) = newest.ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                "neither of its two records is whole",
            )
        })?;
        // A process that was killed may have left it unsynced, and the other slot is written next.
        file.sync_data()?;
        Ok(Guard {
            file,
            sequence,
            slot: 1 - slot,
            now,
            dirty: false,
            synced: Instant::now(),
        })
    }

    pub fn testimony(&self) -> &Testimony {
        &self.now
    }

    /// After a flush: the log reaches to before `flushed` now, and `vote` is on disk.
    pub fn advance(&mut self, flushed: u64, vote: Option<Vote>) -> io::Result<()> {
        let new_vote = vote != self.now.vote;
        if !new_vote && flushed == self.now.flushed {
            return Ok(());
        }
        self.now.flushed = flushed;
        self.now.vote = vote;
        self.write()?;
        if new_vote || self.synced.elapsed() >= SYNC_EVERY {
            self.sync()
        } else {
            Ok(())
        }
    }

    /// Before a truncation: from now on the log may end as early as before `flushed`.
    pub fn lower(&mut self, flushed: u64) -> io::Result<()> {
        if flushed >= self.now.flushed {
            return Ok(());
        }
        self.now.flushed = flushed;
        self.write()?;
        self.sync()
    }

    /// When what a power cut could take back is to be synced, if there is some.
    pub fn due_in(&self) -> Option<Duration> {
        self.dirty
            .then(|| SYNC_EVERY.saturating_sub(self.synced.elapsed()))
    }

    pub fn is_due(&self) -> bool {
        self.due_in() == Some(Duration::ZERO)
    }

    pub fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()?;
        if self.dirty {
            self.slot = 1 - self.slot;
        }
        self.dirty = false;
        self.synced = Instant::now();
        Ok(())
    }

    fn write(&mut self) -> io::Result<()> {
        self.sequence += 1;
        self.dirty = true;
        let slot = encode(self.sequence, &self.now);
        self.file.write_all_at(&slot, self.slot * SLOT as u64)
    }
}

fn encode(sequence: u64, testimony: &Testimony) -> Vec<u8> {
    let identity = record::identity(&testimony.identity);
    let vote = testimony
        .vote
        .as_ref()
        .map(record::vote)
        .unwrap_or_default();
    let mut slot = Vec::with_capacity(SLOT);
    slot.extend_from_slice(MAGIC);
    slot.extend_from_slice(&sequence.to_be_bytes());
    slot.extend_from_slice(&testimony.flushed.to_be_bytes());
    slot.push(identity.len() as u8);
    slot.extend_from_slice(&identity);
    slot.push(vote.len() as u8);
    slot.extend_from_slice(&vote);
    slot.resize(SLOT - 4, 0);
    let sum = crc32fast::hash(&slot);
    slot.extend_from_slice(&sum.to_be_bytes());
    slot
}

fn read(file: &File, slot: u64) -> Option<(u64, Testimony)> {
    let mut bytes = [0; SLOT];
    file.read_exact_at(&mut bytes, slot * SLOT as u64).ok()?;
    let (body, sum) = bytes.split_last_chunk::<4>()?;
    if crc32fast::hash(body) != u32::from_be_bytes(*sum) || !body.starts_with(MAGIC) {
        return None;
    }
    let number = |at: usize| body[at..at + 8].try_into().map(u64::from_be_bytes).ok();
    let (sequence, flushed) = (number(8)?, number(16)?);
    let (length, rest) = body[24..].split_first()?;
    let (identity, rest) = rest.split_at_checked(*length as usize)?;
    let (length, rest) = rest.split_first()?;
    let (vote, _) = rest.split_at_checked(*length as usize)?;
    let vote = if vote.is_empty() {
        None
    } else {
        Some(record::read_vote(vote).ok()?)
    };
    Some((
        sequence,
        Testimony {
            identity: record::read_identity(identity).ok()?,
            vote,
            flushed,
        },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const OF: Identity = Identity {
        cluster: 1,
        node: 2,
        incarnation: 3,
    };

    #[test]
    fn the_newer_whole_slot_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("guard");
        let vote = Some(Vote::new(5, 2));
        let mut guard = Guard::create(&path, OF).unwrap();
        guard.advance(10, vote).unwrap();
        guard.advance(11, vote).unwrap();
        drop(guard);
        let whole = fs::read(&path).unwrap();
        assert_eq!(
            Guard::open(&path).unwrap().testimony(),
            &Testimony {
                identity: OF,
                vote,
                flushed: 11
            }
        );

        // The vote was synced before the index was written; damage to either slot leaves the other.
        let mut seen = Vec::new();
        for slot in [0, 1] {
            let mut torn = whole.clone();
            torn[slot * SLOT + 20] ^= 0xff;
            fs::write(&path, torn).unwrap();
            seen.push(Guard::open(&path).unwrap().testimony().flushed);
        }
        seen.sort_unstable();
        assert_eq!(seen, [10, 11]);
        fs::write(&path, vec![0; SLOT * 2]).unwrap();
        assert!(Guard::open(&path).is_err());
    }

    #[test]
    fn a_power_cut_finds_one_slot_untouched_since_it_was_synced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("guard");
        let mut guard = Guard::create(&path, OF).unwrap();
        let mut synced = fs::read(&path).unwrap();
        for index in 1..400 {
            match index % 50 {
                // Whatever was written before the kill may be unsynced still.
                7 => guard = Guard::open(&path).unwrap(),
                20 => guard.sync().unwrap(),
                30 => guard.lower(index - 5).unwrap(),
                _ => guard.advance(index, None).unwrap(),
            }
            let now = fs::read(&path).unwrap();
            let same = |slot: usize| {
                let bytes = slot * SLOT..(slot + 1) * SLOT;
                now[bytes.clone()] == synced[bytes]
            };
            assert!(same(0) || same(1), "both are written at {index}");
            assert!(read(&guard.file, 1 - guard.slot).is_some());
            if guard.due_in().is_none() {
                synced = now;
            }
        }
    }
}
