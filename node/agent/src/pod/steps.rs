//! What the steps of a plan do to the world. Each is one future; it may be dropped at any await and begun again.
//!
//! Decides nothing about the pod's life: says only what came of what was asked.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use caravel_images::Reason;
use caravel_runtime::{ContainerState, RuntimeError, Started};
use caravel_volumes::{KernelMounter, sub_path};
use k8s_openapi::api::core::v1::{Container, Pod, Secret};
use kube::api::{DeleteParams, Preconditions};
use tokio::time::Instant;

use super::plan::PullPolicy;
use crate::api::code;
use crate::env;
use crate::events::Kind;
use crate::expand::expand;
use crate::spec::{self, Parts, SpecError};
use crate::tasks::blocking;
use crate::world::World;
use crate::{credentials, hosts};

/// A pod waits this long for the node's network before it says why it does.
const NETWORK: Duration = Duration::from_secs(20);
const SERVICES: Duration = Duration::from_secs(10);
/// Between two tries to give things back.
const RETRY: Duration = Duration::from_secs(2);
/// Longest termination message, as upstream.
const MESSAGE: usize = 4096;

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
    let sandbox = world.runtime.create_sandbox(spec).await.map_err(|e| e.to_string())?;
    if host_network {
        return Ok(Made { netns: None, ip: Some(world.config.node_ip) });
    }
    let Some(netns) = sandbox.netns else { return Err("the sandbox has no network namespace".into()) };
    let mut network = world.network.clone();
    let ready = async { network.wait_for(Option::is_some).await.ok().and_then(|network| network.clone()) };
    let network = tokio::time::timeout(NETWORK, ready).await.ok().flatten();
    let network = network.ok_or("network is not ready: the node has no pod range yet (spec.podCIDR)")?;
    let attached = network.attach(&netns, &uid).await.map_err(|e| e.to_string())?;
    Ok(Made { netns: Some(netns), ip: Some(IpAddr::V4(attached.ip)) })
}

pub(crate) fn pod_directory(world: &World, pod: &Pod) -> PathBuf {
    world.config.kubelet_dir.join("pods").join(pod.metadata.uid.as_deref().unwrap_or("unknown"))
}

/// Every volume; name -> path on this machine.
pub(crate) async fn volumes(world: &World, pod: &Arc<Pod>) -> Result<BTreeMap<String, PathBuf>, String> {
    let objects = world.objects.of_pod(&world.api, pod).await.map_err(|e| e.to_string())?;
    let (directory, facts, pod) = (pod_directory(world, pod), world.facts(None), pod.clone());
    blocking(move || caravel_volumes::setup(&directory, &pod, &objects, &facts, &mut KernelMounter)).await.map_err(|e| e.to_string())
}

/// Brings live volumes up to date.
pub(crate) async fn refresh(world: &World, pod: &Arc<Pod>, ip: Option<IpAddr>) -> Result<(), String> {
    let objects = world.objects.of_pod(&world.api, pod).await.map_err(|e| e.to_string())?;
    let (directory, facts, pod) = (pod_directory(world, pod), world.facts(ip), pod.clone());
    blocking(move || caravel_volumes::refresh(&directory, &pod, &objects, &facts)).await.map(drop).map_err(|e| e.to_string())
}

/// Why a container has no image, with the reason it waits for.
pub(crate) struct NoImage {
    pub reason: &'static str,
    pub message: String,
}

