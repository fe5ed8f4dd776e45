//! The level as a store has it: what it proposes, whom it admits, and how the level rises. What a level is: `level.rs`.

use std::collections::BTreeMap;

use openraft::errors::{ClientWriteError, RaftError};
use tokio::time::timeout;

use super::Store;
use crate::level::{self, Level, Raise, RaiseError};
use crate::members::MemberError;
use crate::raft::Command;
use crate::txn::{Epoch, Txn};

impl Store {
    /// The cluster's, as far as this replica has applied the log.
    #[must_use]
    pub fn level(&self) -> Level {
        self.snapshot().state().level()
    }

    /// The highest that this replica supports.
    #[must_use]
    pub fn supports(&self) -> Level {
        self.inner.config.supports
    }

    /// `txn` as it is proposed: in the newest form that the cluster's level knows.
    pub(super) fn told(&self, txn: Txn) -> Txn {
        let snapshot = self.snapshot();
        match snapshot.state().level() >= Level::SPLICES {
            true => snapshot.state().splice(txn),
            false => txn,
        }
    }

    /// May a server be a member that supports the levels up to `supports`?
    ///
    /// # Errors
    /// It supports less than the cluster's level.
    pub fn fits(&self, id: u64, supports: Level) -> Result<(), MemberError> {
        match self.level() {
            level if supports < level => Err(MemberError::Level {
                id,
                supports,
                level,
            }),
            _ => Ok(()),
        }
    }

    /// Adds a learner that supports the levels up to `supports`.
    ///
    /// # Errors
    /// See [`MemberError`].
    pub async fn admit(&self, id: u64, address: &str, supports: Level) -> Result<(), MemberError> {
        let _gate = self.inner.level_gate.lock().await;
        self.fits(id, supports)?;
        self.members().add(id, address).await
    }

    /// Raises the level to the highest one that every member supports, by what each was heard to say (`reports`, this
    /// one's too), under the reign in which they were asked. The level then.
    ///
    /// # Errors
    /// See [`RaiseError`]; nothing is raised while a member is not heard, or supports no more than the level is.
    pub async fn raise(
        &self,
        epoch: Epoch,
        reports: &BTreeMap<u64, Level>,
    ) -> Result<Level, RaiseError> {
        let _gate = self.inner.level_gate.lock().await;
        if *self.inner.leadership.borrow() != Some(epoch) {
            return Err(RaiseError::Deposed);
        }
        let members = self.members().list();
        let members = members.iter().map(|member| member.id);
        let Some(to) = level::higher(self.level(), members, reports)? else {
            return Ok(self.level());
        };
        let order = self
            .inner
            .raft
            .client_write(Command::Raise(Raise { epoch, to }));
        match timeout(self.inner.config.timing.commit, order).await {
            Ok(Ok(_)) if self.level() >= to => Ok(to),
            Ok(Ok(_) | Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_)))) => {
                Err(RaiseError::Deposed)
            }
            Ok(Err(_)) | Err(_) => Err(RaiseError::Unknown),
        }
    }
}
