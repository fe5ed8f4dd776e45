//! Role-based access: which rules hold for a user, and does one of them allow the request.
//!
//! Reads roles and bindings through [`RbacView`] at every request, so a change holds at once. Follows upstream's
//! `plugin/pkg/auth/authorizer/rbac` and `pkg/registry/rbac/validation/rule.go`, reasons included.

use crate::attributes::Attributes;
use crate::authz::Decision;
use crate::user::{UserInfo, service_account_name};
use k8s_openapi::api::rbac::v1::{
    ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject,
};
use std::ops::ControlFlow;
use std::sync::Arc;

pub const GROUP: &str = "rbac.authorization.k8s.io";

/// Roles and bindings as they are now. Aggregated ClusterRoles have their rules filled in (the aggregation controller's
/// work, or [`crate::policy::aggregate`]).
pub trait RbacView {
    fn cluster_role(&self, name: &str) -> Option<Arc<ClusterRole>>;
    fn role(&self, namespace: &str, name: &str) -> Option<Arc<Role>>;
    fn cluster_role_bindings(&self) -> Vec<Arc<ClusterRoleBinding>>;
    fn role_bindings(&self, namespace: &str) -> Vec<Arc<RoleBinding>>;
}

/// One step of [`visit_rules`]: a rule with the words that name its source, or a role that is missing.
pub enum Found<'a> {
    Rule {
        rule: &'a PolicyRule,
        source: &'a dyn Fn() -> String,
    },
    Missing(String),
}

pub fn authorize<V: RbacView + ?Sized>(request: &Attributes<'_>, view: &V) -> Decision {
    let mut missing = Vec::new();
    let mut allowed = None;
    visit_rules(
        request.user,
        request.namespace,
        view,
        &mut |found| match found {
            Found::Rule { rule, source } if rule_allows(request, rule) => {
                allowed = Some(format!("RBAC: allowed by {}", source()));
                ControlFlow::Break(())
            }
            Found::Rule { .. } => ControlFlow::Continue(()),
            Found::Missing(error) => {
                if !missing.contains(&error) {
                    missing.push(error);
                }
                ControlFlow::Continue(())
            }
        },
    );
    match (allowed, missing.len()) {
        (Some(reason), _) => Decision::Allow(reason),
        (None, 0) => Decision::NoOpinion(String::new()),
        (None, 1) => Decision::NoOpinion(format!("RBAC: {}", missing[0])),
        (None, _) => Decision::NoOpinion(format!("RBAC: [{}]", missing.join(", "))),
    }
}

/// All rules that hold for `user` in `namespace` ("" = cluster-wide only), and the roles that bindings name in vain.
pub fn rules_for<V: RbacView + ?Sized>(
    user: &UserInfo,
    namespace: &str,
    view: &V,
) -> (Vec<PolicyRule>, Vec<String>) {
    let (mut rules, mut missing) = (Vec::new(), Vec::new());
    visit_rules(user, namespace, view, &mut |found| {
        match found {
            Found::Rule { rule, .. } => rules.push(rule.clone()),
            Found::Missing(error) => missing.push(error),
        }
        ControlFlow::Continue(())
    });
    (rules, missing)
}

