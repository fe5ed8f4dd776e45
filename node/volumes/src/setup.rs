//! Puts a Pod's volumes where its containers can mount them.
//!
//! Volumes lie where drivers and log collectors look for them:
//! `<pod directory>/volumes/kubernetes.io~<kind>/<name>`.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use caravel_api::quantity::Quantity;
use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, Pod, Volume};

use crate::content::files;
use crate::downward::Facts;
use crate::error::{Cause, VolumeError, io};
use crate::host_path;
use crate::mounter::Mounter;
use crate::needs::Objects;
use crate::writer;

/// Sets up every volume of the Pod; doing it again changes nothing. Returns where each lies.
///
/// # Errors
/// The first volume that could not be set up, and why. Trying again later is right.
pub fn setup(
    pod_dir: &Path,
    pod: &Pod,
    objects: &Objects,
    facts: &Facts,
    mounter: &mut dyn Mounter,
) -> Result<BTreeMap<String, PathBuf>, VolumeError> {
    let group = fs_group(pod);
    volumes(pod)
        .map(|volume| {
            let path = one(pod_dir, volume, pod, objects, facts, group, mounter)
                .map_err(|c| c.of(&volume.name))?;
            Ok((volume.name.clone(), path))
        })
        .collect()
}

/// Writes the volumes that are made of files anew where their objects have changed. Returns the names of
/// those that changed.
///
/// # Errors
/// As `setup`; the volume stays as it was.
pub fn refresh(
    pod_dir: &Path,
    pod: &Pod,
    objects: &Objects,
    facts: &Facts,
) -> Result<Vec<String>, VolumeError> {
    let mut changed = Vec::new();
    for volume in volumes(pod) {
        let dir = place(pod_dir, volume);
        let Some(files) = files(volume, pod, objects, facts).filter(|_| dir.is_dir()) else {
            continue;
        };
        let written = files.and_then(|files| writer::write(&dir, &files, fs_group(pod)));
        if written.map_err(|c| c.of(&volume.name))? {
            changed.push(volume.name.clone());
        }
    }
    Ok(changed)
}

fn volumes(pod: &Pod) -> impl Iterator<Item = &Volume> {
    pod.spec.iter().flat_map(|s| s.volumes.iter().flatten())
}

fn fs_group(pod: &Pod) -> Option<u32> {
    let group = pod.spec.as_ref()?.security_context.as_ref()?.fs_group?;
    u32::try_from(group).ok()
}

fn place(pod_dir: &Path, volume: &Volume) -> PathBuf {
    let kind = match volume {
        v if v.config_map.is_some() => "configmap",
        v if v.secret.is_some() => "secret",
        v if v.downward_api.is_some() => "downward-api",
        v if v.projected.is_some() => "projected",
        _ => "empty-dir",
    };
    pod_dir
        .join("volumes")
        .join(format!("kubernetes.io~{kind}"))
        .join(&volume.name)
}

fn one(
    pod_dir: &Path,
    volume: &Volume,
    pod: &Pod,
    objects: &Objects,
    facts: &Facts,
    group: Option<u32>,
    mounter: &mut dyn Mounter,
) -> Result<PathBuf, Cause> {
    if let Some(source) = &volume.host_path {
        return host_path::prepare(source);
    }
    let dir = place(pod_dir, volume);
    if let Some(source) = &volume.empty_dir {
        return empty_dir(&dir, source, group, mounter).map(|()| dir);
    }
    let Some(files) = files(volume, pod, objects, facts) else {
        return Err(Cause::Unsupported(kind_name(volume)));
    };
    // What is missing is told before anything is made.
    let files = files?;
    create(&dir)?;
    // What is secret stays in memory.
    if volume.secret.is_some() || volume.projected.is_some() {
        mounter
            .tmpfs(&dir, Some(16 << 20))
            .map_err(io("mount tmpfs on", &dir))?;
    }
    writer::write(&dir, &files, group)?;
    Ok(dir)
}

fn create(dir: &Path) -> Result<(), Cause> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(dir)
        .map_err(io("create", dir))
}

