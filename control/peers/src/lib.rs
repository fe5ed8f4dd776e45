//! The servers of one cluster among themselves: the port on which they agree, who may speak there, and who belongs.
//!
//! [`GrpcTransport`] sends, [`serve`] receives, [`roster`] remembers every server there ever was, and [`membership`]
//! admits and removes. Nothing here decides what is agreed on; that is the store's.

mod call;
mod caller;
mod client;
mod heard;
mod incoming;
mod line;
pub mod membership;
pub mod roster;
mod service;
mod tasks;
mod tls;

pub use call::refuses;
pub use caller::Caller;
pub use client::GrpcTransport;
pub use membership::{Admission, MembershipError};
pub use roster::{Member, RosterError};
pub use tasks::{Served, serve};
pub use tls::PeerTls;
