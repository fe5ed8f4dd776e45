//! Admitting, promoting and removing servers, and handing over the leadership: by whoever leads, asked on any server.

use crate::call::refuses;
use crate::client::GrpcTransport;
use crate::roster::{self, Member, RosterError};
use caravel_rpc::peer::v1::change_request::Change;
use caravel_rpc::peer::v1::{AdmitRequest, ChangeRequest};
use caravel_store::{MemberError, Store, Target};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tonic::{Code, Status};

/// How long a new server may take to catch up before it is left a learner.
const CATCH_UP: Duration = Duration::from_secs(60);
/// How long a change waits for a leader, and for one to take over.
const LEADER_WITHIN: Duration = Duration::from_secs(20);
const AGAIN: Duration = Duration::from_millis(100);

/// Why the membership was not changed.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    #[error("this server does not lead")]
    NotLeader,
    #[error("no leader was reached: {0}")]
    Unreached(String),
    #[error("{0}")]
    Refused(String),
    #[error(transparent)]
    Roster(#[from] RosterError),
    #[error("the outcome is unknown: {0}. Look at the list of members")]
    Unsettled(String),
}

impl From<MemberError> for MembershipError {
    fn from(error: MemberError) -> Self {
        match error {
            MemberError::NotLeader(_) => Self::NotLeader,
            MemberError::Unsettled(why) => Self::Unsettled(why),
            other => Self::Refused(other.to_string()),
        }
    }
}

impl From<Status> for MembershipError {
    fn from(status: Status) -> Self {
        match status.code() {
            Code::Unavailable => Self::Unreached(status.message().to_owned()),
            code if refuses(&status) || code == Code::InvalidArgument => {
                Self::Refused(status.message().to_owned())
            }
            _ => Self::Unsettled(status.message().to_owned()),
        }
    }
}

/// How far a new server has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    /// False: a learner still.
    pub voter: bool,
}

/// The membership as one server can change it.
#[derive(Clone)]
pub struct Membership {
    store: Store,
    transport: Arc<GrpcTransport>,
}

/// Changes made by this server, if it leads.
pub(crate) struct Here<'a>(&'a Membership);

impl Membership {
    #[must_use]
    pub fn new(store: Store, transport: Arc<GrpcTransport>) -> Self {
        Self { store, transport }
    }

    /// This server's copy of the state.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// How this server speaks with the others.
    #[must_use]
    pub fn transport(&self) -> &GrpcTransport {
        &self.transport
    }

    pub(crate) fn here(&self) -> Here<'_> {
        Here(self)
    }

    /// Adds a server as a learner, and as a voter once it has caught up.
    ///
    /// # Errors
    /// See [`MembershipError`].
    pub async fn admit(&self, member: Member) -> Result<Admission, MembershipError> {
        let deadline = Instant::now() + LEADER_WITHIN;
        loop {
            match self.here().admit(&member).await {
                Err(MembershipError::NotLeader) => {}
                done => return done,
            }
            if let Some(leader) = self.elsewhere() {
                let request = AdmitRequest {
                    id: member.id,
                    incarnation: member.incarnation,
                    name: member.name.clone(),
                    peer_address: member.peer_address.clone(),
                    api_url: member.api_url.clone(),
                    supports: member.supports,
                };
                match self.transport.admit(&leader, request).await {
                    Err(status) if status.code() == Code::Unavailable => {}
                    Ok(answer) => {
                        return Ok(Admission {
                            voter: answer.voter,
                        });
                    }
                    Err(status) => return Err(status.into()),
                }
            }
            again(deadline).await?;
        }
    }

    /// Takes a server out for ever.
    ///
    /// # Errors
    /// See [`MembershipError`].
    pub async fn remove(&self, id: u64) -> Result<(), MembershipError> {
        self.change(Change::Remove(id)).await.map(|_| ())
    }

    /// Gives a learner its vote.
    ///
    /// # Errors
    /// See [`MembershipError`].
    pub async fn promote(&self, id: u64) -> Result<(), MembershipError> {
        self.change(Change::Promote(id)).await.map(|_| ())
    }

    /// Hands the leadership over; who leads then.
    ///
    /// # Errors
    /// See [`MembershipError`].
    pub async fn lead(&self, to: Option<u64>) -> Result<u64, MembershipError> {
        self.change(Change::Lead(to.unwrap_or(0))).await
    }

    async fn change(&self, change: Change) -> Result<u64, MembershipError> {
        let deadline = Instant::now() + LEADER_WITHIN;
        loop {
            let here = self.here();
            let done = match change {
                Change::Remove(id) => here.remove(id).await.map(|()| 0),
                Change::Promote(id) => here.promote(id).await.map(|()| 0),
                Change::Lead(to) => here.lead((to != 0).then_some(to)).await,
            };
            match done {
                Err(MembershipError::NotLeader) => {}
                done => return done,
            }
            if let Some(leader) = self.elsewhere() {
                let request = ChangeRequest {
                    change: Some(change),
                };
                match self.transport.change(&leader, request).await {
                    Err(status) if status.code() == Code::Unavailable => {}
                    Ok(answer) => return Ok(answer.leader),
                    Err(status) => return Err(status.into()),
                }
            }
            again(deadline).await?;
        }
    }

    /// Who leads, if it is another server.
    #[must_use]
    pub fn elsewhere(&self) -> Option<Target> {
        let leader = self.store.members().leader()?;
        (leader.id != self.store.identity().node).then_some(leader)
    }
}

