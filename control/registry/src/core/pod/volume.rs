//! What is wrong with a pod's volumes.
//!
//! Follows `ValidateVolumes` of `pkg/apis/core/validation`. Sources that only name a disk of some provider are checked
//! for being the only source.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{
    DownwardAPIVolumeFile, KeyToPath, ProjectedVolumeSource, Volume, VolumeProjection,
};
use serde_json::json;

use super::env;
use crate::found::{At, Found, text};
use crate::names;
use crate::quantities;

const HOST_PATH_TYPES: &[&str] = &[
    "",
    "BlockDevice",
    "CharDevice",
    "Directory",
    "DirectoryOrCreate",
    "File",
    "FileOrCreate",
    "Socket",
];
const MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";

/// The sources a volume has (one, where it is valid), by their names.
pub fn sources(volume: &Volume) -> impl Iterator<Item = &'static str> {
    [
        ("emptyDir", volume.empty_dir.is_some()),
        ("hostPath", volume.host_path.is_some()),
        ("gitRepo", volume.git_repo.is_some()),
        ("gcePersistentDisk", volume.gce_persistent_disk.is_some()),
        (
            "awsElasticBlockStore",
            volume.aws_elastic_block_store.is_some(),
        ),
        ("secret", volume.secret.is_some()),
        ("nfs", volume.nfs.is_some()),
        ("iscsi", volume.iscsi.is_some()),
        ("glusterfs", volume.glusterfs.is_some()),
        ("flocker", volume.flocker.is_some()),
        (
            "persistentVolumeClaim",
            volume.persistent_volume_claim.is_some(),
        ),
        ("rbd", volume.rbd.is_some()),
        ("cinder", volume.cinder.is_some()),
        ("cephfs", volume.cephfs.is_some()),
        ("quobyte", volume.quobyte.is_some()),
        ("downwardAPI", volume.downward_api.is_some()),
        ("fc", volume.fc.is_some()),
        ("flexVolume", volume.flex_volume.is_some()),
        ("configMap", volume.config_map.is_some()),
        ("azureFile", volume.azure_file.is_some()),
        ("vsphereVolume", volume.vsphere_volume.is_some()),
        (
            "photonPersistentDisk",
            volume.photon_persistent_disk.is_some(),
        ),
        ("portworxVolume", volume.portworx_volume.is_some()),
        ("azureDisk", volume.azure_disk.is_some()),
        ("storageos", volume.storageos.is_some()),
        ("projected", volume.projected.is_some()),
        ("scaleIO", volume.scale_io.is_some()),
        ("csi", volume.csi.is_some()),
        ("ephemeral", volume.ephemeral.is_some()),
        ("image", volume.image.is_some()),
    ]
    .into_iter()
    .filter_map(|(name, there)| there.then_some(name))
}

/// Checks all volumes; the valid ones, by name, are what mounts may name.
pub fn validate<'a>(
    found: &mut Found,
    volumes: &'a [Volume],
    at: &At,
) -> BTreeMap<&'a str, &'a Volume> {
    let mut valid = BTreeMap::new();
    for (index, volume) in volumes.iter().enumerate() {
        let at = at.index(index);
        let before = found.len();
        validate_source(found, volume, &at);
        let name_at = at.child("name");
        if volume.name.is_empty() {
            found.required(&name_at, "");
        } else {
            found.faults(&name_at, &volume.name, names::dns_label(&volume.name));
        }
        if valid.contains_key(volume.name.as_str()) {
            found.duplicate(&name_at, volume.name.as_str());
        }
        if found.len() == before {
            valid.insert(volume.name.as_str(), volume);
        }
    }
    valid
}

