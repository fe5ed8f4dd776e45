//! Nobody grants what they do not hold: the checks on writing roles and bindings.
//!
//! The verbs `escalate` (on the role) and `bind` (on the role that a binding names) are the ways around it. Follows
//! upstream's `pkg/registry/rbac/{role,rolebinding}/policybased` and `pkg/registry/rbac/validation`.

use crate::attributes::Attributes;
use crate::authz::Authorizer;
use crate::node_authorizer::NodeView;
use crate::rbac::{self, GROUP, RbacView, url_covers};
use crate::user::UserInfo;
use k8s_openapi::api::rbac::v1::{PolicyRule, RoleRef};
use std::collections::BTreeMap;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Escalation {
    /// 403 on the object that was to be written, with this after `is forbidden: `.
    #[error("{0}")]
    Forbidden(String),
    /// 404: the role that the binding names does not exist, and the user may not bind it unseen.
    #[error("{resource}.{GROUP} {name:?} not found")]
    NoSuchRole {
        resource: &'static str,
        name: String,
    },
}

/// Whether `user` may write a role with these rules. `resource` is `roles` or `clusterroles`; `name` of the role.
pub fn check_role<V: RbacView + NodeView + ?Sized>(
    user: &UserInfo,
    resource: &str,
    namespace: &str,
    name: &str,
    rules: &[PolicyRule],
    view: &V,
) -> Result<(), Escalation> {
    let escalate = Attributes::resource(user, "escalate", GROUP, resource, namespace).named(name);
    if user.is_master() || Authorizer.authorize(&escalate, view).is_allowed() {
        return Ok(());
    }
    confirm(user, namespace, rules, view)
}

/// Whether `user` may write a ClusterRole with an aggregation rule: only who holds everything may.
pub fn check_aggregation<V: RbacView + NodeView + ?Sized>(
    user: &UserInfo,
    name: &str,
    view: &V,
) -> Result<(), Escalation> {
    let everything = PolicyRule {
        api_groups: Some(vec!["*".into()]),
        resources: Some(vec!["*".into()]),
        verbs: vec!["*".into()],
        ..PolicyRule::default()
    };
    let urls = PolicyRule {
        non_resource_urls: Some(vec!["*".into()]),
        verbs: vec!["*".into()],
        ..PolicyRule::default()
    };
    check_role(user, "clusterroles", "", name, &[everything, urls], view).map_err(|refused| {
        match refused {
            Escalation::Forbidden(why) => Escalation::Forbidden(format!(
                "must have cluster-admin privileges to use the aggregationRule: {why}"
            )),
            other => other,
        }
    })
}

/// Whether `user` may write a binding to `role` in `namespace` ("" for a ClusterRoleBinding).
pub fn check_binding<V: RbacView + NodeView + ?Sized>(
    user: &UserInfo,
    namespace: &str,
    role: &RoleRef,
    view: &V,
) -> Result<(), Escalation> {
    let resource = if role.kind == "Role" {
        "roles"
    } else {
        "clusterroles"
    };
    let bind = Attributes::resource(user, "bind", GROUP, resource, namespace).named(&role.name);
    if user.is_master() || Authorizer.authorize(&bind, view).is_allowed() {
        return Ok(());
    }
    let rules = rbac::role_rules(role, namespace, view).map_err(|_| Escalation::NoSuchRole {
        resource,
        name: role.name.clone(),
    })?;
    confirm(user, namespace, &rules, view)
}

fn confirm<V: RbacView + ?Sized>(
    user: &UserInfo,
    namespace: &str,
    wanted: &[PolicyRule],
    view: &V,
) -> Result<(), Escalation> {
    let (held, errors) = rbac::rules_for(user, namespace, view);
    let lacking = lacking(&held, wanted);
    if lacking.is_empty() {
        return Ok(());
    }
    let mut descriptions: Vec<String> = compact(lacking).iter().map(describe).collect();
    descriptions.sort();
    descriptions.dedup();
    let mut message = format!(
        "user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
        user.name,
        quoted(&user.groups),
        descriptions.join("\n")
    );
    if !errors.is_empty() {
        message.push_str(&format!("; resolution errors: [{}]", errors.join(", ")));
    }
    Err(Escalation::Forbidden(message))
}

/// The parts of `wanted`, each one verb on one thing, that no rule of `held` covers.
fn lacking(held: &[PolicyRule], wanted: &[PolicyRule]) -> Vec<PolicyRule> {
    wanted
        .iter()
        .flat_map(atoms)
        .filter(|atom| !held.iter().any(|rule| covers(rule, atom)))
        .collect()
}

fn atoms(rule: &PolicyRule) -> Vec<PolicyRule> {
    let mut atoms = Vec::new();
    let names: Vec<Option<Vec<String>>> = match rule.resource_names.as_deref().unwrap_or_default() {
        [] => vec![None],
        names => names.iter().map(|n| Some(vec![n.clone()])).collect(),
    };
    for group in rule.api_groups.iter().flatten() {
        for resource in rule.resources.iter().flatten() {
            for verb in &rule.verbs {
                for name in &names {
                    atoms.push(PolicyRule {
                        api_groups: Some(vec![group.clone()]),
                        resources: Some(vec![resource.clone()]),
                        resource_names: name.clone(),
                        verbs: vec![verb.clone()],
                        non_resource_urls: None,
                    });
                }
            }
        }
    }
    for url in rule.non_resource_urls.iter().flatten() {
        for verb in &rule.verbs {
            atoms.push(PolicyRule {
                non_resource_urls: Some(vec![url.clone()]),
                verbs: vec![verb.clone()],
                ..PolicyRule::default()
            });
        }
    }
    atoms
}

