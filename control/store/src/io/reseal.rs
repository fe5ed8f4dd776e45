//! Replacing the key that records are sealed with, while everything goes on.
//!
//! From [`Writer::choose_key`] on every record is sealed with the new key. What an older one sealed is read and sealed
//! again in small steps between the jobs: objects, then the record of what was applied, then `meta`. The log is not
//! rewritten; its old entries go with the next purge, which housekeeping asks for. A restart finds what is left.

use std::io;
use std::sync::atomic::Ordering;

use caravel_api::Key;

use super::{Done, Reply, Writer};
use crate::keys::KeyError;
use crate::seal::{SealError, Sealer};

/// Bytes of objects sealed again between two turns.
const STEP_BYTES: usize = 256 << 10;

/// What may still be sealed with an older key.
#[derive(Default)]
pub(crate) struct OldSeals {
    /// Log records below this; 0: none.
    pub log_below: u64,
    /// Objects, from the start or after the one named.
    pub state: Option<After>,
}

impl OldSeals {
    /// A record outside the log was met.
    pub fn see(&mut self, is_old: bool) {
        if is_old && self.state.is_none() {
            self.state = Some(After::default());
        }
    }
}

/// The last object that is done.
#[derive(Default)]
pub(crate) struct After(Option<Key>);

impl Writer {
    /// Seals with key `id` from now on.
    pub(super) fn choose_key(
        &mut self,
        id: u32,
        reply: Reply<Result<(), KeyError>>,
        done: &mut Vec<Done>,
    ) -> io::Result<()> {
        // What waits was sealed before.
        self.write_log()?;
        let chosen = self.sealer.choose(id);
        if chosen.is_ok() {
            self.old.log_below = self.log_end;
            self.old.state = Some(After::default());
            self.tell_old();
            tracing::info!(key = id, "records are sealed with another key");
        }
        done.push(Done::Chosen(chosen, reply));
        Ok(())
    }

    /// A snapshot that was being installed may hold records of both keys.
    pub(super) fn reseal_from_start(&mut self) {
        if self.old.state.is_some() {
            self.old.state = Some(After::default());
        }
    }

    /// Some records more; nothing while a snapshot is being installed, which is written anew anyway.
    pub(super) fn step_reseal(&mut self) -> io::Result<()> {
        if self.old.log_below > 0
            && self.purge_below.is_none()
            && (self.purged_below >= self.old.log_below || self.log_end == 0)
        {
            // A key may be put aside now, so that no power cut may bring back what it sealed.
            self.flush()?;
            self.old.log_below = 0;
            self.tell_old();
        }
        if self.install.is_some() {
            return Ok(());
        }
        let Some(After(after)) = self.old.state.take() else {
            return Ok(());
        };
        let records = self
            .backend
            .some_state(self.generation, after.as_ref(), STEP_BYTES)?;
        if let Some((last, _)) = records.last() {
            let last = last.clone();
            let mut ops = Vec::new();
            for (key, sealed) in records {
                if self.sealer.is_old(&sealed) {
                    let again = again(&self.sealer, "state", key.as_bytes(), sealed)?;
                    ops.push((key, Some(again)));
                }
            }
            if !ops.is_empty() {
                self.backend.state(self.generation, ops, None)?;
            }
            self.old.state = Some(After(Some(last)));
            return Ok(());
        }
        if let Some(sealed) = self.backend.applied(self.generation)?
            && self.sealer.is_old(&sealed)
        {
            let again = again(&self.sealer, "applied", b"", sealed)?;
            self.backend
                .state(self.generation, Vec::new(), Some(&again))?;
        }
        for (name, sealed) in self.backend.meta()? {
            if self.sealer.is_old(&sealed) {
                let again = again(&self.sealer, "meta", name.as_bytes(), sealed)?;
                self.backend.put_meta(&name, &again)?;
            }
        }
        self.write_log()?;
        self.flush()?;
        self.tell_old();
        tracing::info!("everything but the log is sealed with the current key");
        Ok(())
    }

    pub(super) fn tell_old(&self) {
        let sealer = &self.sealer;
        sealer
            .old_log_below
            .store(self.old.log_below, Ordering::Relaxed);
        sealer
            .old_state
            .store(self.old.state.is_some(), Ordering::Relaxed);
    }
}

fn again(sealer: &Sealer, tree: &str, place: &[u8], sealed: Vec<u8>) -> io::Result<Vec<u8>> {
    let opened = sealer
        .open(tree, place, sealed)
        .map_err(|error: SealError| {
            let what = String::from_utf8_lossy(place).into_owned();
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{tree} {what}: {error}"),
            )
        })?;
    Ok(sealer.seal(tree, place, &opened))
}