pub fn visit_rules<V: RbacView + ?Sized>(
    user: &UserInfo,
    namespace: &str,
    view: &V,
    visit: &mut dyn FnMut(Found<'_>) -> ControlFlow<()>,
) {
    for binding in view.cluster_role_bindings() {
        let Some(subject) = binding
            .subjects
            .iter()
            .flatten()
            .find(|s| subject_is(s, user, ""))
        else {
            continue;
        };
        let source = || {
            let name = binding.metadata.name.as_deref().unwrap_or_default();
            format!(
                "ClusterRoleBinding {name:?} of {} {:?} to {}",
                binding.role_ref.kind,
                binding.role_ref.name,
                describe(subject, "")
            )
        };
        if visit_role(&binding.role_ref, "", view, &source, visit).is_break() {
            return;
        }
    }
    if namespace.is_empty() {
        return;
    }
    for binding in view.role_bindings(namespace) {
        let Some(subject) = binding
            .subjects
            .iter()
            .flatten()
            .find(|s| subject_is(s, user, namespace))
        else {
            continue;
        };
        let source = || {
            let name = format!(
                "{}/{namespace}",
                binding.metadata.name.as_deref().unwrap_or_default()
            );
            format!(
                "RoleBinding {name:?} of {} {:?} to {}",
                binding.role_ref.kind,
                binding.role_ref.name,
                describe(subject, namespace)
            )
        };
        if visit_role(&binding.role_ref, namespace, view, &source, visit).is_break() {
            return;
        }
    }
}

/// The rules of the role that a binding in `namespace` names, or the words that say it is missing.
pub fn role_rules<V: RbacView + ?Sized>(
    role: &RoleRef,
    namespace: &str,
    view: &V,
) -> Result<Vec<PolicyRule>, String> {
    let mut rules = Vec::new();
    let mut missing = None;
    let _ = visit_role(role, namespace, view, &String::new, &mut |found| {
        match found {
            Found::Rule { rule, .. } => rules.push(rule.clone()),
            Found::Missing(error) => missing = Some(error),
        }
        ControlFlow::Continue(())
    });
    missing.map_or(Ok(rules), Err)
}

fn visit_role<V: RbacView + ?Sized>(
    role: &RoleRef,
    namespace: &str,
    view: &V,
    source: &dyn Fn() -> String,
    visit: &mut dyn FnMut(Found<'_>) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let mut each = |rules: &[PolicyRule]| {
        rules
            .iter()
            .try_for_each(|rule| visit(Found::Rule { rule, source }))
    };
    match role.kind.as_str() {
        "ClusterRole" => match view.cluster_role(&role.name) {
            Some(found) => each(found.rules.as_deref().unwrap_or_default()),
            None => visit(Found::Missing(format!(
                "clusterrole.{GROUP} {:?} not found",
                role.name
            ))),
        },
        "Role" if !namespace.is_empty() => match view.role(namespace, &role.name) {
            Some(found) => each(found.rules.as_deref().unwrap_or_default()),
            None => visit(Found::Missing(format!(
                "role.{GROUP} {:?} not found",
                role.name
            ))),
        },
        other => visit(Found::Missing(format!(
            "unsupported role reference kind: {other:?}"
        ))),
    }
}

fn subject_is(subject: &Subject, user: &UserInfo, namespace: &str) -> bool {
    match subject.kind.as_str() {
        "User" => user.name == subject.name,
        "Group" => user.in_group(&subject.name),
        "ServiceAccount" => {
            let namespace = subject
                .namespace
                .as_deref()
                .filter(|n| !n.is_empty())
                .unwrap_or(namespace);
            !namespace.is_empty()
                && user.as_service_account() == Some((namespace, subject.name.as_str()))
                && user.name == service_account_name(namespace, &subject.name)
        }
        _ => false,
    }
}

fn describe(subject: &Subject, namespace: &str) -> String {
    match subject.kind.as_str() {
        "ServiceAccount" => {
            let namespace = subject
                .namespace
                .as_deref()
                .filter(|n| !n.is_empty())
                .unwrap_or(namespace);
            format!(
                "ServiceAccount {:?}",
                format!("{}/{namespace}", subject.name)
            )
        }
        kind => format!("{kind} {:?}", subject.name),
    }
}

pub fn rule_allows(request: &Attributes<'_>, rule: &PolicyRule) -> bool {
    if !matches(&rule.verbs, request.verb) {
        return false;
    }
    if !request.is_resource() {
        return rule
            .non_resource_urls
            .iter()
            .flatten()
            .any(|url| url_covers(url, request.path));
    }
    let names = rule.resource_names.as_deref().unwrap_or_default();
    matches(
        rule.api_groups.as_deref().unwrap_or_default(),
        request.group,
    ) && rule
        .resources
        .iter()
        .flatten()
        .any(|r| resource_matches(r, request.resource, request.subresource))
        && (names.is_empty() || names.iter().any(|n| n == request.name))
}

fn matches(list: &[String], value: &str) -> bool {
    list.iter().any(|item| item == "*" || item == value)
}

fn resource_matches(rule: &str, resource: &str, subresource: &str) -> bool {
    match rule.split_once('/') {
        None => rule == "*" || (subresource.is_empty() && rule == resource),
        Some(("*", sub)) => !subresource.is_empty() && sub == subresource,
        Some((main, sub)) => main == resource && sub == subresource,
    }
}

/// `*` alone, or a trailing `*` as a prefix.
pub(crate) fn url_covers(rule: &str, path: &str) -> bool {
    rule == "*"
        || rule == path
        || rule
            .strip_suffix('*')
            .is_some_and(|prefix| path.starts_with(prefix.trim_end_matches('*')))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn rule(
        groups: &[&str],
        resources: &[&str],
        names: &[&str],
        verbs: &[&str],
    ) -> PolicyRule {
        let own = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let some = |l: &[&str]| (!l.is_empty()).then(|| own(l));
        PolicyRule {
            api_groups: some(groups),
            resources: some(resources),
            resource_names: some(names),
            verbs: own(verbs),
            non_resource_urls: None,
        }
    }

    #[test]
    fn rules_match_as_upstreams() {
        let user = UserInfo::new("u", &[]);
        let get = |resource, sub| {
            Attributes::resource(&user, "get", "", resource, "ns")
                .named("a")
                .sub(sub)
        };
        let cases = [
            (rule(&[""], &["pods"], &[], &["get"]), get("pods", ""), true),
            (
                rule(&[""], &["pods"], &[], &["get"]),
                get("pods", "log"),
                false,
            ),
            (
                rule(&[""], &["pods/log"], &[], &["*"]),
                get("pods", "log"),
                true,
            ),
            (rule(&[""], &["*"], &[], &["get"]), get("pods", "log"), true),
            (
                rule(&["*"], &["*/scale"], &[], &["get"]),
                get("deployments", "scale"),
                true,
            ),
            (
                rule(&["apps"], &["pods"], &[], &["get"]),
                get("pods", ""),
                false,
            ),
            (
                rule(&[""], &["pods"], &["b"], &["get"]),
                get("pods", ""),
                false,
            ),
            (
                rule(&[""], &["pods"], &["b", "a"], &["get"]),
                get("pods", ""),
                true,
            ),
            (
                rule(&[""], &["pods"], &[], &["list"]),
                get("pods", ""),
                false,
            ),
        ];
        for (rule, request, allowed) in cases {
            assert_eq!(
                rule_allows(&request, &rule),
                allowed,
                "{rule:?} {}",
                request.resource_and_sub()
            );
        }
        for (rule, path, covers) in [
            ("*", "/x", true),
            ("/api/*", "/api/v1", true),
            ("/api", "/api/v1", false),
            ("/livez", "/livez", true),
        ] {
            assert_eq!(url_covers(rule, path), covers, "{rule} {path}");
        }
    }
}
