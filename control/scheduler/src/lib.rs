//! Places pods on nodes.
//!
//! `cluster` is the view of the nodes, kept up to date from snapshots; `plugins` decide (one list, each a pure filter or
//! score with its reason); `place` puts their verdicts together and explains a refusal in upstream's words; `queue`
//! says whose turn it is; `tasks` runs it all, only on the leader and under its epoch.

mod cluster;
mod place;
mod plugins;
mod pod;
mod queue;
pub mod tasks;

pub use tasks::run;
