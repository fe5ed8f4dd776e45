//! How the tables of default policy are written: one tuple a rule, one word a verb, group or resource.

use k8s_openapi::api::rbac::v1::{
    ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::collections::BTreeMap;

/// (verbs, API groups, resources), each a list of words. Verb `R` is get, list, watch; `W` create, delete,
/// deletecollection, patch, update. Group `core` is "". A resource in brackets is a resource name.
/// With group `url` the resources are paths.
pub(crate) type RuleRow = (&'static str, &'static str, &'static str);

pub(crate) const READ: &str = "R";
pub(crate) const EVENTS: RuleRow = ("create patch update", "core events.k8s.io", "events");

pub(crate) fn rule(&(verbs, groups, resources): &RuleRow) -> PolicyRule {
    let verbs = verbs
        .split(' ')
        .flat_map(|verb| {
            match verb {
                "R" => &["get", "list", "watch"][..],
                "W" => &["create", "delete", "deletecollection", "patch", "update"][..],
                "*" => &["*"][..],
                _ => &[][..],
            }
            .iter()
            .map(|v| (*v).to_owned())
            .chain((!matches!(verb, "R" | "W" | "*")).then(|| verb.to_owned()))
        })
        .collect();
    if groups == "url" {
        return PolicyRule {
            non_resource_urls: Some(words(resources)),
            verbs,
            ..PolicyRule::default()
        };
    }
    let (names, resources): (Vec<&str>, Vec<&str>) =
        resources.split(' ').partition(|r| r.starts_with('['));
    let names: Vec<String> = names
        .iter()
        .map(|n| n.trim_matches(['[', ']']).to_owned())
        .collect();
    PolicyRule {
        api_groups: Some(
            groups
                .split(' ')
                .map(|g| {
                    if g == "core" {
                        String::new()
                    } else {
                        g.to_owned()
                    }
                })
                .collect(),
        ),
        resources: Some(resources.into_iter().map(str::to_owned).collect()),
        resource_names: (!names.is_empty()).then_some(names),
        verbs,
        non_resource_urls: None,
    }
}

pub(crate) fn rules(rows: &[RuleRow]) -> Vec<PolicyRule> {
    rows.iter().map(rule).collect()
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

pub(crate) fn meta(namespace: Option<&str>, name: &str, labels: &[(&str, &str)]) -> ObjectMeta {
    let mut all: BTreeMap<String, String> = labels
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect();
    all.insert("kubernetes.io/bootstrapping".into(), "rbac-defaults".into());
    let annotations = [(
        "rbac.authorization.kubernetes.io/autoupdate".to_owned(),
        "true".to_owned(),
    )]
    .into();
    ObjectMeta {
        name: Some(name.into()),
        namespace: namespace.map(Into::into),
        labels: Some(all),
        annotations: Some(annotations),
        ..ObjectMeta::default()
    }
}

pub(crate) fn cluster_role(name: &str, labels: &[(&str, &str)], rows: &[RuleRow]) -> ClusterRole {
    ClusterRole {
        metadata: meta(None, name, labels),
        rules: Some(rules(rows)),
        aggregation_rule: None,
    }
}

pub(crate) fn role(namespace: &str, name: &str, rows: &[RuleRow]) -> Role {
    Role {
        metadata: meta(Some(namespace), name, &[]),
        rules: Some(rules(rows)),
    }
}

/// `subjects`: `group:NAME`, `user:NAME`, `sa:NAMESPACE/NAME`, separated by spaces.
pub(crate) fn cluster_binding(name: &str, role: &str, subjects: &str) -> ClusterRoleBinding {
    ClusterRoleBinding {
        metadata: meta(None, name, &[]),
        role_ref: role_ref("ClusterRole", role),
        subjects: Some(subjects.split(' ').map(subject).collect()),
    }
}

pub(crate) fn binding(namespace: &str, name: &str, role: &str, subjects: &str) -> RoleBinding {
    RoleBinding {
        metadata: meta(Some(namespace), name, &[]),
        role_ref: role_ref("Role", role),
        subjects: Some(subjects.split(' ').map(subject).collect()),
    }
}

fn role_ref(kind: &str, name: &str) -> RoleRef {
    RoleRef {
        api_group: Some(crate::rbac::GROUP.into()),
        kind: kind.into(),
        name: name.into(),
    }
}

fn subject(text: &str) -> Subject {
    let (kind, name) = text.split_once(':').unwrap_or(("user", text));
    let group = || Some(crate::rbac::GROUP.to_owned());
    match (kind, name.split_once('/')) {
        ("sa", Some((namespace, name))) => Subject {
            kind: "ServiceAccount".into(),
            name: name.into(),
            namespace: Some(namespace.into()),
            api_group: None,
        },
        ("group", _) => Subject {
            kind: "Group".into(),
            name: name.into(),
            api_group: group(),
            namespace: None,
        },
        _ => Subject {
            kind: "User".into(),
            name: name.into(),
            api_group: group(),
            namespace: None,
        },
    }
}
