//! Tasks of this crate; each ends with its owner.

use tokio::task::JoinSet;

/// A task that ends when the set is dropped.
pub(crate) fn owned(task: impl Future<Output = ()> + Send + 'static) -> JoinSet<()> {
    let mut set = JoinSet::new();
    set.spawn(task);
    set
}

/// One more task of a set.
pub(crate) fn spawn(set: &mut JoinSet<()>, task: impl Future<Output = ()> + Send + 'static) {
    set.spawn(task);
}
