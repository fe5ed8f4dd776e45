//! This machine's Node object: registered at the start, its status written when something changed or at long intervals.
//!
//! Never removes a label, taint or condition that somebody else set. Upstream: pkg/kubelet/kubelet_node_status.go.

use std::sync::Arc;
use std::time::Duration;

use caravel_images::Image;
use k8s_openapi::api::core::v1::{Node, NodeSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams, PostParams};
use tokio::time::Instant;

use crate::api::code;
use crate::events::Kind;
use crate::node_status::{self, Health};
use crate::pressure::{self, Lately};
use crate::tasks::blocking;
use crate::world::World;

const RETRY: Duration = Duration::from_secs(1);
/// How often the machine is looked at.
const LOOK: Duration = Duration::from_secs(10);

/// Creates the Node, or brings a known one's labels up to date. Goes on until it is done.
pub(crate) async fn register(world: &World) -> Option<Node> {
    loop {
        match register_once(world).await {
            Ok(node) => return Some(node),
            Err(error) => {
                tracing::warn!(%error, node = world.config.name, "node not registered yet")
            }
        }
        tokio::select! {
            () = world.shutdown.cancelled() => return None,
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

async fn register_once(world: &World) -> kube::Result<Node> {
    let nodes = kube::Api::<Node>::all(world.api.client());
    let name = &world.config.name;
    let labels = node_status::labels(&world.config);
    let node = match world.api.request(nodes.get(name)).await {
        Ok(node) => node,
        Err(error) if code(&error) == Some(404) => {
            let taints = Some(world.config.taints.clone()).filter(|t| !t.is_empty());
            let health = health(world, &mut Lately::default());
            let mut node = Node {
                metadata: ObjectMeta {
                    name: Some(name.clone()),
                    labels: Some(labels.clone()),
                    ..ObjectMeta::default()
                },
                spec: Some(NodeSpec {
                    taints,
                    ..NodeSpec::default()
                }),
                status: None,
            };
            node.status = Some(node_status::status(
                &world.config,
                &world.machine,
                &[],
                health,
                &node,
                caravel_api::time::now(),
            ));
            match world
                .api
                .request(nodes.create(&PostParams::default(), &node))
                .await
            {
                Err(error) if code(&error) == Some(409) => {
                    world.api.request(nodes.get(name)).await?
                }
                other => other?,
            }
        }
        Err(error) => return Err(error),
    };
    let known = node.metadata.labels.clone().unwrap_or_default();
    if labels
        .iter()
        .all(|(name, value)| known.get(name) == Some(value))
    {
        return Ok(node);
    }
    let patch = serde_json::json!({"metadata": {"labels": labels}});
    world
        .api
        .request(nodes.patch(name, &PatchParams::default(), &Patch::Merge(&patch)))
        .await
}

/// Keeps the status true until the daemon ends.
pub(crate) async fn report(world: Arc<World>, mut node: Node) {
    let mut network = world.network.clone();
    let mut last: Option<(Health, Vec<Image>)> = None;
    let mut due = Instant::now();
    let mut lately = Lately::default();
    world
        .events
        .node(&node, Kind::Normal, "Starting", "Starting kubelet.");
    loop {
        let health = health(&world, &mut lately);
        let store = world.images.clone();
        let images = blocking(move || store.list()).await.unwrap_or_default();
        let changed = last
            .as_ref()
            .is_none_or(|(h, i)| *h != health || *i != images);
        if changed || Instant::now() >= due {
            let became_ready = health.network && last.as_ref().is_none_or(|(h, _)| !h.network);
            let status = node_status::status(
                &world.config,
                &world.machine,
                &images,
                health,
                &node,
                caravel_api::time::now(),
            );
            let nodes = kube::Api::<Node>::all(world.api.client());
            let patch = serde_json::json!({"status": status});
            match world
                .api
                .request(nodes.patch_status(
                    &world.config.name,
                    &PatchParams::default(),
                    &Patch::Strategic(&patch),
                ))
                .await
            {
                Ok(written) => {
                    node = written;
                    due = Instant::now() + world.config.status_report;
                    last = Some((health, images));
                    if became_ready {
                        world.events.node(
                            &node,
                            Kind::Normal,
                            "NodeReady",
                            format!("Node {} status is now: NodeReady", world.config.name),
                        );
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "node status not written");
                    if code(&error) == Some(404) {
                        match register(&world).await {
                            Some(again) => node = again,
                            None => return,
                        }
                    }
                    tokio::select! {
                        () = world.shutdown.cancelled() => return,
                        () = tokio::time::sleep(RETRY) => continue,
                    }
                }
            }
        }
        tokio::select! {
            () = world.shutdown.cancelled() => return,
            _ = network.changed() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

fn health(world: &World, lately: &mut Lately) -> Health {
    let signals = pressure::signals(&world.config.kubelet_dir, &world.config.data_dir);
    Health {
        network: world.network.borrow().is_some(),
        pressures: lately.see(signals, Instant::now()),
    }
}
