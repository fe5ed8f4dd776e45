//! A disk in memory. What was not flushed can be forgotten, as in a power cut; what was can be opened again.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use caravel_api::Key;
use parking_lot::Mutex;

use super::{Backend, StateOp};

#[derive(Clone, Default)]
struct Trees {
    log: BTreeMap<u64, Vec<u8>>,
    meta: BTreeMap<String, Vec<u8>>,
    state: BTreeMap<u64, Generation>,
}

/// Objects, and the record of what was applied.
type Generation = (BTreeMap<Key, Vec<u8>>, Option<Vec<u8>>);

/// A disk in memory, shared by those that open it in turn.
#[derive(Clone, Default)]
pub(crate) struct MemoryDisk {
    written: Arc<Mutex<Trees>>,
    /// As of the last flush; kept only where a power cut is to be played.
    flushed: Option<Arc<Mutex<Trees>>>,
    failing: Arc<Mutex<Option<String>>>,
    /// Objects are not kept: they are in the serving copy already, and nobody opens this disk again.
    volatile: bool,
}

impl MemoryDisk {
    /// Keeps only what the log needs while it runs.
    pub fn volatile() -> Self {
        MemoryDisk {
            volatile: true,
            ..MemoryDisk::default()
        }
    }

    /// Remembers what was flushed, for [`MemoryDisk::power_cut`].
    #[cfg(test)]
    pub fn careful() -> Self {
        MemoryDisk {
            flushed: Some(Arc::default()),
            ..MemoryDisk::default()
        }
    }

    /// The same disk behind a flush that does nothing.
    #[cfg(test)]
    pub fn lying(disk: &Self) -> Self {
        MemoryDisk {
            flushed: None,
            ..disk.clone()
        }
    }

    /// The disk as a power cut would leave it: exactly what was flushed.
    #[cfg(test)]
    pub fn power_cut(&self) -> Self {
        let kept = self
            .flushed
            .as_ref()
            .map(|flushed| flushed.lock().clone())
            .unwrap_or_default();
        MemoryDisk {
            written: Arc::new(Mutex::new(kept.clone())),
            flushed: Some(Arc::new(Mutex::new(kept))),
            ..MemoryDisk::default()
        }
    }

    /// From now on every write fails.
    #[cfg(test)]
    pub fn fail(&self, why: &str) {
        *self.failing.lock() = Some(why.to_owned());
    }

    fn ready(&self) -> io::Result<()> {
        match &*self.failing.lock() {
            Some(why) => Err(io::Error::other(why.clone())),
            None => Ok(()),
        }
    }
}

impl Backend for MemoryDisk {
    fn append(&mut self, records: Vec<(u64, Vec<u8>)>) -> io::Result<()> {
        self.ready()?;
        self.written.lock().log.extend(records);
        Ok(())
    }

    fn truncate(&mut self, from: u64) -> io::Result<()> {
        self.ready()?;
        self.written.lock().log.split_off(&from);
        Ok(())
    }

    fn purge(&mut self, below: u64, limit: usize) -> io::Result<bool> {
        self.ready()?;
        let log = &mut self.written.lock().log;
        for _ in 0..limit {
            match log.first_entry() {
                Some(first) if *first.key() < below => drop(first.remove()),
                _ => return Ok(true),
            }
        }
        Ok(log
            .first_key_value()
            .is_none_or(|(index, _)| *index >= below))
    }

    fn read_log(&mut self, from: u64, to: u64) -> io::Result<Vec<(u64, Vec<u8>)>> {
        Ok(self
            .written
            .lock()
            .log
            .range(from..to.max(from))
            .map(|(index, record)| (*index, record.clone()))
            .collect())
    }

    fn scan_log(&mut self, each: &mut dyn FnMut(u64, Vec<u8>) -> io::Result<()>) -> io::Result<()> {
        let log = self.written.lock().log.clone();
        log.into_iter()
            .try_for_each(|(index, record)| each(index, record))
    }

    fn put_meta(&mut self, name: &str, record: &[u8]) -> io::Result<()> {
        self.ready()?;
        self.written
            .lock()
            .meta
            .insert(name.to_owned(), record.to_owned());
        Ok(())
    }

    fn meta(&mut self) -> io::Result<BTreeMap<String, Vec<u8>>> {
        Ok(self.written.lock().meta.clone())
    }

    fn state(
        &mut self,
        generation: u64,
        ops: Vec<StateOp>,
        applied: Option<&[u8]>,
    ) -> io::Result<()> {
        self.ready()?;
        if self.volatile {
            return Ok(());
        }
        let mut written = self.written.lock();
        let (objects, last) = written.state.entry(generation).or_default();
        for (key, record) in ops {
            match record {
                Some(record) => drop(objects.insert(key, record)),
                None => drop(objects.remove(&key)),
            }
        }
        if let Some(applied) = applied {
            *last = Some(applied.to_owned());
        }
        Ok(())
    }

    fn applied(&mut self, generation: u64) -> io::Result<Option<Vec<u8>>> {
        Ok(self
            .written
            .lock()
            .state
            .get(&generation)
            .and_then(|(_, applied)| applied.clone()))
    }

    fn scan_state(
        &mut self,
        generation: u64,
        each: &mut dyn FnMut(Key, Vec<u8>) -> io::Result<()>,
    ) -> io::Result<()> {
        let objects = self
            .written
            .lock()
            .state
            .get(&generation)
            .map(|(objects, _)| objects.clone())
            .unwrap_or_default();
        objects
            .into_iter()
            .try_for_each(|(key, record)| each(key, record))
    }

    fn drop_state(&mut self, generation: u64, limit: usize) -> io::Result<bool> {
        self.ready()?;
        let mut written = self.written.lock();
        let Some((objects, applied)) = written.state.get_mut(&generation) else {
            return Ok(true);
        };
        *applied = None;
        for _ in 0..limit {
            if objects.pop_first().is_none() {
                written.state.remove(&generation);
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn generations(&mut self) -> io::Result<Vec<u64>> {
        Ok(self.written.lock().state.keys().copied().collect())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.ready()?;
        if let Some(flushed) = &self.flushed {
            *flushed.lock() = self.written.lock().clone();
        }
        Ok(())
    }
}
