//! The disk: sled 0.34 in one directory, and the fdatasync that its flush leaves out.
//!
//! sled's `flush` writes its log but never asks the device to keep it, so each is followed by `fdatasync` on sled's
//! file; `pieces` keeps everything in that one file. sled panics on some damage when it opens; that is caught and told as
//! damage.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Bound;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use caravel_api::Key;
use rustix::fs::{FallocateFlags, fallocate, fstatvfs};
use rustix::io::Errno;
use sled::{Batch, Config, Db, Tree};

use super::{Backend, StateOp};
use crate::room::{self, RUNWAY, Room};
use pieces::{Joiner, damaged, first, pieces};

mod pieces;

/// Objects' keys begin with this in a state tree; the applied record is `a`.
const OBJECT: u8 = b'k';
const APPLIED: &[u8] = b"a";
/// Lies between a key and the number of a further piece; keys are text without it.
const SEPARATOR: u8 = 0;
/// How often the room is looked at.
const LOOK: Duration = Duration::from_millis(50);

pub(crate) struct SledBackend {
    db: Db,
    /// sled's file, opened again to be synced, and to be given room beyond its end.
    file: File,
    log: Tree,
    meta: Tree,
    states: BTreeMap<u64, State>,
    room: Room,
    looked: Option<Instant>,
}

struct State {
    tree: Tree,
    /// Objects that have more than one piece, and how many.
    pieces: HashMap<Key, u32>,
}

impl SledBackend {
    pub fn open(dir: &Path, cache_bytes: u64) -> io::Result<Self> {
        let new = !dir.exists();
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)?;
        let open = || {
            Config::new()
                .path(dir)
                .cache_capacity(cache_bytes)
                .flush_every_ms(Some(500))
                .open()
        };
        let db = catch_unwind(AssertUnwindSafe(open))
            .map_err(|panic| damaged(format!("sled could not read it: {}", panic_text(&*panic))))?
            .map_err(|error| match error {
                // Its settings, which are never changed, are read as others; sled blames another version of itself.
                sled::Error::Unsupported(why) => {
                    damaged(format!("its file conf is not as it was written: {why}"))
                }
                other => failed(other),
            })?;
        let tree = |name: &str| {
            catch_unwind(AssertUnwindSafe(|| db.open_tree(name)))
                .map_err(|panic| damaged(panic_text(&*panic)))?
                .map_err(failed)
        };
        let (log, meta) = (tree("log")?, tree("meta")?);
        caught(|| remove_torn(&log))?;
        let mut states = BTreeMap::new();
        for name in db.tree_names() {
            let generation = std::str::from_utf8(&name)
                .ok()
                .and_then(|name| name.strip_prefix("state-")?.parse().ok());
            if let Some(generation) = generation {
                let tree = tree(&state_name(generation))?;
                states.insert(
                    generation,
                    State {
                        tree,
                        pieces: HashMap::new(),
                    },
                );
            }
        }
        db.flush().map_err(failed)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(dir.join("db"))?;
        let backend = SledBackend {
            file,
            log,
            meta,
            states,
            db,
            room: Room::Enough,
            looked: None,
        };
        // A process that was killed may have left what it found unsynced.
        backend.file.sync_all()?;
        if new {
            for dir in [Some(dir), dir.parent()].into_iter().flatten() {
                File::open(dir)?.sync_all()?;
            }
        }
        Ok(backend)
    }

    fn state_of(&mut self, generation: u64) -> io::Result<&mut State> {
        if !self.states.contains_key(&generation) {
            let tree = self.db.open_tree(state_name(generation)).map_err(failed)?;
            self.states.insert(
                generation,
                State {
                    tree,
                    pieces: HashMap::new(),
                },
            );
        }
        self.states
            .get_mut(&generation)
            .ok_or_else(|| io::Error::other("the tree was just opened"))
    }
}

fn state_name(generation: u64) -> String {
    format!("state-{generation}")
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("unknown").to_owned()
}

fn failed(error: sled::Error) -> io::Error {
    match error {
        sled::Error::Io(error) => error,
        sled::Error::Corruption { at, .. } => damaged(match at {
            // Only what it appends to is read by position.
            Some(at) => format!("its file db is not as it was written at byte {}", at.lid()),
            None => "one of its files (conf, db, snap.*) is not as it was written".to_owned(),
        }),
        other => io::Error::other(other.to_string()),
    }
}

/// sled reads lazily, and a damaged page may panic instead of failing.
fn caught<T>(read: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|panic| Err(damaged(panic_text(&*panic))))
}

fn index_of(key: &[u8]) -> io::Result<u64> {
    key.first_chunk::<8>()
        .map(|index| u64::from_be_bytes(*index))
        .ok_or_else(|| damaged("a log key is too short".into()))
}

