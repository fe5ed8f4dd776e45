//! Whose turn it is. Pure: time comes from outside.
//!
//! A pod is active (to be tried, by priority and age), backing off (1 s, doubling to 10 s), or waiting until something
//! happens that could make it fit; after five minutes it is tried all the same. As upstream's scheduling queue.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use caravel_api::ObjectName;
use tokio::time::Instant;

const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(10);
const LONGEST_WAIT: Duration = Duration::from_secs(300);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Active,
    Backoff(Instant),
    Waiting,
    Trying,
}

#[derive(Debug)]
struct Entry {
    priority: i32,
    added: u64,
    attempts: u32,
    last: Option<Instant>,
    place: Place,
}

impl Entry {
    fn backoff_ends(&self) -> Option<Instant> {
        let doubled = FIRST_BACKOFF * 2_u32.saturating_pow(self.attempts.saturating_sub(1).min(8));
        self.last.map(|last| last + doubled.min(LONGEST_BACKOFF))
    }
}

/// All pods without a node.
#[derive(Debug, Default)]
pub struct Queue {
    pods: BTreeMap<ObjectName, Entry>,
    active: BTreeSet<(i64, u64, ObjectName)>,
    added: u64,
}

impl Queue {
    /// A pod came, or changed in a way that could make it fit.
    pub fn add(&mut self, pod: ObjectName, priority: i32) {
        self.added += 1;
        let added = self.added;
        let entry = self.pods.entry(pod.clone()).or_insert(Entry { priority, added, attempts: 0, last: None, place: Place::Waiting });
        entry.priority = priority;
        match entry.place {
            Place::Waiting | Place::Backoff(_) if entry.attempts == 0 => self.activate(&pod),
            Place::Waiting => {
                entry.place = entry.backoff_ends().map_or(Place::Active, Place::Backoff);
                self.enlist(&pod);
            }
            _ => {}
        }
    }

    /// A pod has a node, or is gone.
    pub fn remove(&mut self, pod: &ObjectName) {
        if let Some(entry) = self.pods.remove(pod) {
            self.active.remove(&(-i64::from(entry.priority), entry.added, pod.clone()));
        }
    }

    /// The next pod to try.
    pub fn pop(&mut self) -> Option<ObjectName> {
        let (.., pod) = self.active.pop_first()?;
        if let Some(entry) = self.pods.get_mut(&pod) {
            entry.place = Place::Trying;
        }
        Some(pod)
    }

    /// It fits nowhere now.
    pub fn refused(&mut self, pod: &ObjectName, now: Instant) {
        self.after_try(pod, now, |_| Place::Waiting);
    }

    /// It could not be bound, which has nothing to do with the nodes: again soon.
    pub fn failed(&mut self, pod: &ObjectName, now: Instant) {
        self.after_try(pod, now, |entry| entry.backoff_ends().map_or(Place::Active, Place::Backoff));
        self.enlist(pod);
    }

    fn after_try(&mut self, pod: &ObjectName, now: Instant, place: impl FnOnce(&Entry) -> Place) {
        if let Some(entry) = self.pods.get_mut(pod) {
            entry.attempts = entry.attempts.saturating_add(1);
            entry.last = Some(now);
            entry.place = place(entry);
        }
    }

    /// Something happened that could make waiting pods fit.
    pub fn wake(&mut self) {
        let waiting: Vec<ObjectName> =
            self.pods.iter().filter(|(_, e)| e.place == Place::Waiting).map(|(name, _)| name.clone()).collect();
        for pod in waiting {
            if let Some(entry) = self.pods.get_mut(&pod) {
                entry.place = entry.backoff_ends().map_or(Place::Active, Place::Backoff);
            }
            self.enlist(&pod);
        }
    }

    /// Moves what is due to the active pods.
    pub fn tick(&mut self, now: Instant) {
        let due: Vec<ObjectName> = self
            .pods
            .iter()
            .filter(|(_, e)| match e.place {
                Place::Backoff(until) => until <= now,
                Place::Waiting => e.last.is_some_and(|last| last + LONGEST_WAIT <= now),
                _ => false,
            })
            .map(|(name, _)| name.clone())
            .collect();
        for pod in due {
            self.activate(&pod);
        }
    }

    /// When `tick` has something to do next.
    pub fn next_due(&self) -> Option<Instant> {
        self.pods
            .values()
            .filter_map(|e| match e.place {
                Place::Backoff(until) => Some(until),
                Place::Waiting => e.last.map(|last| last + LONGEST_WAIT),
                _ => None,
            })
            .min()
    }

    fn activate(&mut self, pod: &ObjectName) {
        if let Some(entry) = self.pods.get_mut(pod) {
            entry.place = Place::Active;
        }
        self.enlist(pod);
    }

    fn enlist(&mut self, pod: &ObjectName) {
        if let Some(entry) = self.pods.get(pod).filter(|e| e.place == Place::Active) {
            self.active.insert((-i64::from(entry.priority), entry.added, pod.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_priority_then_age_then_with_growing_delays() {
        let name = |n: &str| ObjectName::new("ns", n);
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut queue = Queue::default();
        queue.add(name("old"), 0);
        queue.add(name("young"), 0);
        queue.add(name("high"), 10);
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).map(|n| n.name).collect();
        assert_eq!(order, ["high", "old", "young"]);
        queue.remove(&name("high"));
        queue.remove(&name("young"));

        queue.refused(&name("old"), at(0));
        queue.tick(at(100));
        assert_eq!(queue.pop(), None, "it waits for something to happen");
        queue.wake();
        queue.tick(at(100));
        assert_eq!(queue.pop(), Some(name("old")));
        queue.refused(&name("old"), at(100));
        queue.wake();
        queue.tick(at(101));
        assert_eq!(queue.pop(), None, "the second delay is 2 s");
        assert_eq!(queue.next_due(), Some(at(102)));
        queue.tick(at(102));
        assert_eq!(queue.pop(), Some(name("old")));
        queue.refused(&name("old"), at(102));
        assert_eq!(queue.next_due(), Some(at(402)));
        queue.tick(at(402));
        assert_eq!(queue.pop(), Some(name("old")), "after five minutes in any case");
        queue.failed(&name("old"), at(402));
        assert_eq!(queue.next_due(), Some(at(410)), "8 s");
        queue.remove(&name("old"));
        queue.wake();
        queue.tick(at(1000));
        assert_eq!(queue.pop(), None);
    }
}
