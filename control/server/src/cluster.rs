//! The cluster's own service for tools: members, health and events, and changing who belongs. Whoever leads carries it out.

mod events;
mod recent;
mod tokens;
mod view;

use crate::{rotation, saved};
use caravel_peers::membership::{Membership, MembershipError};
use caravel_peers::roster;
use caravel_rpc::cluster::v1::cluster_server::{Cluster, ClusterServer};
use caravel_rpc::cluster::v1::{
    CreateJoinTokenRequest, CreateJoinTokenResponse, DeleteJoinTokenRequest,
    DeleteJoinTokenResponse, HealthRequest, HealthResponse, Latency, ListJoinTokensRequest,
    ListJoinTokensResponse, MemberSealing, MembersRequest, MembersResponse, PromoteMemberRequest,
    PromoteMemberResponse, RemoveMemberRequest, RemoveMemberResponse, Replication,
    RotateKeysRequest, RotateKeysResponse, SaveSnapshotRequest, SaveSnapshotResponse,
    SealingRequest, SealingResponse, SnapshotInfo, TransferLeadershipRequest,
    TransferLeadershipResponse, WatchEventsRequest, WatchEventsResponse,
};
use caravel_store::latency::Counted;
use caravel_store::{BackupRefused, Store, Target};
use futures::future::join_all;
use futures::stream::{self, BoxStream};
use futures::{FutureExt as _, StreamExt as _};
use recent::Recent;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokens::Tokens;
use tokio::sync::Semaphore;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use view::{Own, View};

/// How often a watch of events looks.
const LOOK: Duration = Duration::from_millis(500);
/// Watches of events at once.
const WATCHES: usize = 64;

#[derive(Clone)]
pub(crate) struct ClusterService {
    membership: Membership,
    name: String,
    /// Where the server's data lies.
    data_dir: PathBuf,
    flushes: Arc<Recent>,
    watches: Arc<Semaphore>,
    /// Watches end with the server.
    stop: CancellationToken,
}

impl ClusterService {
    pub(crate) fn new(
        membership: Membership,
        name: String,
        data_dir: PathBuf,
        stop: CancellationToken,
    ) -> Self {
        Self {
            membership,
            name,
            data_dir,
            flushes: Arc::default(),
            watches: Arc::new(Semaphore::new(WATCHES)),
            stop,
        }
    }

    pub(crate) fn into_server(self) -> ClusterServer<Self> {
        ClusterServer::new(self)
    }

    fn store(&self) -> &Store {
        self.membership.store()
    }

    /// How far the others are, by whoever leads; empty if it cannot be asked.
    async fn replication(&self) -> Vec<Replication> {
        let seen = self.store().status();
        if seen.leads {
            let replicas = self.store().members().list().into_iter();
            return replicas
                .map(|replica| Replication {
                    id: replica.id,
                    lag: replica.lag(seen.last_log),
                    silent_ms: replica.silent_ms(seen.led),
                })
                .collect();
        }
        let Some(leader) = self.membership.elsewhere() else {
            return Vec::new();
        };
        match self.membership.transport().observe(&leader).await {
            Ok(told) => told
                .replicas
                .into_iter()
                .map(|replica| Replication {
                    id: replica.id,
                    lag: replica.lag,
                    silent_ms: replica.silent_ms,
                })
                .collect(),
            Err(status) => {
                tracing::debug!(leader = leader.id, %status, "the leader was not asked how far the others are");
                Vec::new()
            }
        }
    }

    /// Everything as of now; `lags` as the leader tells.
    fn view(&self, lags: &[Replication]) -> Result<View, Status> {
        let snapshot = self.store().snapshot();
        let known = roster::all(&snapshot).map_err(|error| Status::internal(error.to_string()))?;
        let members = view::members(known, &self.store().members().list(), lags);
        let agreed =
            rotation::agreed(&snapshot).map_err(|error| Status::internal(error.to_string()))?;
        let agreed = agreed.map(|(agreed, _)| agreed);
        let seen = self.store().status();
        let in_touch = *self.store().contact().borrow();
        let (disk_bytes, disk_free) = self.disk();
        let own = Own {
            id: seen.node_id,
            stopped: !seen.healthy,
            full: seen.full.clone(),
            leader: seen.leader.filter(|_| in_touch).unwrap_or(0),
            flush: self.flushes.mean(&seen.flushes),
            disk_bytes,
            disk_free,
            next_key: agreed
                .as_ref()
                .and_then(|agreed| Some(agreed.next.as_ref()?.id)),
        };
        Ok(View {
            leader: own.leader,
            term: seen.term,
            alarms: view::alarms(&members, &own),
            members,
            snapshots: saved::all(&snapshot),
            key: agreed.map_or_else(|| self.store().sealing().key, |agreed| agreed.current.id),
        })
    }

