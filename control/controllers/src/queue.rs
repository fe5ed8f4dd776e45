//! Which keys to work on next: each once, none twice at a time, failed ones later and later.
//!
//! Pure but for the instants it is given. Follows client-go's rate-limiting work queue (5 ms doubled at each
//! failure), with a lower ceiling. Its size is bounded by the number of objects.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use caravel_api::ObjectName;
use tokio::time::Instant;

const FIRST_DELAY: Duration = Duration::from_millis(5);
const LONGEST_DELAY: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub struct Queue {
    ready: VecDeque<ObjectName>,
    /// What is in `ready`.
    waiting: BTreeSet<ObjectName>,
    busy: BTreeSet<ObjectName>,
    /// Busy ones that were added again meanwhile.
    dirty: BTreeSet<ObjectName>,
    delays: BTreeMap<ObjectName, Instant>,
    due: BTreeSet<(Instant, ObjectName)>,
    failures: BTreeMap<ObjectName, u32>,
}

impl Queue {
    pub fn add(&mut self, key: ObjectName) {
        if self.busy.contains(&key) {
            self.dirty.insert(key);
        } else if self.waiting.insert(key.clone()) {
            self.ready.push_back(key);
        }
    }

    /// The next key, which is busy until [`Queue::done`].
    pub fn take(&mut self) -> Option<ObjectName> {
        let key = self.ready.pop_front()?;
        self.waiting.remove(&key);
        self.busy.insert(key.clone());
        Some(key)
    }

    /// A key was worked on: with success (and a wish to be looked at again), or not.
    pub fn done(&mut self, key: &ObjectName, success: bool, again: Option<Instant>, now: Instant) {
        self.busy.remove(key);
        if success {
            self.failures.remove(key);
            if let Some(at) = again {
                self.later(key, at);
            }
        } else {
            let failures = self.failures.entry(key.clone()).or_default();
            let delay = FIRST_DELAY
                .saturating_mul(1 << (*failures).min(16))
                .min(LONGEST_DELAY);
            *failures += 1;
            self.later(key, now + delay);
        }
        if self.dirty.remove(key) {
            self.add(key.clone());
        }
    }

    /// Adds the key at `at`, unless it is due sooner.
    fn later(&mut self, key: &ObjectName, at: Instant) {
        if let Some(before) = self.delays.get(key) {
            if *before <= at {
                return;
            }
            self.due.remove(&(*before, key.clone()));
        }
        self.delays.insert(key.clone(), at);
        self.due.insert((at, key.clone()));
    }

    /// Adds every key whose time has come.
    pub fn wake(&mut self, now: Instant) {
        while self.due.first().is_some_and(|(at, _)| *at <= now)
            && let Some((_, key)) = self.due.pop_first()
        {
            self.delays.remove(&key);
            self.add(key);
        }
    }

    pub fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> ObjectName {
        ObjectName::cluster(name)
    }

    #[test]
    fn a_key_is_worked_on_once_at_a_time_and_not_lost() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.add(key("a"));
        queue.add(key("a"));
        queue.add(key("b"));
        assert_eq!(queue.take(), Some(key("a")));
        queue.add(key("a"));
        assert_eq!(queue.take(), Some(key("b")));
        assert_eq!(queue.take(), None, "a is busy");
        queue.done(&key("a"), true, None, now);
        assert_eq!(queue.take(), Some(key("a")), "it changed meanwhile");
        queue.done(&key("a"), true, Some(now + Duration::from_secs(9)), now);
        assert_eq!(queue.take(), None);
        queue.wake(now + Duration::from_secs(9));
        assert_eq!(queue.take(), Some(key("a")));
    }

    #[test]
    fn failures_wait_longer_each_time_up_to_a_limit() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        let mut delays = Vec::new();
        for _ in 0..20 {
            queue.add(key("a"));
            queue.take();
            queue.done(&key("a"), false, None, now);
            let due = queue.next_due().unwrap();
            delays.push((due - now).as_millis());
            queue.wake(due);
            queue.take();
            queue.busy.clear();
        }
        assert_eq!(delays[..4], [5, 10, 20, 40]);
        assert_eq!(*delays.last().unwrap(), 60_000);
    }
}
