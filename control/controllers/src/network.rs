//! Controllers of what lies behind a Service.

pub mod backends;
pub mod endpoints;
pub mod kubernetes;
pub mod mirroring;
pub mod slices;
