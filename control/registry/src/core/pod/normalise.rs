//! One way to write a pod: what upstream omits is absent, quantities are canonical, twin fields agree. Makes `==` on
//! templates upstream's semantic equality, so that a template never rolls by itself.
//!
//! Follows `omitempty` on value fields of `k8s.io/api/core/v1` and the conversions of `pkg/apis/core/v1`.

use k8s_openapi::api::core::v1::{
    Container, EnvFromSource, EnvVar, EphemeralContainer, HTTPGetAction, Lifecycle,
    LifecycleHandler, Pod, PodIP, PodSpec, PodStatus, PodTemplateSpec, Probe, ResourceRequirements,
    Volume, VolumeMount,
};

use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Amount;

use crate::found::{drop_zero, text};
use crate::quantities;

pub fn pod(pod: &mut Pod) {
    spec(pod.spec.get_or_insert_default());
    if let Some(status) = &mut pod.status {
        self::status(status);
    }
}

pub fn template(template: &mut PodTemplateSpec) {
    let meta = template.metadata.get_or_insert_default();
    for member in [
        &mut meta.name,
        &mut meta.namespace,
        &mut meta.generate_name,
        &mut meta.self_link,
        &mut meta.uid,
        &mut meta.resource_version,
    ] {
        drop_zero(member);
    }
    spec(template.spec.get_or_insert_default());
}

fn spec(spec: &mut PodSpec) {
    for member in [
        &mut spec.hostname,
        &mut spec.subdomain,
        &mut spec.node_name,
        &mut spec.scheduler_name,
        &mut spec.dns_policy,
        &mut spec.restart_policy,
        &mut spec.priority_class_name,
        &mut spec.service_account,
        &mut spec.service_account_name,
    ] {
        drop_zero(member);
    }
    for member in [
        &mut spec.host_ipc,
        &mut spec.host_network,
        &mut spec.host_pid,
    ] {
        drop_zero(member);
    }
    if text(&spec.service_account_name).is_none() {
        spec.service_account_name.clone_from(&spec.service_account);
    }
    spec.service_account.clone_from(&spec.service_account_name);
    quantities::normalise(&mut spec.overhead);
    if let Some(resources) = &mut spec.resources {
        self::resources(resources);
    }
    spec.volumes.iter_mut().flatten().for_each(volume);
    spec.containers.iter_mut().for_each(container);
    spec.init_containers
        .iter_mut()
        .flatten()
        .for_each(container);
    spec.ephemeral_containers
        .iter_mut()
        .flatten()
        .for_each(ephemeral);
    for toleration in spec.tolerations.iter_mut().flatten() {
        for member in [
            &mut toleration.key,
            &mut toleration.operator,
            &mut toleration.value,
            &mut toleration.effect,
        ] {
            drop_zero(member);
        }
    }
}

/// Every quantity of a specification that people write.
pub fn amounts(spec: &PodSpec) -> Vec<&Amount> {
    let containers = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
        .filter_map(|container| container.resources.as_ref())
        .chain(&spec.resources);
    let of_containers = containers.flat_map(|resources| [&resources.limits, &resources.requests]);
    let sizes = spec
        .volumes
        .iter()
        .flatten()
        .filter_map(|volume| volume.empty_dir.as_ref()?.size_limit.as_ref());
    of_containers
        .chain([&spec.overhead])
        .flatten()
        .flat_map(|list| list.values())
        .chain(sizes)
        .collect()
}

fn resources(resources: &mut ResourceRequirements) {
    quantities::normalise(&mut resources.limits);
    quantities::normalise(&mut resources.requests);
}

fn container(container: &mut Container) {
    for member in [
        &mut container.image,
        &mut container.image_pull_policy,
        &mut container.working_dir,
        &mut container.termination_message_path,
        &mut container.termination_message_policy,
    ] {
        drop_zero(member);
    }
    for member in [
        &mut container.stdin,
        &mut container.stdin_once,
        &mut container.tty,
    ] {
        drop_zero(member);
    }
    resources(container.resources.get_or_insert_default());
    for port in container.ports.iter_mut().flatten() {
        drop_zero(&mut port.host_port);
        for member in [&mut port.name, &mut port.protocol, &mut port.host_ip] {
            drop_zero(member);
        }
    }
    env(&mut container.env, &mut container.env_from);
    mounts(&mut container.volume_mounts);
    for probe in [
        &mut container.liveness_probe,
        &mut container.readiness_probe,
        &mut container.startup_probe,
    ]
    .into_iter()
    .flatten()
    {
        self::probe(probe);
    }
    if let Some(Lifecycle {
        post_start,
        pre_stop,
        ..
    }) = &mut container.lifecycle
    {
        for LifecycleHandler {
            http_get,
            tcp_socket,
            ..
        } in [post_start, pre_stop].into_iter().flatten()
        {
            http_get.iter_mut().for_each(http);
            tcp_socket
                .iter_mut()
                .for_each(|action| drop_zero(&mut action.host));
        }
    }
}

