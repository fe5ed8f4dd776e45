//! Who belongs to the quorum, and how that changes: one server at a time, by the leader, first as a learner.
//!
//! A change that would leave the cluster without a majority of servers that answer is refused before it is tried.
//! Follows etcd's member commands (learner, promote, strict reconfiguration check) over openraft's joint consensus.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::Instant as _;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::raft::ClientWriteResponse;
use openraft::{BasicNode, ChangeMembers, RaftMetrics};
use tokio::time::{Instant, timeout_at};

use crate::level::Level;
use crate::propose::target;
use crate::raft::transport::Target;
use crate::raft::{LogId, Raft, TypeConfig};

/// Log entries that a learner may lack when it becomes a voter: it gets them within a heartbeat or two.
const NEARLY: u64 = 256;
/// A replica that has not answered the leader for this long does not count as living.
const SILENT: Duration = Duration::from_secs(3);
/// Until an agreed change shows in the list of members.
const TOLD: Duration = Duration::from_secs(5);

type Changed =
    Result<ClientWriteResponse<TypeConfig>, RaftError<TypeConfig, ClientWriteError<TypeConfig>>>;

/// One member as this replica knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    pub id: u64,
    /// Where other replicas reach it.
    pub address: String,
    /// False: a learner, which has a copy and no vote.
    pub voter: bool,
    /// The last log index known to be on its disk. Known on the leader only.
    pub matched: Option<u64>,
    /// Since it last answered the leader. Known on the leader only; zero for the leader itself.
    pub silent: Option<Duration>,
}

impl Replica {
    /// Entries that it lacks of a log whose last one is `end`.
    #[must_use]
    pub fn lag(&self, end: u64) -> Option<u64> {
        self.matched.map(|matched| end.saturating_sub(matched))
    }

    /// Milliseconds since it last answered a leader that has led for `led`: at least for as long, if it never did.
    #[must_use]
    pub fn silent_ms(&self, led: Option<Duration>) -> Option<u64> {
        let silent = self.silent.or(led)?;
        Some(u64::try_from(silent.as_millis()).unwrap_or(u64::MAX))
    }
}

/// Why the membership was not changed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum MemberError {
    /// Only the leader changes it; here is who leads, if known.
    #[error("this server does not lead")]
    NotLeader(Option<Target>),
    #[error("there is no member {0}")]
    Unknown(u64),
    #[error("another change of the membership is under way; try again when it is done")]
    Busy,
    #[error(
        "without server {id} only {living} of {voters} voters would answer, which is no majority. Bring the silent ones back or remove them first"
    )]
    Majority {
        id: u64,
        living: usize,
        voters: usize,
    },
    #[error("server {0} is the only voter")]
    Last(u64),
    #[error(
        "server {0} did not catch up in time; it goes on as a learner and can be promoted later"
    )]
    Behind(u64),
    #[error(
        "server {id} supports log entries up to level {supports}, and the cluster is at level {level}: start a newer release on it"
    )]
    Level {
        id: u64,
        supports: Level,
        level: Level,
    },
    #[error("no other voter answers that could lead")]
    Nobody,
    #[error("server {0} does not answer: it cannot take the leadership")]
    Silent(u64),
    #[error("the outcome is unknown: {0}")]
    Unsettled(String),
}

/// The membership of one replica's consensus.
#[derive(Clone)]
pub struct Members {
    pub(crate) raft: Raft,
}

