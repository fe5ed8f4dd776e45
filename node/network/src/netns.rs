//! Working inside another network namespace.
//!
//! A thread that has entered a namespace is never given back to a pool: each call uses a throw-away
//! thread with its own single-threaded runtime and netlink socket.

use std::fs::File;
use std::future::Future;
use std::io;
use std::path::Path;

use nix::sched::{CloneFlags, setns};

/// Runs `work` on a fresh thread inside the namespace at `path` and returns its result.
///
/// # Errors
/// When the namespace cannot be opened or entered, or the thread cannot be started.
pub async fn within<T, F, Fut>(path: &Path, work: F) -> io::Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = T>,
{
    let file = File::open(path)?;
    let (done, result) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("netns".into())
        .spawn(move || {
            let outcome = (|| {
                setns(&file, CloneFlags::CLONE_NEWNET)?;
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()?;
                Ok(runtime.block_on(work()))
            })();
            // The caller may have gone away; then nobody wants the answer.
            let _ = done.send(outcome);
        })?;
    result
        .await
        .unwrap_or_else(|_| Err(io::Error::other("the namespace thread panicked")))
}
