//! The receiving side of a transport, and links within one process.
//!
//! `Peer` is what a replica does when another asks it; `Links` joins replicas of one process, with ways that can be
//! cut, for tests and simulations.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::{Stream, StreamExt as _};
use openraft::alias::{SnapshotOf, VoteOf};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, RPCError, RaftError, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError,
    StreamAppendResult, TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{AnyError, ReadPolicy};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout};

use crate::level::Halt;
use crate::raft::machine::Image;
use crate::raft::transport::{ForwardError, Target, Transport};
use crate::raft::{Batch, Command, LogId, Outcomes, Raft, TypeConfig};
use crate::room::Alarm;
use crate::wire::SnapshotHead;

/// How often voters ask for votes after their leader's end before they leave it to their clocks.
const ROUNDS: usize = 10;

type Fatal = openraft::errors::Fatal<TypeConfig>;

/// One replica, as other replicas use it.
#[derive(Clone)]
pub struct Peer {
    raft: Raft,
    heard: Arc<LastHeard>,
    alarm: Option<Alarm>,
    halt: Halt,
}

/// When a leader was last heard, by any of its messages.
#[derive(Default)]
pub(crate) struct LastHeard(Mutex<Option<Instant>>);

impl LastHeard {
    fn now(&self) {
        *self.0.lock() = Some(Instant::now());
    }

    /// Since then; `None` if never.
    pub fn since(&self) -> Option<Duration> {
        self.0.lock().map(|at| at.elapsed())
    }
}

impl Peer {
    pub(crate) fn new(raft: Raft, heard: Arc<LastHeard>, alarm: Option<Alarm>, halt: Halt) -> Self {
        Peer {
            raft,
            heard,
            alarm,
            halt,
        }
    }

    /// The transport was sent what this release cannot read, by a server that this replica follows: it stops
    /// (`Store::failure`) rather than go on without.
    pub fn halt(&self, why: &dyn std::fmt::Display) {
        self.halt.now(format!(
            "another server sent what this release does not know: {why}"
        ));
    }

    pub async fn append(
        &self,
        request: AppendEntriesRequest<TypeConfig>,
    ) -> Result<AppendEntriesResponse<TypeConfig>, Fatal> {
        let answer = self.raft.append_entries(request).await;
        // A leader of the past is told of a newer one; it is not what this replica follows.
        if !matches!(answer, Ok(AppendEntriesResponse::HigherVote(_)) | Err(_)) {
            self.heard.now();
        }
        answer.map_err(RaftError::unwrap_fatal)
    }