fn covers(held: &PolicyRule, atom: &PolicyRule) -> bool {
    let one = |list: &Option<Vec<String>>| list.iter().flatten().next().cloned();
    let has = |list: &[String], value: &str| list.iter().any(|item| item == "*" || item == value);
    let verb = &atom.verbs[0];
    if !has(&held.verbs, verb) {
        return false;
    }
    if let Some(url) = one(&atom.non_resource_urls) {
        return held
            .non_resource_urls
            .iter()
            .flatten()
            .any(|rule| url_covers(rule, &url));
    }
    let (Some(group), Some(resource)) = (one(&atom.api_groups), one(&atom.resources)) else {
        return false;
    };
    let resource_held = held.resources.iter().flatten().any(|rule| {
        rule == "*" || *rule == resource || matches!((rule.strip_prefix("*/"), resource.split_once('/')), (Some(a), Some((_, b))) if a == b)
    });
    let names = held.resource_names.as_deref().unwrap_or_default();
    let name_held =
        names.is_empty() || one(&atom.resource_names).is_some_and(|name| names.contains(&name));
    has(held.api_groups.as_deref().unwrap_or_default(), &group) && resource_held && name_held
}

/// Joins the verbs of parts that speak of the same thing.
fn compact(atoms: Vec<PolicyRule>) -> Vec<PolicyRule> {
    type Words = Option<Vec<String>>;
    let mut joined: BTreeMap<(Words, Words, Words), Vec<String>> = BTreeMap::new();
    let mut compacted = Vec::new();
    for atom in atoms {
        if atom.non_resource_urls.is_some() {
            compacted.push(atom);
            continue;
        }
        let verbs = joined
            .entry((atom.api_groups, atom.resources, atom.resource_names))
            .or_default();
        verbs.extend(
            atom.verbs
                .into_iter()
                .filter(|v| !verbs.contains(v))
                .collect::<Vec<_>>(),
        );
    }
    compacted.extend(
        joined.into_iter().map(
            |((api_groups, resources, resource_names), verbs)| PolicyRule {
                api_groups,
                resources,
                resource_names,
                verbs,
                non_resource_urls: None,
            },
        ),
    );
    compacted
}

fn quoted(list: &[String]) -> String {
    format!(
        "[{}]",
        list.iter()
            .map(|item| format!("{item:?}"))
            .collect::<Vec<_>>()
            .join(" ")
    )
}

fn describe(rule: &PolicyRule) -> String {
    let parts = [
        ("APIGroups", rule.api_groups.as_deref()),
        ("Resources", rule.resources.as_deref()),
        ("NonResourceURLs", rule.non_resource_urls.as_deref()),
        ("ResourceNames", rule.resource_names.as_deref()),
        ("Verbs", Some(rule.verbs.as_slice())),
    ];
    let parts: Vec<String> = parts
        .iter()
        .filter_map(|(name, list)| {
            list.filter(|l| !l.is_empty())
                .map(|l| format!("{name}:{}", quoted(l)))
        })
        .collect();
    format!("{{{}}}", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rbac::tests::rule;

    #[test]
    fn what_is_not_held_is_named() {
        let held = [
            rule(&[""], &["pods"], &[], &["*"]),
            rule(&["apps"], &["*/scale"], &[], &["get"]),
            rule(&[""], &["secrets"], &["a"], &["get"]),
        ];
        let cases = [
            (rule(&[""], &["pods"], &["x"], &["get", "list"]), vec![]),
            (
                rule(&[""], &["pods/log"], &[], &["get"]),
                vec![r#"{APIGroups:[""], Resources:["pods/log"], Verbs:["get"]}"#],
            ),
            (
                rule(&["apps"], &["deployments/scale"], &[], &["get", "update"]),
                vec![r#"{APIGroups:["apps"], Resources:["deployments/scale"], Verbs:["update"]}"#],
            ),
            (rule(&[""], &["secrets"], &["a"], &["get"]), vec![]),
            (
                rule(&[""], &["secrets"], &[], &["get", "delete"]),
                vec![r#"{APIGroups:[""], Resources:["secrets"], Verbs:["get" "delete"]}"#],
            ),
            (
                rule(&[""], &["secrets"], &["a", "b"], &["get"]),
                vec![
                    r#"{APIGroups:[""], Resources:["secrets"], ResourceNames:["b"], Verbs:["get"]}"#,
                ],
            ),
        ];
        for (wanted, expected) in cases {
            let found: Vec<String> = compact(lacking(&held, &[wanted]))
                .iter()
                .map(describe)
                .collect();
            assert_eq!(found, expected);
        }
    }
}
