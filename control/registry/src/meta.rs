//! What holds for the metadata of every object.
//!
//! Follows `k8s.io/apimachinery/pkg/api/validation/objectmeta.go` and `k8s.io/apiserver/pkg/registry/rest/update.go`.
//! A missing resourceVersion is the verbs' business, not checked here.

use std::collections::BTreeMap;

use caravel_api::FieldErrors;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::json;

use crate::found::{At, Found, text};
use crate::labels;
use crate::names;

/// All annotations of an object together, keys and values.
pub const ANNOTATIONS_MAX: usize = 256 * 1024;

/// What the names of a kind must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameRule {
    DnsSubdomain,
    DnsLabel,
    /// Begins with a letter (Services).
    Dns1035Label,
    PathSegment,
    /// An IP address in canonical form (IPAddress).
    Ip,
}

impl NameRule {
    fn faults(self, name: &str) -> names::Problems {
        match self {
            NameRule::DnsSubdomain => names::dns_subdomain(name),
            NameRule::DnsLabel => names::dns_label(name),
            NameRule::Dns1035Label => names::dns_1035_label(name),
            NameRule::PathSegment => names::path_segment(name),
            NameRule::Ip => match name.parse::<std::net::IpAddr>() {
                Ok(ip) if ip.to_string() == name => Vec::new(),
                Ok(_) => vec!["must be a valid IP address in canonical form".to_owned()],
                Err(_) => {
                    vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()]
                }
            },
        }
    }

    /// A prefix may end with a dash: what follows is generated.
    fn prefix_faults(self, prefix: &str) -> names::Problems {
        match prefix.strip_suffix('-') {
            Some(stem) if self != NameRule::PathSegment => self.faults(&format!("{stem}a")),
            _ => self.faults(prefix),
        }
    }
}

/// What is wrong with the metadata of a new object.
pub fn validate(meta: &ObjectMeta, rule: NameRule, namespaced: bool) -> FieldErrors {
    let mut found = Found::new();
    let at = At::Root.child("metadata");
    if let Some(prefix) = text(&meta.generate_name) {
        found.faults(
            &at.child("generateName"),
            prefix,
            rule.prefix_faults(prefix),
        );
    }
    match text(&meta.name) {
        None => found.required(&at.child("name"), "name or generateName is required"),
        Some(name) => found.faults(&at.child("name"), name, rule.faults(name)),
    }
    let namespace_at = at.child("namespace");
    match (namespaced, text(&meta.namespace)) {
        (true, None) => found.required(&namespace_at, ""),
        (true, Some(namespace)) => {
            found.faults(&namespace_at, namespace, names::dns_label(namespace))
        }
        (false, Some(_)) => found.forbidden(&namespace_at, "not allowed on this type"),
        (false, None) => {}
    }
    shared(&mut found, meta, &at);
    found.into_errors()
}

/// What is wrong with changing the metadata `old` into `new`.
pub fn validate_update(new: &ObjectMeta, old: &ObjectMeta) -> FieldErrors {
    let mut found = Found::new();
    let at = At::Root.child("metadata");
    if old.deletion_timestamp.is_some() {
        let before = old.finalizers.as_deref().unwrap_or_default();
        let mut added: Vec<&String> = new
            .finalizers
            .iter()
            .flatten()
            .filter(|finalizer| !before.contains(finalizer))
            .collect();
        if !added.is_empty() {
            added.sort();
            added.dedup();
            let added: Vec<String> = added
                .iter()
                .map(|finalizer| format!("{finalizer:?}"))
                .collect();
            let said = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                added.join(", ")
            );
            found.forbidden(&at.child("finalizers"), said);
        }
    }
    if let (Some(new), Some(old)) = (new.generation, old.generation)
        && new < old
    {
        found.invalid(&at.child("generation"), new, "must not be decremented");
    }
    found.immutable(&at.child("name"), &new.name, &old.name);
    found.immutable(&at.child("namespace"), &new.namespace, &old.namespace);
    found.immutable(&at.child("uid"), &new.uid, &old.uid);
    found.immutable(
        &at.child("creationTimestamp"),
        &new.creation_timestamp,
        &old.creation_timestamp,
    );
    found.immutable(
        &at.child("deletionTimestamp"),
        &new.deletion_timestamp,
        &old.deletion_timestamp,
    );
    found.immutable(
        &at.child("deletionGracePeriodSeconds"),
        &new.deletion_grace_period_seconds,
        &old.deletion_grace_period_seconds,
    );
    shared(&mut found, new, &at);
    found.into_errors()
}

