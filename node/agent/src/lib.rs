//! The node daemon: runs the pods that are bound to this machine and tells the API server how they fare.
//!
//! One actor per pod: observe, decide (`pod::plan`, pure), do. Containers outlive this daemon; a restarted one finds
//! them in the runtime's state directory and goes on. Never runs a pod that the API server did not hand it.
//! Behaviour, reasons and messages follow the kubelet's.

mod config;
mod pods;

pub use config::NodeConfig;
pub use pods::{ContainerView, PodView, Pods};
