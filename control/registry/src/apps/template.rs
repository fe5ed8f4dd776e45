//! What workloads have in common: a selector and a template that carries what it selects.
//!
//! Follows `ValidatePodTemplateSpecForReplicaSet` of `pkg/apis/apps/validation`.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::json;

use crate::core::pod::spec;
use crate::found::{At, Found};
use crate::labels;

/// What is wrong with a selector and a template. `at` is where the specification stands.
pub fn validate(
    found: &mut Found,
    selector: &LabelSelector,
    template: Option<&PodTemplateSpec>,
    at: &At,
) {
    let selector_at = at.child("selector");
    // Upstream tells a missing selector from an empty one; the type here does not, and missing is what happens.
    let missing = labels::is_empty(selector);
    if missing {
        found.required(&selector_at, "");
    }
    let before = found.len();
    labels::validate_selector(found, selector, &selector_at);
    let valid = found.len() == before;
    let at = at.child("template");
    let Some(template) = template else {
        return found.required(&at, "");
    };
    let carried = template
        .metadata
        .as_ref()
        .and_then(|meta| meta.labels.as_ref());
    if missing || (valid && !labels::selects(selector, carried)) {
        found.invalid(
            &at.child("metadata").child("labels"),
            json!(carried),
            "`selector` does not match template `labels`",
        );
    }
    spec::validate_template(found, template, &at);
    if let Some(spec) = &template.spec {
        let at = at.child("spec");
        let policy = spec.restart_policy.as_deref().unwrap_or_default();
        if policy != "Always" && spec::RESTART_POLICIES.contains(&policy) {
            found.not_supported(&at.child("restartPolicy"), policy, &["Always"]);
        }
        if spec.active_deadline_seconds.is_some() {
            found.forbidden(
                &at.child("activeDeadlineSeconds"),
                "activeDeadlineSeconds in ReplicaSet is not Supported",
            );
        }
    }
}
