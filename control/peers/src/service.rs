//! The receiving side: every call is checked for who speaks, then handed to this replica.

use crate::Caller;
use crate::call::{malformed, stopped};
use crate::client::{MESSAGE, parts};
use crate::heard::REMOVED;
use crate::incoming::{Incoming, PartError, Transfer};
use crate::line::Lines;
use crate::membership::{Membership, MembershipError};
use crate::roster::Member;
use caravel_rpc::peer::v1::change_request::Change;
use caravel_rpc::peer::v1::peer_server::{Peer as PeerRpc, PeerServer};
use caravel_rpc::peer::v1::{
    AdmitRequest, AdmitResponse, ChangeRequest, ChangeResponse, Frame, HoldKeyRequest,
    HoldKeyResponse, KeysRequest, KeysResponse, ObserveRequest, ObserveResponse, ReadIndexRequest,
    SnapshotPart, SnapshotProgressRequest, SnapshotProgressResponse, StateRequest,
    observe_response, snapshot_part::Part,
};
use caravel_store::wire::{self, SnapshotHead, Wire};
use caravel_store::{
    Batch, ForwardError, Image, KeyError, Peer, RecordError, TransferError, TypeConfig,
};
use futures::StreamExt as _;
use futures::future::ready;
use futures::stream::{self, BoxStream};
use openraft::alias::SnapshotOf;
use openraft::raft::{AppendEntriesRequest, TransferLeaderRequest, VoteRequest};
use std::sync::Arc;
use tonic::{Request, Response, Status, Streaming};

/// What the peers' port needs of a server.
pub(crate) struct PeerService {
    pub membership: Membership,
    pub peer: Peer,
    pub incoming: Arc<Incoming>,
    pub lines: Lines,
}

impl PeerService {
    pub(crate) fn into_server(self) -> PeerServer<Self> {
        PeerServer::new(self)
            .max_decoding_message_size(MESSAGE)
            .max_encoding_message_size(MESSAGE)
    }

    fn check<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        Caller::check(request, self.membership.store()).inspect_err(|status| {
            tracing::debug!(%status, "a call of another server was refused");
        })
    }

    /// Reads a message of a caller that may speak.
    fn read<T: Wire>(&self, request: Request<Frame>) -> Result<T, Status> {
        self.check(&request)?;
        wire::decode(&request.into_inner().body).map_err(|error| malformed(&error))
    }

    fn frame<T: Wire>(&self, message: &T) -> Response<Frame> {
        Response::new(Frame {
            body: wire::encode(message),
            full: self.peer.is_full(),
        })
    }

    async fn receive(
        &self,
        mut transfer: Transfer,
        mut parts: Streaming<SnapshotPart>,
    ) -> Result<Image, Status> {
        loop {
            match parts.message().await {
                Ok(Some(SnapshotPart {
                    part: Some(Part::Frame(frame)),
                })) => transfer.push(&frame).map_err(|error| {
                    if matches!(error, PartError::Damaged(TransferError::Version)) {
                        self.peer.halt(&error);
                    }
                    refused(error)
                })?,
                Ok(Some(SnapshotPart {
                    part: Some(Part::End(sent)),
                })) => return transfer.finish(sent).map_err(refused),
                Ok(Some(_)) => return Err(Status::invalid_argument("a part out of place")),
                Ok(None) => {
                    self.incoming.keep(transfer);
                    return Err(Status::aborted("the snapshot broke off"));
                }
                Err(status) => {
                    self.incoming.keep(transfer);
                    return Err(status);
                }
            }
        }
    }
}

/// What whoever leads says must be in this server's log or state. What this release does not know of it is never left out:
/// it stops this server.
fn followed<T: Wire>(peer: &Peer, body: &[u8]) -> Result<T, RecordError> {
    wire::decode(body).inspect_err(|error: &RecordError| {
        if error.is_newer() {
            peer.halt(error);
        }
    })
}

fn refused(error: PartError) -> Status {
    match error {
        PartError::Gap { .. } => Status::aborted(error.to_string()),
        PartError::Short { .. } | PartError::Damaged(_) => Status::data_loss(error.to_string()),
    }
}

