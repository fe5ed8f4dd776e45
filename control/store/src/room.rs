//! Whether there is room for what will be written, known before anything fails for want of it.
//!
//! sled cannot go on after a write that found no space, so the disk thread keeps a runway: blocks that the file system has
//! given to the database's file already, beyond its end (see `Backend::room`). While the runway cannot be kept, a leader
//! refuses new writes and says why; what is under way has the runway left. Close to its end nothing is written at all, and
//! whoever waits for the disk waits. Reads need no disk. Space that comes back is noticed, and all goes on.
//!
//! A follower says so with its answers. Where those with room are no majority, a leader with room refuses, too: it could
//! store what nobody would acknowledge.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use openraft::async_runtime::watch::WatchReceiver;

use crate::raft::Raft;
use crate::raft::transport::Transport;

/// What is kept in reserve.
pub(crate) const RUNWAY: u64 = 32 << 20;
/// It is extended when less than this is left, and then to all of it: a full disk is noticed while most is left.
const EXTEND: u64 = RUNWAY / 8 * 7;
/// A disk with less than this is full, although the runway is there.
pub(crate) const SPARE: u64 = 8 << 20;
/// With less than this nothing is written: one turn of the disk thread and what sled makes of it must fit.
const LEAST: u64 = 8 << 20;

/// What a disk can still take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    Enough,
    /// What is under way fits; more should not begin.
    Little,
    None,
}

/// With `left` bytes of the runway, and whether there is more where that came from.
pub(crate) fn room(left: u64, more: bool) -> Room {
    match more {
        _ if left < LEAST => Room::None,
        true => Room::Enough,
        false => Room::Little,
    }
}

/// Must the runway be extended?
pub(crate) fn is_short(left: u64) -> bool {
    left < EXTEND
}

/// What is said to people where the voters with room are no majority.
fn without_majority(voters: impl Iterator<Item = u64>, full: &BTreeSet<u64>) -> Option<String> {
    let (short, roomy): (BTreeSet<u64>, BTreeSet<u64>) = voters.partition(|id| full.contains(id));
    if roomy.len() > (short.len() + roomy.len()) / 2 {
        return None;
    }
    let short: Vec<String> = short.iter().map(u64::to_string).collect();
    let (servers, short) = match &short[..] {
        [one] => ("disk of server", format!("{one} is")),
        all => ("disks of servers", format!("{} are", all.join(" and "))),
    };
    Some(format!(
        "the {servers} {short} full: there is no majority of servers with room for more. Writes are refused until there is; \
         remove files there or enlarge those disks, and the servers go on by themselves",
    ))
}

/// What the disk thread tells everybody else of the room.
#[derive(Clone)]
pub(crate) struct Alarm(Arc<Shared>);

struct Shared {
    short: AtomicBool,
    dir: PathBuf,
    /// Who tells of the others.
    others: OnceLock<Arc<dyn Transport>>,
}

impl Alarm {
    pub fn new(dir: PathBuf) -> Self {
        Alarm(Arc::new(Shared {
            short: AtomicBool::new(false),
            dir,
            others: OnceLock::new(),
        }))
    }

    /// The others tell of their disks by this way.
    pub fn hear(&self, others: Arc<dyn Transport>) {
        // Said once, when a store starts.
        let _ = self.0.others.set(others);
    }

    /// Why a leader refuses new writes: its own disk is full, or so many others that no majority is left. What was said
    /// before it led counts until the next heartbeat.
    pub fn refusal(&self, raft: &Raft) -> Option<String> {
        self.text().or_else(|| {
            let full = self.0.others.get()?.full();
            if full.is_empty() {
                return None;
            }
            let metrics = raft.metrics();
            let membership = metrics.borrow_watched().membership_config.clone();
            without_majority(membership.voter_ids(), &full)
        })
    }

    /// What is said to people, while there is little room or none.
    pub fn text(&self) -> Option<String> {
        self.0.short.load(Ordering::Relaxed).then(|| {
            format!(
                "the disk of this server is full: there is no room in {} for {} MiB more. Writes are refused until there is; \
                 remove files from that disk or enlarge it, and the server goes on by itself",
                self.0.dir.display(),
                RUNWAY >> 20
            )
        })
    }

    pub fn set(&self, room: Room) {
        let short = room != Room::Enough;
        if self.0.short.swap(short, Ordering::Relaxed) == short {
            return;
        }
        let dir = self.0.dir.display();
        if short {
            tracing::error!(%dir, ?room, "the disk is full: writes are refused until there is room");
        } else {
            tracing::info!(%dir, "there is room on the disk again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_decides() {
        for (left, extended, expected) in [
            (RUNWAY, true, Room::Enough),
            (EXTEND, true, Room::Enough),
            (EXTEND - 1, false, Room::Little),
            (LEAST, false, Room::Little),
            (LEAST - 1, false, Room::None),
            (0, false, Room::None),
        ] {
            assert_eq!(room(left, extended), expected, "{left} {extended}");
        }
        assert!(!is_short(EXTEND) && is_short(EXTEND - 1));
    }

    #[test]
    fn a_majority_with_room_is_enough() {
        let refused = |voters: &[u64], full: &[u64]| {
            let full = full.iter().copied().collect();
            without_majority(voters.iter().copied(), &full)
        };
        for (voters, full) in [
            (&[1, 2, 3][..], &[2][..]),
            (&[1, 2, 3], &[7, 8]),
            (&[1, 2, 3, 4, 5], &[1, 5]),
            (&[1], &[]),
        ] {
            assert_eq!(refused(voters, full), None, "{voters:?} {full:?}");
        }
        let why = refused(&[1, 2, 3], &[2, 3]).unwrap();
        assert!(
            why.starts_with("the disks of servers 2 and 3 are full"),
            "{why}"
        );
        let why = refused(&[1, 2], &[2]).unwrap();
        assert!(why.starts_with("the disk of server 2 is full"), "{why}");
        assert!(refused(&[1, 2, 3, 4, 5], &[2, 3, 5]).is_some());
    }

    #[test]
    fn the_alarm_names_the_directory() {
        let alarm = Alarm::new("/data".into());
        assert_eq!(alarm.text(), None);
        alarm.set(Room::Little);
        assert!(alarm.text().is_some_and(|text| text.contains("/data")));
        alarm.set(Room::Enough);
        assert_eq!(alarm.text(), None);
    }
}