fn validate_source(found: &mut Found, volume: &Volume, at: &At) {
    let mut named = sources(volume);
    if named.next().is_none() {
        found.required(at, "must specify a volume type");
    }
    for extra in named {
        found.forbidden(&at.child(extra), "may not specify more than 1 volume type");
    }
    if let Some(limit) = volume
        .empty_dir
        .as_ref()
        .and_then(|source| source.size_limit.as_ref())
        && quantities::parsed(limit).is_negative()
    {
        found.forbidden(
            &at.child("emptyDir").child("sizeLimit"),
            "SizeLimit field must be a valid resource quantity",
        );
    }
    if let Some(source) = &volume.host_path {
        let at = at.child("hostPath");
        if source.path.is_empty() {
            found.required(&at.child("path"), "");
        } else {
            no_backsteps(found, &source.path, &at.child("path"));
            if let Some(kind) = source
                .type_
                .as_deref()
                .filter(|kind| !HOST_PATH_TYPES.contains(kind))
            {
                found.not_supported(&at.child("type"), kind, HOST_PATH_TYPES);
            }
        }
    }
    if let Some(source) = &volume.secret {
        let at = at.child("secret");
        if text(&source.secret_name).is_none() {
            found.required(&at.child("secretName"), "");
        }
        mode(found, source.default_mode, &at.child("defaultMode"));
        items(found, source.items.as_deref(), &at.child("items"));
    }
    if let Some(source) = &volume.config_map {
        let at = at.child("configMap");
        if source.name.is_empty() {
            found.required(&at.child("name"), "");
        }
        mode(found, source.default_mode, &at.child("defaultMode"));
        items(found, source.items.as_deref(), &at.child("items"));
    }
    if let Some(source) = &volume.downward_api {
        let at = at.child("downwardAPI");
        mode(found, source.default_mode, &at.child("defaultMode"));
        for file in source.items.iter().flatten() {
            downward_file(found, file, &at);
        }
    }
    if let Some(source) = &volume.projected {
        let at = at.child("projected");
        mode(found, source.default_mode, &at.child("defaultMode"));
        projected(found, source, &at);
    }
    if let Some(source) = &volume.persistent_volume_claim
        && source.claim_name.is_empty()
    {
        found.required(&at.child("persistentVolumeClaim").child("claimName"), "");
    }
    if let Some(source) = &volume.nfs {
        let at = at.child("nfs");
        for (name, value) in [("server", &source.server), ("path", &source.path)] {
            if value.is_empty() {
                found.required(&at.child(name), "");
            }
        }
        if !source.path.is_empty() && !source.path.starts_with('/') {
            found.invalid(
                &at.child("path"),
                source.path.as_str(),
                "must be an absolute path",
            );
        }
    }
    if let Some(source) = &volume.csi {
        let at = at.child("csi");
        if source.driver.is_empty() {
            found.required(&at.child("driver"), "");
        } else {
            found.faults(
                &at.child("driver"),
                &source.driver,
                names::dns_subdomain(&source.driver.to_lowercase()),
            );
        }
    }
    if let Some(source) = &volume.ephemeral
        && source.volume_claim_template.is_none()
    {
        found.required(&at.child("ephemeral").child("volumeClaimTemplate"), "");
    }
    if let Some(source) = &volume.image {
        let at = at.child("image");
        if text(&source.reference).is_none() {
            found.required(&at.child("reference"), "");
        }
        found.one_of(
            &at.child("pullPolicy"),
            source.pull_policy.as_deref(),
            super::container::PULL_POLICIES,
        );
    }
}

fn mode(found: &mut Found, mode: Option<i32>, at: &At) {
    if let Some(mode) = mode.filter(|mode| !(0..=0o777).contains(mode)) {
        found.invalid(at, mode, MODE);
    }
}

fn items(found: &mut Found, items: Option<&[KeyToPath]>, at: &At) {
    for (index, item) in items.unwrap_or_default().iter().enumerate() {
        key_to_path(found, item, &at.index(index));
    }
}

fn key_to_path(found: &mut Found, item: &KeyToPath, at: &At) {
    if item.key.is_empty() {
        found.required(&at.child("key"), "");
    }
    if item.path.is_empty() {
        found.required(&at.child("path"), "");
    }
    local_not_reserved(found, &item.path, &at.child("path"));
    mode(found, item.mode, &at.child("mode"));
}

fn downward_file(found: &mut Found, file: &DownwardAPIVolumeFile, at: &At) {
    if file.path.is_empty() {
        found.required(&at.child("path"), "");
    }
    local_not_reserved(found, &file.path, &at.child("path"));
    match (&file.field_ref, &file.resource_field_ref) {
        (Some(field), other) => {
            env::field_ref(found, field, env::VOLUME_FIELDS, &at.child("fieldRef"));
            if other.is_some() {
                found.invalid(
                    at,
                    "resource",
                    "fieldRef and resourceFieldRef can not be specified simultaneously",
                );
            }
        }
        (None, Some(resource)) => {
            env::resource_ref(found, resource, true, &at.child("resourceFieldRef"))
        }
        (None, None) => found.required(at, "one of fieldRef and resourceFieldRef is required"),
    }
    mode(found, file.mode, &at.child("mode"));
}

fn projected(found: &mut Found, source: &ProjectedVolumeSource, at: &At) {
    let mut paths = BTreeSet::new();
    for (index, source) in source.sources.iter().flatten().enumerate() {
        let list = at.child("sources");
        projection(found, source, &mut paths, at, &list.index(index));
    }
}

