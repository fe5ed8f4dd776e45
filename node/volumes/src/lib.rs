//! What pods mount: from a Pod's volumes to directories on this machine.
//!
//! `needs` says which objects a pod's volumes are made from, `content::files` what files they become (both
//! pure); `setup` puts them there and returns where each volume lies; `teardown` removes them and never
//! deletes through a mount. The kernel's mount table is an edge: `Mounter`, with a fake.

pub mod content;
pub mod downward;
mod error;
mod host_path;
pub mod mounter;
mod needs;
mod setup;
mod sub_path;
mod teardown;
mod writer;

pub use downward::Facts;
pub use error::{Cause, VolumeError};
pub use mounter::{FakeMounter, KernelMounter, Mounter};
pub use needs::{Needs, Objects, TokenRequest, needs};
pub use setup::{refresh, setup};
pub use sub_path::sub_path;
pub use teardown::teardown;
