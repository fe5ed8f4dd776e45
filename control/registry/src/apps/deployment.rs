//! Deployments.
//!
//! Follows `pkg/registry/apps/deployment/strategy.go`, `pkg/apis/apps/v1/defaults.go` and
//! `pkg/apis/apps/validation`.

use caravel_api::FieldErrors;
use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentSpec, DeploymentStatus, RollingUpdateDeployment,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Amount;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::json;

use super::template;
use crate::core::pod;
use crate::found::{At, Found, default_text, drop_zero};
use crate::strategy::Strategy;

impl Strategy for Deployment {
    const GENERATION: bool = true;

    fn amounts(&self) -> Vec<&Amount> {
        let spec = self.spec.template.spec.as_ref();
        spec.map(pod::normalise::amounts).unwrap_or_default()
    }

    fn normalise(&mut self) {
        let spec = &mut self.spec;
        drop_zero(&mut spec.min_ready_seconds);
        drop_zero(&mut spec.paused);
        drop_zero(&mut spec.strategy.get_or_insert_default().type_);
        pod::normalise::template(&mut spec.template);
        if let Some(status) = &mut self.status {
            for count in [
                &mut status.replicas,
                &mut status.updated_replicas,
                &mut status.ready_replicas,
                &mut status.available_replicas,
                &mut status.unavailable_replicas,
            ] {
                drop_zero(count);
            }
            drop_zero(&mut status.observed_generation);
        }
    }

    fn apply_defaults(&mut self) {
        let spec = &mut self.spec;
        spec.replicas.get_or_insert(1);
        let strategy = spec.strategy.get_or_insert_default();
        default_text(&mut strategy.type_, "RollingUpdate");
        if strategy.type_.as_deref() == Some("RollingUpdate") {
            let rolling = strategy
                .rolling_update
                .get_or_insert_with(RollingUpdateDeployment::default);
            rolling.max_unavailable.get_or_insert_with(quarter);
            rolling.max_surge.get_or_insert_with(quarter);
        }
        spec.revision_history_limit.get_or_insert(10);
        spec.progress_deadline_seconds.get_or_insert(600);
        pod::defaults::template(&mut spec.template);
    }

    fn prepare_create(&mut self) {
        self.status = Some(DeploymentStatus::default());
    }

    fn prepare_update(&mut self, old: &Self) {
        self.status.clone_from(&old.status);
    }

    fn prepare_status(&mut self, old: &Self) {
        self.spec.clone_from(&old.spec);
        self.metadata.labels.clone_from(&old.metadata.labels);
    }

    /// Annotations count too: `kubectl rollout` writes into them.
    fn desired_changed(&self, old: &Self) -> bool {
        self.spec != old.spec || self.metadata.annotations != old.metadata.annotations
    }

    fn validate(&self) -> FieldErrors {
        let mut found = Found::new();
        validate_spec(&mut found, &self.spec, &At::Root.child("spec"));
        found.into_errors()
    }

    fn validate_update(&self, old: &Self) -> FieldErrors {
        let mut found = Found::new();
        let at = At::Root.child("spec");
        validate_spec(&mut found, &self.spec, &at);
        found.immutable(
            &at.child("selector"),
            &self.spec.selector,
            &old.spec.selector,
        );
        found.into_errors()
    }

    fn validate_status(&self, old: &Self) -> FieldErrors {
        let mut found = Found::new();
        let at = At::Root.child("status");
        let status = self.status.clone().unwrap_or_default();
        let replicas = status.replicas.unwrap_or(0);
        for (name, count) in [
            ("replicas", status.replicas),
            ("updatedReplicas", status.updated_replicas),
            ("readyReplicas", status.ready_replicas),
            ("availableReplicas", status.available_replicas),
            ("unavailableReplicas", status.unavailable_replicas),
        ] {
            found.not_negative(&at.child(name), i64::from(count.unwrap_or(0)));
        }
        found.not_negative(
            &at.child("observedGeneration"),
            status.observed_generation.unwrap_or(0),
        );
        for (name, count) in [
            ("updatedReplicas", status.updated_replicas),
            ("readyReplicas", status.ready_replicas),
            ("availableReplicas", status.available_replicas),
        ] {
            if count.unwrap_or(0) > replicas {
                found.invalid(
                    &at.child(name),
                    count.unwrap_or(0),
                    "cannot be greater than status.replicas",
                );
            }
        }
        if status.available_replicas > status.ready_replicas {
            found.invalid(
                &at.child("availableReplicas"),
                status.available_replicas.unwrap_or(0),
                "cannot be greater than readyReplicas",
            );
        }
        let before = old
            .status
            .as_ref()
            .and_then(|status| status.collision_count);
        if before.is_some() && status.collision_count < before {
            found.invalid(
                &at.child("collisionCount"),
                json!(status.collision_count),
                "cannot be decremented",
            );
        }
        found.into_errors()
    }

