//! The state as bytes: what a snapshot becomes when it leaves this process.
//!
//! A sequence of frames, each with its length and checksum, so that a transport may send them as messages and a file
//! may hold them one after the other. Made from a handle while the state goes on changing; put together again only
//! if every frame is whole, in place and nothing is missing. Sealing is the business of whoever keeps the bytes.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use caravel_api::{Encoded, Key, Revision};

use crate::entry::Entry;
use crate::level::Level;
use crate::raft::machine::Image;
use crate::state::State;

/// First in the first frame, with the version of the layout.
const MAGIC: &[u8; 8] = b"CRVSNAP\x01";
/// The same of a state above level 1, which it says.
const MAGIC_2: &[u8; 8] = b"CRVSNAP\x02";
/// A frame is sent once it has this many bytes.
const FRAME: usize = 512 << 10;
/// No frame is longer: one frame's worth and one object of the largest size, with room to spare.
const LONGEST: usize = 4 << 20;
/// Length and checksum before a frame's body.
const HEADER: usize = 8;

/// Bytes that are not a whole snapshot.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    #[error("the snapshot's bytes are damaged")]
    Damaged,
    #[error("the snapshot ends early: {found} of {expected} objects")]
    Short { found: u64, expected: u64 },
    #[error(
        "the snapshot is of a version that this release does not know. Use the release that made it, or a newer one"
    )]
    Version,
    #[error("an object of the snapshot cannot be read: {0}")]
    Object(#[from] caravel_api::MetaError),
}

impl Image {
    /// The state as frames.
    pub fn frames(&self) -> impl Iterator<Item = Bytes> + use<> {
        let state = self.0.clone();
        let mut head = BytesMut::new();
        let level = state.level();
        head.put_slice(match level > Level::FIRST {
            true => MAGIC_2,
            false => MAGIC,
        });
        head.put_u64(state.revision().0);
        head.put_u64(state.count() as u64);
        if level > Level::FIRST {
            head.put_u32(level.0);
        }
        let mut after: Option<Key> = None;
        let mut first = Some(frame(&head));
        std::iter::from_fn(move || {
            if let Some(first) = first.take() {
                return Some(first);
            }
            let mut body = BytesMut::new();
            for entry in state.after(after.clone().as_ref()) {
                put(&mut body, entry);
                after = Some(entry.key.clone());
                if body.len() >= FRAME {
                    break;
                }
            }
            (!body.is_empty()).then(|| frame(&body))
        })
    }
}

fn put(body: &mut BytesMut, entry: &Entry) {
    // Keys and objects are bounded far below 4 GiB.
    body.put_u32(entry.key.len() as u32);
    body.put_slice(entry.key.as_bytes());
    body.put_u64(entry.revision.0);
    body.put_u32(entry.json.len() as u32);
    body.put_slice(&entry.json);
}

fn frame(body: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(HEADER + body.len());
    frame.put_u32(body.len() as u32);
    frame.put_u32(crc32fast::hash(body));
    frame.put_slice(body);
    frame.freeze()
}

/// Puts frames together again, however they were cut on the way.
#[derive(Default)]
pub struct Assembly {
    bytes: BytesMut,
    state: State,
    head: Option<(Revision, u64)>,
}

impl Assembly {
    pub fn new() -> Self {
        Assembly::default()
    }

    /// More bytes, in order.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), TransferError> {
        self.bytes.extend_from_slice(bytes);
        while let Some((header, rest)) = self.bytes.split_first_chunk::<HEADER>() {
            let length = u32::from_be_bytes([header[0], header[1], header[2], header[3]]) as usize;
            let sum = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
            if length > LONGEST {
                return Err(TransferError::Damaged);
            }
            if rest.len() < length {
                break;
            }
            let body = self
                .bytes
                .split_to(HEADER + length)
                .freeze()
                .slice(HEADER..);
            if crc32fast::hash(&body) != sum {
                return Err(TransferError::Damaged);
            }
            self.body(&body)?;
        }
        Ok(())
    }

    /// The state, if all of it has come.
    pub fn finish(mut self) -> Result<Image, TransferError> {
        let Some((revision, expected)) = self.head else {
            return Err(TransferError::Short {
                found: 0,
                expected: 0,
            });
        };
        let found = self.state.count() as u64;
        if found != expected {
            return Err(TransferError::Short { found, expected });
        }
        if !self.bytes.is_empty() {
            return Err(TransferError::Damaged);
        }
        self.state.set_revision(revision);
        Ok(Image(Arc::new(self.state)))
    }

    fn body(&mut self, body: &[u8]) -> Result<(), TransferError> {
        if self.head.is_none() {
            let (magic, numbers) = body.split_first_chunk().ok_or(TransferError::Version)?;
            let (revision, rest) = numbers.split_first_chunk().ok_or(TransferError::Damaged)?;
            let (count, rest) = rest.split_first_chunk().ok_or(TransferError::Damaged)?;
            if magic == MAGIC_2 {
                let level = rest.try_into().map_err(|_| TransferError::Damaged)?;
                self.state.raise(Level(u32::from_be_bytes(level)));
            } else if magic != MAGIC {
                return Err(TransferError::Version);
            } else if !rest.is_empty() {
                return Err(TransferError::Damaged);
            }
            self.head = Some((
                Revision(u64::from_be_bytes(*revision)),
                u64::from_be_bytes(*count),
            ));
            return Ok(());
        }
        let mut rest = body;
        while !rest.is_empty() {
            let key = std::str::from_utf8(text(&mut rest)?).map_err(|_| TransferError::Damaged)?;
            let (revision, after) = rest
                .split_first_chunk::<8>()
                .ok_or(TransferError::Damaged)?;
            rest = after;
            let object = Encoded::new(text(&mut rest)?)?;
            self.state.load(Arc::new(Entry::stamped(
                Key::from(key),
                Revision(u64::from_be_bytes(*revision)),
                object,
            )));
        }
        Ok(())
    }
}

