//! What holds for the metadata of every object.
//!
//! Follows `k8s.io/apimachinery/pkg/api/validation/objectmeta.go` and `k8s.io/apiserver/pkg/registry/rest/update.go`.
//! A missing resourceVersion is the verbs' business, not checked here.

use std::collections::BTreeMap;

use caravel_api::{FieldError, FieldErrors, Path};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::json;

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
    fn faults(self, name: &str) -> names::Faults {
        match self {
            NameRule::DnsSubdomain => names::dns_subdomain(name),
            NameRule::DnsLabel => names::dns_label(name),
            NameRule::Dns1035Label => names::dns_1035_label(name),
            NameRule::PathSegment => names::path_segment(name),
            NameRule::Ip => match name.parse::<std::net::IpAddr>() {
                Ok(ip) if ip.to_string() == name => Vec::new(),
                Ok(_) => vec!["must be a valid IP address in canonical form".to_owned()],
                Err(_) => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()],
            },
        }
    }

    /// A prefix may end with a dash: what follows is generated.
    fn prefix_faults(self, prefix: &str) -> names::Faults {
        match prefix.strip_suffix('-') {
            Some(stem) if self != NameRule::PathSegment => self.faults(&format!("{stem}a")),
            _ => self.faults(prefix),
        }
    }
}

/// What is wrong with the metadata of a new object.
pub fn validate(meta: &ObjectMeta, rule: NameRule, namespaced: bool) -> FieldErrors {
    let mut errors = FieldErrors::new();
    let path = Path::new("metadata");
    if let Some(prefix) = some(&meta.generate_name) {
        invalid_each(&mut errors, || path.child("generateName"), prefix, rule.prefix_faults(prefix));
    }
    match some(&meta.name) {
        None => errors.push(FieldError::required(&path.child("name"), "name or generateName is required")),
        Some(name) => invalid_each(&mut errors, || path.child("name"), name, rule.faults(name)),
    }
    match (namespaced, some(&meta.namespace)) {
        (true, None) => errors.push(FieldError::required(&path.child("namespace"), "")),
        (true, Some(namespace)) => invalid_each(&mut errors, || path.child("namespace"), namespace, names::dns_label(namespace)),
        (false, Some(_)) => errors.push(FieldError::forbidden(&path.child("namespace"), "not allowed on this type")),
        (false, None) => {}
    }
    shared(&mut errors, meta, &path);
    errors
}

/// What is wrong with changing the metadata `old` into `new`.
pub fn validate_update(new: &ObjectMeta, old: &ObjectMeta) -> FieldErrors {
    let mut errors = FieldErrors::new();
    let path = Path::new("metadata");
    if old.deletion_timestamp.is_some() {
        let before = old.finalizers.as_deref().unwrap_or_default();
        let mut added: Vec<&String> = new.finalizers.iter().flatten().filter(|finalizer| !before.contains(finalizer)).collect();
        if !added.is_empty() {
            added.sort();
            added.dedup();
            let added: Vec<String> = added.iter().map(|finalizer| format!("{finalizer:?}")).collect();
            errors.push(FieldError::forbidden(
                &path.child("finalizers"),
                format!(
                    "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                    added.join(", ")
                ),
            ));
        }
    }
    if let (Some(new), Some(old)) = (new.generation, old.generation)
        && new < old
    {
        errors.push(FieldError::invalid(&path.child("generation"), new, "must not be decremented"));
    }
    immutable(&mut errors, &path, "name", &new.name, &old.name);
    immutable(&mut errors, &path, "namespace", &new.namespace, &old.namespace);
    immutable(&mut errors, &path, "uid", &new.uid, &old.uid);
    immutable(&mut errors, &path, "creationTimestamp", &new.creation_timestamp, &old.creation_timestamp);
    immutable(&mut errors, &path, "deletionTimestamp", &new.deletion_timestamp, &old.deletion_timestamp);
    immutable(
        &mut errors,
        &path,
        "deletionGracePeriodSeconds",
        &new.deletion_grace_period_seconds,
        &old.deletion_grace_period_seconds,
    );
    shared(&mut errors, new, &path);
    errors
}

