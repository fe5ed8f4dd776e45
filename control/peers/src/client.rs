//! The sending side: gRPC over mutual TLS, two connections to each server so that a heartbeat never waits behind bulk.
//!
//! Connections are made when first used, kept, and found dead by HTTP/2 pings (a stopped process keeps its sockets
//! open). Until [`GrpcTransport::speak_as`] this server has no certificate, and everybody is unreachable.

use crate::call::{forwarded, late, malformed, refuses, rpc, streaming};
use crate::heard::Heard;
use crate::{Caller, PeerTls};
use async_trait::async_trait;
use bytes::Bytes;
use caravel_rpc::peer::v1::peer_client::PeerClient;
use caravel_rpc::peer::v1::{
    AdmitRequest, AdmitResponse, ChangeRequest, ChangeResponse, Frame, HoldKeyRequest, KeysRequest,
    ObserveRequest, ObserveResponse, ReadIndexRequest, SnapshotPart, SnapshotProgressRequest,
    StateRequest, snapshot_part,
};
use caravel_store::wire::{self, SnapshotHead, Wire};
use caravel_store::{
    Appended, Assembly, Batch, ForwardError, Identity, Image, LogId, Outcomes, Received, Target,
    TransferError, Transport, TypeConfig,
};
use futures::stream::{self, BoxStream};
use futures::{FutureExt as _, StreamExt as _};
use openraft::alias::{SnapshotOf, VoteOf};
use openraft::errors::{RPCError, StreamingError};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};

/// A connection that is not made by then is not made.
const CONNECT: Duration = Duration::from_secs(2);
/// A silent connection is asked this often whether it lives, and has as long to answer.
const PING: Duration = Duration::from_secs(1);
const PONG: Duration = Duration::from_secs(2);
/// A stream of appends must begin to be answered within this, however short a heartbeat is.
const STREAM_WITHIN: Duration = Duration::from_secs(2);
/// A write or a barrier that was handed to the leader.
const FORWARD_WITHIN: Duration = Duration::from_secs(10);
/// A question that a person waits for.
const OBSERVE_WITHIN: Duration = Duration::from_secs(2);
/// A change of the membership, which may wait until a learner has caught up.
const CHANGE_WITHIN: Duration = Duration::from_secs(90);
/// The longest message: the most that may wait to be proposed, with room for its frame.
pub(crate) const MESSAGE: usize = 72 << 20;
/// Connections that may break during one snapshot.
const BREAKS: usize = 5;
/// In flight towards one server.
const WINDOW: u32 = 8 << 20;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Lane {
    /// Heartbeats, votes, writes and barriers.
    Prompt,
    /// Log and snapshots.
    Bulk,
}

struct Me {
    caller: Caller,
    tls: PeerTls,
}

/// What a server sends to its peers with.
#[derive(Default)]
pub struct GrpcTransport {
    me: Mutex<Option<Arc<Me>>>,
    channels: Mutex<BTreeMap<(u64, Lane), (String, Channel)>>,
    heard: Arc<Heard>,
}

impl GrpcTransport {
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Who this server is, from now on.
    pub fn speak_as(&self, identity: Identity, tls: PeerTls) {
        let caller = Caller {
            cluster: identity.cluster,
            from: identity.node,
            incarnation: identity.incarnation,
            to: 0,
        };
        *self.me.lock() = Some(Arc::new(Me { caller, tls }));
        self.channels.lock().clear();
    }

    /// Becomes true when a peer says that this server was removed from the cluster.
    #[must_use]
    pub fn removed(&self) -> watch::Receiver<bool> {
        self.heard.removed()
    }

    fn client(&self, to: &Target, lane: Lane) -> Result<(PeerClient<Channel>, Caller), Status> {
        let me = self
            .me
            .lock()
            .clone()
            .ok_or_else(|| Status::unavailable("this server has no certificate yet"))?;
        let caller = Caller {
            to: to.id,
            ..me.caller
        };
        let mut channels = self.channels.lock();
        let known = channels
            .get(&(to.id, lane))
            .filter(|(address, _)| *address == to.address);
        let channel = match known {
            Some((_, channel)) => channel.clone(),
            None => {
                let channel = connect(to, &me.tls)?;
                channels.insert((to.id, lane), (to.address.clone(), channel.clone()));
                channel
            }
        };
        let client = PeerClient::new(channel)
            .max_decoding_message_size(MESSAGE)
            .max_encoding_message_size(MESSAGE);
        Ok((client, caller))
    }

