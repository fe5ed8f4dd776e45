//! Chooses a node for every pod that has none, and says why when there is none to choose.
//!
//! A decision is a pure function of the pod and of the [`cluster::Cluster`], a view of nodes kept up to date from the
//! store's changes; [`tasks`] takes pods from the [`queue`], carries decisions out by the controllers' hand, and runs
//! only while this server leads. Upstream: `pkg/scheduler`, with its default plugins and weights.

pub mod affinity;
pub mod cluster;
pub mod decide;
pub mod explain;
pub mod peers;
pub mod plugins;
pub mod pod;
pub mod preemption;
pub mod queue;
pub mod resources;
mod scheduler;
pub mod tasks;
mod tell;

pub use tasks::run;