/// As a status; a server that was removed finds it in the metadata.
pub(crate) fn removed(status: Status) -> Status {
    let mut status = status;
    status
        .metadata_mut()
        .insert(REMOVED, tonic::metadata::MetadataValue::from_static("1"));
    status
}

fn changed(error: &MembershipError) -> Status {
    match error {
        MembershipError::NotLeader | MembershipError::Unreached(_) => {
            Status::unavailable(error.to_string())
        }
        MembershipError::Refused(_) | MembershipError::Roster(_) => {
            Status::failed_precondition(error.to_string())
        }
        // What this means is said where it is shown.
        MembershipError::Unsettled(why) => Status::aborted(why.as_str()),
    }
}

#[tonic::async_trait]
impl PeerRpc for PeerService {
    async fn append(&self, request: Request<Frame>) -> Result<Response<Frame>, Status> {
        self.check(&request)?;
        let request = followed(&self.peer, &request.into_inner().body);
        let request = request.map_err(|error| malformed(&error))?;
        let answer = self.peer.append(request).await;
        Ok(self.frame(&answer.map_err(|error| stopped(&error))?))
    }

    type AppendsStream = BoxStream<'static, Result<Frame, Status>>;

    async fn appends(
        &self,
        request: Request<Streaming<Frame>>,
    ) -> Result<Response<Self::AppendsStream>, Status> {
        let caller = self.check(&request)?;
        let peer = self.peer.clone();
        let line = Arc::new(self.lines.from(caller.from));
        let ended = line.clone();
        // A broken stream or a message that cannot be read ends the appends; the leader begins anew.
        let requests = request
            .into_inner()
            .map(move |message| {
                let read = message
                    .ok()
                    .and_then(|frame| followed(&peer, &frame.body).ok());
                if read.is_none() {
                    tracing::debug!(from = caller.from, "a stream of appends broke off");
                }
                read
            })
            .chain(stream::once(async move {
                ended.end();
                None
            }))
            .take_while(|read: &Option<AppendEntriesRequest<TypeConfig>>| ready(read.is_some()))
            .filter_map(ready);
        let peer = self.peer.clone();
        let answers = self.peer.appends(requests).map(move |answer| {
            let answer = answer.map_err(|error| stopped(&error))?;
            if answer.is_err() {
                // A refusal is the last answer.
                line.end();
            }
            Ok(Frame {
                body: wire::encode(&answer),
                full: peer.is_full(),
            })
        });
        Ok(Response::new(answers.boxed()))
    }

    async fn vote(&self, request: Request<Frame>) -> Result<Response<Frame>, Status> {
        let request: VoteRequest<TypeConfig> = self.read(request)?;
        let answer = self.peer.vote(request).await;
        Ok(self.frame(&answer.map_err(|error| stopped(&error))?))
    }

    async fn pre_vote(&self, request: Request<Frame>) -> Result<Response<Frame>, Status> {
        let request: VoteRequest<TypeConfig> = self.read(request)?;
        let answer = self.peer.pre_vote(request).await;
        Ok(self.frame(&answer.map_err(|error| stopped(&error))?))
    }

    async fn snapshot_progress(
        &self,
        request: Request<SnapshotProgressRequest>,
    ) -> Result<Response<SnapshotProgressResponse>, Status> {
        self.check(&request)?;
        let frames = self.incoming.arrived(&request.into_inner().transfer);
        Ok(Response::new(SnapshotProgressResponse { frames }))
    }

