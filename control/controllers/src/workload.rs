//! Controllers of what runs: Deployments, ReplicaSets, and the pods they ask for.

pub mod claim;
pub mod deployment;
pub mod history;
pub mod pods;
pub mod progress;
pub mod ranking;
pub mod replica_set;
pub mod scaling;
