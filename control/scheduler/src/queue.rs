//! Pods that wait for a node: ready ones by priority and age, failed ones by their back-off, hopeless ones until
//! something changes. Knows no clock; times are brought.
//!
//! Upstream: `pkg/scheduler/backend/queue` (back-off 1 s doubling to 10 s; hopeless pods are looked at again after 5 min).

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use caravel_api::ObjectName;
use jiff::Timestamp;
use tokio::time::Instant;

const FIRST_BACK_OFF: Duration = Duration::from_secs(1);
const LAST_BACK_OFF: Duration = Duration::from_secs(10);
const HOPELESS_AT_MOST: Duration = Duration::from_secs(300);

/// Higher priority first, then older, then by name.
type Turn = (Reverse<i32>, Option<Timestamp>, ObjectName);

#[derive(Debug)]
enum Place {
    Ready,
    /// Until then.
    BackingOff(Instant),
    /// Since then.
    Hopeless(Instant),
    /// Taken, not yet answered for.
    Taken,
}

#[derive(Debug)]
struct Waiting {
    turn: Turn,
    place: Place,
    attempts: u32,
    /// When it was last tried and failed.
    failed: Option<Instant>,
}

#[derive(Debug, Default)]
pub struct Queue {
    waiting: HashMap<ObjectName, Waiting>,
    ready: BTreeSet<Turn>,
    backing_off: BTreeSet<(Instant, ObjectName)>,
    hopeless: BTreeSet<(Instant, ObjectName)>,
}

impl Queue {
    /// A pod appeared, or changed in a way that may help it.
    pub fn add(
        &mut self,
        name: &ObjectName,
        priority: i32,
        created: Option<Timestamp>,
        now: Instant,
    ) {
        let turn = (Reverse(priority), created, name.clone());
        let attempts = match self.waiting.get(name) {
            Some(Waiting {
                place: Place::Taken,
                ..
            }) => return,
            Some(waiting) => waiting.attempts,
            None => 0,
        };
        let failed = self.waiting.get(name).and_then(|waiting| waiting.failed);
        self.remove(name);
        self.waiting.insert(
            name.clone(),
            Waiting {
                turn,
                place: Place::Taken,
                attempts,
                failed,
            },
        );
        self.ready_or_back_off(name, now);
    }

    pub fn remove(&mut self, name: &ObjectName) {
        if self.waiting.contains_key(name) {
            self.leave(name);
            self.waiting.remove(name);
        }
    }

    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The next pod. It is answered for by [`Queue::failed`], [`Queue::hopeless`] or [`Queue::remove`].
    pub fn take(&mut self) -> Option<ObjectName> {
        let (_, _, name) = self.ready.pop_first()?;
        let waiting = self.waiting.get_mut(&name)?;
        waiting.place = Place::Taken;
        waiting.attempts += 1;
        Some(name)
    }

    /// What was tried failed by itself: try again after a while.
    pub fn failed(&mut self, name: &ObjectName, now: Instant) {
        let Some(waiting) = self.waiting.get_mut(name) else {
            return;
        };
        waiting.failed = Some(now);
        self.leave(name);
        self.ready_or_back_off(name, now);
    }

    /// There is no node for it: wait for a change.
    pub fn hopeless(&mut self, name: &ObjectName, now: Instant) {
        self.leave(name);
        let Some(waiting) = self.waiting.get_mut(name) else {
            return;
        };
        waiting.failed = Some(now);
        waiting.place = Place::Hopeless(now);
        self.hopeless.insert((now, name.clone()));
    }

    /// Something changed that may help these of the hopeless.
    pub fn wake(&mut self, now: Instant, helped: impl Fn(&ObjectName) -> bool) {
        let names: Vec<ObjectName> = self
            .hopeless
            .iter()
            .filter(|(_, name)| helped(name))
            .map(|(_, name)| name.clone())
            .collect();
        for name in names {
            self.leave(&name);
            self.ready_or_back_off(&name, now);
        }
    }

    /// Lets those go whose time has come.
    pub fn flush(&mut self, now: Instant) {
        while let Some((until, name)) = self
            .backing_off
            .first()
            .cloned()
            .filter(|(until, _)| *until <= now)
        {
            self.backing_off.remove(&(until, name.clone()));
            self.make_ready(&name);
        }
        while let Some((_, name)) = self
            .hopeless
            .first()
            .cloned()
            .filter(|(since, _)| *since + HOPELESS_AT_MOST <= now)
        {
            self.leave(&name);
            self.ready_or_back_off(&name, now);
        }
    }

