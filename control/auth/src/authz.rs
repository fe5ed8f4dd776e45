//! May they: the chain of authorizers, in order. The first that decides wins; nobody deciding is a refusal.
//!
//! Follows upstream's union authorizer with `--authorization-mode=Node,RBAC`.

use crate::attributes::Attributes;
use crate::node_authorizer::{self, NodeView};
use crate::rbac::{self, RbacView};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The reason is kept for audit: `RBAC: allowed by ...`.
    Allow(String),
    Deny(String),
    /// Nobody allowed it; the reason goes into the 403.
    NoOpinion(String),
}

impl Decision {
    pub fn is_allowed(&self) -> bool {
        matches!(self, Decision::Allow(_))
    }

    pub fn reason(&self) -> &str {
        let (Decision::Allow(reason) | Decision::Deny(reason) | Decision::NoOpinion(reason)) = self;
        reason
    }
}

/// The chain that every request passes.
#[derive(Clone, Debug, Default)]
pub struct Authorizer;

impl Authorizer {
    pub fn authorize<V: RbacView + NodeView + ?Sized>(
        &self,
        request: &Attributes<'_>,
        view: &V,
    ) -> Decision {
        if request.user.is_master() {
            return Decision::Allow(String::new());
        }
        let mut reasons = Vec::new();
        for authorize in [node_authorizer::authorize::<V>, rbac::authorize::<V>] {
            match authorize(request, view) {
                Decision::NoOpinion(reason) if reason.is_empty() => {}
                Decision::NoOpinion(reason) => reasons.push(reason),
                decided => return decided,
            }
        }
        Decision::NoOpinion(reasons.join("\n"))
    }
}