fn log_piece(index: u64, at: u32) -> Vec<u8> {
    [&index.to_be_bytes()[..], &at.to_be_bytes()].concat()
}

fn object_piece(key: &Key, at: u32) -> Vec<u8> {
    [&[OBJECT], key.as_bytes(), &[SEPARATOR], &at.to_be_bytes()].concat()
}

fn each_log(
    tree: &Tree,
    from: u64,
    to: Option<u64>,
    each: &mut dyn FnMut(u64, Vec<u8>) -> io::Result<()>,
) -> io::Result<()> {
    let mut joiner = Joiner::new();
    let from = from.to_be_bytes();
    let rows = match to {
        Some(to) => tree.range(from..to.to_be_bytes()),
        None => tree.range(from..),
    };
    for row in rows {
        let (key, value) = row.map_err(failed)?;
        let index = index_of(&key)?;
        let whole = if key.len() == 8 {
            joiner.first(index, &value)?
        } else if joiner.is_open() {
            joiner.further(&value)?
        } else {
            // Of a record that is half purged. That none is missing is seen by its index.
            None
        };
        if let Some((index, record, _)) = whole {
            each(index, record)?;
        }
    }
    joiner.end()
}

/// Removes what was written of a record whose first piece was not.
fn remove_torn(log: &Tree) -> io::Result<()> {
    while let Some((key, _)) = log.last().map_err(failed)? {
        let head = index_of(&key)?.to_be_bytes();
        if log.contains_key(head).map_err(failed)? {
            break;
        }
        log.remove(key).map_err(failed)?;
    }
    Ok(())
}

/// Objects in order, each with how many pieces it has, until `each` says that it has enough.
fn each_object(
    rows: sled::Iter,
    each: &mut dyn FnMut(Key, Vec<u8>, u32) -> io::Result<bool>,
) -> io::Result<()> {
    let mut joiner = Joiner::new();
    for row in rows {
        let (row, value) = row.map_err(failed)?;
        let separator = row.iter().position(|byte| *byte == SEPARATOR);
        let whole = match separator {
            Some(_) => joiner.further(&value)?,
            None => {
                let key = std::str::from_utf8(&row[1..])
                    .map_err(|_| damaged("a key is not text".into()))?;
                joiner.first(Key::from(key), &value)?
            }
        };
        if let Some((key, record, pieces)) = whole
            && !each(key, record, pieces)?
        {
            return Ok(());
        }
    }
    joiner.end()
}

/// Removes up to `limit` keys that `rows` yields; true if that was all of them.
fn remove_some(tree: &Tree, rows: sled::Iter, limit: usize) -> io::Result<bool> {
    let mut batch = Batch::default();
    let mut count = 0;
    for key in rows.keys().take(limit) {
        batch.remove(key.map_err(failed)?);
        count += 1;
    }
    if count > 0 {
        tree.apply_batch(batch).map_err(failed)?;
    }
    Ok(count < limit)
}

/// Extends the runway of `file` where that is due. A file system that cannot is taken to have room.
fn runway(file: &File) -> io::Result<Room> {
    let known = file.metadata()?;
    let left = (known.blocks() * 512).saturating_sub(known.len());
    if !room::is_short(left) {
        let whole = fstatvfs(file)?;
        // Zeros where the file system does not tell.
        let full = whole.f_blocks > 0 && whole.f_bavail * whole.f_frsize < room::SPARE;
        return Ok(room::room(left, !full));
    }
    match fallocate(file, FallocateFlags::KEEP_SIZE, known.len(), RUNWAY) {
        Ok(()) => Ok(room::room(RUNWAY, true)),
        // What was got before the space ran out counts.
        Err(Errno::NOSPC | Errno::DQUOT) => {
            let left = (file.metadata()?.blocks() * 512).saturating_sub(known.len());
            Ok(room::room(left, false))
        }
        Err(error) => Err(error.into()),
    }
}

impl Backend for SledBackend {
    /// One by one, since sled keeps their order over a power cut, and a batch costs it two writes more. A record's first
    /// piece comes last, so that one that was torn has none.
    fn append(&mut self, records: Vec<(u64, Vec<u8>)>) -> io::Result<()> {
        for (index, record) in records {
            let pieces = pieces(&record);
            let count = pieces.len() as u32;
            for (at, piece) in (0..).zip(pieces).skip(1) {
                self.log
                    .insert(log_piece(index, at), piece)
                    .map_err(failed)?;
            }
            self.log
                .insert(index.to_be_bytes(), first(count, &record))
                .map_err(failed)?;
        }
        Ok(())
    }

