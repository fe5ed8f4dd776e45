//! Services on one machine: from the cluster's objects to packet rules.
//!
//! `compile` says what the rules should be, `diff` what to change, a `Firewall` applies the change as
//! one transaction. Follows the nftables mode of upstream's kube-proxy: verdict maps lead from the
//! destination to a chain per service port, which picks an endpoint's chain at random.

mod compile;
mod diff;
mod endpoints;
mod fake;
mod nft;
mod proxy;
mod ruleset;

pub use compile::compile;
pub use diff::{RuleDiff, diff};
pub use endpoints::{HostPort, ServiceSet};
pub use fake::FakeFirewall;
pub use nft::Nft;
pub use proxy::ServiceProxy;
pub use ruleset::{RuleSet, Set};

/// Why the rules could not be changed; nothing was changed then.
#[derive(Debug, thiserror::Error)]
pub enum FirewallError {
    /// `nft` could not be run.
    #[error("run nft: {0}; install the Debian package nftables")]
    Run(#[from] std::io::Error),
    /// The kernel refused the transaction.
    #[error("nft refused the change: {0}")]
    Refused(String),
}

/// Packet rules of one network namespace. All or nothing; applying the same rules twice changes nothing.
pub trait Firewall: Send {
    /// Applies the change as one transaction.
    fn apply(&mut self, change: &RuleDiff) -> Result<(), FirewallError>;
    /// Whether our table is there (somebody may have flushed the rules).
    fn present(&mut self) -> Result<bool, FirewallError>;
}