impl Members {
    /// All members in order of their numbers.
    #[must_use]
    pub fn list(&self) -> Vec<Replica> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let voters: BTreeSet<u64> = membership.voter_ids().collect();
        let leads = metrics.current_leader == Some(metrics.id);
        let matched = |id: u64| match &metrics.replication {
            Some(known) if leads => known.get(&id).map(|id| id.map_or(0, |id| id.index)),
            _ => None,
        };
        let silent = |id: u64| {
            if leads && id == metrics.id {
                return Some(Duration::ZERO);
            }
            let answered = metrics.heartbeat.as_ref()?.get(&id)?.as_ref()?;
            Some(answered.elapsed())
        };
        membership
            .nodes()
            .map(|(id, node)| Replica {
                id: *id,
                address: node.addr.clone(),
                voter: voters.contains(id),
                matched: matched(*id),
                silent: silent(*id),
            })
            .collect()
    }

    /// Who leads, as far as this replica knows.
    #[must_use]
    pub fn leader(&self) -> Option<Target> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let id = metrics.current_leader?;
        let address = metrics
            .membership_config
            .membership()
            .get_node(&id)
            .map(|node| node.addr.clone())
            .unwrap_or_default();
        Some(Target { id, address })
    }

    /// Adds a learner; of a member that is there already it only keeps the address true.
    ///
    /// # Errors
    /// See [`MemberError`].
    pub async fn add(&self, id: u64, address: &str) -> Result<(), MemberError> {
        let node = BasicNode {
            addr: address.to_owned(),
        };
        let outcome = match self.list().into_iter().find(|member| member.id == id) {
            Some(member) if member.address == address => return Ok(()),
            Some(_) => {
                let moved = ChangeMembers::SetNodes(BTreeMap::from([(id, node)]));
                self.raft.change_membership(moved, true).await
            }
            None => self.raft.add_learner(id, node, false).await,
        };
        self.changed(outcome).await
    }

    /// A change that is agreed on, once the list of members shows it, which follows a little later.
    async fn changed(&self, outcome: Changed) -> Result<(), MemberError> {
        let agreed = Some(agreed(outcome)?);
        let shows =
            |metrics: &RaftMetrics<TypeConfig>| *metrics.membership_config.log_id() >= agreed;
        let wait = self.raft.wait(Some(TOLD));
        if let Err(error) = wait.metrics(shows, "the list of members").await {
            tracing::debug!(%error, "an agreed change does not show yet");
        }
        Ok(())
    }

    /// Gives a learner its vote once it has nearly all of the log.
    ///
    /// # Errors
    /// See [`MemberError`].
    pub async fn promote(&self, id: u64, deadline: Instant) -> Result<(), MemberError> {
        self.caught_up(id, deadline).await?;
        let voters = ChangeMembers::AddVoterIds(BTreeSet::from([id]));
        self.changed(self.raft.change_membership(voters, true).await)
            .await
    }

    async fn caught_up(&self, id: u64, deadline: Instant) -> Result<(), MemberError> {
        let mut metrics = self.raft.metrics();
        loop {
            if !self.raft.is_leader() {
                return Err(MemberError::NotLeader(self.leader()));
            }
            let members = self.list();
            let member = members
                .iter()
                .find(|member| member.id == id)
                .ok_or(MemberError::Unknown(id))?;
            let end = metrics.borrow_watched().last_log_index.unwrap_or(0);
            if member.voter
                || member
                    .matched
                    .is_some_and(|at| at > 0 && at + NEARLY >= end)
            {
                return Ok(());
            }
            match timeout_at(deadline, metrics.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(MemberError::NotLeader(None)),
                Err(_) => return Err(MemberError::Behind(id)),
            }
        }
    }

    /// Takes a member out. The leader that takes out itself steps down once that is agreed.
    ///
    /// # Errors
    /// See [`MemberError`].
    pub async fn remove(&self, id: u64) -> Result<(), MemberError> {
        let members = self.list();
        let member = members
            .iter()
            .find(|member| member.id == id)
            .ok_or(MemberError::Unknown(id))?;
        let gone = BTreeSet::from([id]);
        let gone = if member.voter {
            keeps_majority(&members, id)?;
            ChangeMembers::RemoveVoters(gone)
        } else {
            ChangeMembers::RemoveNodes(gone)
        };
        self.changed(self.raft.change_membership(gone, false).await)
            .await
    }

    /// Hands the leadership to `to`, or to the living voter that has most of the log, and waits until it leads.
    ///
    /// # Errors
    /// See [`MemberError`].
    pub async fn transfer(&self, to: Option<u64>, deadline: Instant) -> Result<u64, MemberError> {
        if !self.raft.is_leader() {
            return Err(MemberError::NotLeader(self.leader()));
        }
        let me = *self.raft.node_id();
        let members = self.list();
        let to = match to {
            Some(id) => match members
                .iter()
                .find(|member| member.id == id && member.voter)
            {
                Some(member) if id == me || living(member) => id,
                Some(_) => return Err(MemberError::Silent(id)),
                None => return Err(MemberError::Unknown(id)),
            },
            None => members
                .iter()
                .filter(|member| member.id != me && member.voter && living(member))
                .max_by_key(|member| member.matched)
                .map(|member| member.id)
                .ok_or(MemberError::Nobody)?,
        };
        if to == me {
            return Ok(me);
        }
        let mut metrics = self.raft.metrics();
        self.raft
            .trigger()
            .transfer_leader(to)
            .await
            .map_err(|error| MemberError::Unsettled(error.to_string()))?;
        loop {
            if metrics.borrow_watched().current_leader == Some(to) {
                return Ok(to);
            }
            match timeout_at(deadline, metrics.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => {
                    return Err(MemberError::Unsettled(format!(
                        "server {to} did not take the leadership in time"
                    )));
                }
            }
        }
    }
}

