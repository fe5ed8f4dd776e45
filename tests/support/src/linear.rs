//! Is there one order of the operations on a key, within their times, in which each answer is right?
//!
//! Wing and Gong's search with Lowe's memoisation, as porcupine does it: walk the events, take any operation that has begun
//! and whose answer fits the state, and go back where an answer comes that fits nowhere. A write of unknown outcome may
//! take effect at any time after its beginning, or never; it is taken only where it does, for which one try is enough.
//! Herlihy and Wing, "Linearizability", say why keys can be checked one by one.

use crate::history::{Action, Operation, Outcome, Time};
use std::collections::{BTreeMap, HashSet};

/// Steps after which the search gives up. Histories of one key are short; this is far away.
const PATIENCE: usize = 20_000_000;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// No order exists. The operation whose answer fits nowhere, of the order that came furthest.
    None(Box<Operation>),
    /// The search took too long.
    Undecided,
}

/// What an operation says about the state before it, and makes of it. `None`: the object does not exist.
#[derive(Clone, Copy, Debug)]
enum Effect {
    Write { expected: Option<u32>, new: u32 },
    Is(Option<u32>),
    IsNot(Option<u32>),
}

impl Effect {
    fn step(self, state: Option<u32>) -> Option<Option<u32>> {
        match self {
            Effect::Write { expected, new } => (state == expected).then_some(Some(new)),
            Effect::Is(value) => (state == value).then_some(state),
            Effect::IsNot(value) => (state != value).then_some(state),
        }
    }
}

struct Known {
    effect: Effect,
    begin: Time,
    /// `None`: the outcome is unknown.
    end: Option<Time>,
    source: usize,
}

/// All operations must be of one key, which does not exist at the beginning.
pub fn check(operations: &[Operation]) -> Result<(), Violation> {
    let known = known(operations);
    search(&known).map_err(|stuck| match stuck {
        Some(source) => Violation::None(Box::new(operations[source].clone())),
        None => Violation::Undecided,
    })
}

fn known(operations: &[Operation]) -> Vec<Known> {
    let mut values: BTreeMap<&str, u32> = BTreeMap::new();
    let mut known = Vec::new();
    let mut number = |value| {
        let next = values.len() as u32;
        *values.entry(value).or_insert(next)
    };
    for (source, operation) in operations.iter().enumerate() {
        let (write, expected) = match &operation.action {
            Action::Create { value } => (Some(number(value)), None),
            Action::Update { expected, value } => (Some(number(value)), Some(number(expected))),
            Action::Read => (None, None),
        };
        let effect = match (write, &operation.outcome) {
            (_, Outcome::Refused) | (None, Outcome::Unknown) => continue,
            (Some(new), Outcome::Done { .. } | Outcome::Unknown) => Effect::Write { expected, new },
            (None, Outcome::Done { value, .. }) => Effect::Is(Some(number(value))),
            (_, Outcome::Absent) => Effect::Is(None),
            (_, Outcome::Conflict) => Effect::IsNot(expected),
        };
        known.push(Known {
            effect,
            begin: operation.invoked,
            end: (operation.outcome != Outcome::Unknown).then_some(operation.returned),
            source,
        });
    }
    known
}

#[derive(Clone, Copy)]
enum Event {
    Begin(usize),
    End(usize),
}

/// Events in order of time as a list from which operations can be taken and put back.
struct Events {
    events: Vec<Event>,
    next: Vec<usize>,
    previous: Vec<usize>,
    /// Where each operation's end is.
    ends: Vec<Option<usize>>,
}

/// Position 0 is before the first event; the position after the last is the end.
impl Events {
    fn new(known: &[Known]) -> Self {
        let begins = known.iter().enumerate().map(|(i, op)| (op.begin, 0, i));
        let ends = known
            .iter()
            .enumerate()
            .filter_map(|(i, op)| Some((op.end?, 1, i)));
        let mut order: Vec<(Time, u8, usize)> = begins.chain(ends).collect();
        // At the same time: what begins is concurrent with what ends.
        order.sort_unstable();
        let mut events = vec![Event::Begin(usize::MAX)];
        let mut positions = vec![None; known.len()];
        for (_, end, i) in order {
            if end == 1 {
                positions[i] = Some(events.len());
            }
            events.push(if end == 1 {
                Event::End(i)
            } else {
                Event::Begin(i)
            });
        }
        let count = events.len();
        Events {
            events,
            next: (1..=count + 1).collect(),
            previous: (0..=count).map(|i| i.saturating_sub(1)).collect(),
            ends: positions,
        }
    }

    fn at(&self, position: usize) -> Option<Event> {
        self.events.get(position).copied()
    }

    fn unlink(&mut self, position: usize) {
        let (previous, next) = (self.previous[position], self.next[position]);
        self.next[previous] = next;
        self.previous[next] = previous;
    }

    fn relink(&mut self, position: usize) {
        let (previous, next) = (self.previous[position], self.next[position]);
        self.next[previous] = position;
        self.previous[next] = position;
    }

    fn take(&mut self, begin: usize, operation: usize) {
        self.unlink(begin);
        if let Some(end) = self.ends[operation] {
            self.unlink(end);
        }
    }

    fn put_back(&mut self, begin: usize, operation: usize) {
        if let Some(end) = self.ends[operation] {
            self.relink(end);
        }
        self.relink(begin);
    }
}

/// `Err(Some)`: the source of the answer that fits nowhere.
fn search(known: &[Known]) -> Result<(), Option<usize>> {
    let mut events = Events::new(known);
    let mut left = known.iter().filter(|op| op.end.is_some()).count();
    let mut taken = vec![0_u64; known.len().div_ceil(64)];
    let mut seen: HashSet<(Vec<u64>, Option<u32>)> = HashSet::new();
    let mut path: Vec<(usize, usize, Option<u32>)> = Vec::new();
    let (mut state, mut position) = (None, events.next[0]);
    let (mut furthest, mut stuck) = (0, None);
    let mut patience = PATIENCE;
    while left > 0 {
        patience -= 1;
        if patience == 0 {
            return Err(None);
        }
        match events.at(position) {
            Some(Event::Begin(i)) => {
                if let Some(after) = known[i].effect.step(state) {
                    taken[i / 64] |= 1 << (i % 64);
                    if seen.insert((taken.clone(), after)) {
                        path.push((position, i, state));
                        state = after;
                        events.take(position, i);
                        left -= usize::from(known[i].end.is_some());
                        position = events.next[0];
                        continue;
                    }
                    taken[i / 64] &= !(1 << (i % 64));
                }
                position = events.next[position];
            }
            blocked => {
                if let Some(Event::End(i)) = blocked
                    && (path.len() >= furthest || stuck.is_none())
                {
                    (furthest, stuck) = (path.len(), Some(known[i].source));
                }
                let Some((begin, i, before)) = path.pop() else {
                    return Err(stuck);
                };
                events.put_back(begin, i);
                taken[i / 64] &= !(1 << (i % 64));
                left += usize::from(known[i].end.is_some());
                state = before;
                position = events.next[begin];
            }
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "linear_tests.rs"]
mod tests;
