//! What the other servers said last: of themselves, and of this one.

use crate::call::refuses;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use tokio::sync::watch;
use tonic::Status;

/// Metadata of an answer that tells a server it was removed.
pub(crate) const REMOVED: &str = "caravel-removed";

#[derive(Default)]
pub(crate) struct Heard {
    removed: watch::Sender<bool>,
    /// Whose disk is full.
    full: Mutex<BTreeSet<u64>>,
    /// Who refuses this server, and why.
    refused: Mutex<BTreeMap<u64, String>>,
}

impl Heard {
    /// `id` answered, and says whether its disk is full. Heartbeats ask often enough, also for the news that there is room
    /// again.
    pub(crate) fn answer(&self, id: u64, full: bool) {
        {
            let mut known = self.full.lock();
            match full {
                true => known.insert(id),
                false => known.remove(&id),
            };
        }
        if self.refused.lock().remove(&id).is_some() {
            tracing::info!(server = id, "the server no longer refuses this one");
        }
    }

    /// A call failed: was it because this server was removed?
    pub(crate) fn failure(&self, status: &Status) {
        if status.metadata().contains_key(REMOVED) {
            self.removed
                .send_if_modified(|removed| !std::mem::replace(removed, true));
        }
    }

    /// `id` does not follow or vote as it was asked. A refusal comes with every heartbeat and is said once.
    pub(crate) fn refusal(&self, id: u64, status: &Status) {
        if !refuses(status) {
            return;
        }
        let why = status.message();
        let before = self.refused.lock().insert(id, why.to_owned());
        if before.as_deref() != Some(why) {
            tracing::warn!(server = id, why, "the server refuses this one");
        }
    }

    pub(crate) fn removed(&self) -> watch::Receiver<bool> {
        self.removed.subscribe()
    }

    pub(crate) fn full(&self) -> BTreeSet<u64> {
        self.full.lock().clone()
    }

    #[cfg(test)]
    fn refused(&self) -> usize {
        self.refused.lock().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_last_counts() {
        let heard = Heard::default();
        heard.answer(2, true);
        heard.answer(3, false);
        assert_eq!(heard.full(), BTreeSet::from([2]));
        heard.answer(2, false);
        assert_eq!(heard.full(), BTreeSet::new());
        for (status, refuses) in [
            (Status::unavailable("gone"), false),
            (Status::aborted("again"), false),
            (Status::failed_precondition("another cluster"), true),
            (Status::permission_denied("no server"), true),
        ] {
            heard.refusal(2, &status);
            assert_eq!(heard.refused(), usize::from(refuses), "{status}");
            heard.answer(2, false);
            assert_eq!(heard.refused(), 0);
        }
        assert!(!*heard.removed().borrow());
    }
}
