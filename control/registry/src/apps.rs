//! Kinds of the group `apps`, one file each.

pub mod deployment;
pub mod replica_set;
pub mod template;
