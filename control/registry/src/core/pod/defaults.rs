//! What a pod is when its writer did not say.
//!
//! Follows `pkg/apis/core/v1/defaults.go` and the generated calls of it. What applies to any pod specification (also in
//! templates) is apart from what applies to pods alone: a default added to templates would roll every Deployment.

use k8s_openapi::api::core::v1::{
    ConfigMapVolumeSource, Container, EnvVar, EphemeralContainer, HTTPGetAction, Lifecycle,
    ObjectFieldSelector, Pod, PodSecurityContext, PodSpec, PodTemplateSpec, Probe, Volume,
    VolumeProjection,
};

use super::image;
use crate::found::default_text;
use crate::quantities;

/// Files of mounted configuration: rw-r--r--.
const FILE_MODE: i32 = 0o644;
/// Seconds that a projected token lives.
const TOKEN_SECONDS: i64 = 3600;

pub fn pod(pod: &mut Pod) {
    let spec = pod.spec.get_or_insert_default();
    for container in spec
        .containers
        .iter_mut()
        .chain(spec.init_containers.iter_mut().flatten())
    {
        requests_from_limits(container);
    }
    if let Some(resources) = &mut spec.resources
        && let Some(limits) = &resources.limits
    {
        let requests = resources.requests.get_or_insert_default();
        for (resource, limit) in limits {
            requests
                .entry(resource.clone())
                .or_insert_with(|| limit.clone());
        }
    }
    spec.enable_service_links.get_or_insert(true);
    if spec.host_network == Some(true) {
        for container in spec
            .containers
            .iter_mut()
            .chain(spec.init_containers.iter_mut().flatten())
        {
            for port in container.ports.iter_mut().flatten() {
                port.host_port.get_or_insert(port.container_port);
            }
        }
    }
    self::spec(spec);
}

pub fn template(template: &mut PodTemplateSpec) {
    template.metadata.get_or_insert_default();
    spec(template.spec.get_or_insert_default());
}

fn requests_from_limits(container: &mut Container) {
    let resources = container.resources.get_or_insert_default();
    if let Some(limits) = &resources.limits {
        let requests = resources.requests.get_or_insert_default();
        for (resource, limit) in limits {
            requests
                .entry(resource.clone())
                .or_insert_with(|| limit.clone());
        }
    }
}

fn spec(spec: &mut PodSpec) {
    default_text(&mut spec.dns_policy, "ClusterFirst");
    default_text(&mut spec.restart_policy, "Always");
    spec.security_context
        .get_or_insert_with(PodSecurityContext::default);
    spec.termination_grace_period_seconds.get_or_insert(30);
    default_text(&mut spec.scheduler_name, "default-scheduler");
    // Admission may have named the account since decoding; the old member follows the new one.
    spec.service_account.clone_from(&spec.service_account_name);
    quantities::round_up(&mut spec.overhead);
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
}

fn pull_policy(policy: &mut Option<String>, reference: &str) {
    if policy.as_deref().unwrap_or_default().is_empty() {
        *policy = Some(
            if image::is_latest(reference) {
                "Always"
            } else {
                "IfNotPresent"
            }
            .to_owned(),
        );
    }
}

fn container(container: &mut Container) {
    pull_policy(
        &mut container.image_pull_policy,
        container.image.as_deref().unwrap_or_default(),
    );
    default_text(
        &mut container.termination_message_path,
        "/dev/termination-log",
    );
    default_text(&mut container.termination_message_policy, "File");
    let resources = container.resources.get_or_insert_default();
    quantities::round_up(&mut resources.limits);
    quantities::round_up(&mut resources.requests);
    for port in container.ports.iter_mut().flatten() {
        default_text(&mut port.protocol, "TCP");
    }
    container.env.iter_mut().flatten().for_each(env);
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
        for handler in [post_start, pre_stop].into_iter().flatten() {
            handler.http_get.iter_mut().for_each(http);
        }
    }
    if let Some(context) = &mut container.security_context
        && context.proc_mount.as_deref() == Some("")
    {
        context.proc_mount = None;
    }
}

