//! The cluster's DNS server: one process on every machine, answering for that machine's pods.
//!
//! It follows the Kubernetes DNS specification (schema version 1.1.0) for names under the cluster
//! domain and passes everything else to the machine's own resolvers. It outlives the node daemon,
//! goes on with the last known state when no server can be reached, and binds with SO_REUSEPORT so
//! that a successor can take over without a gap. `zone` decides; `source` and `server` do.

mod forward;
mod server;
mod source;
mod tasks;
mod zone;

pub use forward::upstreams_from;
pub use server::{DnsConfig, DnsError, run};
pub use zone::{Answer, Asked, Data, Zone};
