//! Space on disk under overwrites: `overwrites [count] [keys]`, by default a million over ten thousand 1 KB objects.
//!
//! Prints what the database takes now and then beside what it holds; it must level off. Prints, asserts nothing.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use caravel_api::{Encoded, Key};
use caravel_store::{Change, Expect, Store, StoreConfig, Txn};

const WRITERS: u64 = 256;

fn txn(n: u64) -> Txn {
    let json = format!(
        r#"{{"metadata":{{"name":"object-{n}"}},"data":{{"x":"{}"}}}}"#,
        "x".repeat(950)
    );
    Txn::new().with(Change::Put {
        key: Key::from(format!("/registry/core/configmaps/bench/object-{n}")),
        expect: Expect::Any,
        object: Encoded::new(json).expect("an object"),
    })
}

fn bytes(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(Result::ok);
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(known) if known.is_dir() => bytes(&entry.path()),
        Ok(known) => known.len(),
        Err(_) => 0,
    });
    sizes.sum()
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut numbers = std::env::args()
        .skip(1)
        .map(|text| text.parse().expect("a number"));
    let (count, keys): (u64, u64) = (
        numbers.next().unwrap_or(1_000_000),
        numbers.next().unwrap_or(10_000),
    );
    let dir = std::env::temp_dir().join(format!("caravel-overwrites-{}", std::process::id()));
    let store = Store::open(StoreConfig::single(dir.join("data"), dir.join("keys"))).await?;
    let (next, begun) = (Arc::new(AtomicU64::new(0)), Instant::now());
    for part in 1..=10 {
        let end = count * part / 10;
        let mut writers = tokio::task::JoinSet::new();
        for _ in 0..WRITERS {
            let (store, next) = (store.clone(), next.clone());
            writers.spawn(async move {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= end {
                        // Given back, for the next part.
                        next.fetch_sub(1, Ordering::Relaxed);
                        return;
                    }
                    store
                        .commit(txn(n * 7919 % keys))
                        .await
                        .expect("acknowledged");
                }
            });
        }
        writers.join_all().await;
        let held = store.status().object_bytes;
        let taken = bytes(&dir.join("data"));
        println!(
            "{end:>9} overwrites, {:>6.1} s: {:>7.1} MB on disk for {:.1} MB of objects and {:.1} MB of log",
            begun.elapsed().as_secs_f64(),
            taken as f64 / 1e6,
            held as f64 / 1e6,
            store.status().log_bytes as f64 / 1e6,
        );
    }
    store.shutdown().await;
    drop(store);
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}
