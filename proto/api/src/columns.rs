//! The printers of the built-in kinds, a file per neighbourhood.

pub(crate) mod access;
pub(crate) mod cluster;
pub(crate) mod endpoints;
pub(crate) mod pod;
pub(crate) mod workload;