fn ephemeral(container: &mut EphemeralContainer) {
    pull_policy(
        &mut container.image_pull_policy,
        container.image.as_deref().unwrap_or_default(),
    );
    default_text(
        &mut container.termination_message_path,
        "/dev/termination-log",
    );
    default_text(&mut container.termination_message_policy, "File");
    container.resources.get_or_insert_default();
    container.env.iter_mut().flatten().for_each(env);
}

fn env(var: &mut EnvVar) {
    let Some(from) = &mut var.value_from else {
        return;
    };
    if let Some(reference) = &mut from.field_ref {
        field_ref(reference);
    }
    if let Some(reference) = &mut from.resource_field_ref {
        reference.divisor.get_or_insert_with(zero);
    }
    if let Some(reference) = &mut from.file_key_ref {
        reference.optional.get_or_insert(false);
    }
}

/// Upstream holds a divisor by value, so it is always written.
fn zero() -> k8s_openapi::apimachinery::pkg::api::resource::Quantity {
    k8s_openapi::apimachinery::pkg::api::resource::Quantity("0".to_owned())
}

fn field_ref(reference: &mut ObjectFieldSelector) {
    default_text(&mut reference.api_version, "v1");
}

fn probe(probe: &mut Probe) {
    for (member, value) in [
        (&mut probe.timeout_seconds, 1),
        (&mut probe.period_seconds, 10),
        (&mut probe.success_threshold, 1),
        (&mut probe.failure_threshold, 3),
    ] {
        if member.unwrap_or(0) == 0 {
            *member = Some(value);
        }
    }
    probe.http_get.iter_mut().for_each(http);
    if let Some(action) = &mut probe.grpc {
        action.service.get_or_insert_with(String::new);
    }
}

fn http(action: &mut HTTPGetAction) {
    default_text(&mut action.path, "/");
    default_text(&mut action.scheme, "HTTP");
}

fn volume(volume: &mut Volume) {
    if !has_source(volume) {
        volume.empty_dir = Some(Default::default());
    }
    if let Some(source) = &mut volume.secret {
        source.default_mode.get_or_insert(FILE_MODE);
    }
    if let Some(ConfigMapVolumeSource { default_mode, .. }) = &mut volume.config_map {
        default_mode.get_or_insert(FILE_MODE);
    }
    if let Some(source) = &mut volume.downward_api {
        source.default_mode.get_or_insert(FILE_MODE);
        source.items.iter_mut().flatten().for_each(downward_file);
    }
    if let Some(source) = &mut volume.host_path {
        source.type_.get_or_insert_with(String::new);
    }
    if let Some(source) = &mut volume.projected {
        source.default_mode.get_or_insert(FILE_MODE);
        source.sources.iter_mut().flatten().for_each(projection);
    }
    if let Some(source) = &mut volume.image {
        pull_policy(
            &mut source.pull_policy,
            source.reference.as_deref().unwrap_or_default(),
        );
    }
    if let Some(source) = &mut volume.iscsi {
        default_text(&mut source.iscsi_interface, "default");
    }
    if let Some(claim) = volume
        .ephemeral
        .as_mut()
        .and_then(|source| source.volume_claim_template.as_mut())
    {
        default_text(&mut claim.spec.volume_mode, "Filesystem");
    }
}

fn downward_file(file: &mut k8s_openapi::api::core::v1::DownwardAPIVolumeFile) {
    file.field_ref.iter_mut().for_each(field_ref);
    if let Some(reference) = &mut file.resource_field_ref {
        reference.divisor.get_or_insert_with(zero);
    }
}

fn projection(source: &mut VolumeProjection) {
    if let Some(token) = &mut source.service_account_token {
        token.expiration_seconds.get_or_insert(TOKEN_SECONDS);
    }
    if let Some(files) = &mut source.downward_api {
        files.items.iter_mut().flatten().for_each(downward_file);
    }
}

