//! What is wrong with a pod's containers: regular, init (with and without `restartPolicy: Always`) and ephemeral.
//!
//! Follows `validateContainers`, `validateInitContainers` and `validateEphemeralContainers` of
//! `pkg/apis/core/validation`.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{
    Container, ContainerPort, EphemeralContainer, PodSpec, Volume, VolumeMount,
};
use serde_json::json;

use super::{env, probe, security, volume};
use crate::found::{At, Found, text};
use crate::names;
use crate::quantities;

pub const PULL_POLICIES: &[&str] = &["Always", "IfNotPresent", "Never"];
pub const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];

/// What containers are judged by beside themselves.
pub struct Around<'a> {
    pub spec: &'a PodSpec,
    /// The valid volumes, by name.
    pub volumes: &'a BTreeMap<&'a str, &'a Volume>,
    /// Names in `resourceClaims`.
    pub claims: &'a [&'a str],
}

impl Around<'_> {
    fn grace(&self) -> Option<i64> {
        self.spec.termination_grace_period_seconds
    }
}

pub fn validate_all(found: &mut Found, around: &Around, at: &At) {
    let spec = around.spec;
    let regular_at = at.child("containers");
    if spec.containers.is_empty() {
        found.required(&regular_at, "");
    }
    let mut seen = BTreeSet::new();
    for (index, container) in spec.containers.iter().enumerate() {
        let at = regular_at.index(index);
        validate_common(found, container, around, &at);
        if !seen.insert(container.name.as_str()) {
            found.duplicate(&at.child("name"), container.name.as_str());
        }
        validate_running(found, container, around, &at);
        if container.restart_policy.is_some()
            && container
                .restart_policy_rules
                .as_ref()
                .is_none_or(Vec::is_empty)
        {
            container_restart_policy(found, container, &at);
        }
    }
    host_port_conflicts(found, &spec.containers, &regular_at);
    let init_at = at.child("initContainers");
    for (index, container) in spec.init_containers.iter().flatten().enumerate() {
        let at = init_at.index(index);
        validate_common(found, container, around, &at);
        let sidecar = container.restart_policy.as_deref() == Some("Always");
        if container.restart_policy.is_some() {
            container_restart_policy(found, container, &at);
        }
        if !container.name.is_empty() && !seen.insert(container.name.as_str()) {
            found.duplicate(&at.child("name"), container.name.as_str());
        }
        host_port_conflicts(found, std::slice::from_ref(container), &init_at);
        if sidecar {
            validate_running(found, container, around, &at);
        } else {
            for (name, there) in [
                ("lifecycle", container.lifecycle.is_some()),
                ("livenessProbe", container.liveness_probe.is_some()),
                ("readinessProbe", container.readiness_probe.is_some()),
                ("startupProbe", container.startup_probe.is_some()),
            ] {
                if there {
                    found.forbidden(
                        &at.child(name),
                        "may not be set for init containers without restartPolicy=Always",
                    );
                }
            }
        }
    }
    let ephemeral_at = at.child("ephemeralContainers");
    let others = seen.clone();
    for (index, container) in spec.ephemeral_containers.iter().flatten().enumerate() {
        let at = ephemeral_at.index(index);
        validate_ephemeral(found, container, around, &others, &at);
        if !seen.insert(container.name.as_str()) {
            found.duplicate(&at.child("name"), container.name.as_str());
        }
    }
}

fn container_restart_policy(found: &mut Found, container: &Container, at: &At) {
    if let Some(policy) = container
        .restart_policy
        .as_deref()
        .filter(|policy| !matches!(*policy, "Always" | "OnFailure" | "Never"))
    {
        found.not_supported(
            &at.child("restartPolicy"),
            policy,
            &["Always", "Never", "OnFailure"],
        );
    }
}

