//! What a disk may do to a store: forget what was not flushed, and fail.

use std::sync::Arc;
use std::time::Duration;

use caravel_api::{Encoded, Key};
use tokio::time::timeout;

use super::{Owner, Store};
use crate::backend::memory::MemoryDisk;
use crate::config::{Limits, StoreConfig};
use crate::open::open_memory;
use crate::raft::transport::Alone;
use crate::seal::KeyRing;
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
    let limits = Limits {
        log_entries: 20,
        snapshot_every: 30,
        ..Limits::default()
    };
    let config = StoreConfig {
        limits,
        ..StoreConfig::memory()
    };
    let found = open_memory(&config, disk, KeyRing::fixed()).unwrap();
    Store::start(config, found, Arc::new(Alone), Owner::Sender)
        .await
        .unwrap()
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
