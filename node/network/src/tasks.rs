//! Background tasks of this crate: only the pump of a netlink socket, which ends with its last handle.

use std::future::Future;

/// Runs a netlink connection until every handle to it is dropped.
pub(crate) fn drive(connection: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(connection);
}