fn projection<'a>(
    found: &mut Found,
    source: &'a VolumeProjection,
    paths: &mut BTreeSet<&'a str>,
    whole: &At,
    at: &At,
) {
    let mut take = |found: &mut Found, path: &'a str, what: &str| {
        if !path.is_empty() && !paths.insert(path) {
            found.invalid(whole, what, "conflicting duplicate paths");
        }
    };
    let mut count = 0;
    let named = [
        (
            "secret",
            source.secret.as_ref().map(|from| (&from.name, &from.items)),
        ),
        (
            "configMap",
            source
                .config_map
                .as_ref()
                .map(|from| (&from.name, &from.items)),
        ),
    ];
    for (name, from) in named {
        let Some((object, list)) = from else { continue };
        count += 1;
        let at = at.child(name);
        if object.is_empty() {
            found.required(&at.child("name"), "");
        }
        for (index, item) in list.iter().flatten().enumerate() {
            key_to_path(found, item, &at.child("items").index(index));
            take(found, &item.path, object);
        }
    }
    if let Some(files) = &source.downward_api {
        count += 1;
        for file in files.items.iter().flatten() {
            downward_file(found, file, &at.child("downwardAPI"));
            take(found, &file.path, &file.path);
        }
    }
    if let Some(token) = &source.service_account_token {
        count += 1;
        let seconds = token.expiration_seconds.unwrap_or(0);
        let at = at.child("serviceAccountToken");
        let seconds_at = at.child("expirationSeconds");
        if seconds < 600 {
            found.invalid(
                &seconds_at,
                seconds,
                "may not specify a duration less than 10 minutes",
            );
        } else if seconds > 1 << 32 {
            found.invalid(
                &seconds_at,
                seconds,
                "may not specify a duration larger than 2^32 seconds",
            );
        }
        if token.path.is_empty() {
            found.required(&whole.child("path"), "");
        } else {
            local_not_reserved(found, &token.path, &whole.child("path"));
        }
    }
    if let Some(bundle) = &source.cluster_trust_bundle {
        count += 1;
        let at = at.child("clusterTrustBundle");
        match (&bundle.name, &bundle.signer_name) {
            (Some(_), Some(_)) => found.invalid(
                &at,
                json!(bundle),
                "only one of name and signerName may be used",
            ),
            (None, None) => found.required(&at, "either name or signerName must be specified"),
            _ => {}
        }
        if bundle.path.is_empty() {
            found.required(&at.child("path"), "");
        }
        local_not_reserved(found, &bundle.path, &at.child("path"));
        take(found, &bundle.path, &bundle.path);
    }
    if count > 1 {
        found.forbidden(at, "may not specify more than 1 volume type per source");
    }
}

/// A path that stays below where it is put.
pub fn local_descending(found: &mut Found, path: &str, at: &At) {
    if path.starts_with('/') {
        found.invalid(at, path, "must be a relative path");
    }
    no_backsteps(found, path, at);
}

/// As [`local_descending`], and not one of the names that the node keeps for itself.
fn local_not_reserved(found: &mut Found, path: &str, at: &At) {
    local_descending(found, path, at);
    if path.starts_with("..") && !path.starts_with("../") {
        found.invalid(at, path, "must not start with '..'");
    }
}

pub fn no_backsteps(found: &mut Found, path: &str, at: &At) {
    if path.split('/').any(|part| part == "..") {
        found.invalid(at, path, "must not contain '..'");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn volumes() {
        for (given, want) in [
            (json!([{"name": "v", "emptyDir": {}}]), "[]"),
            (
                json!([{"name": "v"}]),
                "v[0]: Required value: must specify a volume type",
            ),
            (
                json!([{"name": "V", "emptyDir": {}}]),
                "v[0].name: Invalid value: \"V\": a lowercase RFC 1123 label",
            ),
            (
                json!([{"name": "v", "emptyDir": {}}, {"name": "v", "emptyDir": {}}]),
                "v[1].name: Duplicate value: \"v\"",
            ),
            (
                json!([{"name": "v", "emptyDir": {}, "hostPath": {"path": "/"}}]),
                "v[0].hostPath: Forbidden: may not specify more than 1 volume type",
            ),
            (
                json!([{"name": "v", "hostPath": {"path": "/a/../b"}}]),
                "v[0].hostPath.path: Invalid value: \"/a/../b\": must not contain '..'",
            ),
            (
                json!([{"name": "v", "hostPath": {"path": "/a", "type": "Disc"}}]),
                "v[0].hostPath.type: Unsupported value: \"Disc\": supported values: \"\", \"BlockDevice\"",
            ),
            (
                json!([{"name": "v", "secret": {}}]),
                "v[0].secret.secretName: Required value",
            ),
            (
                json!([{"name": "v", "configMap": {"name": "c", "defaultMode": 512}}]),
                "v[0].configMap.defaultMode: Invalid value: 512: must be a number between 0 and 0777",
            ),
            (
                json!([{"name": "v", "configMap": {"name": "c", "items": [{"key": "k", "path": "/x"}]}}]),
                "v[0].configMap.items[0].path: Invalid value: \"/x\": must be a relative path",
            ),
            (
                json!([{"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t", "expirationSeconds": 5}}]}}]),
                "v[0].projected.sources[0].serviceAccountToken.expirationSeconds: Invalid value: 5: may not specify",
            ),
            (
                json!([{"name": "v", "downwardAPI": {"items": [{"path": "p", "fieldRef": {"apiVersion": "v1", "fieldPath": "spec.nodeName"}}]}}]),
                "v[0].downwardAPI.fieldRef.fieldPath: Unsupported value: \"spec.nodeName\"",
            ),
        ] {
            let volumes: Vec<Volume> = serde_json::from_value(given.clone()).unwrap();
            let mut found = Found::new();
            validate(&mut found, &volumes, &At::Root.child("v"));
            let message = found.into_errors().message();
            assert!(message.contains(want), "{given}: {message}");
        }
    }
}