    fn truncate(&mut self, from: u64) -> io::Result<()> {
        // From the end backwards, so that an interruption leaves no hole; of each record the first piece first, because the
        // others are none without it.
        while let Some((key, _)) = self.log.last().map_err(failed)? {
            let index = index_of(&key)?;
            if index < from {
                break;
            }
            let first = index.to_be_bytes();
            self.log.remove(first).map_err(failed)?;
            for key in self.log.range(first..).keys() {
                self.log.remove(key.map_err(failed)?).map_err(failed)?;
            }
        }
        Ok(())
    }

    fn purge(&mut self, below: u64, limit: usize) -> io::Result<bool> {
        remove_some(&self.log, self.log.range(..below.to_be_bytes()), limit)
    }

    fn read_log(&mut self, from: u64, to: u64) -> io::Result<Vec<(u64, Vec<u8>)>> {
        let mut records = Vec::new();
        caught(|| {
            each_log(&self.log, from, Some(to.max(from)), &mut |index, record| {
                records.push((index, record));
                Ok(())
            })
        })?;
        Ok(records)
    }

    fn scan_log(&mut self, each: &mut dyn FnMut(u64, Vec<u8>) -> io::Result<()>) -> io::Result<()> {
        caught(|| each_log(&self.log, 0, None, each))
    }

    fn put_meta(&mut self, name: &str, record: &[u8]) -> io::Result<()> {
        self.meta.insert(name, record).map_err(failed)?;
        Ok(())
    }

    fn meta(&mut self) -> io::Result<BTreeMap<String, Vec<u8>>> {
        caught(|| {
            let mut records = BTreeMap::new();
            for row in self.meta.iter() {
                let (name, record) = row.map_err(failed)?;
                records.insert(String::from_utf8_lossy(&name).into_owned(), record.to_vec());
            }
            Ok(records)
        })
    }

