//! How replicas reach each other: the edge where gRPC, or links within one process, are plugged in.
//!
//! `Transport` sends, `Peer` (see `Store::peer`) receives; what lies between is the transport's business. A pre-vote
//! must really be asked for: openraft's default grants it. Writes and read barriers of a follower travel here too.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::task::Poll;

use async_trait::async_trait;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt as _};
use openraft::alias::{SnapshotOf, VoteOf};
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2, stream_append_sequential};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{AnyError, BasicNode};
use parking_lot::Mutex;

use super::machine::Image;
use super::{Batch, LogId, Outcomes, TypeConfig};

/// Why another replica did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForwardError {
    /// It was not reached, or is not the leader: nothing happened.
    #[error("the leader was not reached")]
    Nothing,
    /// It may have happened.
    #[error("the outcome is unknown")]
    Unknown,
    /// Its disk is full: nothing happened.
    #[error("{0}")]
    Full(String),
}

/// A replica, as others name it.
#[derive(Clone, Debug)]
pub struct Target {
    pub id: u64,
    pub address: String,
}

/// Answers to a stream of appends, in its order; ends where the appends end.
pub type Appended =
    BoxStream<'static, Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>>;

/// Sends to other replicas. Each call ends within `option.hard_ttl()`, or the transport's own deadline.
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    async fn append(
        &self,
        to: &Target,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>>;
    /// Many appends without waiting for the answer to each. False: this transport sends them one by one.
    fn streams(&self) -> bool {
        false
    }
    /// Those who said last that their disks are full.
    fn full(&self) -> BTreeSet<u64> {
        BTreeSet::new()
    }
    /// Called only where `streams`.
    async fn appends(
        &self,
        to: &Target,
        requests: BoxStream<'static, AppendEntriesRequest<TypeConfig>>,
        option: RPCOption,
    ) -> Result<Appended, RPCError<TypeConfig>> {
        let (_, _) = (requests, option);
        Err(nobody(to))
    }
    async fn vote(
        &self,
        to: &Target,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>>;
    async fn pre_vote(
        &self,
        to: &Target,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>>;
    async fn snapshot(
        &self,
        to: &Target,
        vote: VoteOf<TypeConfig>,
        snapshot: SnapshotOf<TypeConfig, Image>,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>>;
    async fn transfer_leader(
        &self,
        to: &Target,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>>;
    /// A follower's users' writes, to the leader.
    async fn propose(&self, to: &Target, batch: Batch) -> Result<Outcomes, ForwardError>;
    /// Asks the leader how far a replica must have applied for a read to be current.
    async fn read_index(&self, to: &Target) -> Result<Option<LogId>, ForwardError>;
}

/// The transport of a cluster of one.
pub struct Alone;

fn nobody<E: From<Unreachable<TypeConfig>>>(to: &Target) -> E {
    Unreachable::new(&AnyError::error(format!(
        "there is no way to replica {}",
        to.id
    )))
    .into()
}

#[async_trait]
impl Transport for Alone {
    async fn append(
        &self,
        to: &Target,
        _: AppendEntriesRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        Err(nobody(to))
    }
    async fn vote(
        &self,
        to: &Target,
        _: VoteRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        Err(nobody(to))
    }
    async fn pre_vote(
        &self,
        to: &Target,
        _: VoteRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        Err(nobody(to))
    }
    async fn snapshot(
        &self,
        to: &Target,
        _: VoteOf<TypeConfig>,
        _: SnapshotOf<TypeConfig, Image>,
        _: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        Err(nobody(to))
    }
    async fn transfer_leader(
        &self,
        to: &Target,
        _: TransferLeaderRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        Err(nobody(to))
    }
    async fn propose(&self, _: &Target, _: Batch) -> Result<Outcomes, ForwardError> {
        Err(ForwardError::Nothing)
    }
    async fn read_index(&self, _: &Target) -> Result<Option<LogId>, ForwardError> {
        Err(ForwardError::Nothing)
    }
}

/// What openraft has to send in one stream of appends, until it no longer wants the answers.
///
/// All its streams to one replica draw from one place. One that a transport still reads after its session has ended
/// would take what the next session is to send, and that would never come.
struct Session<R>(Arc<Mutex<Option<BoxStream<'static, R>>>>);

impl<R: 'static> Session<R> {
    fn new(requests: BoxStream<'static, R>) -> Self {
        Session(Arc::new(Mutex::new(Some(requests))))
    }

    fn requests(&self) -> impl Stream<Item = R> + Send + use<R> {
        let shared = self.0.clone();
        stream::poll_fn(move |context| match &mut *shared.lock() {
            Some(requests) => requests.poll_next_unpin(context),
            None => Poll::Ready(None),
        })
    }
}

impl<R> Drop for Session<R> {
    fn drop(&mut self) {
        drop(self.0.lock().take());
    }
}

/// openraft's view of a transport.
#[derive(Clone)]
pub(crate) struct Factory(pub Arc<dyn Transport>);

impl RaftNetworkFactory<TypeConfig> for Factory {
    type Network = Link;

    async fn new_client(&mut self, target: u64, node: &BasicNode) -> Link {
        Link {
            transport: self.0.clone(),
            to: Target {
                id: target,
                address: node.addr.clone(),
            },
        }
    }
}

/// One direction to one replica.
pub(crate) struct Link {
    transport: Arc<dyn Transport>,
    to: Target,
}

impl RaftNetworkV2<TypeConfig> for Link {
    type SnapshotData = Image;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.transport.append(&self.to, rpc, option).await
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<
        's,
        Result<
            BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>>,
            RPCError<TypeConfig>,
        >,
    >
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
    {
        if !self.transport.streams() {
            return stream_append_sequential(self, input, option);
        }
        let session = Session::new(Box::pin(input));
        let requests = Box::pin(session.requests());
        let appends = self.transport.appends(&self.to, requests, option);
        Box::pin(async move {
            let mut answers = appends.await?;
            let answers = stream::poll_fn(move |context| {
                // Lives as long as the answers are wanted.
                let _ = &session;
                answers.poll_next_unpin(context)
            });
            let answers: BoxStream<'s, _> = Box::pin(answers);
            Ok(answers)
        })
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.transport.vote(&self.to, rpc, option).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.transport.pre_vote(&self.to, rpc, option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<TypeConfig>,
        snapshot: SnapshotOf<TypeConfig, Image>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        tokio::select! {
            closed = cancel => Err(closed.into()),
            answer = self.transport.snapshot(&self.to, vote, snapshot, option) => answer,
        }
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.transport.transfer_leader(&self.to, req, option).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a transport still reads takes nothing once the answers are not wanted.
    #[tokio::test]
    async fn a_session_that_ended_takes_nothing_more() {
        let (sender, queue) = tokio::sync::mpsc::channel(8);
        let queue = stream::unfold(queue, async |mut queue| {
            let next: u32 = queue.recv().await?;
            Some((next, queue))
        });
        let session = Session::new(Box::pin(queue));
        let mut requests = Box::pin(session.requests());
        sender.send(1).await.unwrap();
        assert_eq!(requests.next().await, Some(1));
        drop(session);
        assert!(sender.send(2).await.is_err());
        assert_eq!(requests.next().await, None);
    }
}
