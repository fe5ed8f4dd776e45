//! The network of one machine: pod addresses and links, routes to the other nodes' pods, and the
//! packet rules that make Services and host ports work.
//!
//! Decisions (`ipam`, `services::compile`, `services::diff`, `routes::plan`) are pure; the kernel is
//! reached only through `links` (netlink) and `services::nft`. Pods hang on one bridge, each with a
//! /32 address and the bridge as its gateway, so that every packet crosses the host's IP stack and
//! Service translation can be undone on the way back without bridge netfilter.

pub mod ipam;
pub mod links;
pub mod netns;
pub mod pods;
pub mod routes;
pub mod services;
pub mod sysctl;
mod tasks;

pub use pods::{Attached, NetworkConfig, NetworkError, PodNetwork};
pub use services::{Firewall, FirewallError, RuleDiff, RuleSet, ServiceProxy, ServiceSet};
