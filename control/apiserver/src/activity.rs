//! Whether anybody still wants a connection: how many of its requests are open, and since when none is.
//!
//! A request is open until the last byte of its answer was sent, so that a watch keeps its connection. Upstream: `http.Server`'s
//! `IdleTimeout` of 90 s.

use crate::body::{self, Body};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// The requests of one connection. Counting costs two atomics a request: nobody is woken by it.
pub(crate) struct Activity {
    since: Instant,
    open: AtomicUsize,
    asked: AtomicBool,
    /// When the last request was over, milliseconds from `since`.
    ended: AtomicU64,
}

/// One request; dropped when it is over.
pub(crate) struct Open(Arc<Activity>);

impl Activity {
    pub(crate) fn new() -> Self {
        Self {
            since: Instant::now(),
            open: AtomicUsize::new(0),
            asked: AtomicBool::new(false),
            ended: AtomicU64::new(0),
        }
    }

    pub(crate) fn open(this: &Arc<Self>) -> Open {
        this.open.fetch_add(1, Ordering::SeqCst);
        this.asked.store(true, Ordering::SeqCst);
        Open(this.clone())
    }

    pub(crate) fn asked(&self) -> bool {
        self.asked.load(Ordering::SeqCst)
    }

    /// Returns when there was no request for `first` from now, or later none open for `idle`.
    pub(crate) async fn idle(&self, first: Duration, idle: Duration) {
        sleep(first).await;
        while self.asked() {
            let unused = if self.open.load(Ordering::SeqCst) > 0 {
                Duration::ZERO
            } else {
                let ended = Duration::from_millis(self.ended.load(Ordering::SeqCst));
                self.since.elapsed().saturating_sub(ended)
            };
            match idle.checked_sub(unused) {
                Some(rest) if !rest.is_zero() => sleep(rest).await,
                _ => return,
            }
        }
    }
}

impl Open {
    /// The request's answer keeps it open.
    pub(crate) fn until_sent(self, body: Body) -> Body {
        body::keeping(body, self)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let now = u64::try_from(self.0.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.ended.store(now, Ordering::SeqCst);
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::full;
    use http_body_util::BodyExt as _;

    const FIRST: Duration = Duration::from_secs(20);
    const IDLE: Duration = Duration::from_secs(90);

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_after_its_last_answer_was_sent() {
        let start = Instant::now();
        let activity = Arc::new(Activity::new());
        activity.idle(FIRST, IDLE).await;
        assert_eq!(start.elapsed(), FIRST, "nothing was ever asked");
        assert!(!activity.asked());

        let body = Activity::open(&activity).until_sent(full("watch"));
        let other = Activity::open(&activity);
        let later = async {
            tokio::time::sleep(Duration::from_secs(1000)).await;
            drop(other);
            tokio::time::sleep(Duration::from_secs(1000)).await;
            assert_eq!(body.collect().await.unwrap().to_bytes(), "watch");
        };
        let start = Instant::now();
        tokio::join!(activity.idle(FIRST, IDLE), later);
        assert_eq!(start.elapsed(), Duration::from_secs(2000) + IDLE);
    }
}
