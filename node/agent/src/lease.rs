//! The node's heartbeat: a Lease in kube-node-lease, renewed every 10 s. All that an idle node sends.
//!
//! Follows pkg/kubelet's use of component-helpers/apimachinery/lease.

use std::sync::Arc;

use caravel_api::time;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Patch, PatchParams, PostParams};

use crate::api::code;
use crate::world::World;

const NAMESPACE: &str = "kube-node-lease";
/// Seconds after which the node counts as gone.
const DURATION: i32 = 40;

pub(crate) async fn keep(world: Arc<World>, node_uid: String) {
    let mut tick = tokio::time::interval(world.config.lease_renew);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = world.shutdown.cancelled() => return,
            _ = tick.tick() => {}
        }
        if let Err(error) = renew(&world, &node_uid).await {
            tracing::warn!(%error, "lease not renewed");
        }
    }
}

async fn renew(world: &World, node_uid: &str) -> kube::Result<()> {
    let leases = world.api.namespaced::<Lease>(NAMESPACE);
    let name = &world.config.name;
    let now = time::micro_time(time::now_micro());
    let patch = serde_json::json!({"spec": {"holderIdentity": name, "leaseDurationSeconds": DURATION, "renewTime": now}});
    match world
        .api
        .request(leases.patch(name, &PatchParams::default(), &Patch::Merge(&patch)))
        .await
    {
        Err(error) if code(&error) == Some(404) => {
            let owner = OwnerReference {
                api_version: "v1".into(),
                kind: "Node".into(),
                name: name.clone(),
                uid: node_uid.to_owned(),
                ..OwnerReference::default()
            };
            let lease = Lease {
                metadata: ObjectMeta {
                    name: Some(name.clone()),
                    namespace: Some(NAMESPACE.into()),
                    owner_references: Some(vec![owner]),
                    ..ObjectMeta::default()
                },
                spec: Some(LeaseSpec {
                    holder_identity: Some(name.clone()),
                    lease_duration_seconds: Some(DURATION),
                    renew_time: Some(now),
                    ..LeaseSpec::default()
                }),
            };
            world
                .api
                .request(leases.create(&PostParams::default(), &lease))
                .await
                .map(drop)
        }
        other => other.map(drop),
    }
}
