//! The cluster's own service for tools: members and health, and changing who belongs. Whoever leads carries it out.

use caravel_peers::membership::{Membership, MembershipError};
use caravel_peers::{Member as Known, roster};
use caravel_rpc::cluster::v1::cluster_server::{Cluster, ClusterServer};
use caravel_rpc::cluster::v1::member::Role;
use caravel_rpc::cluster::v1::{
    HealthRequest, HealthResponse, Member, MembersRequest, MembersResponse, PromoteMemberRequest,
    PromoteMemberResponse, RemoveMemberRequest, RemoveMemberResponse, SaveSnapshotRequest,
    SaveSnapshotResponse, SnapshotInfo, TransferLeadershipRequest, TransferLeadershipResponse,
};
use caravel_store::{BackupRefused, Replica, Store};
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use std::time::Duration;
use tonic::{Request, Response, Status};

/// A server that lacks more entries than this is far behind.
const FAR: u64 = 10_000;
/// A server that has been silent this long is down.
const SILENT: Duration = Duration::from_secs(3);

pub(crate) struct ClusterService {
    pub membership: Membership,
    pub name: String,
}

impl ClusterService {
    pub(crate) fn into_server(self) -> ClusterServer<Self> {
        ClusterServer::new(self)
    }

    fn store(&self) -> &Store {
        self.membership.store()
    }

    /// Roster and membership, put together.
    fn members(&self) -> Result<Vec<Member>, Status> {
        let known = roster::all(&self.store().snapshot())
            .map_err(|error| Status::internal(error.to_string()))?;
        let end = self.store().status().last_log;
        Ok(merged(known, &self.store().members().list(), end))
    }
}

fn merged(known: Vec<Known>, replicas: &[Replica], end: u64) -> Vec<Member> {
    known
        .into_iter()
        .map(|known| {
            let replica = replicas.iter().find(|replica| replica.id == known.id);
            let role = match replica {
                Some(replica) if replica.voter => Role::Voter,
                Some(_) => Role::Learner,
                None if known.removed => Role::Removed,
                None => Role::Invited,
            };
            Member {
                id: known.id,
                name: known.name,
                role: role.into(),
                peer_address: known.peer_address,
                api_url: known.api_url,
                lag: replica
                    .and_then(|replica| replica.matched)
                    .map(|matched| end.saturating_sub(matched)),
                silent_ms: replica
                    .and_then(|replica| replica.silent)
                    .map(|silent| u64::try_from(silent.as_millis()).unwrap_or(u64::MAX)),
            }
        })
        .collect()
}

fn now() -> u64 {
    caravel_api::time::now().as_second().unsigned_abs()
}

/// What is wrong with a cluster as one server sees it.
fn alarms(members: &[Member], leader: Option<u64>, healthy: bool) -> Vec<String> {
    let mut alarms = Vec::new();
    if !healthy {
        alarms.push("this server's store has stopped".to_owned());
    }
    if leader.is_none() {
        alarms.push("no server leads with a majority: writes are refused".to_owned());
    }
    for member in members {
        let silent = member.silent_ms.map(Duration::from_millis);
        if let Some(silent) = silent.filter(|silent| *silent > SILENT) {
            let seconds = silent.as_secs();
            alarms.push(format!(
                "server {} ({}) has not answered for {seconds} s",
                member.id, member.name
            ));
        } else if member.lag.is_some_and(|lag| lag > FAR) {
            alarms.push(format!(
                "server {} ({}) lacks {} entries of the log",
                member.id,
                member.name,
                member.lag.unwrap_or(0)
            ));
        }
        if member.role() == Role::Learner {
            alarms.push(format!(
                "server {} ({}) has no vote yet",
                member.id, member.name
            ));
        }
    }
    let voters = members
        .iter()
        .filter(|member| member.role() == Role::Voter)
        .count();
    if voters > 1 && voters % 2 == 0 {
        alarms.push(format!(
            "{voters} voters bear no more failures than {}: add one or remove one",
            voters - 1
        ));
    }
    alarms
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

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn members(
        &self,
        _: Request<MembersRequest>,
    ) -> Result<Response<MembersResponse>, Status> {
        let seen = self.store().status();
        Ok(Response::new(MembersResponse {
            cluster: format!("{:032x}", self.store().identity().cluster),
            leader: seen.leader.unwrap_or(0),
            term: seen.term,
            members: self.members()?,
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
            cluster: head.cluster,
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
        Ok(Response::new(messages.boxed()))
    }

    async fn health(&self, _: Request<HealthRequest>) -> Result<Response<HealthResponse>, Status> {
        let seen = self.store().status();
        let voters = u32::try_from(seen.voters.len()).unwrap_or(u32::MAX);
        Ok(Response::new(HealthResponse {
            id: seen.node_id,
            name: self.name.clone(),
            leads: seen.leads,
            leader: seen.leader.unwrap_or(0),
            term: seen.term,
            voters,
            quorum: voters / 2 + 1,
            revision: seen.revision.0,
            objects: seen.objects as u64,
            last_log: seen.last_log,
            applied: seen.applied,
            log_bytes: seen.log_bytes,
            alarms: alarms(&self.members()?, seen.leader, seen.healthy),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_said() {
        let known = |id: u64, removed: bool| Known {
            id,
            name: format!("s{id}"),
            incarnation: 1,
            removed,
            ..Known::default()
        };
        let replica = |id: u64, voter: bool, matched: u64, silent: u64| Replica {
            id,
            address: String::new(),
            voter,
            matched: Some(matched),
            silent: Some(Duration::from_secs(silent)),
        };
        let members = merged(
            vec![
                known(1, false),
                known(2, false),
                known(3, false),
                known(4, true),
                known(5, false),
            ],
            &[
                replica(1, true, 100, 0),
                replica(2, true, 90, 9),
                replica(3, false, 0, 0),
            ],
            100,
        );
        let roles: Vec<Role> = members.iter().map(|member| member.role()).collect();
        assert_eq!(
            roles,
            [
                Role::Voter,
                Role::Voter,
                Role::Learner,
                Role::Removed,
                Role::Invited
            ]
        );
        assert_eq!(members[1].lag, Some(10));
        let said = alarms(&members, None, true);
        for expected in [
            "no server leads",
            "server 2 (s2) has not answered for 9 s",
            "server 3 (s3) has no vote",
            "2 voters",
        ] {
            assert!(
                said.iter().any(|alarm| alarm.contains(expected)),
                "{expected}: {said:?}"
            );
        }
        assert!(alarms(&members[..1], Some(1), true).is_empty());
    }
}
