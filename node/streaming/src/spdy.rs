//! SPDY/3.1, as far as Kubernetes clients use it: streams over one connection, the server's side.
//! Like `moby/spdystream`, the only client there is, it neither sends nor heeds flow-control windows.

pub(crate) mod command;
mod connection;
mod frame;
mod headers;

pub use connection::{Connection, Stream, StreamWriter};
#[cfg(test)]
pub(crate) use frame::{Decoder, Encoder};
pub use frame::{Frame, FrameError};