    fn state(
        &mut self,
        generation: u64,
        ops: Vec<StateOp>,
        applied: Option<&[u8]>,
    ) -> io::Result<()> {
        let together = applied.is_some() && !ops.is_empty();
        let state = self.state_of(generation)?;
        let mut batch = Batch::default();
        for (key, record) in ops {
            let row = [&[OBJECT], key.as_bytes()].concat();
            let old = state.pieces.remove(&key).unwrap_or(1);
            let new = match &record {
                Some(record) => pieces(record).len() as u32,
                None => 1,
            };
            // A batch is three writes more, and holds up all others.
            if !together && old.max(new) == 1 {
                let done = match record {
                    Some(record) => state.tree.insert(row, first(1, &record)),
                    None => state.tree.remove(row),
                };
                done.map_err(failed)?;
                continue;
            }
            match record {
                Some(record) => {
                    batch.insert(row, first(new, &record));
                    for (at, piece) in (0..).zip(pieces(&record)).skip(1) {
                        batch.insert(object_piece(&key, at), piece);
                    }
                }
                None => batch.remove(row),
            }
            for at in new..old {
                batch.remove(object_piece(&key, at));
            }
            if new > 1 {
                state.pieces.insert(key, new);
            }
            if !together {
                state
                    .tree
                    .apply_batch(std::mem::take(&mut batch))
                    .map_err(failed)?;
            }
        }
        match applied {
            Some(applied) if together => {
                batch.insert(APPLIED, applied);
                state.tree.apply_batch(batch).map_err(failed)
            }
            Some(applied) => {
                state.tree.insert(APPLIED, applied).map_err(failed)?;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn applied(&mut self, generation: u64) -> io::Result<Option<Vec<u8>>> {
        let Some(state) = self.states.get(&generation) else {
            return Ok(None);
        };
        caught(|| {
            Ok(state
                .tree
                .get(APPLIED)
                .map_err(failed)?
                .map(|record| record.to_vec()))
        })
    }

    fn scan_state(
        &mut self,
        generation: u64,
        each: &mut dyn FnMut(Key, Vec<u8>) -> io::Result<()>,
    ) -> io::Result<()> {
        let Some(state) = self.states.get_mut(&generation) else {
            return Ok(());
        };
        let State { tree, pieces } = state;
        caught(|| {
            each_object(tree.range([OBJECT]..), &mut |key, record, count| {
                if count > 1 {
                    pieces.insert(key.clone(), count);
                }
                each(key, record)?;
                Ok(true)
            })
        })
    }

    fn some_state(
        &mut self,
        generation: u64,
        after: Option<&Key>,
        bytes: usize,
    ) -> io::Result<Vec<(Key, Vec<u8>)>> {
        let Some(state) = self.states.get(&generation) else {
            return Ok(Vec::new());
        };
        let rows = match after {
            None => state.tree.range([OBJECT]..),
            // Behind its last piece.
            Some(key) => state.tree.range((
                Bound::Excluded(object_piece(key, u32::MAX)),
                Bound::Unbounded,
            )),
        };
        let (mut some, mut size) = (Vec::new(), 0);
        caught(|| {
            each_object(rows, &mut |key, record, _| {
                size += record.len();
                some.push((key, record));
                Ok(size < bytes)
            })
        })?;
        Ok(some)
    }

    fn drop_state(&mut self, generation: u64, limit: usize) -> io::Result<bool> {
        let Some(state) = self.states.get(&generation) else {
            return Ok(true);
        };
        let done = remove_some(&state.tree, state.tree.iter(), limit)?;
        if done {
            self.states.remove(&generation);
            self.db.drop_tree(state_name(generation)).map_err(failed)?;
        }
        Ok(done)
    }

    fn generations(&mut self) -> io::Result<Vec<u64>> {
        Ok(self.states.keys().copied().collect())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.db.flush().map_err(failed)?;
        self.file.sync_data()
    }

    fn room(&mut self) -> Room {
        if self.looked.is_none_or(|at| at.elapsed() >= LOOK) {
            self.looked = Some(Instant::now());
            self.room = runway(&self.file).unwrap_or_else(|error| {
                tracing::debug!(%error, "the room on the disk is not known");
                Room::Enough
            });
        }
        self.room
    }
}

#[cfg(test)]
mod tests {
    use super::pieces::PIECE;
    use super::*;

    /// Files that no fdatasync of ours covers.
    fn blobs(dir: &Path) -> usize {
        fs::read_dir(dir.join("blobs")).map_or(0, |files| files.count())
    }

    #[test]
    fn all_that_is_large_stays_in_the_file_that_is_synced() {
        let dir = tempfile::tempdir().unwrap();
        let mut backend = SledBackend::open(dir.path(), 16 << 20).unwrap();
        let record = |n: u64| (0..200_000_u64).map(move |i| (i * 31 + n * 7 + i / 256) as u8);
        for n in 0..30 {
            let bytes: Vec<u8> = record(n).collect();
            backend.append(vec![(n, bytes.clone())]).unwrap();
            let key = Key::from(format!("/registry/core/configmaps/a/c{}", n % 7));
            backend
                .state(0, vec![(key, Some(bytes))], Some(b"applied"))
                .unwrap();
            backend.flush().unwrap();
        }
        assert_eq!(blobs(dir.path()), 0);
        drop(backend);
        let mut backend = SledBackend::open(dir.path(), 16 << 20).unwrap();
        let found = backend.read_log(29, 30).unwrap();
        assert_eq!(found, vec![(29, record(29).collect())]);
        assert_eq!(blobs(dir.path()), 0);
    }

    #[test]
    fn a_bit_of_its_settings_that_turned_over_is_damage_or_harmless() {
        let dir = tempfile::tempdir().unwrap();
        drop(SledBackend::open(dir.path(), 1 << 20).unwrap());
        let conf = dir.path().join("conf");
        let whole = fs::read(&conf).unwrap();
        let mut noticed = 0;
        for (at, bit) in (0..whole.len()).flat_map(|at| [(at, 1), (at, 0x80)]) {
            let mut bytes = whole.clone();
            bytes[at] ^= bit;
            fs::write(&conf, bytes).unwrap();
            if let Err(error) = SledBackend::open(dir.path(), 1 << 20) {
                assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{at}: {error}");
                noticed += 1;
            }
        }
        assert!(noticed > 0);
        fs::write(&conf, whole).unwrap();
        drop(SledBackend::open(dir.path(), 1 << 20).unwrap());
    }

    #[test]
    fn a_record_that_is_half_purged_or_half_written_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let mut backend = SledBackend::open(dir.path(), 1 << 20).unwrap();
        let long = vec![7; 3 * PIECE];
        backend
            .append(vec![(1, long.clone()), (2, long.clone())])
            .unwrap();
        assert!(!backend.purge(2, 1).unwrap());
        backend.log.insert(log_piece(3, 1), &long[..PIECE]).unwrap();
        backend.log.insert(log_piece(3, 2), &long[..PIECE]).unwrap();
        backend.flush().unwrap();
        drop(backend);
        let mut backend = SledBackend::open(dir.path(), 1 << 20).unwrap();
        backend.append(vec![(3, vec![8; PIECE + 1])]).unwrap();
        let mut found = Vec::new();
        backend
            .scan_log(&mut |index, record| {
                found.push((index, record.len()));
                Ok(())
            })
            .unwrap();
        assert_eq!(found, [(2, 3 * PIECE), (3, PIECE + 1)]);

        backend.truncate(1).unwrap();
        assert_eq!(backend.log.len(), 0);
    }
}
