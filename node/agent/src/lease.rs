//! The node's heartbeat: a Lease in kube-node-lease, renewed every 10 s. All that an idle node sends.
//!
//! Follows pkg/kubelet's use of component-helpers/apimachinery/lease.

use std::sync::Arc;
use std::time::Duration;

use caravel_api::time;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Patch, PatchParams, PostParams};

use crate::api::code;
use crate::world::World;

const NAMESPACE: &str = "kube-node-lease";
/// Seconds after which the node counts as gone.
const DURATION: i32 = 40;
/// After a first failure; doubled with each further one.
const AGAIN: Duration = Duration::from_millis(200);
/// The longest pause between failures: several of them must fit into the time after which the node counts as gone.
const MOST: Duration = Duration::from_secs(7);

pub(crate) async fn keep(world: Arc<World>, node_uid: String) {
    let mut failures = 0;
    loop {
        failures = match renew(&world, &node_uid).await {
            Ok(()) => 0,
            Err(error) => {
                tracing::warn!(%error, "lease not renewed");
                failures + 1
            }
        };
        let pause = pause(world.config.lease_renew, failures);
        tokio::select! {
            () = world.shutdown.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Until the next renewal, after so many failures in a row.
fn pause(period: Duration, failures: u32) -> Duration {
    match failures {
        0 => period,
        _ => AGAIN
            .saturating_mul(1 << (failures - 1).min(8))
            .min(MOST)
            .min(period),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_tried_again_long_before_the_node_counts_as_gone() {
        let period = Duration::from_secs(10);
        for (failures, expected) in [
            (0, 10_000),
            (1, 200),
            (2, 400),
            (6, 6_400),
            (7, 7_000),
            (u32::MAX, 7_000),
        ] {
            let expected = Duration::from_millis(expected);
            assert_eq!(pause(period, failures), expected, "{failures}");
        }
        assert_eq!(pause(Duration::from_secs(1), 9), Duration::from_secs(1));
    }
}
