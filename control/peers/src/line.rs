//! A leader's line to a follower: its appends, or a snapshot. When it breaks off, the follower looks whether the leader's
//! process has ended.
//!
//! A machine that is switched off, or cut off, only falls silent, and that takes an election's time-out to be believed. But
//! a process that was killed leaves a kernel behind that refuses connections to its port: that is known at once, and
//! nothing else is.

use caravel_store::Peer;
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
    /// Several lines break off at once: one look is enough.
    looking: Arc<AtomicBool>,
}

/// Kept as long as the line lasts.
pub(crate) struct Line {
    lines: Lines,
    /// Who speaks on it.
    from: u64,
    /// It said all that it had to say.
    ended: AtomicBool,
}

impl Lines {
    pub fn new(peer: Peer) -> Self {
        Self {
            peer,
            looking: Arc::default(),
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
        // A runtime that is shutting down takes no task, and needs none.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        if self.lines.looking.swap(true, Ordering::AcqRel) {
            return;
        }
        let (lines, from) = (self.lines.clone(), self.from);
        runtime.spawn(async move {
            broken(&lines.peer, from).await;
            lines.looking.store(false, Ordering::Release);
        });
    }
}

async fn broken(peer: &Peer, from: u64) {
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
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn only_a_port_that_nobody_listens_on_refuses() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        assert!(!refuses(&address).await);
        drop(listener);
        assert!(refuses(&address).await);
    }
}
