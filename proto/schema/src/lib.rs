//! What the API's types look like, and everything that only follows from that: patches, who owns which field,
//! fields nobody knows, and the OpenAPI documents.
//!
//! It never decides what a field means (defaults and validation are the registry's) and never touches the store.
//! Upstream: `k8s.io/kube-openapi`, `sigs.k8s.io/structured-merge-diff/v6`, `k8s.io/apimachinery/pkg/util/strategicpatch`.

pub mod managed;
pub mod openapi;
pub mod patch;
pub mod strict;
pub mod tree;

mod facts;
mod roots;

pub use strict::unknown_fields;
pub use tree::{Schema, TypeRef};
