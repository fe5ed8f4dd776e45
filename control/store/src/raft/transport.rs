//! How replicas reach each other: the edge where gRPC, or links within one process, are plugged in.
//!
//! `Transport` sends, `Peer` (see `Store::peer`) receives; what lies between is the transport's business. A pre-vote
//! must really be asked for: openraft's default grants it. Writes and read barriers of a follower travel here too.

use std::future::Future;
use std::sync::Arc;

use async_trait::async_trait;
use futures::Stream;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use openraft::alias::{SnapshotOf, VoteOf};
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2, stream_append_sequential};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{AnyError, BasicNode};

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
        let appends = self.transport.appends(&self.to, Box::pin(input), option);
        Box::pin(async move {
            let answers: BoxStream<'s, _> = appends.await?;
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