fn text<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], TransferError> {
    let (length, after) = rest
        .split_first_chunk::<4>()
        .ok_or(TransferError::Damaged)?;
    let (text, after) = after
        .split_at_checked(u32::from_be_bytes(*length) as usize)
        .ok_or(TransferError::Damaged)?;
    *rest = after;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::txn::{Change, Expect, Txn};

    fn sample(objects: usize, size: usize) -> Image {
        let mut state = State::default();
        for n in 0..objects {
            let kind = if n % 2 == 0 {
                "core/pods"
            } else {
                "apps/deployments"
            };
            let object = Encoded::new(format!(
                r#"{{"metadata":{{"name":"n{n}","uid":"u{n}"}},"x":"{}"}}"#,
                "y".repeat(size)
            ))
            .unwrap();
            let txn = Txn::new().with(Change::Put {
                key: Key::from(format!("/registry/{kind}/a/n{n}")),
                expect: Expect::Any,
                object,
            });
            state.apply(&txn, &mut Vec::new()).unwrap();
        }
        Image(Arc::new(state))
    }

    fn contents(image: &Image) -> Vec<(Key, Revision, Bytes)> {
        image
            .0
            .after(None)
            .map(|entry| (entry.key.clone(), entry.revision, entry.json.clone()))
            .collect()
    }

    #[test]
    fn it_comes_together_however_it_is_cut() {
        for (objects, size) in [(0, 0), (1, 10), (500, 3_000), (2, 1_500_000)] {
            let image = sample(objects, size);
            let all: Vec<u8> = image.frames().flatten().collect();
            for piece in [7_000, all.len()] {
                let mut assembly = Assembly::new();
                all.chunks(piece)
                    .try_for_each(|bytes| assembly.push(bytes))
                    .unwrap();
                let again = assembly.finish().unwrap();
                assert_eq!(contents(&again), contents(&image));
                assert_eq!(again.0.revision(), image.0.revision());
                assert_eq!(
                    again.0.key_of(&caravel_api::Uid::from("u0")).is_some(),
                    objects > 0
                );
            }
        }
    }

    #[test]
    fn the_head_is_pinned_and_says_the_level_from_the_second_on() {
        let head = |level: u32| {
            let mut state = State::default();
            state.raise(Level(level));
            state.set_revision(Revision(0x0102));
            let frame = Image(Arc::new(state)).frames().next().unwrap();
            let mut assembly = Assembly::new();
            assembly.push(&frame).unwrap();
            assert_eq!(assembly.finish().unwrap().0.level(), Level(level));
            frame[HEADER..].to_vec()
        };
        let numbers = [0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(head(1), [b"CRVSNAP\x01", &numbers[..]].concat());
        assert_eq!(
            head(2),
            [b"CRVSNAP\x02", &numbers[..], &[0, 0, 0, 2]].concat()
        );
        // Of a later release.
        let newer = frame(&[b"CRVSNAP\x03", &numbers[..]].concat());
        assert!(matches!(
            Assembly::new().push(&newer),
            Err(TransferError::Version)
        ));
    }

    #[test]
    fn damage_and_loss_are_noticed() {
        let image = sample(50, 30_000);
        let frames: Vec<Bytes> = image.frames().collect();
        assert!(frames.len() > 3);
        let put = |frames: &[Bytes]| {
            let mut assembly = Assembly::new();
            frames.iter().try_for_each(|frame| assembly.push(frame))?;
            assembly.finish()
        };
        assert!(put(&frames).is_ok());
        assert!(matches!(
            put(&frames[..2]),
            Err(TransferError::Short { expected: 50, .. })
        ));
        assert!(matches!(put(&frames[1..]), Err(TransferError::Version)));
        assert!(put(&[]).is_err());
        for at in [0, 5, 100, 20_000] {
            let mut flipped = frames.clone();
            let mut bytes = flipped[1].to_vec();
            bytes[at] ^= 1;
            flipped[1] = Bytes::from(bytes);
            assert!(put(&flipped).is_err(), "{at}");
        }
    }
}