    async fn snapshot(
        &self,
        request: Request<Streaming<SnapshotPart>>,
    ) -> Result<Response<Frame>, Status> {
        let caller = self.check(&request)?;
        let line = self.lines.from(caller.from);
        let mut parts = request.into_inner();
        let Some(SnapshotPart {
            part: Some(Part::Begin(begin)),
        }) = parts.message().await?
        else {
            return Err(Status::invalid_argument("a snapshot begins with its head"));
        };
        let head = followed(&self.peer, &begin.head);
        let head: SnapshotHead = head.map_err(|error| malformed(&error))?;
        let transfer = self
            .incoming
            .begin(&begin.transfer, begin.from)
            .map_err(refused)?;
        tracing::info!(from_frame = begin.from, "a snapshot arrives");
        let image = self.receive(transfer, parts).await?;
        let snapshot = SnapshotOf::<TypeConfig, Image> {
            meta: head.meta,
            snapshot: image,
        };
        let answer = self.peer.snapshot(head.vote, snapshot).await;
        line.end();
        tracing::info!("a snapshot was installed");
        Ok(self.frame(&answer.map_err(|error| stopped(&error))?))
    }

    type StateStream = BoxStream<'static, Result<SnapshotPart, Status>>;

    async fn state(
        &self,
        request: Request<StateRequest>,
    ) -> Result<Response<Self::StateStream>, Status> {
        let caller = self.check(&request)?;
        let state = self.peer.state().await.map_err(|error| stopped(&error))?;
        let Some((head, image)) = state else {
            return Err(Status::unavailable("this server has no state itself"));
        };
        tracing::warn!(
            to = caller.from,
            "a server lost its objects and gets this one's"
        );
        Ok(Response::new(
            parts(&[], &head, image.frames(), 0).map(Ok).boxed(),
        ))
    }

    async fn transfer_leader(&self, request: Request<Frame>) -> Result<Response<Frame>, Status> {
        let request: TransferLeaderRequest<TypeConfig> = self.read(request)?;
        let answer = self.peer.transfer_leader(request).await;
        Ok(self.frame(&answer.map_err(|error| stopped(&error))?))
    }

    async fn propose(&self, request: Request<Frame>) -> Result<Response<Frame>, Status> {
        let batch: Batch = self.read(request)?;
        match self.peer.propose(batch).await {
            Ok(outcomes) => Ok(self.frame(&outcomes)),
            Err(ForwardError::Nothing) => Err(Status::unavailable("this server does not lead")),
            Err(ForwardError::Unknown) => Err(Status::aborted("the outcome is unknown")),
            Err(ForwardError::Full(why)) => Err(Status::resource_exhausted(why)),
        }
    }

    async fn read_index(
        &self,
        request: Request<ReadIndexRequest>,
    ) -> Result<Response<Frame>, Status> {
        self.check(&request)?;
        match self.peer.read_index().await {
            Ok(index) => Ok(self.frame(&index)),
            Err(_) => Err(Status::unavailable("this server does not lead")),
        }
    }

    async fn keys(&self, request: Request<KeysRequest>) -> Result<Response<KeysResponse>, Status> {
        let caller = self.check(&request)?;
        let (keys, current) = self.membership.store().keys();
        tracing::info!(to = caller.from, "handed the key ring to another server");
        let keys = keys.into_iter().map(|(id, key)| (id, key.to_vec()));
        Ok(Response::new(KeysResponse {
            keys: keys.collect(),
            current,
        }))
    }

    async fn hold_key(
        &self,
        request: Request<HoldKeyRequest>,
    ) -> Result<Response<HoldKeyResponse>, Status> {
        let caller = self.check(&request)?;
        let HoldKeyRequest { id, key } = request.into_inner();
        let key: [u8; 32] = key
            .try_into()
            .map_err(|_| Status::invalid_argument("a key has 32 bytes"))?;
        let store = self.membership.store().clone();
        let held = tokio::task::spawn_blocking(move || store.hold_key(id, key)).await;
        match held {
            Ok(Ok(())) => {}
            Ok(Err(error @ KeyError::Other(_))) => {
                return Err(Status::failed_precondition(error.to_string()));
            }
            Ok(Err(error)) => return Err(Status::internal(error.to_string())),
            Err(error) => return Err(Status::internal(error.to_string())),
        }
        tracing::info!(
            from = caller.from,
            key = id,
            "holds a key that was handed over"
        );
        Ok(Response::new(HoldKeyResponse {}))
    }