fn living(member: &Replica) -> bool {
    member.silent.is_some_and(|silent| silent < SILENT)
}

/// Would a majority of the voters without `id` answer?
fn keeps_majority(members: &[Replica], id: u64) -> Result<(), MemberError> {
    let rest = || {
        members
            .iter()
            .filter(|member| member.voter && member.id != id)
    };
    let (voters, living) = (rest().count(), rest().filter(|one| living(one)).count());
    if voters == 0 {
        return Err(MemberError::Last(id));
    }
    if living * 2 <= voters {
        return Err(MemberError::Majority { id, living, voters });
    }
    Ok(())
}

/// Where in the log a change is that was agreed on.
fn agreed(outcome: Changed) -> Result<LogId, MemberError> {
    match outcome {
        Ok(change) => Ok(change.log_id),
        Err(RaftError::APIError(ClientWriteError::ForwardToLeader(leader))) => {
            Err(MemberError::NotLeader(target(&leader)))
        }
        Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(
            ChangeMembershipError::InProgress(_),
        ))) => Err(MemberError::Busy),
        Err(other) => Err(MemberError::Unsettled(other.to_string())),
    }
}

/// The voters of a new cluster.
pub(crate) fn founders(members: BTreeMap<u64, String>) -> BTreeMap<u64, BasicNode> {
    members
        .into_iter()
        .map(|(id, addr)| (id, BasicNode { addr }))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_removed_who_is_needed() {
        let member = |id: u64, voter: bool, silent: Option<u64>| Replica {
            id,
            address: String::new(),
            voter,
            matched: None,
            silent: silent.map(Duration::from_secs),
        };
        let kept = |members: &[(u64, bool, Option<u64>)], id: u64| {
            let members: Vec<Replica> = members
                .iter()
                .map(|(id, voter, silent)| member(*id, *voter, *silent))
                .collect();
            keeps_majority(&members, id).map_err(|error| error.to_string())
        };
        let living = Some(0);
        let silent = Some(9);
        assert!(
            kept(
                &[(1, true, living), (2, true, living), (3, true, living)],
                1
            )
            .is_ok()
        );
        assert!(
            kept(
                &[(1, true, living), (2, true, living), (3, true, silent)],
                3
            )
            .is_ok()
        );
        assert!(
            kept(
                &[(1, true, living), (2, true, living), (3, true, silent)],
                2
            )
            .is_err()
        );
        assert!(kept(&[(1, true, living), (2, true, None)], 1).is_err());
        assert!(kept(&[(1, true, living), (2, false, living)], 1).is_err());
    }
}
