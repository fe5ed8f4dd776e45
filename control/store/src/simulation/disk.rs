//! A disk in memory that remembers the order of what was written since the last flush, so that a loss of power can
//! keep any beginning of it.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use caravel_api::Key;
use parking_lot::Mutex;

use crate::backend::{Backend, StateOp};

type Bytes = Arc<[u8]>;

#[derive(Clone, Default)]
struct Trees {
    log: BTreeMap<u64, Bytes>,
    meta: BTreeMap<String, Bytes>,
    state: BTreeMap<u64, Generation>,
}

#[derive(Clone, Default)]
struct Generation {
    objects: BTreeMap<Key, Bytes>,
    applied: Option<Bytes>,
}

#[derive(Clone)]
enum Write {
    Append(Vec<(u64, Bytes)>),
    Truncate(u64),
    Purge(u64, usize),
    Meta(String, Bytes),
    State(u64, Vec<(Key, Option<Bytes>)>, Option<Bytes>),
    Drop(u64, usize),
}

impl Trees {
    fn write(&mut self, write: Write) {
        match write {
            Write::Append(records) => self.log.extend(records),
            Write::Truncate(from) => drop(self.log.split_off(&from)),
            Write::Purge(below, limit) => {
                for _ in 0..limit {
                    match self.log.first_entry() {
                        Some(first) if *first.key() < below => drop(first.remove()),
                        _ => break,
                    }
                }
            }
            Write::Meta(name, record) => drop(self.meta.insert(name, record)),
            Write::State(generation, ops, applied) => {
                let generation = self.state.entry(generation).or_default();
                for (key, record) in ops {
                    match record {
                        Some(record) => drop(generation.objects.insert(key, record)),
                        None => drop(generation.objects.remove(&key)),
                    }
                }
                if applied.is_some() {
                    generation.applied = applied;
                }
            }
            Write::Drop(number, limit) => {
                let Some(generation) = self.state.get_mut(&number) else {
                    return;
                };
                generation.applied = None;
                for _ in 0..limit {
                    if generation.objects.pop_first().is_none() {
                        self.state.remove(&number);
                        return;
                    }
                }
            }
        }
    }
}

#[derive(Default)]
struct Platter {
    durable: Trees,
    written: Trees,
    unflushed: Vec<Write>,
    /// Rises with each loss of power; who was there before writes nothing any more.
    power: u64,
    dead: bool,
    /// Writes and flushes until the power fails.
    until_failure: Option<u64>,
    truncations: u64,
}

impl Platter {
    fn reach(&mut self, power: u64) -> io::Result<()> {
        if self.until_failure == Some(0) {
            (self.dead, self.until_failure) = (true, None);
        }
        if self.dead || self.power != power {
            return Err(io::Error::other("the disk has no power"));
        }
        if let Some(left) = &mut self.until_failure {
            *left -= 1;
        }
        Ok(())
    }
}

/// A simulated disk. Clones are the same disk.
#[derive(Clone, Default)]
pub struct Disk(Arc<Mutex<Platter>>);

impl Disk {
    #[must_use]
    pub fn new() -> Self {
        Disk::default()
    }

    /// The power fails after this many more writes and flushes.
    pub fn fail_after(&self, operations: u64) {
        self.0.lock().until_failure = Some(operations);
    }

    /// Has the power failed?
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.0.lock().dead
    }

    /// Takes the power away: nothing is written until [`Disk::restore`].
    pub fn kill(&self) {
        self.0.lock().dead = true;
    }

    /// Gives the power back. Of what was not flushed the first `keep` writes are there; how many are lost is returned.
    pub fn restore(&self, keep: usize) -> usize {
        let mut platter = self.0.lock();
        let mut unflushed = std::mem::take(&mut platter.unflushed);
        let lost = unflushed.split_off(keep.min(unflushed.len())).len();
        for write in unflushed {
            platter.durable.write(write);
        }
        platter.written = platter.durable.clone();
        platter.power += 1;
        (platter.dead, platter.until_failure) = (false, None);
        lost
    }

    /// Writes that no flush has made durable.
    #[must_use]
    pub fn unflushed(&self) -> usize {
        self.0.lock().unflushed.len()
    }

    /// Times that the end of the log was taken back.
    #[must_use]
    pub fn truncations(&self) -> u64 {
        self.0.lock().truncations
    }

    pub(crate) fn powered(&self) -> Powered {
        let power = self.0.lock().power;
        Powered {
            platter: self.0.clone(),
            power,
        }
    }
}

