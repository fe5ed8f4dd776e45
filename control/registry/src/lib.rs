//! What each kind means beyond its schema: defaults, what a writer may change, validation, warnings, graceful
//! deletion, selectable fields. Verbs are written once (in the API server) against [`Resource`] and [`Object`].
//!
//! Nothing here knows a store, a clock or a socket: every function takes values and returns values, and is tested by
//! tables. Rules, field paths and messages follow upstream's `pkg/apis/*/validation`, `pkg/apis/*/v1/defaults.go` and
//! `pkg/registry/*/strategy.go`. Adding a kind: one strategy file and one line in [`table`].

mod decode;
mod empties;
mod found;
mod labels;
mod names;
mod object;
mod quantities;
mod resource;
mod strategy;
mod table;

pub mod apps;
pub mod coordination;
pub mod core;
pub mod discovery;
pub mod events;
pub mod meta;
pub mod networking;
pub mod rbac;

pub use decode::DecodeError;
pub use object::Object;
pub use resource::{Resource, Typed};
pub use strategy::{Grace, NameRule, Strategy};
pub use table::{resource, resource_for};