pub(crate) async fn image(world: &World, pod: &Pod, container: &str, image: &str, policy: PullPolicy) -> Result<(), NoImage> {
    let event = |kind, reason: &str, message: String| world.events.container(pod, container, kind, reason, message);
    let (store, name) = (world.images.clone(), image.to_owned());
    let present = match blocking(move || store.get(&name)).await {
        Ok(present) => present.is_some(),
        Err(caravel_images::StoreError::Reference(error)) => {
            let message = format!("Failed to apply default image tag \"{image}\": {error}");
            event(Kind::Warning, "InspectFailed", message.clone());
            event(Kind::Warning, "Failed", "Error: InvalidImageName".into());
            return Err(NoImage { reason: "InvalidImageName", message });
        }
        Err(error) => {
            event(Kind::Warning, "InspectFailed", format!("Failed to inspect image \"{image}\": {error}"));
            return Err(NoImage { reason: "ImageInspectError", message: format!("Failed to inspect image \"{image}\": {error}") });
        }
    };
    match policy {
        PullPolicy::Never | PullPolicy::IfNotPresent if present => {
            event(Kind::Normal, "Pulled", format!("Container image \"{image}\" already present on machine"));
            return Ok(());
        }
        PullPolicy::Never => {
            let message = format!("Container image \"{image}\" is not present with pull policy of Never");
            event(Kind::Warning, "ErrImageNeverPull", message.clone());
            event(Kind::Warning, "Failed", "Error: ErrImageNeverPull".into());
            return Err(NoImage { reason: "ErrImageNeverPull", message });
        }
        PullPolicy::Always | PullPolicy::IfNotPresent => {}
    }
    event(Kind::Normal, "Pulling", format!("Pulling image \"{image}\""));
    let begun = Instant::now();
    let credentials = pull_secrets(world, pod).await;
    match world.images.pull(image, &credentials).await {
        Ok(pulled) => {
            let took = begun.elapsed().as_millis();
            event(Kind::Normal, "Pulled", format!("Successfully pulled image \"{image}\" in {took}ms ({took}ms including waiting). Image size: {} bytes.", pulled.size));
            Ok(())
        }
        Err(error) => {
            event(Kind::Warning, "Failed", format!("Failed to pull image \"{image}\": {error}"));
            let reason = match error.reason {
                Reason::InvalidImageName => "InvalidImageName",
                Reason::ErrImagePull | Reason::RegistryUnavailable => "ErrImagePull",
            };
            event(Kind::Warning, "Failed", format!("Error: {reason}"));
            Err(NoImage { reason, message: error.message })
        }
    }
}

/// Logins of the pod's `imagePullSecrets`; one that is missing is passed over, as upstream does.
async fn pull_secrets(world: &World, pod: &Pod) -> Vec<caravel_images::Credential> {
    let mut found = Vec::new();
    let secrets = world.api.namespaced::<Secret>(pod.metadata.namespace.as_deref().unwrap_or_default());
    for reference in pod.spec.iter().flat_map(|s| s.image_pull_secrets.iter().flatten()) {
        match world.api.request(secrets.get(&reference.name)).await {
            Ok(secret) => found.extend(credentials::of_secret(&secret)),
            Err(error) => {
                tracing::debug!(secret = reference.name, %error, "image pull secret not used");
                let message = format!("Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.", reference.name);
                world.events.pod(pod, Kind::Warning, "FailedToRetrieveImagePullSecret", message);
            }
        }
    }
    found
}

/// A container to be started.
pub(crate) struct Start {
    pub pod: Arc<Pod>,
    pub container: Container,
    pub id: String,
    pub restart: u32,
    pub streak: u32,
    pub ip: Option<IpAddr>,
    pub volumes: BTreeMap<String, PathBuf>,
}

pub(crate) enum StartError {
    /// Nothing was created: the container waits with this reason and is tried again.
    Spec(SpecError),
    /// The container was created and could not run: it counts as an attempt.
    Run(String),
}

pub(crate) struct Running {
    pub started: Started,
    pub image: String,
    pub image_id: String,
    pub stop_signal: String,
}

pub(crate) async fn start(world: &World, order: &Start) -> Result<Running, StartError> {
    let spec = build(world, order).await.map_err(StartError::Spec)?;
    let label = |name: &str| spec.labels.get(name).cloned().unwrap_or_default();
    let (image, image_id) = (label(super::observed::label::IMAGE), label(super::observed::label::IMAGE_ID));
    let name = &order.container.name;
    let stop_signal = label(super::observed::label::STOP_SIGNAL);
    let link = spec.log.path.clone().map(|log| (container_log_link(world, order), log));
    match world.runtime.start(spec).await {
        Ok(started) => {
            world.events.container(&order.pod, name, Kind::Normal, "Created", format!("Created container: {name}"));
            world.events.container(&order.pod, name, Kind::Normal, "Started", format!("Started container {name}"));
            if let Some((link, log)) = link {
                let _ = std::fs::create_dir_all(link.parent().unwrap_or(Path::new("/")));
                let _ = std::os::unix::fs::symlink(log, link);
            }
            Ok(Running { started, image, image_id, stop_signal })
        }
        Err(RuntimeError::Exists(_)) => match world.runtime.state(&order.id).await {
            Ok(ContainerState::Running(started)) => Ok(Running { started, image, image_id, stop_signal }),
            _ => Err(StartError::Run(format!("container {} exists already", order.id))),
        },
        Err(error) => {
            let _ = world.runtime.remove(&order.id).await;
            world.events.container(&order.pod, name, Kind::Warning, "Failed", format!("Error: {error}"));
            Err(StartError::Run(error.to_string()))
        }
    }
}

