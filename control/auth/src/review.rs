//! The review kinds' answers: may somebody do something, and what may I do.
//!
//! Follows upstream's `pkg/registry/authorization`. Decides only; nothing is stored.

use crate::attributes::Attributes;
use crate::authz::{Authorizer, Decision};
use crate::node_authorizer::NodeView;
use crate::rbac::{self, RbacView};
use crate::user::UserInfo;
use k8s_openapi::api::authorization::v1::{
    NonResourceAttributes, NonResourceRule, ResourceAttributes, ResourceRule,
    SubjectAccessReviewStatus, SubjectRulesReviewStatus,
};

/// The status of a (Self/Local)SubjectAccessReview. The caller has validated that one of the two is given.
pub fn access<V: RbacView + NodeView + ?Sized>(
    user: &UserInfo,
    resource: Option<&ResourceAttributes>,
    path: Option<&NonResourceAttributes>,
    view: &V,
) -> SubjectAccessReviewStatus {
    fn text(value: &Option<String>) -> &str {
        value.as_deref().unwrap_or_default()
    }
    let fields: Vec<(String, String)> = resource
        .and_then(|r| r.field_selector.as_ref())
        .and_then(|s| s.requirements.as_ref())
        .into_iter()
        .flatten()
        .filter(|r| r.operator == "In" && r.values.as_ref().is_some_and(|v| v.len() == 1))
        .map(|r| {
            (
                r.key.clone(),
                r.values
                    .iter()
                    .flatten()
                    .next()
                    .cloned()
                    .unwrap_or_default(),
            )
        })
        .collect();
    let request = match (resource, path) {
        (Some(r), _) => Attributes {
            version: text(&r.version),
            subresource: text(&r.subresource),
            name: text(&r.name),
            fields: &fields,
            ..Attributes::resource(
                user,
                text(&r.verb),
                text(&r.group),
                text(&r.resource),
                text(&r.namespace),
            )
        },
        (None, Some(p)) => Attributes::path(user, text(&p.verb), text(&p.path)),
        (None, None) => Attributes::path(user, "", ""),
    };
    let decision = Authorizer.authorize(&request, view);
    let reason = Some(decision.reason().to_owned()).filter(|r| !r.is_empty());
    SubjectAccessReviewStatus {
        allowed: decision.is_allowed(),
        denied: matches!(decision, Decision::Deny(_)).then_some(true),
        evaluation_error: None,
        reason,
    }
}

/// The status of a SelfSubjectRulesReview: what `kubectl auth can-i --list` prints.
pub fn rules<V: RbacView + NodeView + ?Sized>(
    user: &UserInfo,
    namespace: &str,
    view: &V,
) -> SubjectRulesReviewStatus {
    let (rules, mut errors) = rbac::rules_for(user, namespace, view);
    let mut status = SubjectRulesReviewStatus {
        incomplete: false,
        evaluation_error: None,
        resource_rules: vec![],
        non_resource_rules: vec![],
    };
    for rule in rules {
        if rule.resources.as_ref().is_some_and(|r| !r.is_empty()) {
            status.resource_rules.push(ResourceRule {
                api_groups: rule.api_groups,
                resources: rule.resources,
                resource_names: rule.resource_names,
                verbs: rule.verbs.clone(),
            });
        }
        if rule
            .non_resource_urls
            .as_ref()
            .is_some_and(|u| !u.is_empty())
        {
            status.non_resource_rules.push(NonResourceRule {
                non_resource_urls: rule.non_resource_urls,
                verbs: rule.verbs,
            });
        }
    }
    if user.as_node().is_some() {
        errors.push("node authorizer does not support user rule resolution".into());
    }
    if !errors.is_empty() {
        status.incomplete = true;
        status.evaluation_error = Some(errors.join(", "));
    }
    status
}
