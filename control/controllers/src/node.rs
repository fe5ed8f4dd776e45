//! Controllers of nodes: are they heard of, which pods must leave, which addresses their pods have.

pub mod cidr;
pub mod health;
pub mod pod_gc;
pub mod taint_eviction;
