//! A whole cluster on one machine: every host a set of namespaces with its own daemons, addresses, files and cgroups.
//!
//! What `make up`, the end-to-end tests and people trying Caravel use. Everything that a lab leaves on the machine is
//! found again from its directory alone, so `down` also cleans up after a crash: names of links, tables and cgroups
//! are derived from the directory ([`layout`]), processes are found by their cgroup ([`cgroups`]).
//!
//! It must never touch what is not its own: another lab's things, or the machine's.

pub mod balance;
pub mod cgroups;
pub mod cut;
pub mod daemon;
pub mod down;
pub mod enter;
pub mod environment;
pub mod host;
pub mod layout;
pub mod links;
pub mod process;
pub mod record;
pub mod resolver;
pub mod status;
pub mod subnet;
mod tasks;
pub mod up;

pub use layout::Layout;
pub use record::{Host, Record, Role};
pub use up::UpOptions;