fn empty_dir(
    dir: &Path,
    source: &EmptyDirVolumeSource,
    group: Option<u32>,
    mounter: &mut dyn Mounter,
) -> Result<(), Cause> {
    let fresh = !dir.exists();
    create(dir)?;
    if source.medium.as_deref() == Some("Memory") {
        let limit = source
            .size_limit
            .as_ref()
            .and_then(|q| Quantity::parse(&q.0).ok())
            .map(|q| q.value());
        let bytes = limit.and_then(|b| u64::try_from(b).ok()).filter(|b| *b > 0);
        mounter
            .tmpfs(dir, bytes)
            .map_err(io("mount tmpfs on", dir))?;
    }
    if fresh {
        // Anyone in the pod may write, as upstream has it; with a group, what is made inside belongs to it.
        let mode = if group.is_some() { 0o2777 } else { 0o777 };
        fs::set_permissions(dir, Permissions::from_mode(mode))
            .map_err(io("set permissions of", dir))?;
        if let Some(group) = group {
            chown(dir, None, Some(group)).map_err(io("set the group of", dir))?;
        }
    }
    Ok(())
}

fn kind_name(volume: &Volume) -> &'static str {
    match volume {
        v if v.persistent_volume_claim.is_some() => "persistentVolumeClaim",
        v if v.nfs.is_some() => "nfs",
        v if v.csi.is_some() => "csi",
        v if v.ephemeral.is_some() => "ephemeral",
        v if v.image.is_some() => "image",
        v if v.iscsi.is_some() => "iscsi",
        _ => "of a removed or unknown plug-in",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::mounter::FakeMounter;
    use crate::teardown;

    #[test]
    fn sets_up_refreshes_and_tears_down() {
        let dir = tempfile::tempdir().unwrap();
        let pod_dir = dir.path().join("pod");
        let host = dir.path().join("host");
        let pod: Pod = serde_json::from_value(
            json!({"metadata": {"name": "p"}, "spec": {"containers": [], "volumes": [
                {"name": "scratch", "emptyDir": {}},
                {"name": "fast", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
                {"name": "conf", "configMap": {"name": "cm"}},
                {"name": "keys", "secret": {"secretName": "s"}},
                {"name": "host", "hostPath": {"path": host}},
            ]}}),
        )
        .unwrap();
        let mut objects = Objects::default();
        let mut mounter = FakeMounter::default();
        let facts = Facts::default();
        let missing = setup(&pod_dir, &pod, &objects, &facts, &mut mounter).unwrap_err();
        assert_eq!(
            missing.to_string(),
            "MountVolume.SetUp failed for volume \"conf\" : configmap \"cm\" not found"
        );
        let map =
            |value: &str| Arc::new(serde_json::from_value(json!({"data": {"a": value}})).unwrap());
        objects.config_maps.insert("cm".into(), map("1"));
        objects.secrets.insert(
            "s".into(),
            Arc::new(serde_json::from_value(json!({"data": {"k": "djE="}})).unwrap()),
        );
        let first = setup(&pod_dir, &pod, &objects, &facts, &mut mounter).unwrap();
        assert_eq!(
            setup(&pod_dir, &pod, &objects, &facts, &mut mounter).unwrap(),
            first
        );
        assert_eq!(
            first["conf"],
            pod_dir.join("volumes/kubernetes.io~configmap/conf")
        );
        assert_eq!(
            mounter.mounts.values().cloned().collect::<Vec<_>>(),
            ["tmpfs size=1048576", "tmpfs size=16777216"]
        );
        assert!(
            refresh(&pod_dir, &pod, &objects, &facts)
                .unwrap()
                .is_empty()
        );
        objects.config_maps.insert("cm".into(), map("2"));
        assert_eq!(refresh(&pod_dir, &pod, &objects, &facts).unwrap(), ["conf"]);
        assert_eq!(fs::read_to_string(first["conf"].join("a")).unwrap(), "2");

        fs::write(host.join("mine"), "stays").unwrap();
        teardown(&pod_dir, &mut mounter).unwrap();
        assert!(!pod_dir.exists() && mounter.mounts.is_empty());
        assert_eq!(fs::read_to_string(host.join("mine")).unwrap(), "stays");
    }
}
