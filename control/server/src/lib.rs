//! A Caravel server: store, authority, API, controllers and scheduler put together. [`start::run`] is the list of what happens at start.
//!
//! This crate connects; it decides nothing. What the parts do is theirs.

mod authority;
pub mod backups;
mod bootstrap;
mod cluster;
mod config;
mod hand;
mod join;
mod kubeconfig;
mod level;
mod living;
mod metrics;
mod place;
mod quorum;
mod rotation;
mod saved;
mod start;
mod tasks;

pub use caravel_apiserver::AuditLog;
pub use config::{ServerConfig, ServerConfigError};
pub use start::run;
