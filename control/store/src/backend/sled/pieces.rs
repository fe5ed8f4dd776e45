//! Long records, cut up and put back together.
//!
//! sled moves what is large to files of their own, which no fdatasync of ours covers: not values as such, but pages, and
//! a page has up to some 26 values before it is split. The first piece has a header that says how many there are.

use std::io;

/// The longest value given to sled. A page of them must stay below 128 KiB, a quarter of sled's segment.
pub const PIECE: usize = 4 << 10;
/// First byte of a stored record: the layout of pieces.
const VERSION: u8 = 1;
const HEADER: usize = 5;
/// Cut up; at least one piece.
pub fn pieces(record: &[u8]) -> impl ExactSizeIterator<Item = &[u8]> {
    let count = record.len().div_ceil(PIECE).max(1);
    (0..count).map(|at| &record[at * PIECE..record.len().min((at + 1) * PIECE)])
}

/// The first of `count` pieces of `record`, with the header that says how many there are.
pub fn first(count: u32, record: &[u8]) -> Vec<u8> {
    let piece = &record[..record.len().min(PIECE)];
    let mut first = Vec::with_capacity(HEADER + piece.len());
    first.push(VERSION);
    first.extend_from_slice(&count.to_be_bytes());
    first.extend_from_slice(piece);
    first
}

/// Puts pieces back together. `None` until the last one has come.
pub struct Joiner<K> {
    open: Option<(K, u32, Vec<u8>)>,
}

impl<K> Joiner<K> {
    pub fn new() -> Self {
        Joiner { open: None }
    }

    /// Has a record begun that is not whole?
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    pub fn first(&mut self, key: K, value: &[u8]) -> io::Result<Option<(K, Vec<u8>, u32)>> {
        self.end()?;
        let (header, piece) = value
            .split_first_chunk::<HEADER>()
            .ok_or_else(|| damaged("a record is too short".into()))?;
        if header[0] != VERSION {
            return Err(damaged(format!(
                "a record has version {}, which this program does not know",
                header[0]
            )));
        }
        let count = u32::from_be_bytes([header[1], header[2], header[3], header[4]]);
        self.open = Some((key, count.saturating_sub(1), piece.to_vec()));
        Ok(self.take(count))
    }

    pub fn further(&mut self, value: &[u8]) -> io::Result<Option<(K, Vec<u8>, u32)>> {
        let (_, left, record) = self
            .open
            .as_mut()
            .ok_or_else(|| damaged("a piece has no beginning".into()))?;
        *left = left
            .checked_sub(1)
            .ok_or_else(|| damaged("a record has too many pieces".into()))?;
        record.extend_from_slice(value);
        let count = 1 + record.len().saturating_sub(1).div_euclid(PIECE) as u32;
        Ok(self.take(count))
    }

    fn take(&mut self, count: u32) -> Option<(K, Vec<u8>, u32)> {
        let (key, _, record) = self.open.take_if(|(_, left, _)| *left == 0)?;
        Some((key, record, count))
    }

    pub fn end(&self) -> io::Result<()> {
        if self.open.is_some() {
            Err(damaged("a record lacks pieces".into()))
        } else {
            Ok(())
        }
    }
}

pub fn damaged(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
