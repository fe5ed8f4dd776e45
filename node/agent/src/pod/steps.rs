//! What the steps of a plan do to the world. Each is one future; it may be dropped at any await and begun again.
//!
//! Decides nothing about the pod's life: says only what came of what was asked.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use caravel_images::{Image, Reason, StoreError};
use caravel_volumes::KernelMounter;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{DeleteParams, Preconditions};
use tokio::time::Instant;

use super::plan::PullPolicy;
use crate::api::code;
use crate::events::Kind;
use crate::spec;
use crate::tasks::blocking;
use crate::world::World;
use crate::{credentials, hosts};

/// A pod waits this long for the node's network before it says why it does.
const NETWORK: Duration = Duration::from_secs(20);
/// Between two tries to give things back.
const RETRY: Duration = Duration::from_secs(2);

pub(crate) struct Made {
    pub netns: Option<PathBuf>,
    pub ip: Option<IpAddr>,
}

/// Namespaces, cgroup and address.
pub(crate) async fn sandbox(world: &World, pod: &Pod) -> Result<Made, String> {
    let hostname = {
        let files = world.machine_files();
        hosts::hostname(pod, &world.surroundings(&files))
    };
    let spec = spec::sandbox(pod, hostname);
    let (uid, host_network) = (spec.pod_uid.clone(), spec.host_network);
    let sandbox = world
        .runtime
        .create_sandbox(spec)
        .await
        .map_err(|e| e.to_string())?;
    if host_network {
        return Ok(Made {
            netns: None,
            ip: Some(world.config.node_ip),
        });
    }
    let Some(netns) = sandbox.netns else {
        return Err("the sandbox has no network namespace".into());
    };
    let mut network = world.network.clone();
    let ready = async {
        network
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|network| network.clone())
    };
    let network = tokio::time::timeout(NETWORK, ready).await.ok().flatten();
    let network =
        network.ok_or("network is not ready: the node has no pod range yet (spec.podCIDR)")?;
    let attached = network
        .attach(&netns, &uid)
        .await
        .map_err(|e| e.to_string())?;
    Ok(Made {
        netns: Some(netns),
        ip: Some(IpAddr::V4(attached.ip)),
    })
}

pub(crate) fn pod_directory(world: &World, pod: &Pod) -> PathBuf {
    world
        .config
        .kubelet_dir
        .join("pods")
        .join(pod.metadata.uid.as_deref().unwrap_or("unknown"))
}

/// Every volume; name -> path on this machine.
pub(crate) async fn volumes(
    world: &World,
    pod: &Arc<Pod>,
) -> Result<BTreeMap<String, PathBuf>, String> {
    let objects = world
        .objects
        .of_volumes(&world.api, pod)
        .await
        .map_err(|e| e.to_string())?;
    let (directory, facts, pod) = (pod_directory(world, pod), world.facts(None), pod.clone());
    blocking(move || caravel_volumes::setup(&directory, &pod, &objects, &facts, &mut KernelMounter))
        .await
        .map_err(|e| e.to_string())
}

/// Brings live volumes up to date.
pub(crate) async fn refresh(
    world: &World,
    pod: &Arc<Pod>,
    ip: Option<IpAddr>,
) -> Result<(), String> {
    let objects = world
        .objects
        .of_volumes(&world.api, pod)
        .await
        .map_err(|e| e.to_string())?;
    let (directory, facts, pod) = (pod_directory(world, pod), world.facts(ip), pod.clone());
    blocking(move || caravel_volumes::refresh(&directory, &pod, &objects, &facts))
        .await
        .map(drop)
        .map_err(|e| e.to_string())
}

/// Why a container has no image, with the reason it waits for.
pub(crate) struct NoImage {
    pub reason: &'static str,
    pub message: String,
}

async fn find(world: &World, image: &str) -> Result<Option<Image>, StoreError> {
    let (store, name) = (world.images.clone(), image.to_owned());
    blocking(move || store.get(&name)).await
}

