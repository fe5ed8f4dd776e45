//! Which backup each server saved last: a small record in the state, so that every server can tell.
//!
//! It says that bytes were given out or written, not that they are still there.

use anyhow::Result;
use caravel_api::{Encoded, Key, KeyRange};
use caravel_rpc::cluster::v1::SavedSnapshot;
use caravel_store::backup::BackupHead;
use caravel_store::{Change, Expect, Snapshot, Store, Txn};
use serde_json::{Value, json};

/// No kind lies here, so that no API request ever reads it.
const PREFIX: &str = "/registry/caravel/snapshots/";

/// Writes down that this server saved a backup.
pub(crate) async fn note(store: &Store, head: &BackupHead) -> Result<()> {
    let server = store.identity().node;
    let record = json!({
        "metadata": { "name": server.to_string() },
        "server": server,
        "revision": head.revision,
        "created": head.created,
    });
    let txn = Txn::new().with(Change::Put {
        key: Key::from(format!("{PREFIX}{server:020}")),
        expect: Expect::Any,
        object: Encoded::new(record.to_string())?,
    });
    store.commit(txn).await?;
    Ok(())
}

/// The last one of each server, in order of their numbers.
pub(crate) fn all(snapshot: &Snapshot) -> Vec<SavedSnapshot> {
    let records = snapshot.list(&KeyRange::prefix(PREFIX));
    records
        .filter_map(|entry| {
            let record: Value = serde_json::from_slice(&entry.json).ok()?;
            let number = |name: &str| record[name].as_u64();
            Some(SavedSnapshot {
                member: number("server")?,
                revision: number("revision")?,
                created: number("created")?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_last_one_counts() {
        let store = Store::memory().await.unwrap();
        assert!(all(&store.snapshot()).is_empty());
        for created in [5, 9] {
            let head = BackupHead {
                cluster: String::new(),
                revision: created * 10,
                objects: 1,
                created,
            };
            note(&store, &head).await.unwrap();
        }
        let saved = all(&store.snapshot());
        assert_eq!(saved.len(), 1);
        assert_eq!((saved[0].revision, saved[0].created), (90, 9));
    }
}
