//! Deletes Events an hour after they last happened, in bounded batches: in the log, so that replicas agree.
//!
//! Upstream leaves this to etcd's leases (`--event-ttl`). There is one key; it looks once a minute.

use std::sync::Arc;

use caravel_api::{Kind, ObjectName, time};
use caravel_store::{Entry, Snapshot, Undecodable};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, Namespace};

use crate::action::{Action, Deletion, Plan};
use crate::row::{Row, Situation, on};

pub const CONTROLLER: Row = Row {
    name: "event-expiry",
    identity: "event-expiry-controller",
    workers: 1,
    // There is always a namespace, so the first look comes at the start.
    wakes: &[on::<Namespace>(|_| vec![ObjectName::cluster("events")])],
    reconcile,
};

const BATCH: usize = 256;
const PERIOD: i64 = 60;

fn reconcile(
    cluster: &Snapshot,
    _: &ObjectName,
    situation: &Situation<'_>,
) -> Result<Plan, Undecodable> {
    let before = time::after(situation.now, -situation.settings.event_ttl_seconds);
    let expired = |entry: &&Arc<Entry>| {
        entry.meta.created.is_none_or(|created| created <= before)
            && last_seen(entry).is_none_or(|seen| seen <= before)
    };
    let expired = cluster
        .list(&Event::row().prefix(None))
        .filter(expired)
        .take(BATCH)
        .map(|entry| Action::Delete {
            row: Event::row(),
            name: ObjectName::new(entry.meta.namespace.clone(), entry.meta.name.clone()),
            how: Deletion {
                uid: entry.meta.uid.clone(),
                revision: Some(entry.revision),
                ..Deletion::default()
            },
            note: None,
        });
    let mut plan = Plan::of(expired.collect());
    plan.again(time::after(
        situation.now,
        if plan.actions.len() == BATCH {
            1
        } else {
            PERIOD
        },
    ));
    Ok(plan)
}

/// What cannot be read as an Event was last seen when it was made.
fn last_seen(entry: &Arc<Entry>) -> Option<Timestamp> {
    let event = entry.decode::<Event>().ok()?;
    let series = event
        .series
        .as_ref()
        .and_then(|series| series.last_observed_time.as_ref())
        .map(|time| time.0);
    let last = event.last_timestamp.as_ref().map(|time| time.0);
    series
        .max(last)
        .max(event.event_time.as_ref().map(|time| time.0))
}

#[cfg(test)]
mod tests {
    use crate::testing::plan;

    #[tokio::test]
    async fn old_events_go() {
        let event = |name: &str, created: &str, last: &str| {
            format!(
                "{{apiVersion: v1, kind: Event, metadata: {{name: {name}, namespace: a, uid: {name}, creationTimestamp: {created}}}, involvedObject: {{}}, lastTimestamp: {last}}}"
            )
        };
        let objects = [
            event("old", "2025-12-31T22:00:00Z", "2025-12-31T23:00:59Z"),
            event("counting", "2025-12-31T22:00:00Z", "2025-12-31T23:30:00Z"),
            event("new", "2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z"),
        ];
        assert_eq!(
            plan(&super::CONTROLLER, "events", &objects).await,
            "delete event a/old\nagain at 2026-01-01T00:02:00Z\n"
        );
    }
}
