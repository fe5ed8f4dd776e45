//! From one transaction of one writer to a log entry shared by many, and back.
//!
//! What waits goes together into one entry, so that under load many writers share an entry, a flush and a round
//! trip; nobody waits for company. An answer says exactly what is known: nothing happened, or it may have.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, ForwardToLeader, RaftError};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::{Instant, sleep};

use crate::raft::transport::{ForwardError, Target, Transport};
use crate::raft::{Batch, Command, Outcomes, Proposal, Raft, Refusal, TypeConfig};
use crate::sabotage::{self, Sabotage};
use crate::txn::{CommitError, Committed};

/// Entries under way at once. While they are, what comes next gathers.
const DEPTH: usize = 3;
/// A write that found no leader looks for one again after this.
const AGAIN: Duration = Duration::from_millis(25);
/// Transactions in one entry.
const TOGETHER: usize = 1024;

/// One transaction that waits for its answer. Holds its share of the limits until then.
pub(crate) struct Waiting {
    pub proposal: Proposal,
    pub cost: usize,
    pub answer: oneshot::Sender<Result<Committed, CommitError>>,
    pub _count: OwnedSemaphorePermit,
    pub _bytes: OwnedSemaphorePermit,
}

/// Takes transactions until nobody can send any.
pub(crate) async fn run(
    raft: Raft,
    transport: Arc<dyn Transport>,
    entry_bytes: usize,
    leader_within: Duration,
    mut queue: mpsc::Receiver<Waiting>,
) {
    let mut under_way = FuturesUnordered::new();
    let mut taken = Vec::new();
    loop {
        tokio::select! {
            biased;
            Some(()) = under_way.next() => {}
            count = queue.recv_many(&mut taken, TOGETHER), if under_way.len() < DEPTH => {
                if count == 0 {
                    break;
                }
                for entry in split(&mut taken, entry_bytes) {
                    let one = one_entry(raft.clone(), transport.clone(), entry, leader_within);
                    under_way.push(one);
                }
            }
        }
    }
    while under_way.next().await.is_some() {}
}

/// Cuts what was taken into entries of at most `limit` bytes, at least one transaction each.
fn split(taken: &mut Vec<Waiting>, limit: usize) -> Vec<Vec<Waiting>> {
    let mut entries: Vec<Vec<Waiting>> = Vec::new();
    let mut room = 0;
    for waiting in taken.drain(..) {
        // Nobody waits for it any more, so nothing needs to happen.
        if waiting.answer.is_closed() {
            continue;
        }
        match entries.last_mut() {
            Some(entry) if waiting.cost <= room => {
                room -= waiting.cost;
                entry.push(waiting);
            }
            _ => {
                room = limit.saturating_sub(waiting.cost);
                entries.push(vec![waiting]);
            }
        }
    }
    entries
}

async fn one_entry(
    raft: Raft,
    transport: Arc<dyn Transport>,
    entry: Vec<Waiting>,
    leader_within: Duration,
) {
    let deadline = Instant::now() + leader_within;
    let mut left = entry;
    loop {
        let proposals = left
            .iter()
            .map(|waiting| waiting.proposal.clone())
            .collect();
        let batch = Batch(Arc::new(proposals));
        let result = match raft.client_write(Command::Batch(batch)).await {
            Ok(response) => Ok(response.data),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(leader))) => {
                if sabotage::on(Sabotage::ForwardLoop) {
                    left.iter_mut().for_each(|one| one.proposal.epoch = None);
                }
                // Those under an epoch go nowhere: the epoch is over.
                left = users_only(left);
                if left.is_empty() {
                    return;
                }
                forward(&raft, &*transport, &leader, &left).await
            }
            // Dropped from this log, yet it may be in another's.
            Err(RaftError::APIError(_) | RaftError::Fatal(_)) => Err(CommitError::Unknown),
        };
        match result {
            // Nothing happened; a leader may be found in time.
            Err(CommitError::NoQuorum) if Instant::now() < deadline => sleep(AGAIN).await,
            result => return answer(left, result),
        }
    }
}

fn answer(answers: Vec<Waiting>, result: Result<Outcomes, CommitError>) {
    let mut outcomes = result.map(|Outcomes(outcomes)| outcomes.into_iter());
    for waiting in answers {
        let told = match &mut outcomes {
            Ok(outcomes) => match outcomes.next() {
                Some(Ok(committed)) => Ok(committed),
                Some(Err(Refusal::Conflict(key, revision))) => {
                    Err(CommitError::Conflict(key, revision))
                }
                Some(Err(Refusal::Deposed)) => Err(CommitError::Deposed),
                None => Err(CommitError::Unknown),
            },
            Err(error) => Err(error.clone()),
        };
        // Whoever asked may have stopped waiting.
        let _ = waiting.answer.send(told);
    }
}

/// Answers what was proposed under an epoch; what users proposed is left. Nobody waits for what was given up.
fn users_only(entry: Vec<Waiting>) -> Vec<Waiting> {
    let (over, users): (Vec<_>, Vec<_>) = entry
        .into_iter()
        .partition(|waiting| waiting.proposal.epoch.is_some());
    answer(over, Err(CommitError::Deposed));
    users
        .into_iter()
        .filter(|waiting| !waiting.answer.is_closed())
        .collect()
}

/// Users' writes go to whoever leads. Once another leads, nobody waits for one that fell silent: later writes wait behind these.
async fn forward(
    raft: &Raft,
    transport: &dyn Transport,
    leader: &ForwardToLeader<TypeConfig>,
    entry: &[Waiting],
) -> Result<Outcomes, CommitError> {
    let Some(target) = target(leader) else {
        return Err(CommitError::NoQuorum);
    };
    let proposals = entry.iter().map(|waiting| waiting.proposal.clone());
    let batch = Batch(Arc::new(proposals.collect()));
    tokio::select! {
        biased;
        outcomes = transport.propose(&target, batch) => outcomes.map_err(|error| match error {
            ForwardError::Nothing => CommitError::NoQuorum,
            ForwardError::Unknown => CommitError::Unknown,
            ForwardError::Full(why) => CommitError::Full(why),
        }),
        () = succeeded(raft, target.id) => Err(CommitError::Unknown),
    }
}

/// Returns when this replica knows of a leader that is not `former`.
pub(crate) async fn succeeded(raft: &Raft, former: u64) {
    let mut metrics = raft.server_metrics();
    loop {
        let leader = metrics.borrow_watched().current_leader;
        if leader.is_some_and(|leader| leader != former) {
            return;
        }
        if metrics.changed().await.is_err() {
            // Consensus has stopped; whoever waits has a deadline of its own.
            std::future::pending::<()>().await;
        }
    }
}

pub(crate) fn target(leader: &ForwardToLeader<TypeConfig>) -> Option<Target> {
    let id = leader.leader_id?;
    Some(Target {
        id,
        address: leader
            .leader_node
            .as_ref()
            .map(|node| node.addr.clone())
            .unwrap_or_default(),
    })
}