    /// When [`Queue::flush`] will next find something.
    pub fn next_due(&self) -> Option<Instant> {
        let back_off = self.backing_off.first().map(|(until, _)| *until);
        let hopeless = self
            .hopeless
            .first()
            .map(|(since, _)| *since + HOPELESS_AT_MOST);
        back_off.into_iter().chain(hopeless).min()
    }

    fn ready_or_back_off(&mut self, name: &ObjectName, now: Instant) {
        let Some(waiting) = self.waiting.get_mut(name) else {
            return;
        };
        let until = waiting
            .failed
            .map(|failed| failed + back_off(waiting.attempts));
        match until.filter(|until| *until > now) {
            Some(until) => {
                waiting.place = Place::BackingOff(until);
                self.backing_off.insert((until, name.clone()));
            }
            None => self.make_ready(name),
        }
    }

    fn make_ready(&mut self, name: &ObjectName) {
        if let Some(waiting) = self.waiting.get_mut(name) {
            waiting.place = Place::Ready;
            self.ready.insert(waiting.turn.clone());
        }
    }

    fn leave(&mut self, name: &ObjectName) {
        let Some(waiting) = self.waiting.get(name) else {
            return;
        };
        match &waiting.place {
            Place::Ready => {
                self.ready.remove(&waiting.turn);
            }
            Place::BackingOff(until) => {
                self.backing_off.remove(&(*until, name.clone()));
            }
            Place::Hopeless(since) => {
                self.hopeless.remove(&(*since, name.clone()));
            }
            Place::Taken => {}
        }
    }
}

fn back_off(attempts: u32) -> Duration {
    FIRST_BACK_OFF
        .saturating_mul(2u32.saturating_pow(attempts.saturating_sub(1).min(10)))
        .min(LAST_BACK_OFF)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> ObjectName {
        ObjectName::new("ns", name)
    }

    fn second(second: i64) -> Option<Timestamp> {
        Timestamp::from_second(second).ok()
    }

    fn drain(queue: &mut Queue) -> String {
        std::iter::from_fn(|| queue.take())
            .map(|name| name.name)
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn priority_then_age_then_name() {
        let mut queue = Queue::default();
        let now = Instant::now();
        for (pod, priority, created) in [("late", 0, 9), ("b", 0, 5), ("a", 0, 5), ("high", 7, 9)] {
            queue.add(&name(pod), priority, second(created), now);
        }
        assert_eq!(drain(&mut queue), "high a b late");
    }

    #[test]
    fn back_off_doubles_to_ten_seconds() {
        let seconds: Vec<u64> = (1..7)
            .map(|attempts| back_off(attempts).as_secs())
            .collect();
        assert_eq!(seconds, [1, 2, 4, 8, 10, 10]);
    }

    #[test]
    fn the_failed_come_back_by_time_and_the_hopeless_by_change() {
        let mut queue = Queue::default();
        let now = Instant::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        for pod in ["failed", "hopeless"] {
            queue.add(&name(pod), 0, None, now);
        }
        assert_eq!(drain(&mut queue), "failed hopeless");
        queue.failed(&name("failed"), now);
        queue.hopeless(&name("hopeless"), now);
        assert_eq!(drain(&mut queue), "");
        assert_eq!(queue.next_due(), Some(at(1)));
        queue.flush(at(1));
        assert_eq!(drain(&mut queue), "failed");
        queue.wake(at(2), |_| true);
        assert_eq!(drain(&mut queue), "hopeless", "its back-off is over");
        queue.hopeless(&name("hopeless"), at(2));
        queue.wake(at(2), |_| true);
        assert_eq!(drain(&mut queue), "", "it backs off first");
        queue.flush(at(4));
        assert_eq!(drain(&mut queue), "hopeless");
        queue.hopeless(&name("hopeless"), at(4));
        queue.flush(at(303));
        assert_eq!(drain(&mut queue), "");
        queue.flush(at(304));
        assert_eq!(drain(&mut queue), "hopeless");
    }

    #[test]
    fn a_pod_in_hand_is_not_given_twice() {
        let mut queue = Queue::default();
        let now = Instant::now();
        queue.add(&name("a"), 0, None, now);
        assert_eq!(drain(&mut queue), "a");
        queue.add(&name("a"), 0, None, now);
        assert_eq!(drain(&mut queue), "");
        queue.remove(&name("a"));
        assert!(queue.is_empty());
    }
}
