//! What this crate's tests share: objects in as YAML, a plan out as text, and a small cluster with a make-believe node.

use std::sync::Arc;
use std::time::Duration;

use caravel_api::ObjectName;
use caravel_store::{Snapshot, Store};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::Instant;

use crate::action::{Outcomes, Plan};
use crate::fake::FakeHand;
use crate::row::{Row, Situation};
use crate::settings::Settings;

/// The time in all plans of tests.
pub const NOW: &str = "2026-01-01T00:01:00Z";

pub fn now() -> Timestamp {
    NOW.parse().expect("a time")
}

pub async fn cluster(objects: &[impl AsRef<str>]) -> (Store, Arc<FakeHand>) {
    let store = Store::memory().await.expect("memory opens");
    let hand = Arc::new(FakeHand::new(store.clone()));
    for text in objects {
        for document in serde_yaml_ng::Deserializer::from_str(text.as_ref()) {
            hand.put(&Value::deserialize(document).expect("YAML"))
                .await
                .expect("a good object");
        }
    }
    (store, hand)
}

pub fn name(text: &str) -> ObjectName {
    text.split_once('/').map_or_else(
        || ObjectName::cluster(text),
        |(namespace, name)| ObjectName::new(namespace, name),
    )
}

pub fn decide(row: &Row, cluster: &Snapshot, key: &str, settings: &Settings) -> Plan {
    let last = Outcomes::default();
    (row.reconcile)(
        cluster,
        &name(key),
        &Situation {
            last: &last,
            now: now(),
            settings,
            since: "2025-12-31T00:00:00Z".parse().expect("a time"),
        },
    )
    .expect("readable objects")
}

/// The plan for `key` in a cluster of these objects, as text.
pub async fn plan(row: &Row, key: &str, objects: &[impl AsRef<str>]) -> String {
    let (store, _) = cluster(objects).await;
    decide(row, &store.snapshot(), key, &Settings::default()).to_string()
}

/// Polls until `holds`, with a deadline.
pub async fn eventually(store: &Store, what: &str, holds: impl Fn(&Snapshot) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut revisions = store.revisions();
    while !holds(&store.snapshot()) {
        tokio::select! {
            _ = revisions.changed() => {}
            () = tokio::time::sleep_until(deadline) => panic!("not within 20 s: {what}"),
        }
    }
}
