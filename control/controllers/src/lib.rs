//! Keeps what is in line with what was asked for: deployments, replica sets, garbage, namespaces, endpoints,
//! service accounts, nodes, events.
//!
//! One loop runs every controller, only on the leader and under its epoch; each controller is a pure
//! `reconcile(&Snapshot, key, situation) -> Plan` and a row in [`CONTROLLERS`]. Behaviour, messages and reasons are
//! those of upstream's kube-controller-manager.

pub mod action;
mod carry_out;
pub mod event_expiry;
pub mod events;
pub mod fake;
pub mod garbage;
pub mod hand;
pub mod identity;
pub mod namespace;
pub mod network;
pub mod node;
mod queue;
pub mod recorder;
pub mod row;
pub mod settings;
pub mod tasks;
#[cfg(test)]
mod testing;
pub mod workload;

pub use action::{Action, Deletion, Note, Outcomes, Plan, Propagation};
pub use events::EventRecord;
pub use hand::{Applied, Hand};
pub use network::kubernetes::{ApiService, Server};
pub use row::{Row, Situation};
pub use settings::Settings;
pub use tasks::run;

/// Every controller, in the order in which they start.
pub static CONTROLLERS: &[Row] = &[
    namespace::CONTROLLER,
    identity::service_account::CONTROLLER,
    identity::root_ca::CONTROLLER,
    identity::cluster_roles::CONTROLLER,
    workload::deployment::CONTROLLER,
    workload::replica_set::CONTROLLER,
    network::endpoints::CONTROLLER,
    network::slices::CONTROLLER,
    network::mirroring::CONTROLLER,
    network::kubernetes::CONTROLLER,
    node::cidr::CONTROLLER,
    node::health::CONTROLLER,
    node::taint_eviction::CONTROLLER,
    node::pod_gc::CONTROLLER,
    garbage::CONTROLLER,
    event_expiry::CONTROLLER,
];
