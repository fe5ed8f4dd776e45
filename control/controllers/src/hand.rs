//! The edge of the world for controllers: carries out one action by the API's own verbs, under a leader's epoch.
//!
//! The real hand is assembled by the server over the API server's in-process verbs (strategy, admission,
//! validation, audit); [`crate::fake::FakeHand`] applies to a memory store.

use async_trait::async_trait;
use caravel_api::{ApiError, Revision};
use caravel_store::Epoch;

use crate::action::Action;

/// An action that was carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Wait for this revision before looking again.
    pub revision: Revision,
    /// The object's name, which the server may have generated.
    pub name: String,
}

#[async_trait]
pub trait Hand: Send + Sync + 'static {
    /// `identity` is a service account of kube-system: `replicaset-controller`. Never called with [`Action::Emit`].
    async fn apply(
        &self,
        epoch: Epoch,
        identity: &str,
        action: Action,
    ) -> Result<Applied, ApiError>;
}