    /// Many appends in order; an answer to each, in that order. Ends with the appends, or at the first refusal.
    pub fn appends(
        &self,
        requests: impl Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + 'static,
    ) -> impl Stream<Item = Result<StreamAppendResult<TypeConfig>, Fatal>> + Send + 'static {
        let heard = self.heard.clone();
        self.raft.stream_append(requests).inspect(move |answer| {
            if !matches!(answer, Ok(Err(StreamAppendError::HigherVote(_))) | Err(_)) {
                heard.now();
            }
        })
    }

    pub async fn vote(
        &self,
        request: VoteRequest<TypeConfig>,
    ) -> Result<VoteResponse<TypeConfig>, Fatal> {
        self.raft
            .vote(request)
            .await
            .map_err(RaftError::unwrap_fatal)
    }

    pub async fn pre_vote(
        &self,
        request: VoteRequest<TypeConfig>,
    ) -> Result<VoteResponse<TypeConfig>, Fatal> {
        self.raft
            .pre_vote(request)
            .await
            .map_err(RaftError::unwrap_fatal)
    }

    pub async fn snapshot(
        &self,
        vote: VoteOf<TypeConfig>,
        snapshot: SnapshotOf<TypeConfig, Image>,
    ) -> Result<SnapshotResponse<TypeConfig>, Fatal> {
        let answer = self.raft.install_full_snapshot(vote, snapshot).await;
        self.heard.now();
        answer
    }

    /// This replica's state, and how far it has applied the log; `None` if it has none.
    pub async fn state(&self) -> Result<Option<(SnapshotHead, Image)>, Fatal> {
        let snapshot = self.raft.get_snapshot().await;
        let vote = self.raft.metrics().borrow_watched().vote;
        let snapshot = snapshot.map_err(RaftError::unwrap_fatal)?;
        Ok(snapshot.map(|snapshot| {
            let head = SnapshotHead {
                vote,
                meta: snapshot.meta,
            };
            (head, snapshot.snapshot)
        }))
    }

    pub async fn transfer_leader(
        &self,
        request: TransferLeaderRequest<TypeConfig>,
    ) -> Result<TransferLeaderResponse<TypeConfig>, Fatal> {
        self.raft.handle_transfer_leader(request).await
    }

    /// Whom this replica follows.
    pub fn leader(&self) -> Option<Target> {
        let metrics = self.raft.metrics().borrow_watched().clone();
        let leader = metrics.current_leader.filter(|id| *id != metrics.id)?;
        let node = metrics.membership_config.membership().get_node(&leader)?;
        Some(Target {
            id: leader,
            address: node.addr.clone(),
        })
    }

    /// The process of `leader` is known to have ended: whoever follows it need not wait until it was silent for long.
    ///
    /// Harmless where one errs: others, and a leader that lives, refuse the pre-vote that this asks for. But one that erred no
    /// longer vouches for this leader against others. Safe in any case, as every election is.
    pub async fn leader_ended(&self, leader: u64) {
        let begun = Instant::now();
        let term = self.raft.metrics().borrow_watched().current_term;
        let pause = Duration::from_millis(self.raft.config().heartbeat_interval);
        for round in 0..ROUNDS {
            let metrics = self.raft.metrics().borrow_watched().clone();
            let mut voters: Vec<u64> = metrics.membership_config.voter_ids().collect();
            voters.retain(|id| *id != leader);
            let rank = voters.iter().position(|id| *id == metrics.id);
            let follows = metrics.current_leader == Some(leader) && metrics.current_term == term;
            // What it had said already may be heard a little later.
            let speaks = |ago| ago + pause < begun.elapsed();
            if !follows || self.heard.since().is_some_and(speaks) {
                return;
            }
            let Some(rank) = rank else {
                return;
            };
            // From now on this replica believes whoever else asks.
            let request = TransferLeaderRequest::new(metrics.vote, leader, None);
            if self.raft.handle_transfer_leader(request).await.is_err() {
                return;
            }
            // One after the other, lest each votes for itself. Who lacks entries is refused, and the next one's turn comes.
            if round % voters.len() == rank && self.raft.trigger().elect(true).await.is_err() {
                return;
            }
            sleep(pause).await;
        }
    }

    /// A follower's users' writes.
    pub async fn propose(&self, batch: Batch) -> Result<Outcomes, ForwardError> {
        if let Some(why) = self.alarm.as_ref().and_then(|it| it.refusal(&self.raft)) {
            return Err(ForwardError::Full(why));
        }
        match self.raft.client_write(Command::Batch(batch)).await {
            Ok(response) => Ok(response.data),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => {
                Err(ForwardError::Nothing)
            }
            Err(RaftError::APIError(_) | RaftError::Fatal(_)) => Err(ForwardError::Unknown),
        }
    }

    /// Has its disk no room for more?
    pub fn is_full(&self) -> bool {
        self.alarm.as_ref().and_then(Alarm::text).is_some()
    }

    /// How far a replica must have applied for a read begun now to be current.
    pub async fn read_index(&self) -> Result<Option<LogId>, ForwardError> {
        let (read, _) = self
            .raft
            .get_read_log_id(ReadPolicy::ReadIndex)
            .await
            .map_err(|_| ForwardError::Nothing)?;
        Ok(Some(*read.log_id()))
    }
}

/// Replicas of one process and the ways between them.
#[derive(Clone, Default)]
pub struct Links(Arc<Mutex<Ways>>);