/// The disk as one process has it, until the power fails.
pub(crate) struct Powered {
    platter: Arc<Mutex<Platter>>,
    power: u64,
}

impl Powered {
    fn write(&self, write: Write) -> io::Result<()> {
        let mut platter = self.platter.lock();
        platter.reach(self.power)?;
        platter.unflushed.push(write.clone());
        platter.written.write(write);
        Ok(())
    }
}

impl Backend for Powered {
    fn append(&mut self, records: Vec<(u64, Vec<u8>)>) -> io::Result<()> {
        let records = records.into_iter();
        self.write(Write::Append(
            records
                .map(|(index, record)| (index, record.into()))
                .collect(),
        ))
    }

    fn truncate(&mut self, from: u64) -> io::Result<()> {
        let mut platter = self.platter.lock();
        if platter.written.log.range(from..).next().is_some() {
            platter.truncations += 1;
        }
        drop(platter);
        self.write(Write::Truncate(from))
    }

    fn purge(&mut self, below: u64, limit: usize) -> io::Result<bool> {
        self.write(Write::Purge(below, limit))?;
        let platter = self.platter.lock();
        let first = platter.written.log.first_key_value();
        Ok(first.is_none_or(|(index, _)| *index >= below))
    }

    fn read_log(&mut self, from: u64, to: u64) -> io::Result<Vec<(u64, Vec<u8>)>> {
        let platter = self.platter.lock();
        let records = platter.written.log.range(from..to.max(from));
        Ok(records
            .map(|(index, record)| (*index, record.to_vec()))
            .collect())
    }

    fn scan_log(&mut self, each: &mut dyn FnMut(u64, Vec<u8>) -> io::Result<()>) -> io::Result<()> {
        let log = self.platter.lock().written.log.clone();
        log.into_iter()
            .try_for_each(|(index, record)| each(index, record.to_vec()))
    }

    fn put_meta(&mut self, name: &str, record: &[u8]) -> io::Result<()> {
        self.write(Write::Meta(name.to_owned(), record.into()))
    }

    fn meta(&mut self) -> io::Result<BTreeMap<String, Vec<u8>>> {
        let platter = self.platter.lock();
        let records = platter.written.meta.iter();
        Ok(records
            .map(|(name, record)| (name.clone(), record.to_vec()))
            .collect())
    }

    fn state(
        &mut self,
        generation: u64,
        ops: Vec<StateOp>,
        applied: Option<&[u8]>,
    ) -> io::Result<()> {
        let ops = ops.into_iter();
        let mut ops = ops.map(|(key, record)| (key, record.map(Bytes::from)));
        match applied {
            Some(applied) => {
                let applied = Some(Bytes::from(applied));
                self.write(Write::State(generation, ops.collect(), applied))
            }
            None => ops.try_for_each(|op| self.write(Write::State(generation, vec![op], None))),
        }
    }

    fn applied(&mut self, generation: u64) -> io::Result<Option<Vec<u8>>> {
        let platter = self.platter.lock();
        let found = platter.written.state.get(&generation);
        Ok(found
            .and_then(|found| found.applied.as_ref())
            .map(|applied| applied.to_vec()))
    }

    fn scan_state(
        &mut self,
        generation: u64,
        each: &mut dyn FnMut(Key, Vec<u8>) -> io::Result<()>,
    ) -> io::Result<()> {
        let found = self.platter.lock().written.state.get(&generation).cloned();
        let objects = found.unwrap_or_default().objects;
        objects
            .into_iter()
            .try_for_each(|(key, record)| each(key, record.to_vec()))
    }

    fn drop_state(&mut self, generation: u64, limit: usize) -> io::Result<bool> {
        if !self.platter.lock().written.state.contains_key(&generation) {
            return Ok(true);
        }
        self.write(Write::Drop(generation, limit))?;
        Ok(!self.platter.lock().written.state.contains_key(&generation))
    }

    fn generations(&mut self) -> io::Result<Vec<u64>> {
        Ok(self.platter.lock().written.state.keys().copied().collect())
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut platter = self.platter.lock();
        platter.reach(self.power)?;
        for write in std::mem::take(&mut platter.unflushed) {
            platter.durable.write(write);
        }
        Ok(())
    }
}
