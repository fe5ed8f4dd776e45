//! The group `events.k8s.io`: another view of what the core group stores.

pub mod event;
