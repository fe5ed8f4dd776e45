//! The node daemon: runs the pods that are bound to this machine and tells the API server how they fare.
//!
//! One actor per pod: observe, decide (`pod::plan`, pure), do. Containers outlive this daemon; a restarted one finds
//! them in the runtime's state directory and goes on. Never runs a pod that the API server did not hand it.
//! Behaviour, reasons and messages follow the kubelet's.

mod admission;
mod api;
mod bound;
mod conditions;
mod config;
mod credentials;
mod env;
mod events;
mod expand;
mod followed;
mod grpc_health;
mod handler;
mod hosts;
mod image_collection;
mod lease;
mod machine;
mod network;
mod node;
mod node_status;
mod objects;
mod pod;
mod pods;
mod pressure;
mod qos;
pub mod rotation;
mod run;
mod server;
mod spec;
mod tasks;
mod trusting;
mod world;

pub use config::NodeConfig;
pub use image_collection::ImageThresholds;
pub use pods::{ContainerView, PodView, Pods};
pub use run::{run, run_with};