    async fn call<Q, A, F>(
        &self,
        to: &Target,
        lane: Lane,
        within: Duration,
        request: Q,
        ask: impl FnOnce(PeerClient<Channel>, Request<Q>) -> F,
    ) -> Result<A, Status>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let (client, caller) = self.client(to, lane)?;
        let mut request = Request::new(request);
        caller.sign(&mut request);
        match timeout(within, ask(client, request)).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => {
                self.heard.failure(&status);
                Err(status)
            }
            Err(_) => Err(late()),
        }
    }

    async fn ask<Q: Wire, A: Wire, F>(
        &self,
        to: &Target,
        within: Duration,
        request: &Q,
        ask: impl FnOnce(PeerClient<Channel>, Request<Frame>) -> F,
    ) -> Result<A, Status>
    where
        F: Future<Output = Result<Response<Frame>, Status>>,
    {
        let frame = Frame {
            body: wire::encode(request),
            full: false,
        };
        let answer = self
            .call(to, Lane::Prompt, within, frame, ask)
            .await
            .inspect_err(|status| self.heard.refusal(to.id, status))?;
        self.heard.answer(to.id, answer.full);
        wire::decode(&answer.body).map_err(|error| malformed(&error))
    }

    /// The keys everything durable is sealed with, and which of them is used (0: the highest).
    ///
    /// # Errors
    /// As the peer's status.
    pub async fn keys(&self, to: &Target) -> Result<(BTreeMap<u32, [u8; 32]>, u32), Status> {
        let answer = self
            .call(
                to,
                Lane::Prompt,
                FORWARD_WITHIN,
                KeysRequest {},
                |mut client, request| async move { client.keys(request).await },
            )
            .await?;
        let current = answer.current;
        let keys = answer.keys.into_iter().map(|(id, key)| {
            let key: [u8; 32] = key
                .try_into()
                .map_err(|_| Status::internal("a key of another length than 32 bytes"))?;
            Ok((id, key))
        });
        Ok((keys.collect::<Result<_, Status>>()?, current))
    }

    /// Gives `to` a key to hold; it is on its disk when this returns.
    ///
    /// # Errors
    /// As the peer's status; FAILED_PRECONDITION: it has another key of this number.
    pub async fn hold_key(&self, to: &Target, id: u32, key: [u8; 32]) -> Result<(), Status> {
        let request = HoldKeyRequest {
            id,
            key: key.to_vec(),
        };
        self.call(
            to,
            Lane::Prompt,
            FORWARD_WITHIN,
            request,
            |mut client, request| async move { client.hold_key(request).await },
        )
        .await
        .map(|_| ())
    }

    /// How `to` does, and what it knows of the others if it leads.
    ///
    /// # Errors
    /// As the peer's status.
    pub async fn observe(&self, to: &Target) -> Result<ObserveResponse, Status> {
        self.call(
            to,
            Lane::Prompt,
            OBSERVE_WITHIN,
            ObserveRequest {},
            |mut client, request| async move { client.observe(request).await },
        )
        .await
    }

    /// Asks `to` to admit a server.
    ///
    /// # Errors
    /// As the peer's status.
    pub async fn admit(&self, to: &Target, request: AdmitRequest) -> Result<AdmitResponse, Status> {
        self.call(
            to,
            Lane::Prompt,
            CHANGE_WITHIN,
            request,
            |mut client, request| async move { client.admit(request).await },
        )
        .await
    }

    /// Asks `to`, which leads, to change the membership.
    ///
    /// # Errors
    /// As the peer's status.
    pub async fn change(
        &self,
        to: &Target,
        request: ChangeRequest,
    ) -> Result<ChangeResponse, Status> {
        self.call(
            to,
            Lane::Prompt,
            CHANGE_WITHIN,
            request,
            |mut client, request| async move { client.change(request).await },
        )
        .await
    }

    /// Another server's state.
    pub async fn state(&self, to: &Target) -> Result<Received, Status> {
        let (mut client, caller) = self.client(to, Lane::Bulk)?;
        let mut request = Request::new(StateRequest {});
        caller.sign(&mut request);
        let asked = timeout(CHANGE_WITHIN, client.state(request).boxed()).await;
        let mut parts = asked.unwrap_or_else(|_| Err(late()))?.into_inner();
        let mut meta = None;
        let mut assembly = Assembly::new();
        let damaged = |error: TransferError| Status::data_loss(error.to_string());
        loop {
            let part = timeout(CHANGE_WITHIN, parts.message()).await;
            let part = part.unwrap_or_else(|_| Err(late()))?;
            match part.and_then(|part| part.part) {
                Some(snapshot_part::Part::Begin(begin)) => {
                    let head: SnapshotHead =
                        wire::decode(&begin.head).map_err(|error| malformed(&error))?;
                    meta = Some(head.meta);
                }
                Some(snapshot_part::Part::Frame(frame)) => {
                    assembly.push(&frame).map_err(damaged)?;
                }
                Some(snapshot_part::Part::End(_)) => break,
                None => return Err(Status::aborted("the state broke off")),
            }
        }
        let meta = meta.ok_or_else(|| Status::data_loss("the state has no head"))?;
        let image = assembly.finish().map_err(damaged)?;
        Ok(Received { meta, image })
    }

    async fn arrived(&self, to: &Target, transfer: &[u8]) -> Result<u64, Status> {
        let request = SnapshotProgressRequest {
            transfer: transfer.to_vec(),
        };
        let answer = self
            .call(
                to,
                Lane::Prompt,
                CONNECT,
                request,
                |mut client, request| async move { client.snapshot_progress(request).await },
            )
            .await?;
        Ok(answer.frames)
    }

    async fn send_snapshot(
        &self,
        to: &Target,
        head: &SnapshotHead,
        image: &Image,
        within: Duration,
    ) -> Result<SnapshotResponse<TypeConfig>, Status> {
        let transfer: [u8; 16] = rand::random();
        let mut from = 0;
        let mut breaks = 0;
        loop {
            let parts = parts(&transfer, head, image.frames(), from);
            let (mut client, caller) = self.client(to, Lane::Bulk)?;
            let mut request = Request::new(parts);
            caller.sign(&mut request);
            let sent = timeout(within, client.snapshot(request).boxed()).await;
            match sent
                .unwrap_or_else(|_| Err(late()))
                .map(Response::into_inner)
            {
                Ok(frame) => return wire::decode(&frame.body).map_err(|error| malformed(&error)),
                Err(status) if breaks == BREAKS || answered(&status) => return Err(status),
                Err(status) => {
                    breaks += 1;
                    tokio::time::sleep(PING).await;
                    from = self
                        .arrived(to, &transfer)
                        .await
                        .map_err(|_| status.clone())?;
                    tracing::info!(to = to.id, from, %status, "sending a snapshot goes on where it broke off");
                }
            }
        }
    }
}

