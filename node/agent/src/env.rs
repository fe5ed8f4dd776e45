//! The environment of a container: services, `envFrom`, `env`, in upstream's order of precedence.
//!
//! Pure: what `valueFrom` refers to has been fetched. Follows makeEnvironmentVariables of pkg/kubelet/kubelet_pods.go
//! and pkg/kubelet/envvars.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use caravel_volumes::{Facts, Objects, downward};
use indexmap::IndexMap;
use k8s_openapi::api::core::v1::{Container, EnvVarSource, Pod, Service};

use crate::expand::expand;

/// A reference that leads nowhere, in the words of `CreateContainerConfigError`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct EnvError(pub String);

/// ConfigMaps and Secrets that the container's environment is made from.
pub(crate) fn needs(container: &Container) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut maps, mut secrets) = (BTreeSet::new(), BTreeSet::new());
    for source in container.env_from.iter().flatten() {
        maps.extend(source.config_map_ref.as_ref().map(|r| r.name.clone()));
        secrets.extend(source.secret_ref.as_ref().map(|r| r.name.clone()));
    }
    for source in container
        .env
        .iter()
        .flatten()
        .filter_map(|v| v.value_from.as_ref())
    {
        maps.extend(source.config_map_key_ref.as_ref().map(|r| r.name.clone()));
        secrets.extend(source.secret_key_ref.as_ref().map(|r| r.name.clone()));
    }
    (maps, secrets)
}

pub(crate) fn environment(
    pod: &Pod,
    container: &Container,
    objects: &Objects,
    services: &[Arc<Service>],
    facts: &Facts,
) -> Result<IndexMap<String, String>, EnvError> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let links = pod
        .spec
        .as_ref()
        .and_then(|s| s.enable_service_links)
        .unwrap_or(true);
    let of_services = service_variables(namespace, links, services);
    let mut result: IndexMap<String, String> = IndexMap::new();

    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        if let Some(reference) = &source.config_map_ref {
            match objects.config_maps.get(&reference.name) {
                Some(map) => result.extend(
                    map.data
                        .iter()
                        .flatten()
                        .map(|(k, v)| (format!("{prefix}{k}"), v.clone())),
                ),
                None if reference.optional == Some(true) => {}
                None => {
                    return Err(EnvError(format!(
                        "configmap \"{}\" not found",
                        reference.name
                    )));
                }
            }
        }
        if let Some(reference) = &source.secret_ref {
            match objects.secrets.get(&reference.name) {
                Some(secret) => result.extend(secret.data.iter().flatten().map(|(k, v)| {
                    (
                        format!("{prefix}{k}"),
                        String::from_utf8_lossy(&v.0).into_owned(),
                    )
                })),
                None if reference.optional == Some(true) => {}
                None => return Err(EnvError(format!("secret \"{}\" not found", reference.name))),
            }
        }
    }

    for variable in container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (_, Some(source)) => match from(pod, container, namespace, source, objects, facts)? {
                Some(value) => value,
                None => continue,
            },
            (value, None) => expand(value.as_deref().unwrap_or_default(), |name| {
                result.get(name).or_else(|| of_services.get(name)).cloned()
            }),
        };
        // A later one of the same name takes the place of the earlier.
        result.insert(variable.name.clone(), value);
    }
    for (name, value) in of_services {
        result.entry(name).or_insert(value);
    }
    Ok(result)
}

/// `None`: an optional reference to nothing.
fn from(
    pod: &Pod,
    container: &Container,
    namespace: &str,
    source: &EnvVarSource,
    objects: &Objects,
    facts: &Facts,
) -> Result<Option<String>, EnvError> {
    if let Some(field) = &source.field_ref {
        return downward::field(pod, &field.field_path, facts)
            .map(Some)
            .map_err(EnvError);
    }
    if let Some(resource) = &source.resource_field_ref {
        return downward::resource(pod, Some(&container.name), resource, facts)
            .map(Some)
            .map_err(EnvError);
    }
    if let Some(key) = &source.config_map_key_ref {
        let optional = key.optional == Some(true);
        return match objects.config_maps.get(&key.name) {
            None if optional => Ok(None),
            None => Err(EnvError(format!("configmap \"{}\" not found", key.name))),
            Some(map) => match map.data.as_ref().and_then(|d| d.get(&key.key)) {
                None if optional => Ok(None),
                None => Err(EnvError(format!(
                    "couldn't find key {} in ConfigMap {namespace}/{}",
                    key.key, key.name
                ))),
                Some(value) => Ok(Some(value.clone())),
            },
        };
    }
    if let Some(key) = &source.secret_key_ref {
        let optional = key.optional == Some(true);
        return match objects.secrets.get(&key.name) {
            None if optional => Ok(None),
            None => Err(EnvError(format!("secret \"{}\" not found", key.name))),
            Some(secret) => match secret.data.as_ref().and_then(|d| d.get(&key.key)) {
                None if optional => Ok(None),
                None => Err(EnvError(format!(
                    "couldn't find key {} in Secret {namespace}/{}",
                    key.key, key.name
                ))),
                Some(value) => Ok(Some(String::from_utf8_lossy(&value.0).into_owned())),
            },
        };
    }
    Err(EnvError(
        "this kind of valueFrom is not supported by this version of Caravel".into(),
    ))
}