/// Hooks and probes, for what runs along.
fn validate_running(found: &mut Found, container: &Container, around: &Around, at: &At) {
    if let Some(lifecycle) = &container.lifecycle {
        probe::validate_lifecycle(found, lifecycle, around.grace(), &at.child("lifecycle"));
    }
    for (name, which, probe) in [
        (
            "livenessProbe",
            probe::Which::Liveness,
            &container.liveness_probe,
        ),
        (
            "readinessProbe",
            probe::Which::Readiness,
            &container.readiness_probe,
        ),
        (
            "startupProbe",
            probe::Which::Startup,
            &container.startup_probe,
        ),
    ] {
        if let Some(probe) = probe {
            probe::validate(found, probe, which, around.grace(), &at.child(name));
        }
    }
}

/// What any container must be.
fn validate_common(found: &mut Found, container: &Container, around: &Around, at: &At) {
    let name_at = at.child("name");
    if container.name.is_empty() {
        found.required(&name_at, "");
    } else {
        found.faults(&name_at, &container.name, names::dns_label(&container.name));
    }
    if text(&container.image).is_none() {
        found.required(&at.child("image"), "");
    }
    found.one_of(
        &at.child("terminationMessagePolicy"),
        container.termination_message_policy.as_deref(),
        &["FallbackToLogsOnError", "File"],
    );
    ports(
        found,
        container.ports.as_deref().unwrap_or_default(),
        &at.child("ports"),
    );
    env::validate(
        found,
        container.env.as_deref().unwrap_or_default(),
        &at.child("env"),
    );
    env::validate_from(
        found,
        container.env_from.as_deref().unwrap_or_default(),
        &at.child("envFrom"),
    );
    mounts(found, container, around, &at.child("volumeMounts"));
    devices(found, container, around, &at.child("volumeDevices"));
    found.one_of(
        &at.child("imagePullPolicy"),
        container.image_pull_policy.as_deref(),
        PULL_POLICIES,
    );
    if let Some(resources) = &container.resources {
        let at = at.child("resources");
        quantities::validate_requirements(
            found,
            resources.limits.as_ref(),
            resources.requests.as_ref(),
            false,
            &at,
        );
        for (index, claim) in resources.claims.iter().flatten().enumerate() {
            if !around.claims.contains(&claim.name.as_str()) {
                found.not_found(&at.child("claims").index(index), claim.name.as_str());
            }
        }
    }
    resize_policies(found, container, around, &at.child("resizePolicy"));
    if let Some(context) = &container.security_context {
        security::validate_container(
            found,
            context,
            around.spec.host_users.unwrap_or(true),
            &at.child("securityContext"),
        );
    }
}

fn resize_policies(found: &mut Found, container: &Container, around: &Around, at: &At) {
    let mut seen = BTreeSet::new();
    for (index, policy) in container.resize_policy.iter().flatten().enumerate() {
        if !seen.insert(policy.resource_name.as_str()) {
            found.duplicate(&at.index(index), policy.resource_name.as_str());
        }
        found.one_of(at, Some(&policy.resource_name), &["cpu", "memory"]);
        found.one_of(
            at,
            Some(&policy.restart_policy),
            &["NotRequired", "RestartContainer"],
        );
        if around.spec.restart_policy.as_deref() == Some("Never")
            && policy.restart_policy != "NotRequired"
        {
            found.invalid(
                at,
                policy.restart_policy.as_str(),
                "must be 'NotRequired' when `restartPolicy` is 'Never'",
            );
        }
    }
}

fn ports(found: &mut Found, ports: &[ContainerPort], at: &At) {
    let mut seen = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let at = at.index(index);
        if let Some(name) = text(&port.name) {
            let faults = names::port_name(name);
            if !faults.is_empty() {
                found.faults(&at.child("name"), name, faults);
            } else if !seen.insert(name) {
                found.duplicate(&at.child("name"), name);
            }
        }
        if port.container_port == 0 {
            found.required(&at.child("containerPort"), "");
        } else {
            found.number_faults(
                &at.child("containerPort"),
                i64::from(port.container_port),
                names::port_number(port.container_port),
            );
        }
        if let Some(host) = port.host_port.filter(|host| *host != 0) {
            found.number_faults(
                &at.child("hostPort"),
                i64::from(host),
                names::port_number(host),
            );
        }
        found.one_of(&at.child("protocol"), port.protocol.as_deref(), PROTOCOLS);
    }
}

