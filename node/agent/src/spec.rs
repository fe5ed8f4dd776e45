//! What the runtime is asked for, from the Pod and its image. Pure, except that subPaths are already bound.
//!
//! Follows generateContainerConfig of pkg/kubelet/kuberuntime and the CRI's reading of it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use caravel_images::Image;
use caravel_runtime::{
    ContainerSpec, Device, LogSpec, Mount, Propagation, SandboxSpec, Seccomp, Security, UserSpec,
};
use indexmap::IndexMap;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, SeccompProfile, VolumeMount};

use crate::expand::expand;
use crate::pod::observed::label;
use crate::pod::status::pod_format;
use crate::qos;

/// Why no spec can be made, with the container's waiting reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct SpecError {
    pub reason: &'static str,
    pub message: String,
}

impl SpecError {
    pub fn config(message: impl Into<String>) -> Self {
        Self {
            reason: "CreateContainerConfigError",
            message: message.into(),
        }
    }
}

/// What the container's spec is made from beside the Pod.
pub(crate) struct Parts<'a> {
    pub id: String,
    pub restart: u32,
    pub streak: u32,
    pub image: &'a Image,
    pub env: IndexMap<String, String>,
    /// Source on the machine of each of the container's volume mounts, in their order; subPaths resolved.
    pub sources: Vec<PathBuf>,
    /// Files of the pod: `/etc/hosts`, `/etc/resolv.conf`, `/etc/hostname`.
    pub files: Vec<(PathBuf, &'static str)>,
    pub termination: PathBuf,
    pub log: PathBuf,
    pub machine_memory: i64,
    pub seccomp_root: PathBuf,
}

pub(crate) fn sandbox(pod: &Pod, hostname: String) -> SandboxSpec {
    let none = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&none);
    let sysctls = spec
        .security_context
        .as_ref()
        .and_then(|s| s.sysctls.as_ref());
    SandboxSpec {
        pod_uid: pod.metadata.uid.clone().unwrap_or_default(),
        labels: pod_labels(pod),
        hostname,
        host_network: spec.host_network == Some(true),
        host_ipc: spec.host_ipc == Some(true),
        host_pid: spec.host_pid == Some(true),
        share_pid: spec.share_process_namespace == Some(true),
        sysctls: sysctls
            .into_iter()
            .flatten()
            .map(|s| (s.name.clone(), s.value.clone()))
            .collect(),
        qos: qos::qos(spec),
        resources: qos::pod(spec),
        shm_size: None,
    }
}

fn pod_labels(pod: &Pod) -> BTreeMap<String, String> {
    let meta = &pod.metadata;
    [
        (label::NAMESPACE, &meta.namespace),
        (label::POD, &meta.name),
    ]
    .into_iter()
    .map(|(k, v)| (k.to_owned(), v.clone().unwrap_or_default()))
    .collect()
}

