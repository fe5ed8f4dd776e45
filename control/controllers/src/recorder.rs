//! Writes what happened as Events: correlates each record, then creates an Event or raises the count of one.
//!
//! Events are best effort: a refused one is dropped, never retried, and never holds up a controller.

use std::sync::Arc;

use caravel_api::{Kind, ObjectName, time};
use caravel_store::{Epoch, Store};
use k8s_openapi::api::core::v1::Event;
use tokio::sync::mpsc;

use crate::action::Action;
use crate::events::{Correlator, EventRecord, Told};
use crate::hand::Hand;

/// Records that wait to be written; more are dropped.
pub const WAITING: usize = 1024;

/// Writes records until all senders are gone.
pub async fn record(
    store: Store,
    hand: Arc<dyn Hand>,
    epoch: Epoch,
    mut records: mpsc::Receiver<EventRecord>,
) {
    let mut correlator = Correlator::default();
    while let Some(record) = records.recv().await {
        let nonce = u64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or_default();
        let action = match correlator.correlate(&record, time::now(), nonce) {
            Told::Spam => continue,
            Told::New(event) => Action::create(&*event),
            Told::Again { name, event } => again(&store, &name, *event),
        };
        if let Err(error) = hand.apply(epoch, &record.component, action).await {
            tracing::debug!(%record, %error, "an event was not written");
        }
    }
}

fn again(store: &Store, name: &ObjectName, event: Event) -> Action {
    match store
        .snapshot()
        .entry(&Event::row().key(&name.namespace, &name.name))
        .and_then(|entry| entry.decode::<Event>().ok())
    {
        Some(old) => {
            let mut new = (*old).clone();
            (new.count, new.message, new.last_timestamp) =
                (event.count, event.message, event.last_timestamp);
            Action::update(&new)
        }
        None => Action::create(&event),
    }
}