#[derive(Default)]
struct Ways {
    peers: BTreeMap<u64, Peer>,
    /// From, to.
    cut: BTreeSet<(u64, u64)>,
}

impl Links {
    /// What replica `from` sends with.
    pub fn transport(&self, from: u64) -> Arc<dyn Transport> {
        Arc::new(Way {
            from,
            links: self.clone(),
        })
    }

    /// Replica `id` can be reached from now on.
    pub fn join(&self, id: u64, peer: Peer) {
        self.0.lock().peers.insert(id, peer);
    }

    /// Replica `id` is no longer there.
    pub fn leave(&self, id: u64) {
        self.0.lock().peers.remove(&id);
    }

    /// Nothing passes between `id` and anybody, in either direction.
    pub fn isolate(&self, id: u64) {
        let mut ways = self.0.lock();
        let others: Vec<u64> = ways
            .peers
            .keys()
            .copied()
            .filter(|other| *other != id)
            .collect();
        for other in others {
            ways.cut.extend([(id, other), (other, id)]);
        }
    }

    /// All ways are open again.
    pub fn heal(&self) {
        self.0.lock().cut.clear();
    }

    fn reach(&self, from: u64, to: &Target) -> Result<Peer, Unreachable<TypeConfig>> {
        let ways = self.0.lock();
        let peer = ways
            .peers
            .get(&to.id)
            .filter(|_| !ways.cut.contains(&(from, to.id)));
        peer.cloned().ok_or_else(|| {
            Unreachable::new(&AnyError::error(format!(
                "replica {} cannot be reached from {from}",
                to.id
            )))
        })
    }
}

struct Way {
    from: u64,
    links: Links,
}

impl Way {
    async fn call<T, F>(
        &self,
        to: &Target,
        option: &RPCOption,
        ask: impl FnOnce(Peer) -> F,
    ) -> Result<T, Unreachable<TypeConfig>>
    where
        F: Future<Output = Result<T, Fatal>>,
    {
        let peer = self.links.reach(self.from, to)?;
        let answer = match timeout(option.hard_ttl(), ask(peer)).await {
            Ok(answer) => answer.map_err(|fatal| Unreachable::new(&fatal))?,
            Err(late) => return Err(Unreachable::new(&late)),
        };
        // The way back may have been cut meanwhile.
        self.links.reach(self.from, to)?;
        Ok(answer)
    }
}

#[async_trait]
impl Transport for Way {
    async fn append(
        &self,
        to: &Target,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        Ok(self
            .call(
                to,
                &option,
                |peer| async move { peer.append(request).await },
            )
            .await?)
    }
    async fn vote(
        &self,
        to: &Target,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        Ok(self
            .call(to, &option, |peer| async move { peer.vote(request).await })
            .await?)
    }
    async fn pre_vote(
        &self,
        to: &Target,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        Ok(self
            .call(
                to,
                &option,
                |peer| async move { peer.pre_vote(request).await },
            )
            .await?)
    }
    async fn snapshot(
        &self,
        to: &Target,
        vote: VoteOf<TypeConfig>,
        snapshot: SnapshotOf<TypeConfig, Image>,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        Ok(self
            .call(to, &option, |peer| async move {
                peer.snapshot(vote, snapshot).await
            })
            .await?)
    }
    async fn transfer_leader(
        &self,
        to: &Target,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        Ok(self
            .call(to, &option, |peer| async move {
                peer.transfer_leader(request).await
            })
            .await?)
    }
    async fn propose(&self, to: &Target, batch: Batch) -> Result<Outcomes, ForwardError> {
        let peer = self
            .links
            .reach(self.from, to)
            .map_err(|_| ForwardError::Nothing)?;
        let outcomes = peer.propose(batch).await?;
        self.links
            .reach(self.from, to)
            .map_err(|_| ForwardError::Unknown)?;
        Ok(outcomes)
    }
    async fn read_index(&self, to: &Target) -> Result<Option<LogId>, ForwardError> {
        let peer = self
            .links
            .reach(self.from, to)
            .map_err(|_| ForwardError::Nothing)?;
        peer.read_index().await
    }
}