async fn build(world: &World, order: &Start) -> Result<caravel_runtime::ContainerSpec, SpecError> {
    let (pod, container) = (&order.pod, &order.container);
    let mut known = world.services_known.clone();
    if !matches!(tokio::time::timeout(SERVICES, known.wait_for(|known| *known)).await, Ok(Ok(_))) {
        return Err(SpecError::config("services have not yet been read at least once, cannot construct envvars"));
    }
    let objects = world.objects.of_pod(&world.api, pod).await.map_err(|e| SpecError::config(e.to_string()))?;
    let facts = world.facts(order.ip);
    let env = env::environment(pod, container, &objects, &world.services.state(), &facts).map_err(|e| SpecError::config(e.0))?;

    let (store, name) = (world.images.clone(), container.image.clone().unwrap_or_default());
    let image = match blocking(move || store.get(&name)).await {
        Ok(Some(image)) => image,
        _ => return Err(SpecError { reason: "CreateContainerError", message: "its image is no longer on this machine".into() }),
    };
    let directory = pod_directory(world, pod);
    let mut sources = Vec::new();
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let volume = order.volumes.get(&mount.name).cloned().ok_or_else(|| SpecError::config(format!("volume \"{}\" is not set up", mount.name)))?;
        let sub = match (&mount.sub_path, &mount.sub_path_expr) {
            (Some(sub), _) if !sub.is_empty() => Some(sub.clone()),
            (_, Some(sub)) if !sub.is_empty() => Some(expand(sub, |name| env.get(name).cloned())),
            _ => None,
        };
        let source = match sub {
            None => volume,
            Some(sub) => {
                let (directory, name, container) = (directory.clone(), mount.name.clone(), container.name.clone());
                blocking(move || sub_path(&directory, &name, &volume, &container, index, &sub, &mut KernelMounter))
                    .await
                    .map_err(|e| SpecError::config(format!("failed to prepare subPath for volumeMount \"{}\" of container \"{}\": {e}", mount.name, order.container.name)))?
            }
        };
        sources.push(source);
    }
    let log = log_path(world, pod, &container.name, order.restart);
    let files = pod_files(world, order, &directory, &log).map_err(|e| SpecError { reason: "CreateContainerError", message: format!("write the pod's files in {}: {e}", directory.display()) })?;
    let parts = Parts {
        id: order.id.clone(),
        restart: order.restart,
        streak: order.streak,
        image: &image,
        env,
        sources,
        files: files.0,
        termination: files.1,
        log,
        machine_memory: world.machine.memory,
        seccomp_root: world.config.kubelet_dir.join("seccomp"),
    };
    spec::container(pod, container, parts)
}