pub(crate) fn container(
    pod: &Pod,
    container: &Container,
    parts: Parts<'_>,
) -> Result<ContainerSpec, SpecError> {
    let none = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&none);
    let image = &parts.image.config;
    let expanded = |list: &Option<Vec<String>>| {
        list.iter()
            .flatten()
            .map(|a| expand(a, |name| parts.env.get(name).cloned()))
            .collect::<Vec<_>>()
    };
    let (command, args) = (expanded(&container.command), expanded(&container.args));
    // A command replaces both of the image's; arguments alone replace its arguments.
    let args: Vec<String> = match (command.is_empty(), args.is_empty()) {
        (false, _) => command.into_iter().chain(args).collect(),
        (true, false) => image.entrypoint.iter().cloned().chain(args).collect(),
        (true, true) => image.entrypoint.iter().chain(&image.cmd).cloned().collect(),
    };
    if args.is_empty() {
        return Err(SpecError {
            reason: "CreateContainerError",
            message: "no command specified".into(),
        });
    }

    let user = user(spec, container, image.user.clone());
    check_non_root(pod, spec, container, &user)?;
    let mut env: Vec<(String, String)> = Vec::new();
    for pair in &image.env {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if !parts.env.contains_key(name) {
            env.push((name.to_owned(), value.to_owned()));
        }
    }
    if !env.iter().any(|(name, _)| name == "PATH") && !parts.env.contains_key("PATH") {
        env.push((
            "PATH".into(),
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into(),
        ));
    }
    if !parts.env.contains_key("HOSTNAME") {
        let hostname = spec
            .hostname
            .clone()
            .or_else(|| pod.metadata.name.clone())
            .unwrap_or_default();
        env.push(("HOSTNAME".into(), hostname));
    }
    env.extend(parts.env);

    let cwd = container
        .working_dir
        .clone()
        .filter(|d| !d.is_empty())
        .or_else(|| Some(image.working_dir.clone()).filter(|d| !d.is_empty()));
    let mut labels = pod_labels(pod);
    let signal = container
        .lifecycle
        .as_ref()
        .and_then(|l| l.stop_signal.clone())
        .or_else(|| image.stop_signal.clone());
    for (name, value) in [
        (label::CONTAINER, container.name.clone()),
        (label::RESTART, parts.restart.to_string()),
        (label::STREAK, parts.streak.to_string()),
        (label::IMAGE, shown_image(parts.image, container)),
        (label::IMAGE_ID, image_id(parts.image)),
        (label::ASKED, container.image.clone().unwrap_or_default()),
        (label::STOP_SIGNAL, signal.unwrap_or_default()),
        (
            label::TERMINATION,
            parts.termination.to_string_lossy().into_owned(),
        ),
    ] {
        labels.insert(name.to_owned(), value);
    }

    let mounts = container.volume_mounts.iter().flatten();
    let mut all: Vec<Mount> = mounts
        .zip(&parts.sources)
        .map(|(mount, source)| volume(mount, source.clone()))
        .collect();
    let taken = |path: &str, all: &[Mount]| {
        all.iter()
            .any(|m| m.target.as_path() == std::path::Path::new(path))
    };
    for (source, target) in parts.files {
        if !taken(target, &all) {
            all.push(Mount::bind(source, target, false));
        }
    }
    let message_path = container
        .termination_message_path
        .as_deref()
        .unwrap_or("/dev/termination-log");
    if !message_path.is_empty() && !taken(message_path, &all) {
        all.push(Mount::bind(parts.termination, message_path, false));
    }
    let devices = container
        .volume_devices
        .iter()
        .flatten()
        .map(|d| Device {
            source: PathBuf::from(&d.device_path),
            target: PathBuf::from(&d.device_path),
            permissions: "rwm".into(),
        })
        .collect();
    Ok(ContainerSpec {
        id: parts.id,
        pod_uid: pod.metadata.uid.clone().unwrap_or_default(),
        labels,
        lower: parts.image.layers.clone(),
        args,
        env,
        cwd: cwd.map(PathBuf::from),
        user,
        mounts: all,
        resources: qos::container(container),
        oom_score_adj: Some(qos::oom_score(spec, container, parts.machine_memory)),
        security: security(spec, container, &parts.seccomp_root),
        devices,
        tty: container.tty == Some(true),
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        log: LogSpec {
            path: Some(parts.log),
            ..LogSpec::default()
        },
        ..ContainerSpec::default()
    })
}

fn volume(mount: &VolumeMount, source: PathBuf) -> Mount {
    Mount {
        source,
        target: PathBuf::from(&mount.mount_path),
        read_only: mount.read_only == Some(true),
        recursive_read_only: matches!(
            mount.recursive_read_only.as_deref(),
            Some("Enabled" | "IfPossible")
        ),
        propagation: match mount.mount_propagation.as_deref() {
            Some("HostToContainer") => Propagation::HostToContainer,
            Some("Bidirectional") => Propagation::Bidirectional,
            _ => Propagation::Private,
        },
    }
}

fn user(spec: &PodSpec, container: &Container, image: String) -> UserSpec {
    let (own, pod) = (
        container.security_context.as_ref(),
        spec.security_context.as_ref(),
    );
    let id = |value: Option<i64>| value.and_then(|id| u32::try_from(id).ok());
    let groups = pod
        .and_then(|s| s.supplemental_groups.as_ref())
        .into_iter()
        .flatten()
        .copied()
        .chain(pod.and_then(|s| s.fs_group));
    UserSpec {
        image,
        uid: id(own
            .and_then(|s| s.run_as_user)
            .or_else(|| pod.and_then(|s| s.run_as_user))),
        gid: id(own
            .and_then(|s| s.run_as_group)
            .or_else(|| pod.and_then(|s| s.run_as_group))),
        supplemental: groups.filter_map(|g| u32::try_from(g).ok()).collect(),
        strict_groups: pod.and_then(|s| s.supplemental_groups_policy.as_deref()) == Some("Strict"),
    }
}

/// The promise of `runAsNonRoot`, as far as it can be judged without the image's passwd file.
fn check_non_root(
    pod: &Pod,
    spec: &PodSpec,
    container: &Container,
    user: &UserSpec,
) -> Result<(), SpecError> {
    let own = container
        .security_context
        .as_ref()
        .and_then(|s| s.run_as_non_root);
    if own.or_else(|| {
        spec.security_context
            .as_ref()
            .and_then(|s| s.run_as_non_root)
    }) != Some(true)
    {
        return Ok(());
    }
    let place = format!(
        "(pod: \"{}\", container: {})",
        pod_format(pod),
        container.name
    );
    match user.uid {
        Some(0) => Err(SpecError::config(format!(
            "container's runAsUser breaks non-root policy {place}"
        ))),
        Some(_) => Ok(()),
        None => match user.image.split(':').next().unwrap_or_default() {
            "" | "0" | "root" => Err(SpecError::config(format!(
                "container has runAsNonRoot and image will run as root {place}"
            ))),
            name if name.parse::<u32>().is_err() => Err(SpecError::config(format!(
                "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root {place}"
            ))),
            _ => Ok(()),
        },
    }
}

