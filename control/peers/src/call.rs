//! What a failed call means to consensus: nobody was reached, or something went wrong on the way.

use caravel_store::{ForwardError, TypeConfig};
use openraft::AnyError;
use openraft::errors::{NetworkError, RPCError, StreamingError, Unreachable};
use std::error::Error as _;
use tonic::{Code, ConnectError, Status};

/// Was no connection made, so that nothing can have happened?
pub(crate) fn unreached(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.downcast_ref::<ConnectError>().is_some() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Does the peer refuse this server?
#[must_use]
pub fn refuses(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::PermissionDenied | Code::FailedPrecondition
    )
}

/// A peer that refuses this server will do so again: no use in trying at once.
fn settled(status: &Status) -> bool {
    refuses(status) || status.code() == Code::Unavailable
}

pub(crate) fn rpc(status: Status) -> RPCError<TypeConfig> {
    if unreached(&status) || settled(&status) {
        Unreachable::new(&status).into()
    } else {
        NetworkError::new(&status).into()
    }
}

pub(crate) fn streaming(status: Status) -> StreamingError<TypeConfig> {
    match rpc(status) {
        RPCError::Unreachable(error) => error.into(),
        RPCError::Network(error) => error.into(),
        other => Unreachable::new(&other).into(),
    }
}

/// A message of the peer that cannot be read.
pub(crate) fn malformed(error: &caravel_store::RecordError) -> Status {
    Status::internal(format!("the message cannot be read: {error}"))
}

pub(crate) fn late() -> Status {
    Status::deadline_exceeded("the server did not answer in time")
}

/// Whether a forwarded write may have happened. Only a peer that answered knows that it did not: the client's side calls a
/// connection that fell silent "unavailable" too, and what was sent on it may have been done.
pub(crate) fn forwarded(status: &Status) -> ForwardError {
    let answered = status.source().is_none();
    if unreached(status) || (answered && status.code() == Code::Unavailable) {
        ForwardError::Nothing
    } else if answered && status.code() == Code::ResourceExhausted {
        ForwardError::Full(status.message().to_owned())
    } else {
        ForwardError::Unknown
    }
}

/// A consensus that has stopped.
pub(crate) fn stopped(error: &dyn std::fmt::Display) -> Status {
    let error = AnyError::error(error.to_string());
    Status::unavailable(format!("this server no longer takes part: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_surely_did_not_happen_is_nothing() {
        for (status, expected) in [
            (Status::unavailable("not the leader"), ForwardError::Nothing),
            (Status::aborted("lost"), ForwardError::Unknown),
            (Status::internal("broken stream"), ForwardError::Unknown),
            (late(), ForwardError::Unknown),
            (Status::cancelled("gone"), ForwardError::Unknown),
        ] {
            assert_eq!(forwarded(&status), expected, "{status}");
        }
        let connect = Status::from_error(Box::new(ConnectError("refused".into())));
        assert!(unreached(&connect));
        assert_eq!(forwarded(&connect), ForwardError::Nothing);
    }

    #[test]
    fn a_connection_that_fell_silent_tells_nothing() {
        let mut silent = Status::unavailable("keep-alive timed out");
        silent.set_source(std::sync::Arc::new(std::io::Error::other(
            "keep-alive timed out",
        )));
        assert_eq!(forwarded(&silent), ForwardError::Unknown);
    }
}