type Files = (Vec<(PathBuf, &'static str)>, PathBuf);

/// The files that the kubelet manages in each container; written anew with each start.
fn pod_files(world: &World, order: &Start, directory: &Path, log: &Path) -> std::io::Result<Files> {
    let machine = world.machine_files();
    let around = world.surroundings(&machine);
    let write = |name: &str, text: String| -> std::io::Result<PathBuf> {
        let path = directory.join(name);
        std::fs::write(&path, text)?;
        Ok(path)
    };
    std::fs::create_dir_all(directory)?;
    if let Some(parent) = log.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let hosts = write("etc-hosts", hosts::hosts(&order.pod, order.ip, &around))?;
    let resolv = write("resolv.conf", hosts::resolv_conf(&order.pod, &around))?;
    let hostname = write("hostname", format!("{}\n", hosts::hostname(&order.pod, &around)))?;
    let messages = directory.join("containers").join(&order.container.name);
    std::fs::create_dir_all(&messages)?;
    let termination = messages.join(format!("termination-{}", order.restart));
    std::fs::write(&termination, "")?;
    // Whoever the container runs as may write it.
    std::fs::set_permissions(&termination, std::os::unix::fs::PermissionsExt::from_mode(0o666))?;
    Ok((vec![(hosts, "/etc/hosts"), (resolv, "/etc/resolv.conf"), (hostname, "/etc/hostname")], termination))
}

pub(crate) fn log_directory(world: &World, pod: &Pod) -> PathBuf {
    let meta = &pod.metadata;
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    world.config.pod_logs.join(format!("{}_{}_{}", text(&meta.namespace), text(&meta.name), text(&meta.uid)))
}

pub(crate) fn log_path(world: &World, pod: &Pod, container: &str, restart: u32) -> PathBuf {
    log_directory(world, pod).join(container).join(format!("{restart}.log"))
}

/// Where log collectors look: `/var/log/containers/<pod>_<namespace>_<container>-<id>.log`.
fn container_log_link(world: &World, order: &Start) -> PathBuf {
    let meta = &order.pod.metadata;
    let name = format!("{}_{}_{}-{}.log", meta.name.clone().unwrap_or_default(), meta.namespace.clone().unwrap_or_default(), order.container.name, order.id);
    world.config.pod_logs.parent().unwrap_or(Path::new("/var/log")).join("containers").join(name)
}

/// What a container that has ended left to say.
pub(crate) fn termination_message(file: &Path, log: &Path, fall_back: bool) -> Option<String> {
    let text = std::fs::read(file).unwrap_or_default();
    let text = String::from_utf8_lossy(&text[..text.len().min(MESSAGE)]).into_owned();
    if !text.is_empty() || !fall_back {
        return Some(text).filter(|t| !t.is_empty());
    }
    // At most 2048 bytes or 80 lines of the log's end, whichever is less.
    let log = std::fs::read_to_string(log).ok()?;
    let lines: Vec<&str> = log.lines().map(|l| l.splitn(4, ' ').nth(3).unwrap_or_default()).collect();
    let tail = lines[lines.len().saturating_sub(80)..].join("\n");
    let start = (tail.len().saturating_sub(2048)..tail.len()).find(|at| tail.is_char_boundary(*at)).unwrap_or(0);
    Some(tail[start..].to_owned()).filter(|t| !t.is_empty())
}

/// Gives back everything the pod holds; goes on until it is done.
pub(crate) async fn clean_up(world: &World, pod: &Pod, containers: Vec<String>) {
    while let Err(message) = clean_up_once(world, pod, &containers).await {
        tracing::warn!(pod = pod.metadata.name, namespace = pod.metadata.namespace, message, "pod not yet cleaned up");
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
    world.runtime.remove_sandbox(&uid).await.map_err(|e| e.to_string())?;
    let directory = pod_directory(world, pod);
    blocking(move || caravel_volumes::teardown(&directory, &mut KernelMounter)).await.map_err(|e| e.to_string())?;
    world.objects.forget(&uid);
    world.rules_changed.notify_one();
    Ok(())
}

/// Takes the object away, if it is still this pod.
pub(crate) async fn delete(world: &World, pod: &Pod) {
    let meta = &pod.metadata;
    let pods = world.api.namespaced::<Pod>(meta.namespace.as_deref().unwrap_or_default());
    let params = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions { uid: meta.uid.clone(), resource_version: None }),
        ..DeleteParams::default()
    };
    loop {
        match world.api.request(pods.delete(meta.name.as_deref().unwrap_or_default(), &params)).await {
            Ok(_) => return,
            Err(error) if matches!(code(&error), Some(404 | 409)) => return,
            Err(error) => tracing::warn!(pod = meta.name, namespace = meta.namespace, %error, "pod not yet deleted"),
        }
        tokio::time::sleep(RETRY).await;
    }
}
