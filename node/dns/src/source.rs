//! Follows Services and EndpointSlices and keeps the zone current.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::runtime::watcher::{self, watcher};
use kube::runtime::{WatchStreamExt, reflector};
use parking_lot::RwLock;
use tokio::time::sleep;

use crate::zone::Zone;

/// Changes that come within this time are taken in one go.
const GATHER: Duration = Duration::from_millis(20);

/// The zone as it is now; none until the cluster has been listed once.
#[derive(Clone, Default)]
pub(crate) struct Current(Arc<RwLock<Option<Arc<Zone>>>>);

impl Current {
    pub(crate) fn get(&self) -> Option<Arc<Zone>> {
        self.0.read().clone()
    }
}

/// Runs for ever. Lost connections are taken up again with growing delays; meanwhile the zone stays as it was.
pub(crate) async fn follow(client: kube::Client, domain: String, current: Current) {
    let (services, service_writer) = reflector::store::<Service>();
    let (slices, slice_writer) = reflector::store::<EndpointSlice>();
    let watch = || watcher::Config::default();
    let mut service_events = watcher(Api::all(client.clone()), watch())
        .default_backoff()
        .reflect(service_writer)
        .boxed();
    let mut slice_events = watcher(Api::all(client), watch())
        .default_backoff()
        .reflect(slice_writer)
        .boxed();
    let mut listed = (false, false);
    loop {
        let done = |event: &watcher::Event<_>| matches!(event, watcher::Event::InitDone);
        tokio::select! {
            Some(event) = service_events.next() => match event {
                Ok(event) => listed.0 |= done_service(&event),
                Err(error) => { tracing::warn!(%error, "cannot watch services"); continue }
            },
            Some(event) = slice_events.next() => match event {
                Ok(event) => listed.1 |= done(&event),
                Err(error) => { tracing::warn!(%error, "cannot watch endpoint slices"); continue }
            },
            else => return,
        }
        // Take what else is there already, without waiting for more than a moment.
        let pause = sleep(GATHER);
        tokio::pin!(pause);
        loop {
            tokio::select! {
                () = &mut pause => break,
                Some(event) = service_events.next() => listed.0 |= event.is_ok_and(|e| done_service(&e)),
                Some(event) = slice_events.next() => listed.1 |= event.is_ok_and(|e| done(&e)),
            }
        }
        if listed == (true, true) {
            let (services, slices) = (services.state(), slices.state());
            let zone = Zone::build(
                &domain,
                services.iter().map(AsRef::as_ref),
                slices.iter().map(AsRef::as_ref),
            );
            *current.0.write() = Some(Arc::new(zone));
        }
    }
}

fn done_service(event: &watcher::Event<Service>) -> bool {
    matches!(event, watcher::Event::InitDone)
}