/// `NAME_SERVICE_HOST` and docker's link variables: of the API server's Service always, of the namespace's by `links`.
fn service_variables(
    namespace: &str,
    links: bool,
    services: &[Arc<Service>],
) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    let mut own: Vec<&Arc<Service>> = Vec::new();
    for service in services {
        let meta = &service.metadata;
        let master = meta.namespace.as_deref() == Some("default")
            && meta.name.as_deref() == Some("kubernetes");
        if master {
            // First, so that the namespace's own Service of that name wins.
            own.insert(0, service);
        } else if links && meta.namespace.as_deref() == Some(namespace) {
            own.push(service);
        }
    }
    for service in own {
        let Some(spec) = &service.spec else { continue };
        let Some(ip) = spec
            .cluster_ip
            .as_deref()
            .filter(|ip| !ip.is_empty() && *ip != "None")
        else {
            continue;
        };
        let name = upper(service.metadata.name.as_deref().unwrap_or_default());
        let Some(ports) = spec.ports.as_ref().filter(|p| !p.is_empty()) else {
            continue;
        };
        let host = if ip.contains(':') {
            format!("[{ip}]")
        } else {
            ip.to_owned()
        };
        variables.insert(format!("{name}_SERVICE_HOST"), ip.to_owned());
        variables.insert(format!("{name}_SERVICE_PORT"), ports[0].port.to_string());
        for (index, port) in ports.iter().enumerate() {
            if let Some(port_name) = port.name.as_deref().filter(|n| !n.is_empty()) {
                variables.insert(
                    format!("{name}_SERVICE_PORT_{}", upper(port_name)),
                    port.port.to_string(),
                );
            }
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let url = format!("{}://{host}:{}", protocol.to_lowercase(), port.port);
            if index == 0 {
                variables.insert(format!("{name}_PORT"), url.clone());
            }
            let prefix = format!("{name}_PORT_{}_{}", port.port, protocol.to_uppercase());
            variables.insert(format!("{prefix}_PROTO"), protocol.to_lowercase());
            variables.insert(format!("{prefix}_PORT"), port.port.to_string());
            variables.insert(format!("{prefix}_ADDR"), ip.to_owned());
            variables.insert(prefix, url);
        }
    }
    variables
}

fn upper(name: &str) -> String {
    name.to_uppercase().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(namespace: &str, name: &str, ip: &str) -> Arc<Service> {
        Arc::new(
            serde_json::from_value(serde_json::json!({"metadata": {"namespace": namespace, "name": name},
                "spec": {"clusterIP": ip, "ports": [{"name": "web", "port": 80, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]}}))
            .unwrap(),
        )
    }

    #[test]
    fn in_order_of_precedence() {
        let pod: Pod = serde_json::from_value(serde_json::json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"containers": [{
            "name": "c",
            "envFrom": [{"prefix": "P_", "configMapRef": {"name": "m"}}, {"secretRef": {"name": "none", "optional": true}}],
            "env": [
                {"name": "A", "value": "1"}, {"name": "B", "value": "$(A)-$(P_x)-$(WEB_SERVICE_HOST)-$(LATER)"},
                {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                {"name": "K", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "x"}}},
                {"name": "OPT", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "z", "optional": true}}},
                {"name": "A", "value": "2"}, {"name": "WEB_PORT", "value": "mine"}
            ]}]}}))
        .unwrap();
        let objects = Objects {
            config_maps: [(
                "m".to_owned(),
                Arc::new(serde_json::from_str(r#"{"data":{"x":"cm"}}"#).unwrap()),
            )]
            .into(),
            ..Objects::default()
        };
        let services = [
            service("n", "web", "10.43.0.5"),
            service("default", "kubernetes", "10.43.0.1"),
            service("other", "no", "10.43.0.9"),
            service("n", "headless", "None"),
        ];
        let container = &pod.spec.as_ref().unwrap().containers[0];
        let env = environment(&pod, container, &objects, &services, &Facts::default()).unwrap();
        for (name, want) in [
            ("P_x", Some("cm")),
            ("A", Some("2")),
            ("B", Some("1-cm-10.43.0.5-$(LATER)")),
            ("NAME", Some("p")),
            ("K", Some("cm")),
            ("OPT", None),
            ("WEB_PORT", Some("mine")),
            ("WEB_SERVICE_PORT_WEB", Some("80")),
            ("WEB_PORT_53_UDP", Some("udp://10.43.0.5:53")),
            ("KUBERNETES_SERVICE_HOST", Some("10.43.0.1")),
            ("KUBERNETES_PORT_80_TCP_ADDR", Some("10.43.0.1")),
            ("NO_SERVICE_HOST", None),
            ("HEADLESS_PORT", None),
        ] {
            assert_eq!(env.get(name).map(String::as_str), want, "{name}");
        }
        let error =
            environment(&pod, container, &Objects::default(), &[], &Facts::default()).unwrap_err();
        assert_eq!(error.0, "configmap \"m\" not found");
    }
}
