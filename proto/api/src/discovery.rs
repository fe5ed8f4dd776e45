//! What is served, as clients discover it: the legacy documents and the aggregated ones (apidiscovery.k8s.io/v2).
//!
//! Derived from the table of kinds, nothing else. Follows `k8s.io/apiserver/pkg/endpoints/discovery`.

use serde_json::{Map, Value, json};

use crate::kinds::{KINDS, Row, Scope};

/// Media types of the aggregated form, newest first, by the version they name.
pub const AGGREGATED: [(&str, &str); 2] = [
    (
        "v2",
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
    ),
    (
        "v2beta1",
        "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
    ),
];

/// `/api`. `server` is host:port as clients reach it.
pub fn core_versions(server: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": server}],
    })
}

/// Named groups in the table's order.
pub fn groups() -> Vec<&'static str> {
    let mut groups = Vec::new();
    for row in KINDS {
        if !row.group.is_empty() && !groups.contains(&row.group) {
            groups.push(row.group);
        }
    }
    groups
}

/// Versions of a group in the table's order, the preferred one first.
pub fn versions(group: &str) -> Vec<&'static str> {
    let mut versions = Vec::new();
    for row in KINDS.iter().filter(|row| row.group == group) {
        if !versions.contains(&row.version) {
            versions.push(row.version);
        }
    }
    versions
}

/// `/apis`
pub fn group_list() -> Value {
    let groups: Vec<Value> = groups()
        .into_iter()
        .map(group_members)
        .map(Value::Object)
        .collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/<group>`
pub fn group(group: &str) -> Option<Value> {
    if group.is_empty() || versions(group).is_empty() {
        return None;
    }
    let mut members = group_members(group);
    members.insert("kind".to_owned(), "APIGroup".into());
    members.insert("apiVersion".to_owned(), "v1".into());
    Some(Value::Object(members))
}

fn group_members(group: &str) -> Map<String, Value> {
    let versions: Vec<Value> = versions(group)
        .into_iter()
        .map(|version| json!({"groupVersion": format!("{group}/{version}"), "version": version}))
        .collect();
    let mut members = Map::new();
    members.insert("name".to_owned(), group.into());
    members.insert(
        "preferredVersion".to_owned(),
        versions.first().cloned().unwrap_or_default(),
    );
    members.insert("versions".to_owned(), versions.into());
    members
}

/// `/api/v1`, `/apis/<group>/<version>`
pub fn resource_list(group: &str, version: &str) -> Option<Value> {
    let rows = rows(group, version);
    let first = rows.first()?;
    let resources: Vec<Value> = rows.iter().flat_map(|row| resources(row)).collect();
    Some(
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": first.api_version(), "resources": resources}),
    )
}

fn rows(group: &str, version: &str) -> Vec<&'static Row> {
    let mut rows: Vec<_> = KINDS
        .iter()
        .filter(|row| row.group == group && row.version == version)
        .collect();
    rows.sort_by_key(|row| row.plural);
    rows
}

fn resources(row: &'static Row) -> Vec<Value> {
    let mut own = json!({
        "name": row.plural, "singularName": row.singular, "namespaced": row.is_namespaced(), "kind": row.kind, "verbs": row.verbs,
    });
    if !row.short_names.is_empty() {
        own["shortNames"] = json!(row.short_names);
    }
    if !row.categories.is_empty() {
        own["categories"] = json!(row.categories);
    }
    let mut all = vec![own];
    let mut subresources: Vec<_> = row.subresources.iter().collect();
    subresources.sort_by_key(|sub| sub.name);
    for sub in subresources {
        let (group, version, kind) = sub.kind;
        let mut entry = json!({
            "name": format!("{}/{}", row.plural, sub.name), "singularName": "", "namespaced": row.is_namespaced(), "kind": kind, "verbs": sub.verbs,
        });
        if (group, version) != (row.group, row.version) {
            entry["group"] = group.into();
            entry["version"] = version.into();
        }
        all.push(entry);
    }
    all
}

/// `/api` and `/apis` in the aggregated form; `version` is `v2` or `v2beta1`.
pub fn aggregated(core: bool, version: &str) -> Value {
    let groups = if core { vec![""] } else { groups() };
    let items: Vec<Value> = groups
        .into_iter()
        .map(|group| {
            let versions: Vec<Value> = versions(group)
                .into_iter()
                .map(|version| {
                    let resources: Vec<Value> = rows(group, version)
                        .into_iter()
                        .map(aggregated_resource)
                        .collect();
                    json!({"version": version, "resources": resources, "freshness": "Current"})
                })
                .collect();
            let metadata = if group.is_empty() {
                json!({"creationTimestamp": null})
            } else {
                json!({"name": group, "creationTimestamp": null})
            };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{version}"), "metadata": {}, "items": items})
}

fn aggregated_resource(row: &'static Row) -> Value {
    let mut entry = json!({
        "resource": row.plural,
        "responseKind": {"group": row.group, "version": row.version, "kind": row.kind},
        "scope": match row.scope { Scope::Cluster => "Cluster", Scope::Namespaced => "Namespaced" },
        "singularResource": row.singular,
        "verbs": row.verbs,
    });
    if !row.short_names.is_empty() {
        entry["shortNames"] = json!(row.short_names);
    }
    if !row.categories.is_empty() {
        entry["categories"] = json!(row.categories);
    }
    if !row.subresources.is_empty() {
        let mut subresources: Vec<_> = row.subresources.iter().collect();
        subresources.sort_by_key(|sub| sub.name);
        entry["subresources"] = subresources
            .into_iter()
            .map(|sub| {
                let (group, version, kind) = sub.kind;
                json!({"subresource": sub.name, "responseKind": {"group": group, "version": version, "kind": kind}, "verbs": sub.verbs})
            })
            .collect();
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_follow_the_table() {
        let pods = resource_list("", "v1").unwrap();
        let names: Vec<&str> = pods["resources"]
            .as_array()
            .unwrap()
            .iter()
            .map(|r| r["name"].as_str().unwrap())
            .collect();
        assert!(
            names.contains(&"pods")
                && names.contains(&"pods/log")
                && names.contains(&"serviceaccounts/token")
        );
        assert_eq!(pods["groupVersion"], "v1");
        assert!(resource_list("apps", "v2").is_none());
        assert_eq!(
            group("apps").unwrap()["preferredVersion"]["groupVersion"],
            "apps/v1"
        );
        assert!(group("nope").is_none());
        assert_eq!(aggregated(true, "v2")["items"].as_array().unwrap().len(), 1);
        let aggregated = aggregated(false, "v2");
        assert_eq!(aggregated["items"][0]["metadata"]["name"], "apps");
        assert_eq!(
            aggregated["items"][0]["versions"][0]["resources"][0]["subresources"][0]["responseKind"]
                ["kind"],
            "Scale"
        );
    }
}
