//! Container images on one machine: a content-addressed store of blobs, layers unpacked once and shared by every
//! container as overlay lower directories, import of archives, and pulls from registries.
//!
//! Never trusts an archive or a registry: every blob is verified against its digest, every layer is unpacked beneath
//! one directory with limits on entries and bytes. Names are normalised as docker does, errors carry the kubelet's
//! reasons (upstream: pkg/kubelet/images).

mod archive;
mod blobs;
mod collection;
mod image;
mod layer;
mod manifest;
mod pull;
mod reference;
mod registries;
mod store;
mod tasks;

pub use archive::ImportError;
pub use blobs::BlobError;
pub use image::{Image, ImageConfig};
pub use layer::{LayerError, Limits};
pub use pull::{Credential, PullError, Reason};
pub use reference::{InvalidReference, Reference};
pub use registries::{Registries, RegistriesError};
pub use store::{ImageStore, StoreError};

#[cfg(test)]
mod tests;
