//! Starts one container of a pod: its environment, mounts and files, then the runtime.
//!
//! Written anew with each start, as the kubelet does: `/etc/hosts`, `/etc/resolv.conf`, the termination message file.
//! Never changes the pod's state; says what came of it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use caravel_runtime::{ContainerState, RuntimeError, Started};
use caravel_volumes::{KernelMounter, sub_path};
use k8s_openapi::api::core::v1::{Container, Pod};

use super::observed::label;
use super::steps::pod_directory;
use crate::env;
use crate::events::Kind;
use crate::expand::expand;
use crate::hosts;
use crate::spec::{self, Parts, SpecError};
use crate::tasks::blocking;
use crate::world::World;

const SERVICES: Duration = Duration::from_secs(10);
/// Longest termination message, as upstream.
const MESSAGE: usize = 4096;

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
    let (image, image_id) = (label(label::IMAGE), label(label::IMAGE_ID));
    let name = &order.container.name;
    let stop_signal = label(label::STOP_SIGNAL);
    let link = spec
        .log
        .path
        .clone()
        .map(|log| (container_log_link(world, order), log));
    match world.runtime.start(spec).await {
        Ok(started) => {
            world.events.container(
                &order.pod,
                name,
                Kind::Normal,
                "Created",
                format!("Created container: {name}"),
            );
            world.events.container(
                &order.pod,
                name,
                Kind::Normal,
                "Started",
                format!("Started container {name}"),
            );
            if let Some((link, log)) = link {
                let _ = std::fs::create_dir_all(link.parent().unwrap_or(Path::new("/")));
                let _ = std::os::unix::fs::symlink(log, link);
            }
            Ok(Running {
                started,
                image,
                image_id,
                stop_signal,
            })
        }
        Err(RuntimeError::Exists(_)) => match world.runtime.state(&order.id).await {
            Ok(ContainerState::Running(started)) => Ok(Running {
                started,
                image,
                image_id,
                stop_signal,
            }),
            _ => Err(StartError::Run(format!(
                "container {} exists already",
                order.id
            ))),
        },
        Err(error) => {
            let _ = world.runtime.remove(&order.id).await;
            world.events.container(
                &order.pod,
                name,
                Kind::Warning,
                "Failed",
                format!("Error: {error}"),
            );
            Err(StartError::Run(error.to_string()))
        }
    }
}

async fn build(world: &World, order: &Start) -> Result<caravel_runtime::ContainerSpec, SpecError> {
    let (pod, container) = (&order.pod, &order.container);
    let mut known = world.services_known.clone();
    if !matches!(
        tokio::time::timeout(SERVICES, known.wait_for(|known| *known)).await,
        Ok(Ok(_))
    ) {
        return Err(SpecError::config(
            "services have not yet been read at least once, cannot construct envvars",
        ));
    }
    let objects = world
        .objects
        .of_environment(&world.api, pod, container)
        .await
        .map_err(|e| SpecError::config(e.to_string()))?;
    let facts = world.facts(order.ip);
    let env = env::environment(pod, container, &objects, &world.services.state(), &facts)
        .map_err(|e| SpecError::config(e.0))?;

    let (store, name) = (
        world.images.clone(),
        container.image.clone().unwrap_or_default(),
    );
    let image = match blocking(move || store.get(&name)).await {
        Ok(Some(image)) => image,
        _ => {
            return Err(SpecError {
                reason: "CreateContainerError",
                message: "its image is no longer on this machine".into(),
            });
        }
    };
    let directory = pod_directory(world, pod);
    let mut sources = Vec::new();
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let volume =
            order.volumes.get(&mount.name).cloned().ok_or_else(|| {
                SpecError::config(format!("volume \"{}\" is not set up", mount.name))
            })?;
        let sub = match (&mount.sub_path, &mount.sub_path_expr) {
            (Some(sub), _) if !sub.is_empty() => Some(sub.clone()),
            (_, Some(sub)) if !sub.is_empty() => Some(expand(sub, |name| env.get(name).cloned())),
            _ => None,
        };
        let source = match sub {
            None => volume,
            Some(sub) => {
                let (directory, name, container) = (
                    directory.clone(),
                    mount.name.clone(),
                    container.name.clone(),
                );
                blocking(move || {
                    sub_path(
                        &directory,
                        &name,
                        &volume,
                        &container,
                        index,
                        &sub,
                        &mut KernelMounter,
                    )
                })
                .await
                .map_err(|e| {
                    SpecError::config(format!(
                        "failed to prepare subPath for volumeMount \"{}\" of container \"{}\": {e}",
                        mount.name, order.container.name
                    ))
                })?
            }
        };
        sources.push(source);
    }
    let log = log_path(world, pod, &container.name, order.restart);
    let files = pod_files(world, order, &directory, &log).map_err(|e| SpecError {
        reason: "CreateContainerError",
        message: format!("write the pod's files in {}: {e}", directory.display()),
    })?;
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
    let hostname = write(
        "hostname",
        format!("{}\n", hosts::hostname(&order.pod, &around)),
    )?;
    let messages = directory.join("containers").join(&order.container.name);
    std::fs::create_dir_all(&messages)?;
    let termination = messages.join(format!("termination-{}", order.restart));
    std::fs::write(&termination, "")?;
    // Whoever the container runs as may write it.
    std::fs::set_permissions(
        &termination,
        std::os::unix::fs::PermissionsExt::from_mode(0o666),
    )?;
    Ok((
        vec![
            (hosts, "/etc/hosts"),
            (resolv, "/etc/resolv.conf"),
            (hostname, "/etc/hostname"),
        ],
        termination,
    ))
}

pub(crate) fn log_directory(world: &World, pod: &Pod) -> PathBuf {
    let meta = &pod.metadata;
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    world.config.pod_logs.join(format!(
        "{}_{}_{}",
        text(&meta.namespace),
        text(&meta.name),
        text(&meta.uid)
    ))
}

pub(crate) fn log_path(world: &World, pod: &Pod, container: &str, restart: u32) -> PathBuf {
    log_directory(world, pod)
        .join(container)
        .join(format!("{restart}.log"))
}

/// Where log collectors look: `/var/log/containers/<pod>_<namespace>_<container>-<id>.log`.
fn container_log_link(world: &World, order: &Start) -> PathBuf {
    let meta = &order.pod.metadata;
    let name = format!(
        "{}_{}_{}-{}.log",
        meta.name.clone().unwrap_or_default(),
        meta.namespace.clone().unwrap_or_default(),
        order.container.name,
        order.id
    );
    world
        .config
        .pod_logs
        .parent()
        .unwrap_or(Path::new("/var/log"))
        .join("containers")
        .join(name)
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
    let lines: Vec<&str> = log
        .lines()
        .map(|l| l.splitn(4, ' ').nth(3).unwrap_or_default())
        .collect();
    let tail = lines[lines.len().saturating_sub(80)..].join("\n");
    let start = (tail.len().saturating_sub(2048)..tail.len())
        .find(|at| tail.is_char_boundary(*at))
        .unwrap_or(0);
    Some(tail[start..].to_owned()).filter(|t| !t.is_empty())
}