/// The peer itself said no; trying again changes nothing.
fn answered(status: &Status) -> bool {
    let unfit = [Code::DataLoss, Code::InvalidArgument];
    refuses(status) || unfit.contains(&status.code())
}

type Parts = BoxStream<'static, SnapshotPart>;

pub(crate) fn parts(
    transfer: &[u8],
    head: &SnapshotHead,
    frames: impl Iterator<Item = Bytes> + Send + 'static,
    from: u64,
) -> Parts {
    let part = |part| SnapshotPart { part: Some(part) };
    let begin = snapshot_part::Begin {
        transfer: transfer.to_vec(),
        head: wire::encode(head),
        from,
    };
    let mut count = 0;
    let mut frames = frames;
    let mut ended = false;
    let rest = std::iter::from_fn(move || {
        loop {
            match frames.next() {
                Some(frame) => {
                    count += 1;
                    if count > from {
                        return Some(part(snapshot_part::Part::Frame(frame.to_vec())));
                    }
                }
                None if ended => return None,
                None => {
                    ended = true;
                    return Some(part(snapshot_part::Part::End(count)));
                }
            }
        }
    });
    stream::iter(std::iter::once(part(snapshot_part::Part::Begin(begin))).chain(rest)).boxed()
}

fn connect(to: &Target, tls: &PeerTls) -> Result<Channel, Status> {
    let failed = |error: &dyn std::fmt::Display| {
        Status::unavailable(format!("server {} at {}: {error}", to.id, to.address))
    };
    let endpoint = Endpoint::from_shared(format!("https://{}", to.address))
        .map_err(|error| failed(&error))?
        .tls_config(tls.towards(to.id))
        .map_err(|error| failed(&error))?
        .connect_timeout(CONNECT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(PING)
        .keep_alive_timeout(PONG)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW);
    Ok(endpoint.connect_lazy())
}

