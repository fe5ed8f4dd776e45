//! Admission: what is checked and changed on every write after authorization, as one ordered list.
//!
//! A step decides on the snapshot it is given and carries what it relied on as `Check`s (and what it allocates as `Absent` puts)
//! into the transaction. It never writes anything itself. Upstream: the default admission plugins of kube-apiserver.

mod access;
mod namespace;
mod node;
mod pod;
mod service_account;

use crate::server::ApiServer;
use crate::views::View;
use crate::write::Target;
use caravel_api::ApiError;
use caravel_auth::UserInfo;
use caravel_registry::Object;
use caravel_store::{Change, Snapshot};

/// What kind of write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Create,
    Update,
    Delete,
}

/// One write on its way through the list.
pub(crate) struct Admission<'a> {
    pub api: &'a ApiServer,
    pub user: &'a UserInfo,
    pub snapshot: &'a Snapshot,
    pub target: &'a Target,
    pub operation: Operation,
    /// What the transaction must carry besides the object.
    pub changes: Vec<Change>,
    pub warnings: Vec<String>,
}

/// A step: may change the object, add to the transaction, or refuse.
type Step = fn(
    &mut Admission<'_>,
    &mut Option<&mut dyn Object>,
    Option<&dyn Object>,
) -> Result<(), ApiError>;

/// The order matters: what changes objects comes before what judges them.
const STEPS: &[(&str, Step)] = &[
    ("NamespaceLifecycle", namespace::lifecycle),
    ("ServiceAccount", service_account::admit),
    ("NodeRestriction", node::restriction),
    ("TaintNodesByCondition", node::taint),
    ("Priority", pod::priority),
    ("DefaultTolerationSeconds", pod::tolerations),
    ("RBACEscalation", access::escalation),
    ("ServiceAllocation", crate::allocate::admit),
];

impl<'a> Admission<'a> {
    pub(crate) fn new(
        api: &'a ApiServer,
        user: &'a UserInfo,
        snapshot: &'a Snapshot,
        target: &'a Target,
        operation: Operation,
    ) -> Self {
        Self {
            api,
            user,
            snapshot,
            target,
            operation,
            changes: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// Runs the list.
    pub(crate) fn run(
        &mut self,
        mut object: Option<&mut dyn Object>,
        old: Option<&dyn Object>,
    ) -> Result<(), ApiError> {
        for (name, step) in STEPS {
            step(self, &mut object, old)
                .inspect_err(|error| tracing::debug!(step = name, %error, "admission refused"))?;
        }
        Ok(())
    }

    /// The snapshot as rights and identities.
    pub(crate) fn view(&self) -> View<'a> {
        View(self.snapshot)
    }

    /// Whether this is a write of `group/resource` itself, not of a subresource.
    pub(crate) fn is(&self, group: &str, resource: &str) -> bool {
        self.target.row.group == group
            && self.target.row.plural == resource
            && self.target.subresource.is_empty()
    }

    /// `pods "x" is forbidden: why`.
    pub(crate) fn forbidden(&self, why: impl std::fmt::Display) -> ApiError {
        let Target { row, name, .. } = self.target;
        ApiError::forbidden_because(row.group, row.plural, name, why)
    }
}
