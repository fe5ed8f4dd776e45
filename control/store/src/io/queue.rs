//! What waits for the disk thread, in order. A job that nobody waits for does not wake it while it sleeps for a while only:
//! waking a thread costs more than most jobs do.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use super::{Job, Wait};

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    come: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    asleep: Asleep,
    /// No sender is left, or no receiver.
    closed: bool,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Asleep {
    #[default]
    No,
    ForAWhile,
    UntilWoken,
}

/// Where jobs are sent. The receiver is told when this is dropped.
pub(crate) struct Sender(Arc<Shared>);

/// The disk thread's end.
pub(crate) struct Receiver(Arc<Shared>);

/// Unbounded, because a sender may not block an async worker; what may wait here is bounded by the proposals in
/// flight and by openraft's own channels.
pub(crate) fn queue() -> (Sender, Receiver) {
    let shared = Arc::new(Shared::default());
    (Sender(shared.clone()), Receiver(shared))
}

impl Sender {
    /// False: the receiver is gone, and so is the job.
    pub fn send(&self, job: Job) -> bool {
        let mut state = self.0.state.lock();
        if state.closed {
            return false;
        }
        let wake = match state.asleep {
            Asleep::No => false,
            Asleep::ForAWhile => !job.can_wait(),
            Asleep::UntilWoken => true,
        };
        if wake {
            state.asleep = Asleep::No;
        }
        state.jobs.push_back(job);
        drop(state);
        if wake {
            self.0.come.notify_one();
        }
        true
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.0.state.lock().closed = true;
        self.0.come.notify_one();
    }
}

impl Receiver {
    /// Takes at most `limit` jobs, once there are some or the wait is over. `None`: there are none, and none will come.
    pub fn take(&self, wait: &Wait, limit: usize) -> Option<Vec<Job>> {
        let mut state = self.0.state.lock();
        if state.jobs.is_empty() && !state.closed {
            match wait {
                Wait::ForJob => {
                    state.asleep = Asleep::UntilWoken;
                    self.0
                        .come
                        .wait_while(&mut state, |state| state.jobs.is_empty() && !state.closed);
                }
                // Jobs that can wait come without a word, so the wait is for being woken.
                Wait::AtMost(time) if !time.is_zero() => {
                    state.asleep = Asleep::ForAWhile;
                    self.0.come.wait_while_for(
                        &mut state,
                        |state| state.asleep == Asleep::ForAWhile && !state.closed,
                        *time,
                    );
                }
                Wait::AtMost(_) => {}
            }
            state.asleep = Asleep::No;
        }
        if state.jobs.is_empty() && state.closed {
            return None;
        }
        let count = state.jobs.len().min(limit);
        Some(state.jobs.drain(..count).collect())
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.closed = true;
        // Whoever waits for an answer to one of these sees that there is none.
        let left = std::mem::take(&mut state.jobs);
        drop(state);
        drop(left);
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use tokio::sync::oneshot;

    use super::*;
    use crate::raft::LogId;

    fn lazy(index: u64) -> Job {
        let leader_id = crate::raft::Vote::new(1, 1).leader_id;
        Job::Committed(LogId { leader_id, index })
    }

    fn urgent() -> Job {
        Job::Shutdown {
            reply: oneshot::channel().0,
        }
    }

    #[test]
    fn in_order_and_no_more_than_is_wanted() {
        let (sender, receiver) = queue();
        for job in [lazy(1), lazy(2), urgent()] {
            assert!(sender.send(job));
        }
        let some = receiver.take(&Wait::ForJob, 2).unwrap();
        assert!(matches!(&some[..], [Job::Committed(a), Job::Committed(b)] if a.index < b.index));
        drop(sender);
        let rest = receiver.take(&Wait::ForJob, 2).unwrap();
        assert!(matches!(&rest[..], [Job::Shutdown { .. }]));
        assert!(receiver.take(&Wait::ForJob, 2).is_none());
    }

    #[test]
    fn what_can_wait_wakes_only_a_sleeper_without_an_end() {
        let hour = Duration::from_secs(3600);
        for (wait, jobs, taken) in [
            (Wait::ForJob, vec![lazy(1)], 1),
            (Wait::AtMost(hour), vec![lazy(1), urgent()], 2),
        ] {
            let (sender, receiver) = queue();
            let thread = std::thread::spawn(move || receiver.take(&wait, 9).unwrap().len());
            while sender.0.state.lock().asleep == Asleep::No {
                std::thread::yield_now();
            }
            for job in jobs {
                sender.send(job);
            }
            assert_eq!(thread.join().unwrap(), taken);
        }
    }

    #[test]
    fn a_while_ends_with_what_came_meanwhile() {
        let (sender, receiver) = queue();
        let begun = Instant::now();
        let thread = std::thread::spawn(move || {
            let wait = Wait::AtMost(Duration::from_millis(50));
            receiver.take(&wait, 9).unwrap().len()
        });
        while sender.0.state.lock().asleep == Asleep::No && begun.elapsed().as_secs() < 10 {
            std::thread::yield_now();
        }
        sender.send(lazy(1));
        assert_eq!(thread.join().unwrap(), 1);
        assert!(!sender.send(lazy(2)), "nobody is there to take it");
    }
}
