//! A process that ends anywhere in the writing of its objects finds the state that it had.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use caravel_api::{Encoded, Key};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng};
use tokio::time::{sleep, timeout};

use super::Store;
use crate::config::{Limits, StoreConfig, WriteBehind};
use crate::io::{COMMITTED_AFTER, Job, Wait};
use crate::open::open_disk;
use crate::raft::transport::Alone;
use crate::record::Applied;
use crate::seal::KeyRing;
use crate::simulation::{Digests, Disk};
use crate::txn::{Change, Expect, Txn};

const NAMES: u32 = 12;

fn config(digests: &Digests) -> StoreConfig {
    let behind = WriteBehind {
        after: Duration::from_millis(40),
        bytes: 2000,
        step: 100,
        pace: Duration::from_millis(1),
    };
    StoreConfig {
        limits: Limits {
            log_entries: 10,
            snapshot_every: 20,
            behind,
            ..Limits::default()
        },
        digests: Some(digests.clone()),
        ..StoreConfig::memory()
    }
}

async fn open(disk: &Disk, digests: &Digests) -> Store {
    let latency = Arc::new(|| Duration::from_micros(300));
    Store::open_simulated(config(digests), Arc::new(Alone), disk, latency)
        .await
        .unwrap()
}

/// Some change to some objects; a third of them is refused or without effect.
fn some(random: &mut StdRng, store: &Store) -> Txn {
    let mut txn = Txn::new();
    let first = random.random_range(0..NAMES);
    for number in 0..random.random_range(1..3) {
        let key = Key::from(format!(
            "/registry/core/configmaps/a/c{}",
            (first + number) % NAMES
        ));
        let here = store.snapshot().entry(&key).map(|entry| entry.revision);
        let expect = match (random.random_range(0..4), here) {
            (0, _) => Expect::Absent,
            (1 | 2, Some(revision)) => Expect::At(revision),
            _ => Expect::Any,
        };
        let text = random.random_range(0..1000);
        let filler = "x".repeat(random.random_range(0..200));
        let object = format!(
            r#"{{"metadata":{{"name":"c","resourceVersion":""}},"data":{{"n":"{text}","f":"{filler}"}}}}"#
        );
        txn = txn.with(match random.random_range(0..3) {
            0 => Change::Delete { key, expect },
            _ => Change::Put {
                key,
                expect,
                object: Encoded::new(object).unwrap(),
            },
        });
    }
    txn
}

#[tokio::test(start_paused = true)]
async fn a_process_that_ends_anywhere_finds_the_state_it_had() {
    let mut redone = 0;
    for seed in 0..60 {
        let mut random = StdRng::seed_from_u64(seed);
        let (disk, digests) = (Disk::new(), Digests::default());
        for _ in 0..2 {
            let store = open(&disk, &digests).await;
            if random.random() {
                let epoch = store.leadership().borrow().unwrap();
                let reports = BTreeMap::from([(store.identity().node, store.supports())]);
                // It may be there already.
                let _ = store.raise(epoch, &reports).await;
            }
            disk.fail_after(random.random_range(0..250));
            while !disk.is_dead() {
                let txn = some(&mut random, &store);
                if timeout(Duration::from_secs(1), store.commit(txn))
                    .await
                    .is_err()
                {
                    break;
                }
                if random.random_range(0..8) == 0 {
                    sleep(Duration::from_millis(random.random_range(0..60))).await;
                }
            }
            drop(store);
            let keep = random.random_range(0..=disk.unflushed());
            disk.restore(keep);
            let found = open_disk(
                &config(&digests),
                Box::new(disk.powered()),
                KeyRing::fixed(),
            )
            .unwrap();
            redone += usize::from(found.writer.has_behind());
            let was: BTreeMap<_, _> = digests.all().into_iter().collect();
            if let Some(applied) = found.applied {
                let expected = was.get(&applied.index);
                assert_eq!(
                    Some(&found.state.digest()),
                    expected,
                    "seed {seed} at {applied}"
                );
            }
        }
        // It goes on from there as it went on the first time.
        let store = open(&disk, &digests).await;
        store.commit(Txn::new()).await.unwrap();
        let mut seen = BTreeMap::new();
        for (index, digest) in digests.all() {
            let first = *seen.entry(index).or_insert(digest);
            assert_eq!(first, digest, "seed {seed}, entry {index}");
        }
    }
    assert!(redone > 10, "{redone} times there was something to redo");
}

#[test]
fn what_comes_without_a_word_is_taken_before_a_commit_is_late() {
    let digests = Digests::default();
    let mut config = config(&digests);
    config.limits.behind.after = Duration::from_secs(3600);
    let disk = Box::new(Disk::new().powered());
    let mut writer = open_disk(&config, disk, KeyRing::fixed()).unwrap().writer;
    writer.turn(vec![Job::State {
        changed: Vec::new(),
        skipped: Vec::new(),
        applied: Applied::default(),
    }]);
    assert!(writer.has_behind());
    let Wait::AtMost(time) = writer.wait() else {
        panic!("something waits to be written");
    };
    assert!(time <= COMMITTED_AFTER, "{time:?}");
}
