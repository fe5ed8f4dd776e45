//! The disk, as the store needs it: three trees of opaque (sealed) records and a flush.
//!
//! Owned by one thread, synchronous, and knows nothing of what the records mean. `SledBackend` is the disk;
//! `MemoryDisk` is its fake, which can forget what was not flushed. One suite runs on both.

pub(crate) mod memory;
pub(crate) mod sled;
#[cfg(test)]
mod suite;

use std::collections::BTreeMap;
use std::io;

use caravel_api::Key;

use crate::room::Room;

/// One object's record, or none to remove it.
pub(crate) type StateOp = (Key, Option<Vec<u8>>);

pub(crate) trait Backend: Send + 'static {
    /// Adds log records. Indexes continue what is there, or begin anew.
    fn append(&mut self, records: Vec<(u64, Vec<u8>)>) -> io::Result<()>;
    /// Removes every log record from `from` on.
    fn truncate(&mut self, from: u64) -> io::Result<()>;
    /// Removes log records below `below`, oldest first, at most about `limit`; true once none is left.
    fn purge(&mut self, below: u64, limit: usize) -> io::Result<bool>;
    /// Log records of `from..to`, in order.
    fn read_log(&mut self, from: u64, to: u64) -> io::Result<Vec<(u64, Vec<u8>)>>;
    /// Every log record, in order.
    fn scan_log(&mut self, each: &mut dyn FnMut(u64, Vec<u8>) -> io::Result<()>) -> io::Result<()>;

    fn put_meta(&mut self, name: &str, record: &[u8]) -> io::Result<()>;
    fn meta(&mut self) -> io::Result<BTreeMap<String, Vec<u8>>>;

    /// Changes objects of one generation of the state, each in a step of its own; with `applied`, all of them and that record in
    /// one.
    fn state(
        &mut self,
        generation: u64,
        ops: Vec<StateOp>,
        applied: Option<&[u8]>,
    ) -> io::Result<()>;
    /// The record written last with `state`, if any.
    fn applied(&mut self, generation: u64) -> io::Result<Option<Vec<u8>>>;
    /// Every object of a generation, in key order.
    fn scan_state(
        &mut self,
        generation: u64,
        each: &mut dyn FnMut(Key, Vec<u8>) -> io::Result<()>,
    ) -> io::Result<()>;
    /// Objects of a generation after one of them (or from the first on), in key order, until they are about `bytes` long.
    fn some_state(
        &mut self,
        generation: u64,
        after: Option<&Key>,
        bytes: usize,
    ) -> io::Result<Vec<(Key, Vec<u8>)>> {
        let (mut some, mut size) = (Vec::new(), 0);
        self.scan_state(generation, &mut |key, record| {
            if after.is_none_or(|after| key > *after) && size < bytes {
                size += record.len();
                some.push((key, record));
            }
            Ok(())
        })?;
        Ok(some)
    }
    /// Removes objects of a generation that is no longer used, at most about `limit`; true once none is left.
    fn drop_state(&mut self, generation: u64, limit: usize) -> io::Result<bool>;
    /// Generations that have objects.
    fn generations(&mut self) -> io::Result<Vec<u64>>;

    /// Everything written before is on the disk when this returns.
    fn flush(&mut self) -> io::Result<()>;

    /// What the disk can still take; keeps some of it in reserve. Cheap enough to be asked before every write.
    fn room(&mut self) -> Room {
        Room::Enough
    }
}
