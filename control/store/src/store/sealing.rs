//! The keys of one replica, as whoever replaces them uses them. What the cluster agrees on is decided elsewhere.

use std::collections::BTreeMap;

use super::Store;
use crate::io::Job;
use crate::keys::{KEY, KeyError};
use crate::seal::Sealing;

impl Store {
    /// What this replica seals its records with.
    pub fn sealing(&self) -> Sealing {
        self.inner.sealer.status()
    }

    /// The whole key ring, and the number of the key in use: for other servers of the cluster only.
    pub fn keys(&self) -> (BTreeMap<u32, [u8; KEY]>, u32) {
        self.inner.sealer.keys()
    }

    /// A number that no key of this replica has or had.
    ///
    /// # Errors
    /// A key ring that cannot be read.
    pub fn unused_key(&self) -> Result<u32, KeyError> {
        self.inner.sealer.unused()
    }

    /// Takes a key in, without using it. Blocks for as long as writing it takes.
    ///
    /// # Errors
    /// Another key of this number; a key ring that cannot be written.
    pub fn hold_key(&self, id: u32, key: [u8; KEY]) -> Result<(), KeyError> {
        self.inner.sealer.hold(id, key)
    }

    /// Seals with key `id` from now on; what older keys sealed is sealed again in the background.
    ///
    /// # Errors
    /// A key that is not held; a key ring or a disk that cannot be written.
    pub async fn use_key(&self, id: u32) -> Result<(), KeyError> {
        let chosen = self.inner.io.ask(|reply| Job::ChooseKey { id, reply });
        let failed = |cause| KeyError::Io(self.inner.config.dir.clone(), cause);
        chosen.await.map_err(failed)?
    }

    /// Puts a key aside. Only when [`Sealing::is_resealing`] is false.
    ///
    /// # Errors
    /// The key in use; one that records may need; a key ring that cannot be written.
    pub fn retire_key(&self, id: u32) -> Result<(), KeyError> {
        if self.sealing().is_resealing() {
            return Err(KeyError::Unknown(id));
        }
        self.inner.sealer.retire(id)
    }
}
