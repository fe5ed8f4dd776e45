//! Which files a configMap, secret, downwardAPI or projected volume holds. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, KeyToPath, Pod, Volume};

use crate::downward::{self, Facts};
use crate::error::Cause;
use crate::needs::{Objects, request};

/// One file of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Its bytes.
    pub content: Vec<u8>,
    /// Its permissions.
    pub mode: u32,
}

/// Files by their path inside the volume.
pub type Files = BTreeMap<String, File>;

/// The files of a volume; none where the volume is not of these kinds.
pub fn files(
    volume: &Volume,
    pod: &Pod,
    objects: &Objects,
    facts: &Facts,
) -> Option<Result<Files, Cause>> {
    if let Some(source) = &volume.config_map {
        let mode = permissions(source.default_mode);
        return Some(config_map(
            &source.name,
            source.items.as_deref(),
            source.optional,
            mode,
            objects,
        ));
    }
    if let Some(source) = &volume.secret {
        let name = source.secret_name.as_deref().unwrap_or_default();
        let mode = permissions(source.default_mode);
        return Some(secret(
            name,
            source.items.as_deref(),
            source.optional,
            mode,
            objects,
        ));
    }
    if let Some(source) = &volume.downward_api {
        return Some(downward_api(
            source.items.as_deref(),
            permissions(source.default_mode),
            pod,
            facts,
        ));
    }
    let projected = volume.projected.as_ref()?;
    let mode = permissions(projected.default_mode);
    let mut all = Files::new();
    for source in projected.sources.iter().flatten() {
        let part = if let Some(s) = &source.config_map {
            config_map(&s.name, s.items.as_deref(), s.optional, mode, objects)
        } else if let Some(s) = &source.secret {
            secret(&s.name, s.items.as_deref(), s.optional, mode, objects)
        } else if let Some(s) = &source.downward_api {
            downward_api(s.items.as_deref(), mode, pod, facts)
        } else if let Some(s) = &source.service_account_token {
            token(s, mode, objects)
        } else {
            Err(Cause::Unsupported(
                "clusterTrustBundle or podCertificate projection",
            ))
        };
        match part {
            Ok(part) => all.extend(part),
            Err(cause) => return Some(Err(cause)),
        }
    }
    Some(Ok(all))
}

fn permissions(mode: Option<i32>) -> u32 {
    mode.and_then(|m| u32::try_from(m).ok()).unwrap_or(0o644) & 0o777
}

fn config_map(
    name: &str,
    items: Option<&[KeyToPath]>,
    optional: Option<bool>,
    mode: u32,
    objects: &Objects,
) -> Result<Files, Cause> {
    let optional = optional == Some(true);
    let Some(map) = objects.config_maps.get(name) else {
        return absent("configmap", name, optional);
    };
    let mut data: BTreeMap<&str, &[u8]> = BTreeMap::new();
    data.extend(
        map.data
            .iter()
            .flatten()
            .map(|(k, v)| (k.as_str(), v.as_bytes())),
    );
    data.extend(
        map.binary_data
            .iter()
            .flatten()
            .map(|(k, v)| (k.as_str(), v.0.as_slice())),
    );
    pick(&data, items, optional, mode, Cause::NoConfigKey)
}

fn secret(
    name: &str,
    items: Option<&[KeyToPath]>,
    optional: Option<bool>,
    mode: u32,
    objects: &Objects,
) -> Result<Files, Cause> {
    let optional = optional == Some(true);
    let Some(secret) = objects.secrets.get(name) else {
        return absent("secret", name, optional);
    };
    let data = secret
        .data
        .iter()
        .flatten()
        .map(|(k, v)| (k.as_str(), v.0.as_slice()))
        .collect();
    pick(&data, items, optional, mode, Cause::NoSecretKey)
}

fn absent(kind: &'static str, name: &str, optional: bool) -> Result<Files, Cause> {
    match optional {
        true => Ok(Files::new()),
        false => Err(Cause::NotFound {
            kind,
            name: name.to_owned(),
        }),
    }
}

fn pick(
    data: &BTreeMap<&str, &[u8]>,
    items: Option<&[KeyToPath]>,
    optional: bool,
    mode: u32,
    missing: fn(String) -> Cause,
) -> Result<Files, Cause> {
    let file = |content: &[u8], mode| File {
        content: content.to_vec(),
        mode,
    };
    match items {
        None | Some([]) => Ok(data
            .iter()
            .map(|(key, content)| ((*key).to_owned(), file(content, mode)))
            .collect()),
        Some(items) => items
            .iter()
            .filter_map(|item| match data.get(item.key.as_str()) {
                Some(content) => {
                    let mode = item.mode.map_or(mode, |m| permissions(Some(m)));
                    Some(inside(&item.path).map(|path| (path, file(content, mode))))
                }
                None if optional => None,
                None => Some(Err(missing(item.key.clone()))),
            })
            .collect(),
    }
}

