//! Snapshots kept so that the pages of one list show one state: a continue token works for five minutes, then 410.
//!
//! A snapshot shares everything with the live state that has not changed since, so keeping a few is cheap; their number is bounded all the same.

use caravel_api::Revision;
use caravel_store::Snapshot;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;

const KEEP: Duration = Duration::from_secs(300);
const MOST: usize = 128;

/// Recently paged snapshots, oldest first.
#[derive(Default)]
pub(crate) struct Pages(Mutex<VecDeque<(Instant, Snapshot)>>);

impl Pages {
    /// Keeps a snapshot that a continue token will refer to.
    pub(crate) fn keep(&self, snapshot: &Snapshot) {
        let mut kept = self.0.lock();
        let now = Instant::now();
        kept.retain(|(at, old)| {
            now.duration_since(*at) < KEEP && old.revision() != snapshot.revision()
        });
        while kept.len() >= MOST {
            kept.pop_front();
        }
        kept.push_back((now, snapshot.clone()));
    }

    /// The snapshot at exactly this revision, if it is still kept.
    pub(crate) fn at(&self, revision: Revision) -> Option<Snapshot> {
        let kept = self.0.lock();
        let now = Instant::now();
        kept.iter()
            .find(|(at, snapshot)| {
                snapshot.revision() == revision && now.duration_since(*at) < KEEP
            })
            .map(|(_, snapshot)| snapshot.clone())
    }
}
