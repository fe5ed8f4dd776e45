//! Durable writes per second and their latency, by number of writers: `throughput [seconds] [memory] [idle]`.
//!
//! Each writer puts 1 KB objects under 10,000 keys and waits for the acknowledgement. Then: barriers, a restart with
//! everything read back, and memory per object. Prints, asserts nothing; compare with a peer in the same run only.

use std::time::{Duration, Instant};

use caravel_api::{Encoded, Key};
use caravel_store::{BackendKind, Change, Expect, Store, StoreConfig, Txn};

fn txn(n: u64) -> Txn {
    let key = Key::from(format!("/registry/core/configmaps/bench/object-{n}"));
    let json = format!(
        r#"{{"metadata":{{"name":"object-{n}","namespace":"bench","uid":"{n:032x}","labels":{{"app":"bench"}}}},"data":{{"x":"{}"}}}}"#,
        "x".repeat(880)
    );
    Txn::new().with(Change::Put {
        key,
        expect: Expect::Any,
        object: Encoded::new(json).expect("an object"),
    })
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap_or("0");
    line.split_whitespace()
        .filter_map(|word| word.parse().ok())
        .next()
        .unwrap_or(0)
}

fn processor_ms() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap_or("")
        .split_whitespace()
        .collect();
    let ticks = |at: usize| {
        fields
            .get(at)
            .and_then(|text| text.parse::<u64>().ok())
            .unwrap_or(0)
    };
    (ticks(11) + ticks(12)) * 10
}

async fn load(store: &Store, writers: u64, time: Duration) {
    let start = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..writers {
        let store = store.clone();
        tasks.spawn(async move {
            let mut latencies = Vec::new();
            let mut n = writer.wrapping_mul(7919);
            while start.elapsed() < time {
                n = n
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                let begun = Instant::now();
                store
                    .commit(txn((n >> 33) % 10_000))
                    .await
                    .expect("acknowledged");
                latencies.push(begun.elapsed());
            }
            latencies
        });
    }
    let mut all: Vec<Duration> = tasks.join_all().await.into_iter().flatten().collect();
    all.sort_unstable();
    let at = |share: f64| all[((all.len() - 1) as f64 * share) as usize];
    println!(
        "{writers:>5} writers: {:>8.0} writes/s, p50 {:>9.3?}, p99 {:>9.3?}, max {:>9.3?}",
        all.len() as f64 / start.elapsed().as_secs_f64(),
        at(0.5),
        at(0.99),
        at(1.0)
    );
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let seconds = arguments
        .get(1)
        .and_then(|text| text.parse().ok())
        .unwrap_or(3);
    let memory = arguments.iter().any(|text| text == "memory");
    let dir = tempfile::tempdir_in(".")?;
    let backend = if memory {
        BackendKind::Memory
    } else {
        BackendKind::Sled
    };
    let config = StoreConfig {
        backend,
        ..StoreConfig::single(dir.path().join("data"), dir.path().join("keys"))
    };
    let begun = Instant::now();
    let store = Store::open(config.clone()).await?;
    println!("first start: {:.1?}", begun.elapsed());
    let (begun, used) = (Instant::now(), processor_ms());
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    println!(
        "idle: {} ms of processor in {:.1?}, resident {} MiB",
        processor_ms() - used,
        begun.elapsed(),
        resident_kib() / 1024
    );
    if arguments.iter().any(|text| text == "idle") {
        return Ok(());
    }
    for writers in [1, 16, 64, 1000] {
        load(&store, writers, Duration::from_secs(seconds)).await;
    }
    let begun = Instant::now();
    for _ in 0..2000 {
        store.fresh_snapshot().await?;
    }
    println!(
        "read barrier: {:.1?} each, one after the other",
        begun.elapsed() / 2000
    );
    println!(
        "resident: {} MiB, {:?}",
        resident_kib() / 1024,
        store.status()
    );
    store.shutdown().await;
    drop(store);
    if !memory {
        let begun = Instant::now();
        let store = Store::open(config).await?;
        println!(
            "restart with {} objects: {:.1?}, resident {} MiB",
            store.status().objects,
            begun.elapsed(),
            resident_kib() / 1024
        );
        store.shutdown().await;
    }
    Ok(())
}