fn host_port_conflicts(found: &mut Found, containers: &[Container], at: &At) {
    let mut seen = BTreeSet::new();
    for (index, container) in containers.iter().enumerate() {
        for (port_index, port) in container.ports.iter().flatten().enumerate() {
            let Some(host) = port.host_port.filter(|host| *host != 0) else {
                continue;
            };
            let said = format!(
                "{}/{}/{host}",
                port.protocol.as_deref().unwrap_or_default(),
                port.host_ip.as_deref().unwrap_or_default()
            );
            if !seen.insert(said.clone()) {
                found.duplicate(
                    &at.index(index)
                        .child("ports")
                        .index(port_index)
                        .child("hostPort"),
                    said,
                );
            }
        }
    }
}

fn mounts(found: &mut Found, container: &Container, around: &Around, at: &At) {
    let devices = container.volume_devices.as_deref().unwrap_or_default();
    let privileged = container
        .security_context
        .as_ref()
        .and_then(|context| context.privileged)
        == Some(true);
    let mut paths = BTreeSet::new();
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let item = at.index(index);
        let (name_at, path_at) = (item.child("name"), item.child("mountPath"));
        if mount.name.is_empty() {
            found.required(&name_at, "");
        }
        let named = around.volumes.get(mount.name.as_str());
        if named.is_none() {
            found.not_found(&name_at, mount.name.as_str());
        }
        if mount.mount_path.is_empty() {
            found.required(&path_at, "");
        }
        if !paths.insert(mount.mount_path.as_str()) {
            found.invalid(&path_at, mount.mount_path.as_str(), "must be unique");
        }
        if devices.iter().any(|device| device.name == mount.name) {
            found.invalid(
                &name_at,
                mount.name.as_str(),
                "must not already exist in volumeDevices",
            );
        }
        if devices
            .iter()
            .any(|device| device.device_path == mount.mount_path)
        {
            found.invalid(
                &path_at,
                mount.mount_path.as_str(),
                "must not already exist as a path in volumeDevices",
            );
        }
        sub_paths(found, mount, at, &item);
        // Upstream leaves the index out of these.
        if let Some(propagation) = mount.mount_propagation.as_deref() {
            let at = at.child("mountPropagation");
            found.one_of(
                &at,
                Some(propagation),
                &["Bidirectional", "HostToContainer", "None"],
            );
            if propagation == "Bidirectional" && !privileged {
                found.forbidden(
                    &at,
                    "Bidirectional mount propagation is available only to privileged containers",
                );
            }
        }
        recursive_read_only(found, mount, &at.child("recursiveReadOnly"));
    }
}

fn sub_paths(found: &mut Found, mount: &VolumeMount, at: &At, item: &At) {
    if let Some(path) = text(&mount.sub_path) {
        volume::local_descending(found, path, &at.child("subPath"));
    }
    if let Some(expression) = text(&mount.sub_path_expr) {
        if text(&mount.sub_path).is_some() {
            found.invalid(
                &item.child("subPathExpr"),
                expression,
                "subPathExpr and subPath are mutually exclusive",
            );
        }
        volume::local_descending(found, expression, &at.child("subPathExpr"));
    }
}

fn recursive_read_only(found: &mut Found, mount: &VolumeMount, at: &At) {
    match mount.recursive_read_only.as_deref() {
        None | Some("Disabled") => {}
        Some("Enabled" | "IfPossible") => {
            if mount.read_only != Some(true) {
                found.forbidden(at, "may only be specified when readOnly is true");
            }
            if !matches!(mount.mount_propagation.as_deref(), None | Some("None")) {
                found.forbidden(
                    at,
                    "may only be specified when mountPropagation is None or not specified",
                );
            }
        }
        Some(other) => found.not_supported(at, other, &["Disabled", "Enabled", "IfPossible"]),
    }
}