/// Puts into `new` what a writer may leave out or never changes.
pub fn carry(new: &mut ObjectMeta, old: &ObjectMeta) {
    if text(&new.uid).is_none() {
        new.uid.clone_from(&old.uid);
    }
    new.creation_timestamp.clone_from(&old.creation_timestamp);
    new.generation = old.generation;
    new.self_link = None;
    if old.deletion_timestamp.is_some() {
        new.deletion_timestamp.clone_from(&old.deletion_timestamp);
        if new.deletion_grace_period_seconds.is_none() {
            new.deletion_grace_period_seconds = old.deletion_grace_period_seconds;
        }
    } else {
        new.deletion_timestamp = None;
        new.deletion_grace_period_seconds = None;
    }
    if text(&new.generate_name).is_none() {
        new.generate_name.clone_from(&old.generate_name);
    }
}

/// Equal, but for the resourceVersion and when the managed fields were written.
pub fn same(a: &ObjectMeta, b: &ObjectMeta) -> bool {
    let stripped = |meta: &ObjectMeta| {
        let mut meta = meta.clone();
        meta.resource_version = None;
        for entry in meta.managed_fields.iter_mut().flatten() {
            entry.time = None;
        }
        meta
    };
    stripped(a) == stripped(b)
}

fn shared(found: &mut Found, meta: &ObjectMeta, at: &At) {
    if let Some(generation) = meta.generation {
        found.not_negative(&at.child("generation"), generation);
    }
    if let Some(set) = &meta.labels {
        labels::validate(found, set, &at.child("labels"));
    }
    if let Some(set) = &meta.annotations {
        annotations(found, set, &at.child("annotations"));
    }
    if let Some(owners) = &meta.owner_references {
        owner_references(found, owners, &at.child("ownerReferences"));
    }
    if let Some(names) = &meta.finalizers {
        finalizers(found, names, &at.child("finalizers"));
    }
}

/// What is wrong with a set of annotations.
pub fn annotations(found: &mut Found, set: &BTreeMap<String, String>, at: &At) {
    let mut size = 0;
    for (key, value) in set {
        // Keys are compared without case, as upstream does.
        let upper = key.bytes().any(|byte| byte.is_ascii_uppercase());
        found.faults(
            at,
            key,
            if upper {
                names::qualified_name(&key.to_lowercase())
            } else {
                names::qualified_name(key)
            },
        );
        size += key.len() + value.len();
    }
    if size > ANNOTATIONS_MAX {
        found.too_long(at, ANNOTATIONS_MAX);
    }
}

fn owner_references(found: &mut Found, owners: &[OwnerReference], at: &At) {
    let mut controller: Option<&OwnerReference> = None;
    for owner in owners {
        if owner.api_version.is_empty() || owner.api_version.matches('/').count() > 1 {
            found.invalid(
                &at.child("apiVersion"),
                owner.api_version.as_str(),
                "version must not be empty",
            );
        }
        for (name, value) in [
            ("kind", &owner.kind),
            ("name", &owner.name),
            ("uid", &owner.uid),
        ] {
            if value.is_empty() {
                found.invalid(&at.child(name), value.as_str(), "must not be empty");
            }
        }
        if owner.api_version == "v1" && owner.kind == "Event" {
            found.invalid(
                at,
                json!(owner),
                "/v1, Kind=Event is disallowed from being an owner",
            );
        }
        if owner.controller == Some(true) {
            if let Some(first) = controller {
                let said = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {}/{} and {}/{}",
                    first.kind, first.name, owner.kind, owner.name
                );
                found.invalid(at, json!(owners), said);
            } else {
                controller = Some(owner);
            }
        }
    }
}

/// Names without a domain that are finalizers nevertheless.
const STANDARD_FINALIZERS: &[&str] = &["kubernetes", "orphan", "foregroundDeletion"];

fn finalizers(found: &mut Found, list: &[String], at: &At) {
    for (index, name) in list.iter().enumerate() {
        found.faults(at, name, names::qualified_name(name));
        standard_finalizer(found, name, &at.index(index));
    }
    let has = |wanted: &str| list.iter().any(|name| name == wanted);
    if has("orphan") && has("foregroundDeletion") {
        found.invalid(
            at,
            json!(list),
            "finalizer orphan and foregroundDeletion cannot be both set",
        );
    }
}

fn standard_finalizer(found: &mut Found, name: &str, at: &At) {
    if !name.contains('/') && !STANDARD_FINALIZERS.contains(&name) {
        found.invalid(
            at,
            name,
            "name is neither a standard finalizer name nor is it fully qualified",
        );
    }
}