async fn again(deadline: Instant) -> Result<(), MembershipError> {
    if Instant::now() >= deadline {
        return Err(MembershipError::Unreached(
            "no server leads with a majority".into(),
        ));
    }
    sleep(AGAIN).await;
    Ok(())
}

impl Here<'_> {
    fn leads(&self) -> Result<(), MembershipError> {
        let store = &self.0.store;
        match store.leadership().borrow().as_ref() {
            Some(_) => Ok(()),
            None => Err(MembershipError::NotLeader),
        }
    }

    pub async fn admit(&self, member: &Member) -> Result<Admission, MembershipError> {
        self.leads()?;
        let store = &self.0.store;
        store.fits(member.id, member.supports())?;
        roster::write(store, member).await?;
        let members = store.members();
        store
            .admit(member.id, &member.peer_address, member.supports())
            .await?;
        tracing::info!(server = member.id, name = %member.name, "admitted as a learner");
        match members.promote(member.id, Instant::now() + CATCH_UP).await {
            Ok(()) => {
                tracing::info!(server = member.id, "has a vote");
                Ok(Admission { voter: true })
            }
            Err(MemberError::Behind(_)) => Ok(Admission { voter: false }),
            Err(error) => Err(error.into()),
        }
    }

    pub async fn remove(&self, id: u64) -> Result<(), MembershipError> {
        self.leads()?;
        let store = &self.0.store;
        if id == store.identity().node {
            // Whoever takes over removes this server; it cannot tell of its own end.
            self.lead(None).await?;
            return Err(MembershipError::NotLeader);
        }
        match store.members().remove(id).await {
            Ok(()) => {}
            // Invited and never admitted, or removed by a call whose answer was lost.
            Err(MemberError::Unknown(_)) if known(store, id)? => {}
            Err(error) => return Err(error.into()),
        }
        roster::remove(store, id).await?;
        tracing::info!(server = id, "removed");
        Ok(())
    }

    pub async fn promote(&self, id: u64) -> Result<(), MembershipError> {
        self.leads()?;
        let members = self.0.store.members();
        Ok(members.promote(id, Instant::now() + CATCH_UP).await?)
    }

    pub async fn lead(&self, to: Option<u64>) -> Result<u64, MembershipError> {
        self.leads()?;
        let members = self.0.store.members();
        Ok(members.transfer(to, Instant::now() + LEADER_WITHIN).await?)
    }
}

fn known(store: &Store, id: u64) -> Result<bool, RosterError> {
    Ok(roster::find(&store.snapshot(), id)?.is_some())
}
