//! Kinds of the group `networking.k8s.io`, one file each.

pub mod ip_address;
pub mod service_cidr;
