//! The one background task: following the cluster. Its handle is held by `run`, which ends it.

use tokio::task::JoinHandle;

pub(crate) fn follow(work: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    tokio::spawn(work)
}
