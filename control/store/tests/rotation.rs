//! A key is replaced while the store is used, and across restarts; what the old one sealed is sealed again.

use caravel_api::{Encoded, Key, KeyRange};
use caravel_store::{Change, Expect, KeyError, Store, StoreConfig, Txn};
use std::path::Path;
use std::time::Duration;
use tokio::time::{Instant, sleep};

const OBJECTS: usize = 300;

async fn open(dir: &Path) -> Store {
    let config = StoreConfig::single(dir.join("data"), dir.join("keys"));
    Store::open(config).await.unwrap()
}

async fn fill(store: &Store, name: &str) {
    for n in 0..OBJECTS {
        // Some are longer than a piece of the disk.
        let text = "s3cret".repeat(if n % 50 == 0 { 30_000 } else { 20 });
        let json = format!(r#"{{"metadata":{{"name":"{name}-{n}"}},"x":"{text}"}}"#);
        let txn = Txn::new().with(Change::Put {
            key: Key::from(format!("/registry/core/secrets/{name}-{n}")),
            expect: Expect::Absent,
            object: Encoded::new(json).unwrap(),
        });
        store.commit(txn).await.unwrap();
    }
}

fn count(store: &Store) -> usize {
    let snapshot = store.snapshot();
    snapshot
        .list(&KeyRange::prefix("/registry/core/secrets/"))
        .count()
}

async fn resealed(store: &Store) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while store.sealing().is_resealing() {
        assert!(Instant::now() < deadline, "{:?}", store.sealing());
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_replaced_key_is_not_needed_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    fill(&store, "before").await;
    assert!(matches!(store.use_key(2).await, Err(KeyError::Unknown(2))));
    assert_eq!(store.unused_key().unwrap(), 2);
    store.hold_key(2, caravel_store::keys::random()).unwrap();
    assert_eq!(store.sealing().key, 1);
    store.use_key(2).await.unwrap();
    assert!(store.retire_key(1).is_err());
    fill(&store, "after").await;
    resealed(&store).await;
    store.retire_key(1).unwrap();
    assert_eq!(store.sealing().holds, [2]);
    store.shutdown().await;
    // Only the new key is there to open it with.
    let again = open(dir.path()).await;
    assert_eq!(count(&again), 2 * OBJECTS);
    assert!(!again.sealing().is_resealing());
    assert_eq!(again.sealing().key, 2);
    again.shutdown().await;
}

#[tokio::test]
async fn a_restart_goes_on_where_it_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    fill(&store, "before").await;
    store.hold_key(2, caravel_store::keys::random()).unwrap();
    store.shutdown().await;
    // Held and not agreed on: the old one goes on.
    let store = open(dir.path()).await;
    assert_eq!(store.sealing().key, 1);
    store.use_key(2).await.unwrap();
    store.shutdown().await;
    let store = open(dir.path()).await;
    let sealing = store.sealing();
    assert_eq!((sealing.key, sealing.holds.as_slice()), (2, &[1, 2][..]));
    resealed(&store).await;
    store.retire_key(1).unwrap();
    store.shutdown().await;
    let store = open(dir.path()).await;
    assert_eq!(count(&store), OBJECTS);
    store.shutdown().await;
}
