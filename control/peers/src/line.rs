//! A leader's line to a follower: its appends, or a snapshot. When it breaks off, the follower looks whether the leader's
//! process has ended.
//!
//! A machine that is switched off, or cut off, only falls silent, and that takes an election's time-out to be believed. But
//! a process that was killed leaves a kernel behind that refuses connections to its port: that is known at once, and
//! nothing else is.

use crate::tasks::Looks;
use caravel_store::Peer;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// A process that is ending closes one socket after the other.
const LOOKS: usize = 5;
const BETWEEN: Duration = Duration::from_millis(20);
/// A neighbour that refuses does so at once.
const WITHIN: Duration = Duration::from_millis(250);

/// What this server hears by.
#[derive(Clone)]
pub(crate) struct Lines {
    peer: Peer,
    /// At whom. Several lines break off at once: one look is enough.
    looking: Arc<Mutex<BTreeSet<u64>>>,
    looks: Looks,
}

/// Kept as long as the line lasts.
pub(crate) struct Line {
    lines: Lines,
    /// Who speaks on it.
    from: u64,
    /// It said all that it had to say, or was told no.
    ended: AtomicBool,
}

impl Lines {
    pub fn new(peer: Peer, looks: Looks) -> Self {
        Self {
            peer,
            looking: Arc::default(),
            looks,
        }
    }

    pub fn from(&self, from: u64) -> Line {
        Line {
            lines: self.clone(),
            from,
            ended: AtomicBool::new(false),
        }
    }
}

impl Line {
    pub fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if self.ended.load(Ordering::Acquire) {
            return;
        }
        if !self.lines.looking.lock().insert(self.from) {
            return;
        }
        let look = Look {
            looking: self.lines.looking.clone(),
            at: self.from,
        };
        let peer = self.lines.peer.clone();
        self.lines.looks.begin(broken(peer, look));
    }
}

/// A look that is under way, or will never be.
struct Look {
    looking: Arc<Mutex<BTreeSet<u64>>>,
    at: u64,
}

impl Drop for Look {
    fn drop(&mut self) {
        self.looking.lock().remove(&self.at);
    }
}

async fn broken(peer: Peer, look: Look) {
    let from = look.at;
    for _ in 0..LOOKS {
        let Some(leader) = peer.leader().filter(|leader| leader.id == from) else {
            return;
        };
        if refuses(&leader.address).await {
            tracing::info!(
                leader = from,
                "the leader's process has ended: asking for votes"
            );
            return peer.leader_ended(from).await;
        }
        sleep(BETWEEN).await;
    }
}

/// Does the machine say that nobody listens there?
async fn refuses(address: &str) -> bool {
    match timeout(WITHIN, TcpStream::connect(address)).await {
        Ok(Err(error)) => error.kind() == io::ErrorKind::ConnectionRefused,
        Ok(Ok(_)) | Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use caravel_store::Store;
    use tokio::net::TcpListener;
    use tokio_util::sync::CancellationToken;

    #[tokio::test]
    async fn one_look_at_a_leader_is_enough() {
        let looks = Looks::new(CancellationToken::new());
        let store = Store::memory().await.unwrap();
        let lines = Lines::new(store.peer(), looks.clone());
        for (broken_off, under_way) in [(9, 1), (9, 1), (8, 2), (9, 2)] {
            drop(lines.from(broken_off));
            assert_eq!(looks.count(), under_way);
        }
        while looks.count() > 0 {
            tokio::task::yield_now().await;
        }
        let ended = lines.from(9);
        ended.end();
        drop(ended);
        assert_eq!(looks.count(), 0);
        drop(lines.from(9));
        assert_eq!(looks.count(), 1, "once the other has ended");
    }

    #[tokio::test]
    async fn only_a_port_that_nobody_listens_on_refuses() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        assert!(!refuses(&address).await);
        drop(listener);
        assert!(refuses(&address).await);
    }
}