fn ephemeral(container: &mut EphemeralContainer) {
    for member in [
        &mut container.image,
        &mut container.image_pull_policy,
        &mut container.working_dir,
        &mut container.termination_message_path,
        &mut container.termination_message_policy,
        &mut container.target_container_name,
    ] {
        drop_zero(member);
    }
    for member in [
        &mut container.stdin,
        &mut container.stdin_once,
        &mut container.tty,
    ] {
        drop_zero(member);
    }
    resources(container.resources.get_or_insert_default());
    env(&mut container.env, &mut container.env_from);
    mounts(&mut container.volume_mounts);
}

fn env(vars: &mut Option<Vec<EnvVar>>, from: &mut Option<Vec<EnvFromSource>>) {
    for var in vars.iter_mut().flatten() {
        drop_zero(&mut var.value);
        if let Some(reference) = var
            .value_from
            .as_mut()
            .and_then(|from| from.resource_field_ref.as_mut())
        {
            drop_zero(&mut reference.container_name);
            reference
                .divisor
                .iter_mut()
                .for_each(quantities::normalise_one);
        }
    }
    for source in from.iter_mut().flatten() {
        drop_zero(&mut source.prefix);
    }
}

fn mounts(mounts: &mut Option<Vec<VolumeMount>>) {
    for mount in mounts.iter_mut().flatten() {
        drop_zero(&mut mount.read_only);
        drop_zero(&mut mount.sub_path);
        drop_zero(&mut mount.sub_path_expr);
    }
}

fn probe(probe: &mut Probe) {
    for member in [
        &mut probe.initial_delay_seconds,
        &mut probe.timeout_seconds,
        &mut probe.period_seconds,
        &mut probe.success_threshold,
        &mut probe.failure_threshold,
    ] {
        drop_zero(member);
    }
    probe.http_get.iter_mut().for_each(http);
    probe
        .tcp_socket
        .iter_mut()
        .for_each(|action| drop_zero(&mut action.host));
}

fn http(action: &mut HTTPGetAction) {
    for member in [&mut action.host, &mut action.path, &mut action.scheme] {
        drop_zero(member);
    }
}

fn volume(volume: &mut Volume) {
    if let Some(source) = &mut volume.empty_dir {
        drop_zero(&mut source.medium);
        source
            .size_limit
            .iter_mut()
            .for_each(quantities::normalise_one);
    }
    if let Some(source) = &mut volume.secret {
        drop_zero(&mut source.secret_name);
    }
    if let Some(source) = &mut volume.persistent_volume_claim {
        drop_zero(&mut source.read_only);
    }
    if let Some(source) = &mut volume.nfs {
        drop_zero(&mut source.read_only);
    }
    let projected = volume
        .projected
        .iter_mut()
        .flat_map(|source| source.sources.iter_mut().flatten());
    let in_projected = projected
        .filter_map(|source| source.downward_api.as_mut())
        .flat_map(|source| source.items.iter_mut().flatten());
    let in_volume = volume
        .downward_api
        .iter_mut()
        .flat_map(|source| source.items.iter_mut().flatten());
    for file in in_projected.chain(in_volume) {
        if let Some(reference) = &mut file.resource_field_ref {
            reference
                .divisor
                .iter_mut()
                .for_each(quantities::normalise_one);
        }
    }
}

/// `podIP` and the first of `podIPs` are one: whoever writes only one of them means both.
fn status(status: &mut PodStatus) {
    for member in [
        &mut status.phase,
        &mut status.pod_ip,
        &mut status.host_ip,
        &mut status.message,
        &mut status.reason,
        &mut status.qos_class,
        &mut status.nominated_node_name,
    ] {
        drop_zero(member);
    }
    // Structs that upstream always writes: clients in dynamic languages look into them without asking.
    for container in [
        &mut status.container_statuses,
        &mut status.init_container_statuses,
        &mut status.ephemeral_container_statuses,
    ]
    .into_iter()
    .flat_map(|list| list.iter_mut().flatten())
    {
        container.state.get_or_insert_default();
        container.last_state.get_or_insert_default();
    }
    let first = status
        .pod_ips
        .as_ref()
        .and_then(|ips| ips.first())
        .map(|ip| ip.ip.clone());
    match (&status.pod_ip, first) {
        (Some(ip), first) if first.as_ref() != Some(ip) => {
            status.pod_ips = Some(vec![PodIP { ip: ip.clone() }])
        }
        (None, Some(first)) => status.pod_ip = Some(first),
        _ => {}
    }
}
