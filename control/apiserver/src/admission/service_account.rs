//! Every pod runs as a service account of its namespace and, unless it declines, is given that account's token.
//! Upstream: plugin/pkg/admission/serviceaccount.

use super::{Admission, Operation};
use caravel_api::{ApiError, Kind, ObjectName, generate};
use caravel_registry::Object;
use caravel_store::{Change, Expect};
use k8s_openapi::api::core::v1::{
    ConfigMapProjection, Container, DownwardAPIProjection, DownwardAPIVolumeFile, KeyToPath,
    ObjectFieldSelector, Pod, PodSpec, ProjectedVolumeSource, ServiceAccount,
    ServiceAccountTokenProjection, Volume, VolumeMount, VolumeProjection,
};

const MOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// An hour, and 7 seconds by which upstream tells its own tokens from users'.
const EXPIRY: i64 = 3607;
const MODE: i32 = 0o644;
const MIRROR: &str = "kubernetes.io/config.mirror";

pub(super) fn admit(
    write: &mut Admission<'_>,
    object: &mut Option<&mut dyn Object>,
    _: Option<&dyn Object>,
) -> Result<(), ApiError> {
    if write.operation != Operation::Create || !write.is("", "pods") {
        return Ok(());
    }
    let Some(pod) = object
        .as_deref_mut()
        .and_then(|object| object.typed_mut::<Pod>())
    else {
        return Ok(());
    };
    let mirror = pod
        .metadata
        .annotations
        .as_ref()
        .is_some_and(|annotations| annotations.contains_key(MIRROR));
    let spec = pod.spec.get_or_insert_default();
    if mirror {
        return if spec
            .service_account_name
            .as_deref()
            .is_none_or(str::is_empty)
        {
            Ok(())
        } else {
            Err(write.forbidden("a mirror pod may not reference service accounts"))
        };
    }
    let name = match spec
        .service_account_name
        .as_deref()
        .filter(|name| !name.is_empty())
    {
        Some(name) => name.to_owned(),
        None => "default".to_owned(),
    };
    spec.service_account_name = Some(name.clone());
    spec.service_account = Some(name.clone());
    let namespace = &write.target.namespace;
    let key = <ServiceAccount as Kind>::row().key(namespace, &name);
    let entry = write.snapshot.entry(&key).ok_or_else(|| {
        write.forbidden(format!(
            "error looking up service account {namespace}/{name}: serviceaccount {name:?} not found"
        ))
    })?;
    let account = write
        .snapshot
        .get::<ServiceAccount>(&ObjectName::new(namespace.as_str(), name.as_str()))
        .map_err(ApiError::internal)?
        .unwrap_or_default();
    // That it still exists is what matters, not that it is unchanged; but unchanged implies it, and changes are rare.
    write.changes.push(Change::Check {
        key,
        expect: Expect::At(entry.revision),
    });
    if mounts_token(&account, spec) {
        mount(spec);
    }
    if spec.image_pull_secrets.as_ref().is_none_or(Vec::is_empty) {
        spec.image_pull_secrets = account
            .image_pull_secrets
            .clone()
            .filter(|secrets| !secrets.is_empty());
    }
    Ok(())
}

fn mounts_token(account: &ServiceAccount, spec: &PodSpec) -> bool {
    spec.automount_service_account_token
        .or(account.automount_service_account_token)
        .unwrap_or(true)
}

fn containers(spec: &mut PodSpec) -> impl Iterator<Item = &mut Container> {
    spec.init_containers
        .iter_mut()
        .flatten()
        .chain(spec.containers.iter_mut())
}

fn has_mount(container: &Container) -> bool {
    container
        .volume_mounts
        .iter()
        .flatten()
        .any(|mount| mount.mount_path == MOUNT)
}

fn mount(spec: &mut PodSpec) {
    let existing = spec
        .volumes
        .iter()
        .flatten()
        .find(|volume| volume.name.starts_with("kube-api-access-"));
    let (name, new) = match existing {
        Some(volume) => (volume.name.clone(), false),
        None => (generate::name("kube-api-access-"), true),
    };
    let mut mounted = false;
    for container in containers(spec).filter(|container| !has_mount(container)) {
        container
            .volume_mounts
            .get_or_insert_default()
            .push(VolumeMount {
                name: name.clone(),
                mount_path: MOUNT.to_owned(),
                read_only: Some(true),
                ..VolumeMount::default()
            });
        mounted = true;
    }
    if mounted && new {
        spec.volumes.get_or_insert_default().push(volume(name));
    }
}

/// Token, CA and namespace, as files that the node keeps current.
fn volume(name: String) -> Volume {
    let token = VolumeProjection {
        service_account_token: Some(ServiceAccountTokenProjection {
            path: "token".to_owned(),
            expiration_seconds: Some(EXPIRY),
            ..ServiceAccountTokenProjection::default()
        }),
        ..VolumeProjection::default()
    };
    let ca = VolumeProjection {
        config_map: Some(ConfigMapProjection {
            name: "kube-root-ca.crt".to_owned(),
            items: Some(vec![KeyToPath {
                key: "ca.crt".to_owned(),
                path: "ca.crt".to_owned(),
                ..KeyToPath::default()
            }]),
            optional: None,
        }),
        ..VolumeProjection::default()
    };
    let namespace = VolumeProjection {
        downward_api: Some(DownwardAPIProjection {
            items: Some(vec![DownwardAPIVolumeFile {
                path: "namespace".to_owned(),
                field_ref: Some(ObjectFieldSelector {
                    api_version: Some("v1".to_owned()),
                    field_path: "metadata.namespace".to_owned(),
                }),
                ..DownwardAPIVolumeFile::default()
            }]),
        }),
        ..VolumeProjection::default()
    };
    Volume {
        name,
        projected: Some(ProjectedVolumeSource {
            default_mode: Some(MODE),
            sources: Some(vec![token, ca, namespace]),
            ..ProjectedVolumeSource::default()
        }),
        ..Volume::default()
    }
}
