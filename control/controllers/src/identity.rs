//! Controllers that give each namespace what its pods need to speak to the API server.

pub mod cluster_roles;
pub mod root_ca;
pub mod service_account;
