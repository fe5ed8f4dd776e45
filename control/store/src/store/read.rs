//! Reads that must not be old: the read-index barrier, and waiting for a revision.
//!
//! A barrier asks the leader, and the leader a majority; so those who come while one is under way share the next one, as
//! etcd's `linearizableReadLoop` does.

use super::{Inner, Store};
use crate::propose::{succeeded, target};
use crate::raft::LogId;
use crate::sabotage::{self, Sabotage};
use crate::snapshot::Snapshot;
use caravel_api::Revision;
use futures::FutureExt as _;
use openraft::ReadPolicy;
use openraft::errors::{LinearizableReadError, RaftError};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout_at};

/// A read that found no leader looks for one again after this.
const AGAIN: Duration = Duration::from_millis(25);

/// No leader with a quorum confirmed that this state is current.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no quorum of servers can be reached")]
pub struct NoQuorum;

/// This replica has not reached the revision that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Too large resource version: {asked}, current: {current}")]
pub struct TooNew {
    pub asked: Revision,
    pub current: Revision,
}

/// Barriers one after another, each for everybody who came before it began. One of those who wait runs it.
#[derive(Clone, Default)]
pub(super) struct Rounds(Arc<Mutex<Waiting>>);

#[derive(Default)]
struct Waiting {
    running: bool,
    next: Vec<oneshot::Sender<Turn>>,
}

enum Turn {
    Passed(Result<(), NoQuorum>),
    Run(Baton),
}

/// The right to run the next round. Dropped, also by a caller that goes away in the middle, it is somebody else's.
struct Baton {
    rounds: Option<Rounds>,
    /// Whom this round is for.
    served: Vec<oneshot::Sender<Turn>>,
}

impl Rounds {
    async fn pass(
        &self,
        round: impl AsyncFnOnce() -> Result<(), NoQuorum>,
    ) -> Result<(), NoQuorum> {
        let mut baton = match self.come() {
            Ok(baton) => baton,
            Err(turn) => match turn.await {
                Ok(Turn::Run(baton)) => baton,
                Ok(Turn::Passed(result)) => return result,
                Err(_) => return Err(NoQuorum),
            },
        };
        baton.served = std::mem::take(&mut self.0.lock().next);
        let result = round().await;
        for waiter in baton.served.drain(..) {
            // Who went away needs no answer.
            let _ = waiter.send(Turn::Passed(result));
        }
        result
    }

    /// The baton if nobody runs; else one's turn.
    fn come(&self) -> Result<Baton, oneshot::Receiver<Turn>> {
        let mut waiting = self.0.lock();
        if waiting.running {
            let (sender, turn) = oneshot::channel();
            waiting.next.push(sender);
            Err(turn)
        } else {
            waiting.running = true;
            Ok(self.baton())
        }
    }

    fn baton(&self) -> Baton {
        Baton {
            rounds: Some(self.clone()),
            served: Vec::new(),
        }
    }
}

impl Drop for Baton {
    fn drop(&mut self) {
        let Some(rounds) = self.rounds.take() else {
            return;
        };
        let mut waiting = rounds.0.lock();
        waiting.next.append(&mut self.served);
        while let Some(next) = waiting.next.pop() {
            match next.send(Turn::Run(rounds.baton())) {
                Ok(()) => return,
                // Gone: this one must not hand itself on.
                Err(Turn::Run(mut baton)) => baton.rounds = None,
                Err(Turn::Passed(_)) => {}
            }
        }
        waiting.running = false;
    }
}

impl Store {
    /// A snapshot at least as new as every write acknowledged before the call (read-index barrier).
    pub async fn fresh_snapshot(&self) -> Result<Snapshot, NoQuorum> {
        let deadline = Instant::now() + self.inner.config.timing.leader_within;
        loop {
            match timeout_at(deadline, self.barrier()).await {
                Ok(Ok(())) => return Ok(self.snapshot()),
                // While a leader is being elected a read waits for it.
                Ok(Err(NoQuorum)) if Instant::now() < deadline => sleep(AGAIN).await,
                Ok(Err(NoQuorum)) | Err(_) => return Err(NoQuorum),
            }
        }
    }

