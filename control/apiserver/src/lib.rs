//! The API server: every verb of every kind, written once.
//!
//! Read it from [`stack`] (what happens to each request, in order) to [`router`] (where it goes) to the verbs. The only shared state is
//! the store's. It never keeps anything of its own that a restart would lose.

mod activity;
mod admission;
mod allocate;
mod audit;
mod body;
mod discovery;
mod flow;
mod freshness;
mod grpc;
mod health;
mod info;
mod internal;
mod kubelet;
mod negotiate;
mod node_proxy;
mod options;
mod pages;
mod protobuf;
mod query;
mod respond;
mod reviews;
mod router;
mod selection;
mod server;
mod shape;
mod stack;
mod subresource;
mod tasks;
mod unread;
mod verbs;
mod views;
mod write;

pub use audit::AuditLog;
pub use body::{Body, BoxError, empty as empty_body, full as full_body};
pub use internal::Internal;
pub use server::{ApiServer, Config, ConfigError, Peer};
pub use write::{DeleteOptions, Propagation, Written};