#[async_trait]
impl Transport for GrpcTransport {
    async fn append(
        &self,
        to: &Target,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask(
            to,
            option.hard_ttl(),
            &request,
            |mut client, request| async move { client.append(request).await },
        )
        .await
        .map_err(rpc)
    }

    fn streams(&self) -> bool {
        true
    }

    fn full(&self) -> BTreeSet<u64> {
        self.heard.full()
    }

    async fn appends(
        &self,
        to: &Target,
        mut requests: BoxStream<'static, AppendEntriesRequest<TypeConfig>>,
        _: RPCOption,
    ) -> Result<Appended, RPCError<TypeConfig>> {
        // Consensus waits between its attempts in this stream, and nowhere else: who connects before it asks for the first
        // request tries a server that is gone thousands of times a second.
        let Some(first) = requests.next().await else {
            return Ok(stream::empty().boxed());
        };
        let requests = stream::iter([first]).chain(requests);
        let frames = requests.map(|request| Frame {
            body: wire::encode(&request),
            full: false,
        });
        let (mut client, caller) = self.client(to, Lane::Bulk).map_err(rpc)?;
        let mut request = Request::new(frames.boxed());
        caller.sign(&mut request);
        let begun = timeout(STREAM_WITHIN, client.appends(request).boxed()).await;
        let answers = begun.unwrap_or_else(|_| Err(late())).map_err(|status| {
            self.heard.failure(&status);
            self.heard.refusal(to.id, &status);
            rpc(status)
        })?;
        // Ends where the peer ends it: with the requests, or after a refusal.
        let (heard, id) = (self.heard.clone(), to.id);
        let read = answers.into_inner().map(move |answer| {
            let frame = answer.map_err(rpc)?;
            heard.answer(id, frame.full);
            wire::decode::<StreamAppendResult<TypeConfig>>(&frame.body)
                .map_err(|error| rpc(malformed(&error)))
        });
        Ok(read.boxed())
    }

    async fn vote(
        &self,
        to: &Target,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask(
            to,
            option.hard_ttl(),
            &request,
            |mut client, request| async move { client.vote(request).await },
        )
        .await
        .map_err(rpc)
    }

    async fn pre_vote(
        &self,
        to: &Target,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask(
            to,
            option.hard_ttl(),
            &request,
            |mut client, request| async move { client.pre_vote(request).await },
        )
        .await
        .map_err(rpc)
    }

    async fn snapshot(
        &self,
        to: &Target,
        vote: VoteOf<TypeConfig>,
        snapshot: SnapshotOf<TypeConfig, Image>,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let head = SnapshotHead {
            vote,
            meta: snapshot.meta,
        };
        tracing::info!(to = to.id, "sending a snapshot");
        self.send_snapshot(to, &head, &snapshot.snapshot, option.hard_ttl())
            .await
            .map_err(streaming)
    }

    async fn transfer_leader(
        &self,
        to: &Target,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask(
            to,
            option.hard_ttl(),
            &request,
            |mut client, request| async move { client.transfer_leader(request).await },
        )
        .await
        .map_err(rpc)
    }

    async fn propose(&self, to: &Target, batch: Batch) -> Result<Outcomes, ForwardError> {
        self.ask(
            to,
            FORWARD_WITHIN,
            &batch,
            |mut client, request| async move { client.propose(request).await },
        )
        .await
        .map_err(|status| forwarded(&status))
    }

    async fn read_index(&self, to: &Target) -> Result<Option<LogId>, ForwardError> {
        let answer = self
            .call(
                to,
                Lane::Prompt,
                FORWARD_WITHIN,
                ReadIndexRequest {},
                |mut client, request| async move { client.read_index(request).await },
            )
            .await
            .map_err(|status| forwarded(&status))?;
        wire::decode(&answer.body).map_err(|_| ForwardError::Nothing)
    }
}
