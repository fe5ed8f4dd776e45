//! An update as what it changes: how much of the object stays at its beginning and at its end, and what comes between.
//!
//! Most updates touch little of an object (a status, a lease's time), and their entries need not carry the rest through
//! the log of every replica. Pure; whoever applies one has the object at the very revision that it was made from, or
//! does not apply it.

use bytes::Bytes;

/// Less than this is not worth it.
const SAVED: usize = 128;

/// What lies between the beginning and the end that two versions of an object have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Splice {
    /// Bytes kept of the old version's beginning and end.
    pub head: u32,
    pub tail: u32,
    pub middle: Bytes,
}

impl Splice {
    /// What makes `new` of `old`; `None` if it would save too little.
    #[must_use]
    pub fn between(old: &[u8], new: &Bytes) -> Option<Splice> {
        let most = old.len().min(new.len());
        let same = |(a, b): &(&u8, &u8)| a == b;
        let head = old.iter().zip(new.iter()).take_while(same).count();
        let tail = old.iter().rev().zip(new.iter().rev()).take_while(same);
        let tail = tail.take(most - head).count();
        if head + tail < SAVED.max(new.len() / 4) {
            return None;
        }
        Some(Splice {
            head: u32::try_from(head).ok()?,
            tail: u32::try_from(tail).ok()?,
            // Its own, so that the whole is not kept alive by it.
            middle: Bytes::copy_from_slice(&new[head..new.len() - tail]),
        })
    }

    /// The new version; `None` if `old` is not what this was made from.
    #[must_use]
    pub fn onto(&self, old: &[u8]) -> Option<Vec<u8>> {
        let (head, tail) = (self.head as usize, self.tail as usize);
        let end = old.len().checked_sub(tail).filter(|end| head <= *end)?;
        let mut new = Vec::with_capacity(head + self.middle.len() + tail);
        new.extend_from_slice(&old[..head]);
        new.extend_from_slice(&self.middle);
        new.extend_from_slice(&old[end..]);
        Some(new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    fn text(random: &mut StdRng, most: usize) -> Vec<u8> {
        let length = random.random_range(0..most);
        // Few letters, so that beginnings and ends repeat.
        (0..length)
            .map(|_| random.random_range(b'a'..b'c'))
            .collect()
    }

    #[test]
    fn the_new_version_comes_back_byte_for_byte() {
        let random = &mut StdRng::seed_from_u64(4);
        let mut spliced = 0;
        for round in 0..2_000 {
            let kept = text(random, 600);
            let cut = random.random_range(0..=kept.len());
            let version = |random: &mut StdRng| {
                let middle = text(random, 40);
                [&kept[..cut], &middle[..], &kept[cut..]].concat()
            };
            let (old, new) = (version(random), Bytes::from(version(random)));
            let Some(splice) = Splice::between(&old, &new) else {
                assert!(kept.len() < SAVED.max(new.len() / 4), "round {round}");
                continue;
            };
            spliced += 1;
            assert_eq!(
                splice.onto(&old).as_deref(),
                Some(&new[..]),
                "round {round}"
            );
            assert!(splice.middle.len() + SAVED <= new.len(), "round {round}");
        }
        assert!(spliced > 500, "{spliced}");
    }

    #[test]
    fn what_does_not_fit_is_noticed_or_not_made() {
        let old = vec![b'x'; 300];
        assert_eq!(Splice::between(&old, &Bytes::from(vec![b'y'; 300])), None);
        assert_eq!(Splice::between(b"", &Bytes::from(vec![b'y'; 300])), None);
        let same = Splice::between(&old, &Bytes::from(old.clone())).unwrap();
        assert_eq!((same.head, same.tail, same.middle.len()), (300, 0, 0));
        let splice = Splice {
            head: 200,
            tail: 101,
            middle: Bytes::new(),
        };
        assert_eq!(splice.onto(&old), None);
    }
}