fn security(spec: &PodSpec, container: &Container, seccomp_root: &std::path::Path) -> Security {
    let own = container.security_context.as_ref();
    let capabilities = own.and_then(|s| s.capabilities.as_ref());
    let profile = own.and_then(|s| s.seccomp_profile.as_ref()).or_else(|| {
        spec.security_context
            .as_ref()
            .and_then(|s| s.seccomp_profile.as_ref())
    });
    let privileged = own.and_then(|s| s.privileged) == Some(true);
    Security {
        privileged,
        add_capabilities: capabilities.and_then(|c| c.add.clone()).unwrap_or_default(),
        drop_capabilities: capabilities
            .and_then(|c| c.drop.clone())
            .unwrap_or_default(),
        no_new_privileges: own.and_then(|s| s.allow_privilege_escalation) == Some(false),
        read_only_root: own.and_then(|s| s.read_only_root_filesystem) == Some(true),
        seccomp: if privileged {
            Seccomp::Unconfined
        } else {
            seccomp(profile, seccomp_root)
        },
        unmasked_proc: own.and_then(|s| s.proc_mount.as_deref()) == Some("Unmasked"),
    }
}

fn seccomp(profile: Option<&SeccompProfile>, root: &std::path::Path) -> Seccomp {
    match profile.map(|p| p.type_.as_str()) {
        Some("RuntimeDefault") => Seccomp::RuntimeDefault,
        Some("Localhost") => Seccomp::Localhost(
            root.join(
                profile
                    .and_then(|p| p.localhost_profile.as_deref())
                    .unwrap_or_default(),
            ),
        ),
        _ => Seccomp::Unconfined,
    }
}

/// The image's name as the status shows it: the normalised form of what was asked for.
fn shown_image(image: &Image, container: &Container) -> String {
    let asked = container.image.as_deref().unwrap_or_default();
    match caravel_images::Reference::parse(asked) {
        Ok(name) => name.to_string(),
        Err(_) => image
            .references
            .first()
            .cloned()
            .unwrap_or_else(|| asked.to_owned()),
    }
}

fn image_id(image: &Image) -> String {
    image
        .references
        .iter()
        .find(|r| r.contains('@'))
        .cloned()
        .unwrap_or_else(|| image.id.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_and_arguments() {
        let image = Image {
            id: "sha256:x".into(),
            references: vec![],
            size: 0,
            config: caravel_images::ImageConfig {
                entrypoint: vec!["/entry".into()],
                cmd: vec!["cmd".into()],
                env: vec!["A=image".into(), "B=image".into()],
                working_dir: "/w".into(),
                ..Default::default()
            },
            layers: vec![],
        };
        for (spec, want) in [
            (r#"{"name":"c"}"#, "/entry cmd"),
            (r#"{"name":"c","args":["x","$(A)"]}"#, "/entry x pod"),
            (r#"{"name":"c","command":["run"]}"#, "run"),
            (
                r#"{"name":"c","command":["run"],"args":["$$(A)"]}"#,
                "run $(A)",
            ),
        ] {
            let pod: Pod = serde_json::from_str(
                r#"{"metadata":{"name":"p","namespace":"n","uid":"u"},"spec":{"containers":[]}}"#,
            )
            .unwrap();
            let parts = Parts {
                id: "i".into(),
                restart: 2,
                streak: 1,
                image: &image,
                env: [("A".to_owned(), "pod".to_owned())].into_iter().collect(),
                sources: vec![],
                files: vec![],
                termination: "/t".into(),
                log: "/l".into(),
                machine_memory: 1 << 30,
                seccomp_root: "/s".into(),
            };
            let got = container(&pod, &serde_json::from_str(spec).unwrap(), parts).unwrap();
            assert_eq!(got.args.join(" "), want);
            assert_eq!(
                got.env
                    .iter()
                    .filter(|(n, _)| n.len() == 1)
                    .map(|(n, v)| format!("{n}={v}"))
                    .collect::<Vec<_>>(),
                ["B=image", "A=pod"]
            );
            assert_eq!(got.cwd, Some("/w".into()));
            assert_eq!(got.labels[label::RESTART], "2");
        }
    }
}
