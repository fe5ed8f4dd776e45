//! How programs reach a cluster: a `kube` client from PEM or a kubeconfig, and the call by which a machine joins.
//!
//! Connecting is all it does; retries of requests and caching belong to the callers.

pub mod balance;
pub mod connect;
pub mod grpc;
pub mod join;
pub mod kubeconfig;
mod tasks;

pub use connect::{Config, ConnectError, Credential, connect};
pub use join::{JoinError, JoinTarget, join, join_server, renew};
pub use kubeconfig::Kubeconfig;