fn devices(found: &mut Found, container: &Container, around: &Around, at: &At) {
    let (mut seen_names, mut seen_paths) = (BTreeSet::new(), BTreeSet::new());
    for (index, device) in container.volume_devices.iter().flatten().enumerate() {
        let at = at.index(index);
        let (name_at, path_at) = (at.child("name"), at.child("devicePath"));
        if device.name.is_empty() {
            found.required(&name_at, "");
        } else if !seen_names.insert(device.name.as_str()) {
            found.invalid(&name_at, device.name.as_str(), "must be unique");
        }
        match around.volumes.get(device.name.as_str()) {
            None => found.not_found(&name_at, device.name.as_str()),
            Some(volume) if volume.persistent_volume_claim.is_none() && volume.ephemeral.is_none() => found.invalid(
                &name_at,
                device.name.as_str(),
                "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode",
            ),
            Some(_) => {}
        }
        if device.device_path.is_empty() {
            found.required(&path_at, "");
        } else if device.device_path.split('/').any(|part| part == "..") {
            found.invalid(
                &path_at,
                device.device_path.as_str(),
                "can not contain backsteps ('..')",
            );
        } else if !seen_paths.insert(device.device_path.as_str()) {
            found.invalid(&path_at, device.device_path.as_str(), "must be unique");
        }
    }
}

fn validate_ephemeral(
    found: &mut Found,
    container: &EphemeralContainer,
    around: &Around,
    others: &BTreeSet<&str>,
    at: &At,
) {
    validate_common(found, &as_container(container), around, at);
    image_spaces(found, container.image.as_deref(), at);
    if let Some(target) =
        text(&container.target_container_name).filter(|target| !others.contains(target))
    {
        found.not_found(&at.child("targetContainerName"), target);
    }
    let asks = container
        .resources
        .as_ref()
        .is_some_and(|resources| json!(resources) != json!({}));
    for (name, there) in [
        (
            "ports",
            container
                .ports
                .as_ref()
                .is_some_and(|ports| !ports.is_empty()),
        ),
        ("resources", asks),
        ("livenessProbe", container.liveness_probe.is_some()),
        ("readinessProbe", container.readiness_probe.is_some()),
        ("startupProbe", container.startup_probe.is_some()),
        ("lifecycle", container.lifecycle.is_some()),
        ("restartPolicy", container.restart_policy.is_some()),
    ] {
        if there {
            found.forbidden(&at.child(name), "cannot be set for an Ephemeral Container");
        }
    }
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        for (name, value) in [
            ("subPath", &mount.sub_path),
            ("subPathExpr", &mount.sub_path_expr),
        ] {
            if text(value).is_some() {
                found.forbidden(
                    &at.child("volumeMounts").index(index).child(name),
                    "cannot be set for an Ephemeral Container",
                );
            }
        }
    }
}

/// What an ephemeral container has in common with the others.
fn as_container(container: &EphemeralContainer) -> Container {
    Container {
        name: container.name.clone(),
        image: container.image.clone(),
        image_pull_policy: container.image_pull_policy.clone(),
        termination_message_policy: container.termination_message_policy.clone(),
        env: container.env.clone(),
        env_from: container.env_from.clone(),
        volume_mounts: container.volume_mounts.clone(),
        volume_devices: container.volume_devices.clone(),
        security_context: container.security_context.clone(),
        ..Container::default()
    }
}

/// Pods (not templates, for their history's sake) have images without spaces around.
pub fn image_spaces(found: &mut Found, image: Option<&str>, at: &At) {
    if let Some(image) = image.filter(|image| image.trim().len() != image.len()) {
        found.invalid(
            &at.child("image"),
            image,
            "must not have leading or trailing whitespace",
        );
    }
}
