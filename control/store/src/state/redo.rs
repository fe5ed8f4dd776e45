//! Bringing a state that was being written when the process ended to where that writing was to end.
//!
//! Some of its objects are as of the last state that was written whole, some as of the one that was being written. Nothing
//! is decided anew: what a log entry changed is done to an object that has not had it yet, told by its revision, and what
//! had no effect is known from [`Skipped`]. As a database redoes its log over pages of different ages (ARIES).

use std::collections::BTreeSet;
use std::sync::Arc;

use caravel_api::{Encoded, Key};

use super::{NotDone, State};
use crate::entry::Entry;
use crate::txn::{Change, Txn};

/// What had no effect when an entry was applied: a proposal that was refused, or one deletion of what was not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Skipped {
    /// Of the entry.
    pub index: u64,
    /// Which of its proposals.
    pub proposal: u32,
    /// Which of that one's changes; none: all.
    pub change: Option<u32>,
}

impl State {
    /// Does again what `txn` did, which some objects may have had already. Changes that `skips` had no effect. Keys of
    /// objects that changed are added to `touched`.
    ///
    /// # Errors
    /// An object is neither what the change was made on nor newer.
    pub(crate) fn redo(
        &mut self,
        txn: &Txn,
        skips: impl Fn(u32) -> bool,
        touched: &mut BTreeSet<Key>,
    ) -> Result<(), NotDone> {
        let made = txn.changes.iter().map(|change| self.remade(change));
        let made = made.collect::<Result<Vec<_>, _>>()?;
        for ((change, made), number) in txn.changes.iter().zip(made).zip(0..) {
            if matches!(change, Change::Check { .. }) || skips(number) {
                continue;
            }
            self.revision.0 += 1;
            let key = change.key();
            if self
                .get(key)
                .is_some_and(|entry| entry.revision >= self.revision)
            {
                continue;
            }
            let changed = match made {
                Some(object) => {
                    let entry = Entry::new(key.clone(), self.revision, &object);
                    self.insert(Arc::new(entry));
                    true
                }
                // What a splice was made on is gone already: it was removed later.
                None => self.remove(key).is_some(),
            };
            if changed {
                touched.insert(key.clone());
            }
        }
        Ok(())
    }

    /// The object that `change` puts, if it can be told.
    fn remade(&self, change: &Change) -> Result<Option<Encoded>, NotDone> {
        let (key, at, splice) = match change {
            Change::Put { object, .. } => return Ok(Some(object.clone())),
            Change::Delete { .. } | Change::Check { .. } => return Ok(None),
            Change::Splice { key, at, splice } => (key, *at, splice),
        };
        match self.get(key) {
            Some(old) if old.revision == at => splice
                .onto(&old.json)
                .and_then(|json| Encoded::new(json).ok())
                .map(Some)
                .ok_or_else(|| NotDone::Differs(key.clone())),
            Some(old) if old.revision <= self.revision => Err(NotDone::Differs(key.clone())),
            Some(_) | None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use caravel_api::Revision;

    use super::*;
    use crate::txn::Expect;

    fn key(name: &str) -> Key {
        Key::from(format!("/registry/core/configmaps/a/{name}"))
    }

    fn object(text: &str) -> Encoded {
        let filler = "x".repeat(200);
        Encoded::new(format!(
            r#"{{"metadata":{{"name":"a","resourceVersion":""}},"data":{{"a":"{text}","b":"{filler}"}}}}"#
        ))
        .unwrap()
    }

    fn put(name: &str, text: &str) -> Txn {
        Txn::new().with(Change::Put {
            key: key(name),
            expect: Expect::Any,
            object: object(text),
        })
    }

    fn delete(name: &str) -> Txn {
        Txn::new().with(Change::Delete {
            key: key(name),
            expect: Expect::Any,
        })
    }

    /// What `name` is becomes `text`, as the difference to what `state` has.
    fn splice(state: &State, name: &str, text: &str) -> Txn {
        let at = state.get(&key(name)).unwrap().revision;
        let txn = state.splice(Txn::update(key(name), at, object(text)));
        assert!(matches!(txn.changes[0], Change::Splice { .. }));
        txn
    }

    fn step(state: &mut State, log: &mut Vec<(Txn, bool)>, txn: Txn) {
        let before = state.revision();
        let result = state.apply(&txn, &mut Vec::new());
        log.push((txn, result.is_ok() && state.revision() > before));
    }

    /// From every mixture of objects as of the beginning and the end comes the end.
    #[test]
    fn whatever_was_written_the_end_is_the_same() {
        let names = ["a", "b", "c", "d", "e"];
        let mut state = State::default();
        for name in ["a", "b", "c"] {
            state.apply(&put(name, "0"), &mut Vec::new()).unwrap();
        }
        let begin = state.clone();
        let mut log = Vec::new();
        let txn = splice(&state, "a", "1");
        step(&mut state, &mut log, txn);
        let txn = splice(&state, "a", "2");
        step(&mut state, &mut log, txn);
        step(&mut state, &mut log, delete("d"));
        step(&mut state, &mut log, delete("b"));
        step(&mut state, &mut log, put("b", "3"));
        let txn = splice(&state, "c", "4");
        step(&mut state, &mut log, txn);
        step(&mut state, &mut log, delete("c"));
        step(
            &mut state,
            &mut log,
            Txn::create(key("b"), object("refused")),
        );
        step(
            &mut state,
            &mut log,
            put("d", "5").with_all(put("e", "6").changes),
        );
        step(&mut state, &mut log, delete("e"));
        let done: Vec<_> = log.iter().map(|(_, done)| *done).collect();
        let expected = [true, true, false, true, true, true, true, false, true, true];
        assert_eq!(done, expected);

        for mixture in 0..1 << names.len() {
            let mut found = State::default();
            for (number, name) in names.iter().enumerate() {
                let from = match mixture >> number & 1 {
                    0 => &begin,
                    _ => &state,
                };
                if let Some(entry) = from.get(&key(name)) {
                    found.load(entry.clone());
                }
            }
            found.set_revision(begin.revision());
            let mut touched = BTreeSet::new();
            for (txn, done) in &log {
                found.redo(txn, |_| !done, &mut touched).unwrap();
            }
            assert_eq!(found.digest(), state.digest(), "mixture {mixture:05b}");
            assert_eq!(found.count(), state.count(), "mixture {mixture:05b}");
            assert!(mixture == 31 || !touched.is_empty());
        }
    }

    #[test]
    fn an_object_that_a_splice_was_not_made_on_is_damage() {
        let mut state = State::default();
        state.apply(&put("a", "0"), &mut Vec::new()).unwrap();
        let mut later = state.clone();
        later.apply(&put("a", "1"), &mut Vec::new()).unwrap();
        let txn = splice(&later, "a", "2");
        state.set_revision(Revision(2));
        let redone = state.redo(&txn, |_| false, &mut BTreeSet::new());
        assert_eq!(redone, Err(NotDone::Differs(key("a"))));
    }
}
