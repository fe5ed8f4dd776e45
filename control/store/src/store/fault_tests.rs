//! What a disk may do to a store: forget what was not flushed, and fail.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use caravel_api::{Encoded, Key, Revision};
use openraft::EntryPayload;
use tokio::time::timeout;

use super::{Owner, Store};
use crate::backend::Backend as _;
use crate::backend::memory::MemoryDisk;
use crate::config::{Limits, StoreConfig};
use crate::level::Level;
use crate::open::{OpenError, open_memory};
use crate::raft::transport::Alone;
use crate::raft::{Batch, Command, LogEntry, LogId, Proposal};
use crate::record;
use crate::seal::{KeyRing, Sealer};
use crate::splice::Splice;
use crate::txn::{Change, CommitError, Expect, Txn};

fn put(name: &str) -> Txn {
    let object = Encoded::new(format!(r#"{{"metadata":{{"name":"{name}"}}}}"#)).unwrap();
    Txn::new().with(Change::Put {
        key: key(name),
        expect: Expect::Any,
        object,
    })
}

fn key(name: &str) -> Key {
    Key::from(format!("/registry/core/configmaps/default/{name}"))
}

async fn open(disk: MemoryDisk) -> Store {
    try_open(disk).await.unwrap()
}

async fn try_open(disk: MemoryDisk) -> Result<Store, OpenError> {
    let limits = Limits {
        log_entries: 20,
        snapshot_every: 30,
        ..Limits::default()
    };
    let config = StoreConfig {
        limits,
        ..StoreConfig::memory()
    };
    let found = open_memory(&config, disk, KeyRing::fixed())?;
    Store::start(config, found, Arc::new(Alone), Owner::Sender).await
}

#[tokio::test]
async fn a_power_cut_takes_nothing_acknowledged() {
    let mut disk = MemoryDisk::careful();
    let mut acknowledged: Vec<(String, caravel_api::Revision)> = Vec::new();
    for round in 0..5 {
        let store = open(disk.clone()).await;
        for (name, revision) in &acknowledged {
            assert_eq!(
                store
                    .snapshot()
                    .entry(&key(name))
                    .map(|entry| entry.revision),
                Some(*revision),
                "{name} in round {round}"
            );
        }
        for n in 0..80 {
            let name = format!("r{round}n{n}");
            let revision = store.commit(put(&name)).await.unwrap().revision;
            acknowledged.push((name, revision));
        }
        // Not shut down: what the store still meant to write is lost.
        disk = disk.power_cut();
    }
}

#[tokio::test]
async fn a_disk_that_skips_flushes_is_noticed_by_the_test_above() {
    // The fake's own proof: a store whose disk keeps nothing of a flush loses what it acknowledged.
    let disk = MemoryDisk::careful();
    let store = open(MemoryDisk::lying(&disk)).await;
    store.commit(put("a")).await.unwrap();
    let store = open(disk.power_cut()).await;
    assert!(store.snapshot().entry(&key("a")).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_fails_ends_the_replica_and_acknowledges_nothing() {
    let disk = MemoryDisk::default();
    let store = open(disk.clone()).await;
    store.commit(put("a")).await.unwrap();
    disk.fail("no space left on device");
    for _ in 0..2 {
        assert_eq!(store.commit(put("b")).await, Err(CommitError::Unknown));
    }
    assert!(store.snapshot().entry(&key("b")).is_none());
    let why = timeout(Duration::from_secs(60), store.failure())
        .await
        .unwrap();
    assert!(why.contains("no space left"), "{why}");
    assert!(!store.status().healthy);
    // What was served goes on being readable.
    assert!(store.snapshot().entry(&key("a")).is_some());
}

/// A disk with one object on it, at this level, and the last entry of its log.
async fn used(level: Level) -> (MemoryDisk, LogId) {
    let disk = MemoryDisk::default();
    let store = open(disk.clone()).await;
    store.commit(put("a")).await.unwrap();
    if level > Level::FIRST {
        let epoch = store.leadership().borrow().unwrap();
        let reports = BTreeMap::from([(store.identity().node, store.supports())]);
        assert_eq!(store.raise(epoch, &reports).await, Ok(level));
    }
    let last = store.place().last.unwrap();
    store.shutdown().await;
    (disk, last)
}

#[tokio::test(start_paused = true)]
async fn what_a_newer_release_wrote_is_refused_and_not_called_damage() {
    let sealer = Sealer::new(KeyRing::fixed());
    let newer = |mut record: Vec<u8>| {
        record[0] = 3;
        record
    };
    for what in ["log entry", "applied", "object"] {
        let (mut disk, last) = used(Level::FIRST).await;
        match what {
            "log entry" => {
                let entry = LogEntry {
                    log_id: LogId {
                        index: last.index + 1,
                        ..last
                    },
                    payload: EntryPayload::Blank,
                };
                let index = entry.log_id.index;
                let record = newer(record::log_entry(&entry));
                let sealed = sealer.seal("log", &index.to_be_bytes(), &record);
                disk.append(vec![(index, sealed)]).unwrap();
            }
            "applied" => {
                let record = newer(record::applied(&record::Applied::default()));
                let sealed = sealer.seal("applied", b"", &record);
                disk.state(0, Vec::new(), Some(&sealed)).unwrap();
            }
            _ => {
                let name = key("a");
                let sealed = sealer.seal("state", name.as_bytes(), &[3; 40]);
                disk.state(0, vec![(name, Some(sealed))], None).unwrap();
            }
        }
        let refused = try_open(disk).await.err().expect(what);
        assert!(matches!(refused, OpenError::Newer { .. }), "{refused}");
        assert!(
            refused
                .to_string()
                .contains("version 3, which this release does not know"),
            "{refused}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_cannot_be_applied_stops_the_replica_and_is_not_skipped() {
    let sealer = Sealer::new(KeyRing::fixed());
    for (level, expected) in [
        (
            Level::FIRST,
            "was proposed while the cluster was at level 1",
        ),
        (Level::SPLICES, "this replica's state differs from theirs"),
    ] {
        let (mut disk, last) = used(level).await;
        let index = last.index + 1;
        // Made of another object than the one that is there.
        let splice = Splice {
            head: 5_000,
            tail: 1,
            middle: Bytes::from_static(b"x"),
        };
        let txn = Txn::new().with(Change::Splice {
            key: key("a"),
            at: Revision(1),
            splice,
        });
        let proposal = Proposal { epoch: None, txn };
        let entry = LogEntry {
            log_id: LogId { index, ..last },
            payload: EntryPayload::Normal(Command::Batch(Batch(Arc::new(vec![proposal])))),
        };
        let record = record::log_entry(&entry);
        let sealed = sealer.seal("log", &index.to_be_bytes(), &record);
        disk.append(vec![(index, sealed)]).unwrap();
        let refused = try_open(disk).await.err().expect("it stops");
        assert!(refused.to_string().contains(expected), "{refused}");
    }
}