    async fn barrier(&self) -> Result<(), NoQuorum> {
        if sabotage::on(Sabotage::StaleRead) && self.inner.raft.is_leader() {
            return Ok(());
        }
        // Boxed: what a majority is asked with is deep, and whatever reads or writes holds it.
        self.inner
            .rounds
            .pass(async || self.confirm().boxed().await)
            .await
    }

    async fn confirm(&self) -> Result<(), NoQuorum> {
        let Inner {
            raft,
            transport,
            served,
            ..
        } = &*self.inner;
        let leader = match raft.ensure_linearizable(ReadPolicy::ReadIndex).await {
            Ok(_) => return Ok(()),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(leader))) => leader,
            Err(_) => return Err(NoQuorum),
        };
        let target = target(&leader).ok_or(NoQuorum)?;
        let index: Option<LogId> = tokio::select! {
            biased;
            index = transport.read_index(&target) => index.map_err(|_| NoQuorum)?,
            () = succeeded(raft, target.id) => return Err(NoQuorum),
        };
        let mut applied = served.applied.subscribe();
        applied
            .wait_for(|applied| *applied >= index)
            .await
            .map_err(|_| NoQuorum)?;
        Ok(())
    }

    /// A snapshot at `revision` or later, waiting for it until `deadline`.
    pub async fn at_least(
        &self,
        revision: Revision,
        deadline: Instant,
    ) -> Result<Snapshot, TooNew> {
        let mut published = self.inner.served.hub.published();
        if *published.borrow() >= revision {
            return Ok(self.snapshot());
        }
        let reached = timeout_at(deadline, published.wait_for(|now| *now >= revision))
            .await
            .is_ok_and(|reached| reached.is_ok());
        let snapshot = self.snapshot();
        if reached {
            Ok(snapshot)
        } else {
            Err(TooNew {
                asked: revision,
                current: snapshot.revision(),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use tokio::sync::Notify;

    #[tokio::test]
    async fn who_comes_during_a_round_shares_the_next() {
        let (rounds, count, go) = (Rounds::default(), Cell::new(0), Notify::new());
        let round = async || {
            count.set(count.get() + 1);
            go.notified().await;
            Ok(())
        };
        let pass = || rounds.pass(round);
        let others = async {
            // The first has begun its round: these are too late for it.
            let late = async { tokio::join!(pass(), pass(), pass()) };
            let release = async {
                while count.get() < 2 {
                    go.notify_one();
                    tokio::task::yield_now().await;
                }
                go.notify_one();
            };
            tokio::join!(late, release).0
        };
        let (first, (a, b, c)) = tokio::join!(pass(), others);
        assert_eq!([first, a, b, c], [Ok(()); 4]);
        assert_eq!(count.get(), 2);
    }

    #[tokio::test]
    async fn a_round_that_fails_is_not_the_nexts() {
        let rounds = Rounds::default();
        assert_eq!(rounds.pass(async || Err(NoQuorum)).await, Err(NoQuorum));
        assert_eq!(rounds.pass(async || Ok(())).await, Ok(()));
    }

    #[tokio::test]
    async fn who_goes_away_in_the_middle_hands_on() {
        let rounds = Rounds::default();
        let never = async || std::future::pending().await;
        let mut runs = Box::pin(rounds.pass(never));
        assert!(runs.as_mut().now_or_never().is_none());
        let mut gone = Box::pin(rounds.pass(never));
        let mut stays = Box::pin(rounds.pass(async || Ok(())));
        let mut chosen = Box::pin(rounds.pass(never));
        assert!(stays.as_mut().now_or_never().is_none());
        for waits in [&mut gone, &mut chosen] {
            assert!(waits.as_mut().now_or_never().is_none());
        }
        drop(gone);
        drop(runs);
        // It may have been given the round already, and never looked.
        drop(chosen);
        assert_eq!(stays.await, Ok(()));
        assert_eq!(rounds.pass(async || Ok(())).await, Ok(()));
    }
}