/// Does the volume say what it is?
pub fn has_source(volume: &Volume) -> bool {
    super::volume::sources(volume).next().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn defaulted(spec: Value) -> Value {
        let mut object: Pod = serde_json::from_value(json!({"spec": spec})).unwrap();
        super::super::normalise::pod(&mut object);
        pod(&mut object);
        serde_json::to_value(object.spec).unwrap()
    }

    #[test]
    fn the_smallest_pod() {
        assert_eq!(
            defaulted(json!({"containers": [{"name": "a", "image": "nginx:1.9"}]})),
            json!({
                "containers": [{
                    "name": "a", "image": "nginx:1.9", "imagePullPolicy": "IfNotPresent", "resources": {},
                    "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"
                }],
                "dnsPolicy": "ClusterFirst", "enableServiceLinks": true, "restartPolicy": "Always", "schedulerName": "default-scheduler",
                "securityContext": {}, "terminationGracePeriodSeconds": 30
            })
        );
    }

    #[test]
    fn parts() {
        for (spec, pointer, want) in [
            (
                json!({"containers": [{"name": "a", "image": "nginx"}]}),
                "/containers/0/imagePullPolicy",
                json!("Always"),
            ),
            (
                json!({"containers": [{"name": "a", "ports": [{"containerPort": 80}]}]}),
                "/containers/0/ports/0",
                json!({"containerPort": 80, "protocol": "TCP"}),
            ),
            (
                json!({"hostNetwork": true, "containers": [{"name": "a", "ports": [{"containerPort": 80}]}]}),
                "/containers/0/ports/0/hostPort",
                json!(80),
            ),
            (
                json!({"containers": [{"name": "a", "resources": {"limits": {"cpu": "0.5", "memory": "1024Mi"}, "requests": {"cpu": "100m"}}}]}),
                "/containers/0/resources",
                json!({"limits": {"cpu": "500m", "memory": "1Gi"}, "requests": {"cpu": "100m", "memory": "1Gi"}}),
            ),
            (
                json!({"containers": [{"name": "a", "readinessProbe": {"httpGet": {"port": 80}, "initialDelaySeconds": 0}}]}),
                "/containers/0/readinessProbe",
                json!({"failureThreshold": 3, "httpGet": {"path": "/", "port": 80, "scheme": "HTTP"}, "periodSeconds": 10, "successThreshold": 1, "timeoutSeconds": 1}),
            ),
            (
                json!({"containers": [], "volumes": [{"name": "v"}]}),
                "/volumes/0",
                json!({"name": "v", "emptyDir": {}}),
            ),
            (
                json!({"containers": [], "volumes": [{"name": "v", "hostPath": {"path": "/x"}}]}),
                "/volumes/0/hostPath",
                json!({"path": "/x", "type": ""}),
            ),
            (
                json!({"containers": [], "volumes": [{"name": "v", "configMap": {"name": "c"}}]}),
                "/volumes/0/configMap/defaultMode",
                json!(420),
            ),
            (
                json!({"containers": [], "volumes": [{"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]}),
                "/volumes/0/projected",
                json!({"defaultMode": 420, "sources": [{"serviceAccountToken": {"expirationSeconds": 3600, "path": "t"}}]}),
            ),
            (
                json!({"containers": [{"name": "a", "env": [{"name": "X", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}]}),
                "/containers/0/env/0/valueFrom/fieldRef/apiVersion",
                json!("v1"),
            ),
            (
                json!({"serviceAccount": "s", "containers": []}),
                "/serviceAccountName",
                json!("s"),
            ),
            (
                json!({"serviceAccountName": "s", "serviceAccount": "old", "containers": []}),
                "/serviceAccount",
                json!("s"),
            ),
        ] {
            assert_eq!(
                defaulted(spec.clone()).pointer(pointer),
                Some(&want),
                "{spec}"
            );
        }
    }

    #[test]
    fn templates_get_no_more_than_a_template_needs() {
        let mut object: PodTemplateSpec = serde_json::from_value(
            json!({"spec": {"containers": [{"name": "a", "resources": {"limits": {"cpu": "1"}}}]}}),
        )
        .unwrap();
        template(&mut object);
        let spec = serde_json::to_value(object.spec).unwrap();
        assert_eq!(spec.pointer("/enableServiceLinks"), None);
        assert_eq!(spec.pointer("/containers/0/resources/requests"), None);
    }

    #[test]
    fn a_fixed_point() {
        let once = defaulted(
            json!({"containers": [{"name": "a", "image": "x", "tty": false, "livenessProbe": {"exec": {"command": ["x"]}}}], "volumes": [{"name": "v", "secret": {"secretName": "s"}}]}),
        );
        assert_eq!(defaulted(once.clone()), once);
    }
}
