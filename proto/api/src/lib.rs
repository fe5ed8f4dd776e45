//! What crosses a wire and what everybody agrees on: the table of kinds, keys and revisions, the small parser
//! that reads any object's metadata, quantities, selectors, error statuses, printer columns, discovery.
//!
//! Nothing here knows a socket, a clock (except [`time::now`]) or a disk. Behaviour follows
//! `k8s.io/apimachinery` and `k8s.io/api`; each file names the upstream rule it keeps to.

pub mod clock;
pub(crate) mod columns;
pub mod discovery;
pub mod field;
pub mod generate;
pub mod key;
pub mod kinds;
pub mod meta;
pub mod names;
pub mod quantity;
pub mod selector;
pub mod status;
pub mod table;
pub mod time;
pub mod versions;

pub use field::{FieldError, FieldErrors, Path};
pub use key::{Key, KeyRange, NodeName, ObjectName, Revision, Uid};
pub use kinds::{KINDS, Kind, Row, Scope, Subresource};
pub use meta::{Encoded, Meta, MetaError, Owner};
pub use quantity::Quantity;
pub use selector::Selector;
pub use status::ApiError;