    /// Bytes of the file system with the data, and those that are free; zero where it cannot be asked.
    fn disk(&self) -> (u64, u64) {
        let Ok(seen) = nix::sys::statvfs::statvfs(&self.data_dir) else {
            return (0, 0);
        };
        let block = seen.fragment_size();
        (
            seen.blocks().saturating_mul(block),
            seen.blocks_available().saturating_mul(block),
        )
    }
}

fn now() -> u64 {
    caravel_api::time::now().as_second().unsigned_abs()
}

fn now_ms() -> u64 {
    u64::try_from(caravel_api::time::now().as_millisecond()).unwrap_or(0)
}

fn latency(counted: &Counted) -> Latency {
    Latency {
        count: counted.count,
        p50_seconds: counted.quantile(0.5),
        p99_seconds: counted.quantile(0.99),
        mean_seconds: match counted.count {
            0 => 0.0,
            count => counted.sum.as_secs_f64() / count as f64,
        },
    }
}

fn status(error: &MembershipError) -> Status {
    let text = error.to_string();
    match error {
        MembershipError::NotLeader | MembershipError::Unreached(_) => Status::unavailable(text),
        MembershipError::Refused(_) | MembershipError::Roster(_) => {
            Status::failed_precondition(text)
        }
        MembershipError::Unsettled(_) => Status::aborted(text),
    }
}

/// What a watch of events goes on with.
struct Watching {
    service: ClusterService,
    last: View,
    waiting: VecDeque<WatchEventsResponse>,
    tick: tokio::time::Interval,
    _permit: tokio::sync::OwnedSemaphorePermit,
}