/// One of a Namespace's own finalizers.
pub fn namespace_finalizer(found: &mut Found, name: &str, at: &At) {
    found.faults(at, name, names::qualified_name(name));
    standard_finalizer(found, name, at);
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    fn meta(value: serde_json::Value) -> ObjectMeta {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn new_metadata() {
        for (given, rule, namespaced, want) in [
            (
                json!({"name": "a", "namespace": "n"}),
                NameRule::DnsSubdomain,
                true,
                "",
            ),
            (
                json!({"namespace": "n"}),
                NameRule::DnsSubdomain,
                true,
                "metadata.name: Required value: name or generateName is required",
            ),
            (
                json!({"name": "a"}),
                NameRule::DnsSubdomain,
                true,
                "metadata.namespace: Required value",
            ),
            (
                json!({"name": "a", "namespace": "n"}),
                NameRule::DnsSubdomain,
                false,
                "metadata.namespace: Forbidden: not allowed on this type",
            ),
            (
                json!({"name": "Not_A", "namespace": "n"}),
                NameRule::DnsSubdomain,
                true,
                "metadata.name: Invalid value: \"Not_A\": a lowercase RFC 1123 subdomain",
            ),
            (
                json!({"name": "1a", "namespace": "n"}),
                NameRule::Dns1035Label,
                true,
                "a DNS-1035 label",
            ),
            (
                json!({"name": "system:x"}),
                NameRule::PathSegment,
                false,
                "",
            ),
            (json!({"name": "10.0.0.1"}), NameRule::Ip, false, ""),
            (
                json!({"name": "10.0.0.x"}),
                NameRule::Ip,
                false,
                "must be a valid IP address",
            ),
            (
                json!({"name": "a-x", "generateName": "a-"}),
                NameRule::DnsSubdomain,
                false,
                "",
            ),
            (
                json!({"name": "a", "labels": {"a b": "c"}}),
                NameRule::DnsSubdomain,
                false,
                "metadata.labels: Invalid value: \"a b\": name part must consist",
            ),
            (
                json!({"name": "a", "labels": {"a": "c d"}}),
                NameRule::DnsSubdomain,
                false,
                "metadata.labels: Invalid value: \"c d\": a valid label must be",
            ),
            (
                json!({"name": "a", "annotations": {"UPPER.example.com/X": "any thing"}}),
                NameRule::DnsSubdomain,
                false,
                "",
            ),
            (
                json!({"name": "a", "annotations": {"x": "y".repeat(ANNOTATIONS_MAX)}}),
                NameRule::DnsSubdomain,
                false,
                "metadata.annotations: Too long: may not be more than 262144 bytes",
            ),
            (
                json!({"name": "a", "finalizers": ["plain"]}),
                NameRule::DnsSubdomain,
                false,
                "metadata.finalizers[0]: Invalid value: \"plain\": name is neither",
            ),
            (
                json!({"name": "a", "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "", "uid": "u"}]}),
                NameRule::DnsSubdomain,
                false,
                "metadata.ownerReferences.name: Invalid value: \"\": must not be empty",
            ),
        ] {
            let errors = validate(&meta(given.clone()), rule, namespaced);
            if want.is_empty() {
                assert!(errors.is_empty(), "{given}: {}", errors.message());
            } else {
                assert!(
                    errors.message().contains(want),
                    "{given}: {}",
                    errors.message()
                );
            }
        }
    }

    #[test]
    fn changed_metadata() {
        let old = ObjectMeta {
            deletion_timestamp: Some(Time(jiff::Timestamp::UNIX_EPOCH)),
            ..meta(json!({"name": "a", "uid": "u", "finalizers": ["x.y/z"]}))
        };
        for (given, want) in [
            (json!({"name": "a", "finalizers": ["x.y/z"]}), "[]"),
            (json!({"name": "a"}), "[]"),
            (
                json!({"name": "a", "finalizers": ["x.y/z", "b.c/d"]}),
                "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{\"b.c/d\"}",
            ),
            (
                json!({"name": "b"}),
                "metadata.name: Invalid value: \"b\": field is immutable",
            ),
            (
                json!({"name": "a", "uid": "v"}),
                "metadata.uid: Invalid value: \"v\": field is immutable",
            ),
            (
                json!({"name": "a", "creationTimestamp": "2000-01-01T00:00:00Z"}),
                "[]",
            ),
        ] {
            let mut new = meta(given.clone());
            carry(&mut new, &old);
            assert_eq!(validate_update(&new, &old).message(), want, "{given}");
        }
    }
}