pub(crate) async fn image(
    world: &World,
    pod: &Pod,
    container: &str,
    image: &str,
    policy: PullPolicy,
) -> Result<(), NoImage> {
    let event = |kind, reason: &str, message: String| {
        world
            .events
            .container(pod, container, kind, reason, message)
    };
    let mut found = find(world, image).await;
    if let Ok(None) = found {
        // It may be in an archive that is being imported. Nobody is left to say so when the node ends.
        let _ = world.imported.clone().wait_for(|done| *done).await;
        found = find(world, image).await;
    }
    let present = match found {
        Ok(present) => present.is_some(),
        Err(StoreError::Reference(error)) => {
            let message = format!("Failed to apply default image tag \"{image}\": {error}");
            event(Kind::Warning, "InspectFailed", message.clone());
            event(Kind::Warning, "Failed", "Error: InvalidImageName".into());
            return Err(NoImage {
                reason: "InvalidImageName",
                message,
            });
        }
        Err(error) => {
            event(
                Kind::Warning,
                "InspectFailed",
                format!("Failed to inspect image \"{image}\": {error}"),
            );
            return Err(NoImage {
                reason: "ImageInspectError",
                message: format!("Failed to inspect image \"{image}\": {error}"),
            });
        }
    };
    match policy {
        PullPolicy::Never | PullPolicy::IfNotPresent if present => {
            event(
                Kind::Normal,
                "Pulled",
                format!("Container image \"{image}\" already present on machine"),
            );
            return Ok(());
        }
        PullPolicy::Never => {
            let message =
                format!("Container image \"{image}\" is not present with pull policy of Never");
            event(Kind::Warning, "ErrImageNeverPull", message.clone());
            event(Kind::Warning, "Failed", "Error: ErrImageNeverPull".into());
            return Err(NoImage {
                reason: "ErrImageNeverPull",
                message,
            });
        }
        PullPolicy::Always | PullPolicy::IfNotPresent => {}
    }
    event(
        Kind::Normal,
        "Pulling",
        format!("Pulling image \"{image}\""),
    );
    let begun = Instant::now();
    let credentials = pull_secrets(world, pod).await;
    match world.images.pull(image, &credentials).await {
        Ok(pulled) => {
            let took = begun.elapsed().as_millis();
            event(
                Kind::Normal,
                "Pulled",
                format!(
                    "Successfully pulled image \"{image}\" in {took}ms ({took}ms including waiting). Image size: {} bytes.",
                    pulled.size
                ),
            );
            Ok(())
        }
        Err(error) => {
            event(
                Kind::Warning,
                "Failed",
                format!("Failed to pull image \"{image}\": {error}"),
            );
            let reason = match error.reason {
                Reason::InvalidImageName => "InvalidImageName",
                Reason::ErrImagePull | Reason::RegistryUnavailable => "ErrImagePull",
            };
            event(Kind::Warning, "Failed", format!("Error: {reason}"));
            Err(NoImage {
                reason,
                message: error.message,
            })
        }
    }
}

/// Logins of the pod's `imagePullSecrets`; one that is missing is passed over, as upstream does.
async fn pull_secrets(world: &World, pod: &Pod) -> Vec<caravel_images::Credential> {
    let mut found = Vec::new();
    let secrets = world
        .api
        .namespaced::<Secret>(pod.metadata.namespace.as_deref().unwrap_or_default());
    for reference in pod
        .spec
        .iter()
        .flat_map(|s| s.image_pull_secrets.iter().flatten())
    {
        match world.api.request(secrets.get(&reference.name)).await {
            Ok(secret) => found.extend(credentials::of_secret(&secret)),
            Err(error) => {
                tracing::debug!(secret = reference.name, %error, "image pull secret not used");
                let message = format!(
                    "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                    reference.name
                );
                world.events.pod(
                    pod,
                    Kind::Warning,
                    "FailedToRetrieveImagePullSecret",
                    message,
                );
            }
        }
    }
    found
}

/// Gives back everything the pod holds; goes on until it is done.
pub(crate) async fn clean_up(world: &World, pod: &Pod, containers: Vec<String>) {
    while let Err(message) = clean_up_once(world, pod, &containers).await {
        tracing::warn!(
            pod = pod.metadata.name,
            namespace = pod.metadata.namespace,
            message,
            "pod not yet cleaned up"
        );
        tokio::time::sleep(RETRY).await;
    }
}

async fn clean_up_once(world: &World, pod: &Pod, containers: &[String]) -> Result<(), String> {
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    for id in containers {
        world.runtime.remove(id).await.map_err(|e| e.to_string())?;
    }
    let network = world.network.borrow().clone();
    if let Some(network) = network {
        network.detach(&uid).await.map_err(|e| e.to_string())?;
    }
    world
        .runtime
        .remove_sandbox(&uid)
        .await
        .map_err(|e| e.to_string())?;
    let directory = pod_directory(world, pod);
    blocking(move || caravel_volumes::teardown(&directory, &mut KernelMounter))
        .await
        .map_err(|e| e.to_string())?;
    world.objects.forget(&world.api, &uid);
    world.rules_changed.notify_one();
    Ok(())
}

/// Takes the object away, if it is still this pod.
pub(crate) async fn delete(world: &World, pod: &Pod) {
    let meta = &pod.metadata;
    let pods = world
        .api
        .namespaced::<Pod>(meta.namespace.as_deref().unwrap_or_default());
    let params = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions {
            uid: meta.uid.clone(),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    loop {
        match world
            .api
            .request(pods.delete(meta.name.as_deref().unwrap_or_default(), &params))
            .await
        {
            Ok(_) => return,
            Err(error) if matches!(code(&error), Some(404 | 409)) => return,
            Err(error) => {
                tracing::warn!(pod = meta.name, namespace = meta.namespace, %error, "pod not yet deleted")
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}
