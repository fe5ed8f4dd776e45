//! Snapshots on their way in: put together frame by frame, and kept for a while when the connection breaks.
//!
//! One at a time: a newer transfer drops an older one. What nobody continued within [`KEEP`] is let go.

use caravel_store::{Assembly, Image, TransferError};
use parking_lot::Mutex;
use std::time::Duration;
use tokio::time::Instant;

/// How long a broken transfer may be continued.
pub(crate) const KEEP: Duration = Duration::from_secs(60);

/// One attempt of a leader to bring this replica up to date.
pub(crate) struct Transfer {
    id: Vec<u8>,
    /// Frames that arrived whole.
    frames: u64,
    assembly: Assembly,
    touched: Instant,
}

/// Why a part does not fit.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PartError {
    #[error("the transfer continues at frame {asked}, but {have} have arrived")]
    Gap { asked: u64, have: u64 },
    #[error("{sent} frames were sent, {have} have arrived")]
    Short { sent: u64, have: u64 },
    #[error(transparent)]
    Damaged(#[from] TransferError),
}

/// The transfer that is, or was, under way.
#[derive(Default)]
pub(crate) struct Incoming(Mutex<Option<Transfer>>);

impl Incoming {
    /// Frames of `id` that have arrived, 0 for a transfer that is not known.
    pub fn arrived(&self, id: &[u8]) -> u64 {
        let waiting = self.0.lock();
        waiting
            .as_ref()
            .filter(|transfer| transfer.id == id)
            .map_or(0, |transfer| transfer.frames)
    }

    /// Takes up a transfer at frame `from`.
    pub fn begin(&self, id: &[u8], from: u64) -> Result<Transfer, PartError> {
        let known = self.0.lock().take().filter(|transfer| transfer.id == id);
        let transfer = known.unwrap_or_else(|| Transfer {
            id: id.to_vec(),
            frames: 0,
            assembly: Assembly::new(),
            touched: Instant::now(),
        });
        if transfer.frames != from {
            let have = transfer.frames;
            self.keep(transfer);
            return Err(PartError::Gap { asked: from, have });
        }
        Ok(transfer)
    }

    /// Puts a transfer aside whose connection broke.
    pub fn keep(&self, mut transfer: Transfer) {
        transfer.touched = Instant::now();
        *self.0.lock() = Some(transfer);
    }

    /// Lets go of what nobody continued.
    pub fn expire(&self) {
        let mut waiting = self.0.lock();
        if waiting
            .as_ref()
            .is_some_and(|transfer| transfer.touched.elapsed() > KEEP)
        {
            *waiting = None;
        }
    }
}

impl Transfer {
    pub fn push(&mut self, frame: &[u8]) -> Result<(), PartError> {
        self.assembly.push(frame)?;
        self.frames += 1;
        Ok(())
    }

    /// The state, once all of `sent` frames are there.
    pub fn finish(self, sent: u64) -> Result<Image, PartError> {
        if self.frames != sent {
            return Err(PartError::Short {
                sent,
                have: self.frames,
            });
        }
        Ok(self.assembly.finish()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_broken_transfer_goes_on_where_it_stopped_but_not_for_ever() {
        let incoming = Incoming::default();
        assert_eq!(incoming.arrived(b"a"), 0);
        assert!(matches!(
            incoming.begin(b"a", 3),
            Err(PartError::Gap { asked: 3, have: 0 })
        ));
        let mut transfer = incoming.begin(b"a", 0).unwrap();
        assert!(transfer.push(&[0; 20]).is_err(), "no frame of a snapshot");
        let mut transfer = incoming.begin(b"a", 0).unwrap();
        transfer.frames = 4;
        incoming.keep(transfer);
        assert_eq!(incoming.arrived(b"a"), 4);
        assert_eq!(incoming.arrived(b"b"), 0);
        let transfer = incoming.begin(b"a", 4).unwrap();
        assert!(matches!(
            transfer.finish(9),
            Err(PartError::Short { sent: 9, have: 4 })
        ));
        let transfer = incoming.begin(b"c", 0).unwrap();
        incoming.keep(transfer);
        tokio::time::advance(KEEP * 2).await;
        incoming.expire();
        assert!(incoming.0.lock().is_none());
    }
}
