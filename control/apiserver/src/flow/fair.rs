//! Who runs and who waits: seats shared among levels by their shares, and within a level among flows.
//!
//! Pure: no clock, no task. Follows the spirit of KEP-1040 (fair queuing for API requests): a level always has the seats that it
//! does not lend; what is left goes to the level that uses the least of its nominal share, and in it to the queue with the fewest
//! requests running. A flow may wait in a few queues of many (shuffle sharding), so that one that floods cannot close a level to
//! the others. Nothing here is unbounded: queues, their length and the seats are fixed at the start.

use super::schema::Level;
use std::collections::VecDeque;

/// Why a request is refused at once; the words of upstream's metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Every queue that its flow may use is full.
    QueueFull,
    /// No seat is free and the level has no queues.
    ConcurrencyLimit,
}

impl Refused {
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::QueueFull => "queue-full",
            Self::ConcurrencyLimit => "concurrency-limit",
        }
    }
}

/// Where a request runs or waits: a level and a queue of it, by position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub level: usize,
    pub queue: usize,
}

/// What becomes of a request that arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    Runs(Place),
    Waits(Place),
    Refused(Refused),
}

#[derive(Debug)]
struct Queue<T> {
    waiting: VecDeque<T>,
    running: usize,
    /// When a request of it was last let in: ties go to who waited longest for a turn.
    turn: u64,
}

#[derive(Debug)]
struct Seats<T> {
    of: &'static Level,
    /// Seats by its share.
    nominal: usize,
    /// Seats that nobody else gets.
    kept: usize,
    running: usize,
    waiting: usize,
    queues: Vec<Queue<T>>,
}

/// All seats of a server. `T` is what stands for a waiting request.
#[derive(Debug)]
pub(crate) struct Hall<T> {
    seats: usize,
    running: usize,
    turns: u64,
    numbers: u64,
    levels: Vec<Seats<T>>,
}

impl<T> Hall<T> {
    pub(crate) fn new(levels: &'static [Level], seats: usize) -> Self {
        let all: usize = levels.iter().map(|level| level.shares).sum();
        let levels = levels.iter().map(|of| {
            let nominal = (seats * of.shares).div_ceil(all.max(1));
            let queue = || Queue {
                waiting: VecDeque::new(),
                running: 0,
                turn: 0,
            };
            Seats {
                of,
                nominal,
                // Rounded down, so that what all keep is never more than there is.
                kept: (seats * of.shares / all.max(1)) * (100 - of.lendable_percent) / 100,
                running: 0,
                waiting: 0,
                queues: (0..of.queues.max(1)).map(|_| queue()).collect(),
            }
        });
        Self {
            seats,
            running: 0,
            turns: 0,
            numbers: 0,
            levels: levels.collect(),
        }
    }

    /// Seats of a level by its share.
    pub(crate) fn nominal(&self, level: usize) -> usize {
        self.levels[level].nominal
    }

    /// A number that nobody else has, to tell who waits apart.
    pub(crate) fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// A request of a flow comes to a level.
    pub(crate) fn arrive(&mut self, level: usize, flow: u64) -> Arrival {
        let queue = self.shortest(level, flow);
        let place = Place { level, queue };
        let seats = &self.levels[level];
        // Nobody overtakes: who waits in the level comes first.
        if seats.waiting == 0 && self.has_seat(level) {
            self.sit(place);
            return Arrival::Runs(place);
        }
        if seats.of.queues == 0 {
            return Arrival::Refused(Refused::ConcurrencyLimit);
        }
        if seats.queues[queue].waiting.len() >= seats.of.queue_length {
            return Arrival::Refused(Refused::QueueFull);
        }
        Arrival::Waits(place)
    }

    /// What [`arrive`](Self::arrive) sent to wait does.
    pub(crate) fn wait(&mut self, place: Place, who: T) {
        let level = &mut self.levels[place.level];
        level.queues[place.queue].waiting.push_back(who);
        level.waiting += 1;
    }

    /// A request that ran has ended. [`next`](Self::next) then says who may run.
    pub(crate) fn leave(&mut self, place: Place) {
        let level = &mut self.levels[place.level];
        level.running = level.running.saturating_sub(1);
        let queue = &mut level.queues[place.queue];
        queue.running = queue.running.saturating_sub(1);
        self.running = self.running.saturating_sub(1);
    }

    /// A request that waits gives up. False where it does not wait (any more).
    pub(crate) fn give_up(&mut self, place: Place, is: impl Fn(&T) -> bool) -> bool {
        let level = &mut self.levels[place.level];
        let waiting = &mut level.queues[place.queue].waiting;
        let Some(at) = waiting.iter().position(is) else {
            return false;
        };
        waiting.remove(at);
        level.waiting -= 1;
        true
    }

    /// Lets in the next who waits, if there is a seat for it.
    pub(crate) fn next(&mut self) -> Option<(Place, T)> {
        let level = (0..self.levels.len())
            .filter(|level| self.levels[*level].waiting > 0 && self.has_seat(*level))
            .min_by_key(|level| {
                let level = &self.levels[*level];
                level.running * 1_000_000 / level.nominal.max(1)
            })?;
        let (queue, _) = self.levels[level]
            .queues
            .iter()
            .enumerate()
            .filter(|(_, queue)| !queue.waiting.is_empty())
            .min_by_key(|(_, queue)| (queue.running, queue.turn))?;
        let who = self.levels[level].queues[queue].waiting.pop_front()?;
        self.levels[level].waiting -= 1;
        let place = Place { level, queue };
        self.sit(place);
        Some((place, who))
    }

    fn sit(&mut self, place: Place) {
        self.turns += 1;
        self.running += 1;
        let level = &mut self.levels[place.level];
        level.running += 1;
        let queue = &mut level.queues[place.queue];
        queue.running += 1;
        queue.turn = self.turns;
    }

    /// A level may always use what it keeps; beyond that, what the others do not keep for themselves.
    fn has_seat(&self, level: usize) -> bool {
        let own = &self.levels[level];
        if own.running < own.kept {
            return self.running < self.seats;
        }
        let reserved: usize = self
            .levels
            .iter()
            .enumerate()
            .filter(|(other, _)| *other != level)
            .map(|(_, other)| other.kept.saturating_sub(other.running))
            .sum();
        self.running + reserved < self.seats
    }

    /// The queue of the flow's hand with the fewest waiting, then running.
    fn shortest(&self, level: usize, flow: u64) -> usize {
        let seats = &self.levels[level];
        hand(flow, seats.queues.len(), seats.of.hand.max(1))
            .min_by_key(|at| {
                let queue = &seats.queues[*at];
                (queue.waiting.len(), queue.running)
            })
            .unwrap_or(0)
    }
}

/// The queues that a flow may use: drawn from its hash, without replacement.
fn hand(flow: u64, queues: usize, size: usize) -> impl Iterator<Item = usize> {
    let mut left = flow;
    let mut drawn: Vec<usize> = Vec::with_capacity(size);
    for deck in (1..=queues).rev().take(size) {
        let mut card = usize::try_from(left % deck as u64).unwrap_or(0);
        left /= deck as u64;
        // The card counts only those that are still in the deck.
        let mut sorted = drawn.clone();
        sorted.sort_unstable();
        for taken in sorted {
            if card >= taken {
                card += 1;
            }
        }
        drawn.push(card);
    }
    drawn.into_iter()
}

#[cfg(test)]
mod tests;