    async fn observe(
        &self,
        request: Request<ObserveRequest>,
    ) -> Result<Response<ObserveResponse>, Status> {
        self.check(&request)?;
        let store = self.membership.store();
        let (status, sealing) = (store.status(), store.sealing());
        let known = status.leads.then(|| store.members().list());
        let replicas = known.unwrap_or_default().into_iter();
        Ok(Response::new(ObserveResponse {
            leads: status.leads,
            replicas: replicas
                .map(|replica| observe_response::Replica {
                    id: replica.id,
                    lag: replica.lag(status.last_log),
                    silent_ms: replica.silent_ms(status.led),
                })
                .collect(),
            key: sealing.key,
            resealing: sealing.is_resealing(),
            holds: sealing.holds,
            supports: status.supports.0,
            level: status.level.0,
        }))
    }

    async fn admit(
        &self,
        request: Request<AdmitRequest>,
    ) -> Result<Response<AdmitResponse>, Status> {
        let caller = self.check(&request)?;
        let asked = request.into_inner();
        // Who speaks for another was asked by it, and takes this server to lead.
        let on_behalf = asked.id != caller.from;
        let member = Member {
            id: asked.id,
            name: asked.name,
            peer_address: asked.peer_address,
            api_url: asked.api_url,
            incarnation: asked.incarnation,
            removed: false,
            supports: asked.supports,
        };
        let admission = if on_behalf {
            self.membership.here().admit(&member).await
        } else {
            self.membership.admit(member).await
        };
        let admission = admission.map_err(|error| changed(&error))?;
        Ok(Response::new(AdmitResponse {
            voter: admission.voter,
        }))
    }

    async fn change(
        &self,
        request: Request<ChangeRequest>,
    ) -> Result<Response<ChangeResponse>, Status> {
        self.check(&request)?;
        let here = self.membership.here();
        let done = match request.into_inner().change {
            Some(Change::Remove(id)) => here.remove(id).await.map(|()| 0),
            Some(Change::Promote(id)) => here.promote(id).await.map(|()| 0),
            Some(Change::Lead(id)) => here.lead((id != 0).then_some(id)).await,
            None => return Err(Status::invalid_argument("no change is asked for")),
        };
        let leader = done.map_err(|error| changed(&error))?;
        Ok(Response::new(ChangeResponse { leader }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use caravel_store::{Command, Epoch, Level, Raise, Store};
    use openraft::EntryPayload;
    use std::time::Duration;
    use tokio::time::timeout;

    /// A release of after this one leads, and sends an entry of a version that this one does not know.
    #[tokio::test]
    async fn an_entry_of_a_later_release_stops_this_server() {
        let store = Store::memory().await.unwrap();
        let (peer, status) = (store.peer(), store.status());
        let place = store.place();
        let (last, vote) = (place.last.unwrap(), place.vote.unwrap());
        let raise = Command::Raise(Raise {
            epoch: Epoch { term: 1, node: 2 },
            to: Level(2),
        });
        let request = AppendEntriesRequest::<TypeConfig> {
            vote,
            prev_log_id: Some(last),
            leader_commit: None,
            entries: vec![openraft::Entry {
                log_id: last,
                payload: EntryPayload::Normal(raise),
            }],
        };
        let mut body = wire::encode(&request);
        assert!(followed::<AppendEntriesRequest<TypeConfig>>(&peer, &body).is_ok());
        assert!(store.status().healthy);
        // A log id, a kind, an epoch and the level come after the entry's version.
        let version = body.len() - (24 + 1 + 16 + 4) - 1;
        assert_eq!(body[version], 2);
        body[version] = 3;
        let refused = followed::<AppendEntriesRequest<TypeConfig>>(&peer, &body);
        assert!(matches!(refused, Err(RecordError::Version(3))));
        let why = timeout(Duration::from_secs(5), store.failure()).await;
        let why = why.unwrap();
        assert!(
            why.contains("version 3, which this release does not know"),
            "{why}"
        );
        assert!(!store.status().healthy);
        assert_eq!(store.status().last_log, status.last_log);
    }
}