fn downward_api(
    items: Option<&[DownwardAPIVolumeFile]>,
    mode: u32,
    pod: &Pod,
    facts: &Facts,
) -> Result<Files, Cause> {
    items
        .into_iter()
        .flatten()
        .map(|item| {
            let value = match (&item.field_ref, &item.resource_field_ref) {
                (Some(field), _) => downward::field(pod, &field.field_path, facts),
                (None, Some(resource)) => downward::resource(pod, None, resource, facts),
                (None, None) => Err("neither fieldRef nor resourceFieldRef is set".to_owned()),
            };
            let mode = item.mode.map_or(mode, |m| permissions(Some(m)));
            Ok((
                inside(&item.path)?,
                File {
                    content: value.map_err(Cause::Field)?.into_bytes(),
                    mode,
                },
            ))
        })
        .collect()
}

fn token(
    source: &k8s_openapi::api::core::v1::ServiceAccountTokenProjection,
    mode: u32,
    objects: &Objects,
) -> Result<Files, Cause> {
    let token = match objects.tokens.get(&request(source)) {
        Some(Ok(token)) => token.clone(),
        Some(Err(why)) => return Err(Cause::Token(why.clone())),
        None => return Err(Cause::Token("it was not asked for".to_owned())),
    };
    Ok(Files::from([(
        inside(&source.path)?,
        File {
            content: token.into_bytes(),
            mode,
        },
    )]))
}

/// A path that stays inside its volume, in one spelling.
pub(crate) fn inside(path: &str) -> Result<String, Cause> {
    let parts: Vec<&str> = path
        .split('/')
        .filter(|p| !p.is_empty() && *p != ".")
        .collect();
    match path.starts_with('/') || parts.is_empty() || parts.contains(&"..") {
        true => Err(Cause::BadPath(path.to_owned())),
        false => Ok(parts.join("/")),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;

    fn show(volume: Value) -> String {
        let mut objects = Objects::default();
        let map = json!({"data": {"a": "1", "b": "2"}, "binaryData": {"c": "AAE="}});
        objects
            .config_maps
            .insert("cm".into(), Arc::new(serde_json::from_value(map).unwrap()));
        objects.secrets.insert(
            "s".into(),
            Arc::new(serde_json::from_value(json!({"data": {"k": "djE="}})).unwrap()),
        );
        let pod = serde_json::from_value(json!({"metadata": {"name": "p"}})).unwrap();
        let volume: Volume = serde_json::from_value(volume).unwrap();
        objects.tokens.insert(
            crate::TokenRequest {
                audience: String::new(),
                expiration_seconds: 3607,
            },
            Ok("t".into()),
        );
        match files(&volume, &pod, &objects, &Facts::default()) {
            None => "not made of files".into(),
            Some(Err(cause)) => cause.to_string(),
            Some(Ok(files)) => files
                .iter()
                .map(|(path, f)| {
                    format!(
                        "{path}={}:{:o}",
                        String::from_utf8_lossy(&f.content).escape_default(),
                        f.mode
                    )
                })
                .collect::<Vec<_>>()
                .join(" "),
        }
    }

    #[test]
    fn volumes_become_files() {
        for (volume, expected) in [
            (
                json!({"configMap": {"name": "cm", "defaultMode": 420}}),
                "a=1:644 b=2:644 c=\\u{0}\\u{1}:644",
            ),
            (
                json!({"configMap": {"name": "cm", "items": [{"key": "a", "path": "x/y", "mode": 256}]}}),
                "x/y=1:400",
            ),
            (
                json!({"configMap": {"name": "cm", "items": [{"key": "none", "path": "x"}]}}),
                "configmap references non-existent config key: none",
            ),
            (
                json!({"configMap": {"name": "none"}}),
                "configmap \"none\" not found",
            ),
            (json!({"configMap": {"name": "none", "optional": true}}), ""),
            (
                json!({"configMap": {"name": "cm", "items": [{"key": "a", "path": "../x"}]}}),
                "invalid path \"../x\": must be relative and must not contain '..'",
            ),
            (json!({"secret": {"secretName": "s"}}), "k=v1:644"),
            (
                json!({"secret": {"secretName": "none"}}),
                "secret \"none\" not found",
            ),
            (
                json!({"downwardAPI": {"items": [{"path": "n", "fieldRef": {"fieldPath": "metadata.name"}}]}}),
                "n=p:644",
            ),
            (
                json!({"projected": {"sources": [{"secret": {"name": "s"}}, {"configMap": {"name": "cm", "items": [{"key": "a", "path": "ca"}]}},
                    {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}}]}}),
                "ca=1:644 k=v1:644 token=t:644",
            ),
            (json!({"emptyDir": {}}), "not made of files"),
        ] {
            let mut named = volume.clone();
            named["name"] = json!("v");
            assert_eq!(show(named), expected, "{volume}");
        }
    }
}