    fn warnings(&self, _: Option<&Self>) -> Vec<String> {
        let spec = self.spec.template.spec.as_ref();
        spec.map(|spec| {
            pod::warnings::of_spec(
                spec,
                &At::Root.child("spec").child("template").child("spec"),
            )
        })
        .unwrap_or_default()
    }
}

fn quarter() -> IntOrString {
    IntOrString::String("25%".to_owned())
}

fn validate_spec(found: &mut Found, spec: &DeploymentSpec, at: &At) {
    found.not_negative(&at.child("replicas"), i64::from(spec.replicas.unwrap_or(0)));
    template::validate(found, &spec.selector, Some(&spec.template), at);
    validate_strategy(found, spec, &at.child("strategy"));
    let ready = spec.min_ready_seconds.unwrap_or(0);
    found.not_negative(&at.child("minReadySeconds"), i64::from(ready));
    if let Some(limit) = spec.revision_history_limit {
        found.not_negative(&at.child("revisionHistoryLimit"), i64::from(limit));
    }
    if let Some(deadline) = spec.progress_deadline_seconds {
        let at = at.child("progressDeadlineSeconds");
        found.not_negative(&at, i64::from(deadline));
        if deadline <= ready {
            found.invalid(&at, deadline, "must be greater than minReadySeconds");
        }
    }
}

fn validate_strategy(found: &mut Found, spec: &DeploymentSpec, at: &At) {
    let strategy = spec.strategy.clone().unwrap_or_default();
    let rolling_at = at.child("rollingUpdate");
    match strategy.type_.as_deref().unwrap_or_default() {
        "Recreate" => {
            if strategy.rolling_update.is_some() {
                found.forbidden(
                    &rolling_at,
                    "may not be specified when strategy `type` is 'Recreate'",
                );
            }
        }
        "RollingUpdate" => match &strategy.rolling_update {
            None => found.required(&rolling_at, "this should be defaulted and never be nil"),
            Some(rolling) => validate_rolling(found, rolling, &rolling_at),
        },
        other => found.not_supported(at, json!({"type": other}), &["Recreate", "RollingUpdate"]),
    }
}

fn validate_rolling(found: &mut Found, rolling: &RollingUpdateDeployment, at: &At) {
    let zero = IntOrString::Int(0);
    let unavailable = rolling.max_unavailable.as_ref().unwrap_or(&zero);
    let surge = rolling.max_surge.as_ref().unwrap_or(&zero);
    let unavailable_at = at.child("maxUnavailable");
    count_or_percent(found, unavailable, &unavailable_at);
    count_or_percent(found, surge, &at.child("maxSurge"));
    if amount(unavailable) == Some(0) && amount(surge) == Some(0) {
        found.invalid(
            &unavailable_at,
            json!(unavailable),
            "may not be 0 when `maxSurge` is 0",
        );
    }
    if matches!(unavailable, IntOrString::String(_))
        && amount(unavailable).is_some_and(|percent| percent > 100)
    {
        found.invalid(
            &unavailable_at,
            json!(unavailable),
            "must not be greater than 100%",
        );
    }
}

/// The number, whether of pods or per cent.
fn amount(value: &IntOrString) -> Option<i32> {
    match value {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(text) => {
            let digits = text.strip_suffix('%')?;
            digits
                .bytes()
                .all(|byte| byte.is_ascii_digit())
                .then(|| digits.parse().ok())
                .flatten()
        }
    }
}