/// Puts into `new` what a writer may leave out or never changes.
pub fn carry(new: &mut ObjectMeta, old: &ObjectMeta) {
    if some(&new.uid).is_none() {
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
    if some(&new.generate_name).is_none() {
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

fn some(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|text| !text.is_empty())
}

fn invalid_each(errors: &mut FieldErrors, path: impl Fn() -> Path, value: &str, faults: names::Faults) {
    errors.extend(faults.into_iter().map(|fault| FieldError::invalid(&path(), value, fault)));
}

fn immutable<T: PartialEq + serde::Serialize>(errors: &mut FieldErrors, path: &Path, name: &str, new: &Option<T>, old: &Option<T>) {
    if new != old {
        errors.push(FieldError::immutable(&path.child(name), json!(new)));
    }
}

fn shared(errors: &mut FieldErrors, meta: &ObjectMeta, path: &Path) {
    if let Some(generation) = meta.generation.filter(|generation| *generation < 0) {
        errors.push(FieldError::invalid(&path.child("generation"), generation, "must be greater than or equal to 0"));
    }
    if let Some(set) = &meta.labels {
        labels::validate(errors, set, &path.child("labels"));
    }
    if let Some(set) = &meta.annotations {
        annotations(errors, set, &path.child("annotations"));
    }
    if let Some(owners) = &meta.owner_references {
        owner_references(errors, owners, &path.child("ownerReferences"));
    }
    if let Some(names) = &meta.finalizers {
        finalizers(errors, names, &path.child("finalizers"));
    }
}

/// What is wrong with a set of annotations.
pub fn annotations(errors: &mut FieldErrors, set: &BTreeMap<String, String>, path: &Path) {
    let mut size = 0;
    for (key, value) in set {
        // Keys are compared without case, as upstream does.
        let faults = if key.bytes().any(|byte| byte.is_ascii_uppercase()) {
            names::qualified_name(&key.to_lowercase())
        } else {
            names::qualified_name(key)
        };
        invalid_each(errors, || path.clone(), key, faults);
        size += key.len() + value.len();
    }
    if size > ANNOTATIONS_MAX {
        errors.push(FieldError::too_long(path, ANNOTATIONS_MAX));
    }
}

fn owner_references(errors: &mut FieldErrors, owners: &[OwnerReference], path: &Path) {
    let mut controller: Option<&OwnerReference> = None;
    for owner in owners {
        let mut invalid = |name: &str, value: &str, detail: &str| {
            errors.push(FieldError::invalid(&path.child(name), value, detail));
        };
        if owner.api_version.is_empty() || owner.api_version.matches('/').count() > 1 {
            invalid("apiVersion", &owner.api_version, "version must not be empty");
        }
        if owner.kind.is_empty() {
            invalid("kind", &owner.kind, "must not be empty");
        }
        if owner.name.is_empty() {
            invalid("name", &owner.name, "must not be empty");
        }
        if owner.uid.is_empty() {
            invalid("uid", &owner.uid, "must not be empty");
        }
        if owner.api_version == "v1" && owner.kind == "Event" {
            errors.push(FieldError::invalid(path, json!(owner), "/v1, Kind=Event is disallowed from being an owner"));
        }
        if owner.controller == Some(true) {
            if let Some(first) = controller {
                errors.push(FieldError::invalid(
                    path,
                    json!(owners),
                    format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {}/{} and {}/{}",
                        first.kind, first.name, owner.kind, owner.name
                    ),
                ));
            } else {
                controller = Some(owner);
            }
        }
    }
}

/// Names without a domain that are finalizers nevertheless.
const STANDARD_FINALIZERS: &[&str] = &["kubernetes", "orphan", "foregroundDeletion"];

fn finalizers(errors: &mut FieldErrors, names: &[String], path: &Path) {
    for (at, name) in names.iter().enumerate() {
        finalizer(errors, name, path);
        if !name.contains('/') && !STANDARD_FINALIZERS.contains(&name.as_str()) {
            errors.push(FieldError::invalid(
                &path.index(at),
                name.as_str(),
                "name is neither a standard finalizer name nor is it fully qualified",
            ));
        }
    }
    let has = |wanted: &str| names.iter().any(|name| name == wanted);
    if has("orphan") && has("foregroundDeletion") {
        errors.push(FieldError::invalid(path, json!(names), "finalizer orphan and foregroundDeletion cannot be both set"));
    }
}

fn finalizer(errors: &mut FieldErrors, name: &str, path: &Path) {
    invalid_each(errors, || path.clone(), name, names::qualified_name(name));
}

/// One of a Namespace's own finalizers.
pub fn namespace_finalizer(errors: &mut FieldErrors, name: &str, path: &Path) {
    finalizer(errors, name, path);
    if !name.contains('/') && !STANDARD_FINALIZERS.contains(&name) {
        errors.push(FieldError::invalid(path, name, "name is neither a standard finalizer name nor is it fully qualified"));
    }
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
            (json!({"name": "a", "namespace": "n"}), NameRule::DnsSubdomain, true, ""),
            (json!({"namespace": "n"}), NameRule::DnsSubdomain, true, "metadata.name: Required value: name or generateName is required"),
            (json!({"name": "a"}), NameRule::DnsSubdomain, true, "metadata.namespace: Required value"),
            (json!({"name": "a", "namespace": "n"}), NameRule::DnsSubdomain, false, "metadata.namespace: Forbidden: not allowed on this type"),
            (json!({"name": "Not_A", "namespace": "n"}), NameRule::DnsSubdomain, true, "metadata.name: Invalid value: \"Not_A\": a lowercase RFC 1123 subdomain"),
            (json!({"name": "1a", "namespace": "n"}), NameRule::Dns1035Label, true, "a DNS-1035 label"),
            (json!({"name": "system:x"}), NameRule::PathSegment, false, ""),
            (json!({"name": "10.0.0.1"}), NameRule::Ip, false, ""),
            (json!({"name": "10.0.0.x"}), NameRule::Ip, false, "must be a valid IP address"),
            (json!({"name": "a-x", "generateName": "a-"}), NameRule::DnsSubdomain, false, ""),
            (json!({"name": "a", "labels": {"a b": "c"}}), NameRule::DnsSubdomain, false, "metadata.labels: Invalid value: \"a b\": name part must consist"),
            (json!({"name": "a", "labels": {"a": "c d"}}), NameRule::DnsSubdomain, false, "metadata.labels: Invalid value: \"c d\": a valid label must be"),
            (json!({"name": "a", "annotations": {"UPPER.example.com/X": "any thing"}}), NameRule::DnsSubdomain, false, ""),
            (json!({"name": "a", "annotations": {"x": "y".repeat(ANNOTATIONS_MAX)}}), NameRule::DnsSubdomain, false, "metadata.annotations: Too long: may not be more than 262144 bytes"),
            (json!({"name": "a", "finalizers": ["plain"]}), NameRule::DnsSubdomain, false, "metadata.finalizers[0]: Invalid value: \"plain\": name is neither"),
            (json!({"name": "a", "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "", "uid": "u"}]}), NameRule::DnsSubdomain, false, "metadata.ownerReferences.name: Invalid value: \"\": must not be empty"),
        ] {
            let errors = validate(&meta(given.clone()), rule, namespaced);
            if want.is_empty() {
                assert!(errors.is_empty(), "{given}: {}", errors.message());
            } else {
                assert!(errors.message().contains(want), "{given}: {}", errors.message());
            }
        }
    }

    #[test]
    fn changed_metadata() {
        let old = ObjectMeta { deletion_timestamp: Some(Time(jiff::Timestamp::UNIX_EPOCH)), ..meta(json!({"name": "a", "uid": "u", "finalizers": ["x.y/z"]})) };
        for (given, want) in [
            (json!({"name": "a", "finalizers": ["x.y/z"]}), "[]"),
            (json!({"name": "a"}), "[]"),
            (
                json!({"name": "a", "finalizers": ["x.y/z", "b.c/d"]}),
                "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{\"b.c/d\"}",
            ),
            (json!({"name": "b"}), "metadata.name: Invalid value: \"b\": field is immutable"),
            (json!({"name": "a", "uid": "v"}), "metadata.uid: Invalid value: \"v\": field is immutable"),
            (json!({"name": "a", "creationTimestamp": "2000-01-01T00:00:00Z"}), "[]"),
        ] {
            let mut new = meta(given.clone());
            carry(&mut new, &old);
            assert_eq!(validate_update(&new, &old).message(), want, "{given}");
        }
    }
}