impl Watching {
    /// The next event; `None` when the server ends.
    async fn next(mut self) -> Option<(Result<WatchEventsResponse, Status>, Self)> {
        let stop = self.service.stop.clone();
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Some((Ok(event), self));
            }
            stop.run_until_cancelled(self.tick.tick()).await?;
            let lags = self.service.replication().await;
            let now = match self.service.view(&lags) {
                Ok(now) => now,
                Err(status) => return Some((Err(status), self)),
            };
            let unix_ms = now_ms();
            let events = events::between(&self.last, &now).into_iter();
            self.waiting.extend(events.map(|event| WatchEventsResponse {
                unix_ms,
                event: Some(event),
            }));
            self.last = now;
        }
    }
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn members(
        &self,
        _: Request<MembersRequest>,
    ) -> Result<Response<MembersResponse>, Status> {
        let view = self.view(&self.replication().await)?;
        Ok(Response::new(MembersResponse {
            cluster: format!("{:032x}", self.store().identity().cluster),
            leader: view.leader,
            term: view.term,
            members: view.members,
            level: self.store().level().0,
        }))
    }

    async fn remove_member(
        &self,
        request: Request<RemoveMemberRequest>,
    ) -> Result<Response<RemoveMemberResponse>, Status> {
        let id = request.into_inner().id;
        self.membership
            .remove(id)
            .await
            .map_err(|error| status(&error))?;
        Ok(Response::new(RemoveMemberResponse {}))
    }

    async fn promote_member(
        &self,
        request: Request<PromoteMemberRequest>,
    ) -> Result<Response<PromoteMemberResponse>, Status> {
        let id = request.into_inner().id;
        self.membership
            .promote(id)
            .await
            .map_err(|error| status(&error))?;
        Ok(Response::new(PromoteMemberResponse {}))
    }

    async fn transfer_leadership(
        &self,
        request: Request<TransferLeadershipRequest>,
    ) -> Result<Response<TransferLeadershipResponse>, Status> {
        let to = request.into_inner().to;
        let leader = self.membership.lead((to != 0).then_some(to)).await;
        let leader = leader.map_err(|error| status(&error))?;
        Ok(Response::new(TransferLeadershipResponse { leader }))
    }

    type SaveSnapshotStream = BoxStream<'static, Result<SaveSnapshotResponse, Status>>;

    async fn save_snapshot(
        &self,
        _: Request<SaveSnapshotRequest>,
    ) -> Result<Response<Self::SaveSnapshotStream>, Status> {
        let saved = self.store().backup(now()).await;
        let (head, pieces) = saved.map_err(|error| match error {
            BackupRefused::NoQuorum(_) => Status::unavailable(error.to_string()),
            BackupRefused::Keys(_) => Status::internal(error.to_string()),
        })?;
        tracing::info!(revision = head.revision, "a snapshot is being saved");
        let mut info = Some(SnapshotInfo {
            cluster: head.cluster.clone(),
            revision: head.revision,
            objects: head.objects,
            created: head.created,
        });
        let messages = stream::iter(pieces.map(move |piece| {
            Ok(SaveSnapshotResponse {
                info: info.take(),
                piece: piece.to_vec(),
            })
        }));
        let store = self.store().clone();
        // Once all of it was taken.
        let noted = async move {
            if let Err(error) = saved::note(&store, &head).await {
                tracing::warn!("a snapshot was saved and not written down: {error:#}");
            }
            None
        };
        let noted = noted.into_stream().filter_map(std::future::ready);
        Ok(Response::new(messages.chain(noted).boxed()))
    }

    async fn health(&self, _: Request<HealthRequest>) -> Result<Response<HealthResponse>, Status> {
        let replicas = self.replication().await;
        let view = self.view(&replicas)?;
        let seen = self.store().status();
        let voters = u32::try_from(seen.voters.len()).unwrap_or(u32::MAX);
        let (disk_bytes, disk_free_bytes) = self.disk();
        Ok(Response::new(HealthResponse {
            id: seen.node_id,
            name: self.name.clone(),
            leads: seen.leads,
            leader: view.leader,
            term: seen.term,
            voters,
            quorum: voters / 2 + 1,
            revision: seen.revision.0,
            objects: seen.objects as u64,
            last_log: seen.last_log,
            applied: seen.applied,
            log_bytes: seen.log_bytes,
            alarms: view.alarms,
            replicas,
            flush: Some(latency(&seen.flushes)),
            commit: Some(latency(&seen.commits)),
            unix_ms: now_ms(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            disk_bytes,
            disk_free_bytes,
            last_snapshot: view.snapshots.into_iter().max_by_key(|saved| saved.created),
            level: seen.level.0,
            supports: seen.supports.0,
        }))
    }

    type WatchEventsStream = BoxStream<'static, Result<WatchEventsResponse, Status>>;

    async fn watch_events(
        &self,
        _: Request<WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        let permit = self.watches.clone().try_acquire_owned();
        let permit = permit.map_err(|_| {
            Status::resource_exhausted(format!("{WATCHES} watches of events are open already"))
        })?;
        let first = self.view(&self.replication().await)?;
        let mut tick = interval(LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let began = WatchEventsResponse {
            unix_ms: now_ms(),
            event: Some(events::began(&first)),
        };
        let watching = Watching {
            service: self.clone(),
            last: first,
            waiting: VecDeque::from([began]),
            tick,
            _permit: permit,
        };
        Ok(Response::new(
            stream::unfold(watching, Watching::next).boxed(),
        ))
    }

    async fn rotate_keys(
        &self,
        _: Request<RotateKeysRequest>,
    ) -> Result<Response<RotateKeysResponse>, Status> {
        match rotation::begin(self.store()).await {
            Ok(key) => {
                tracing::info!(key, "a new sealing key is being handed round");
                Ok(Response::new(RotateKeysResponse { key }))
            }
            Err(error @ rotation::BeginError::UnderWay(_)) => {
                Err(Status::failed_precondition(error.to_string()))
            }
            Err(error) => Err(Status::unavailable(error.to_string())),
        }
    }

    async fn create_join_token(
        &self,
        request: Request<CreateJoinTokenRequest>,
    ) -> Result<Response<CreateJoinTokenResponse>, Status> {
        let tokens = Tokens::of(&request)?;
        Ok(Response::new(tokens.create(request.get_ref()).await?))
    }

    async fn list_join_tokens(
        &self,
        request: Request<ListJoinTokensRequest>,
    ) -> Result<Response<ListJoinTokensResponse>, Status> {
        let tokens = Tokens::of(&request)?.list().await?;
        Ok(Response::new(ListJoinTokensResponse { tokens }))
    }

    async fn delete_join_token(
        &self,
        request: Request<DeleteJoinTokenRequest>,
    ) -> Result<Response<DeleteJoinTokenResponse>, Status> {
        Tokens::of(&request)?.delete(&request.get_ref().id).await?;
        Ok(Response::new(DeleteJoinTokenResponse {}))
    }

    async fn sealing(
        &self,
        _: Request<SealingRequest>,
    ) -> Result<Response<SealingResponse>, Status> {
        let view = self.view(&[])?;
        let agreed = rotation::agreed(&self.store().snapshot())
            .map_err(|error| Status::internal(error.to_string()))?;
        let next = agreed.and_then(|(agreed, _)| Some(agreed.next?.id));
        let replicas = self.store().members().list();
        let asked = replicas.into_iter().map(|replica| {
            let name = view
                .members
                .iter()
                .find(|member| member.id == replica.id)
                .map_or_else(String::new, |member| member.name.clone());
            self.sealing_of(replica.id, replica.address, name)
        });
        Ok(Response::new(SealingResponse {
            key: view.key,
            next: next.unwrap_or(0),
            members: join_all(asked).await,
        }))
    }
}

impl ClusterService {
    /// By which keys one member seals.
    async fn sealing_of(&self, id: u64, address: String, name: String) -> MemberSealing {
        if id == self.store().identity().node {
            let sealing = self.store().sealing();
            return MemberSealing {
                id,
                name,
                reached: true,
                key: sealing.key,
                resealing: sealing.is_resealing(),
                holds: sealing.holds,
            };
        }
        let target = Target { id, address };
        match self.membership.transport().observe(&target).await {
            Ok(seen) => MemberSealing {
                id,
                name,
                reached: true,
                key: seen.key,
                holds: seen.holds,
                resealing: seen.resealing,
            },
            Err(_) => MemberSealing {
                id,
                name,
                ..MemberSealing::default()
            },
        }
    }
}