fn count_or_percent(found: &mut Found, value: &IntOrString, at: &At) {
    match (value, amount(value)) {
        (IntOrString::Int(number), _) => found.not_negative(at, i64::from(*number)),
        (IntOrString::String(text), None) => found.invalid(
            at,
            text.as_str(),
            "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')",
        ),
        (IntOrString::String(_), Some(_)) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Object, Resource, Typed};
    use serde_json::{Value, json};

    const DEPLOYMENTS: Typed<Deployment> = Typed::NEW;

    fn deployment(spec: Value) -> Box<dyn Object> {
        let mut value = json!({
            "metadata": {"name": "d", "namespace": "n"},
            "spec": {
                "selector": {"matchLabels": {"app": "a"}},
                "template": {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "c", "image": "x:1"}]}}
            }
        });
        value["spec"]
            .as_object_mut()
            .unwrap()
            .extend(spec.as_object().unwrap().clone());
        let mut object = DEPLOYMENTS.from_value(value).unwrap();
        DEPLOYMENTS.apply_defaults(&mut *object);
        DEPLOYMENTS.prepare_create(&mut *object);
        object
    }

    #[test]
    fn defaults() {
        let value = deployment(json!({})).to_value();
        for (pointer, want) in [
            ("/spec/replicas", json!(1)),
            (
                "/spec/strategy",
                json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}}),
            ),
            ("/spec/revisionHistoryLimit", json!(10)),
            ("/spec/progressDeadlineSeconds", json!(600)),
            (
                "/spec/template/spec/terminationGracePeriodSeconds",
                json!(30),
            ),
            ("/spec/template/spec/dnsPolicy", json!("ClusterFirst")),
            ("/metadata/generation", json!(1)),
        ] {
            assert_eq!(value.pointer(pointer), Some(&want), "{pointer}");
        }
        assert_eq!(
            deployment(json!({"strategy": {"type": "Recreate"}})).to_value()["spec"]["strategy"],
            json!({"type": "Recreate"})
        );
    }

    #[test]
    fn new_deployments() {
        for (spec, want) in [
            (json!({}), "[]"),
            (
                json!({"replicas": -1}),
                "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
            ),
            (
                json!({"strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}}}),
                "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0",
            ),
            (
                json!({"strategy": {"rollingUpdate": {"maxUnavailable": "120%"}}}),
                "must not be greater than 100%",
            ),
            (
                json!({"strategy": {"rollingUpdate": {"maxSurge": "a"}}}),
                "a valid percent string",
            ),
            (
                json!({"strategy": {"type": "Recreate", "rollingUpdate": {"maxSurge": 1}}}),
                "spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'",
            ),
            (
                json!({"selector": {}}),
                "[spec.selector: Required value, spec.template.metadata.labels: Invalid value: {\"app\":\"a\"}: `selector` does not match template `labels`]",
            ),
            (
                json!({"selector": {"matchLabels": {"app": "b"}}}),
                "spec.template.metadata.labels: Invalid value: {\"app\":\"a\"}: `selector` does not match template `labels`",
            ),
            (
                json!({"template": {"metadata": {"labels": {"app": "a"}}, "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "x"}]}}}),
                "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
            ),
            (
                json!({"progressDeadlineSeconds": 5, "minReadySeconds": 5}),
                "must be greater than minReadySeconds",
            ),
            (
                json!({"template": {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "c"}]}}}),
                "spec.template.spec.containers[0].image: Required value",
            ),
        ] {
            let message = DEPLOYMENTS.validate(&*deployment(spec.clone())).message();
            assert!(message.contains(want), "{spec}: {message}");
            assert!(want != "[]" || message == "[]", "{spec}: {message}");
        }
    }

    #[test]
    fn changed_deployments() {
        let old = deployment(json!({}));
        let mut new = deployment(json!({"selector": {"matchLabels": {"app": "b"}}}));
        DEPLOYMENTS.prepare_update(&mut *new, &*old);
        let message = DEPLOYMENTS.validate_update(&*new, &*old).message();
        assert!(message.contains("spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"b\"}}: field is immutable"), "{message}");
        assert_eq!(new.meta().generation, Some(2));
        let mut same = deployment(json!({"paused": false, "minReadySeconds": 0}));
        DEPLOYMENTS.prepare_update(&mut *same, &*old);
        assert_eq!(same.meta().generation, Some(1));
    }
}
