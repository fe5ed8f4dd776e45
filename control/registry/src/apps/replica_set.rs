//! ReplicaSets.
//!
//! Follows `pkg/registry/apps/replicaset/strategy.go` and `pkg/apis/apps/{v1,validation}`.

use caravel_api::FieldErrors;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetStatus};

use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Amount;

use super::template;
use crate::core::pod;
use crate::found::{At, Found, drop_zero};
use crate::strategy::Strategy;

impl Strategy for ReplicaSet {
    const GENERATION: bool = true;
    const FIELDS: &'static [&'static str] = &["status.replicas"];

    fn amounts(&self) -> Vec<&Amount> {
        let spec = self
            .spec
            .template
            .as_ref()
            .and_then(|template| template.spec.as_ref());
        spec.map(pod::normalise::amounts).unwrap_or_default()
    }

    fn normalise(&mut self) {
        let spec = &mut self.spec;
        drop_zero(&mut spec.min_ready_seconds);
        pod::normalise::template(spec.template.get_or_insert_default());
        if let Some(status) = &mut self.status {
            for count in [
                &mut status.fully_labeled_replicas,
                &mut status.ready_replicas,
                &mut status.available_replicas,
            ] {
                drop_zero(count);
            }
            drop_zero(&mut status.observed_generation);
        }
    }

    fn apply_defaults(&mut self) {
        let spec = &mut self.spec;
        spec.replicas.get_or_insert(1);
        pod::defaults::template(spec.template.get_or_insert_default());
    }

    fn prepare_create(&mut self) {
        self.status = Some(ReplicaSetStatus::default());
    }

    fn prepare_update(&mut self, old: &Self) {
        self.status.clone_from(&old.status);
    }

    fn prepare_status(&mut self, old: &Self) {
        self.spec.clone_from(&old.spec);
    }

    fn desired_changed(&self, old: &Self) -> bool {
        self.spec != old.spec
    }

    fn validate(&self) -> FieldErrors {
        let mut found = Found::new();
        let (spec, at) = (&self.spec, At::Root.child("spec"));
        found.not_negative(&at.child("replicas"), i64::from(spec.replicas.unwrap_or(0)));
        found.not_negative(
            &at.child("minReadySeconds"),
            i64::from(spec.min_ready_seconds.unwrap_or(0)),
        );
        template::validate(&mut found, &spec.selector, spec.template.as_ref(), &at);
        found.into_errors()
    }

    fn validate_update(&self, old: &Self) -> FieldErrors {
        let mut errors = self.validate();
        let mut found = Found::new();
        found.immutable(
            &At::Root.child("spec").child("selector"),
            &self.spec.selector,
            &old.spec.selector,
        );
        errors.extend(found.into_errors());
        errors
    }

    fn validate_status(&self, _: &Self) -> FieldErrors {
        let mut found = Found::new();
        let at = At::Root.child("status");
        let status = self.status.clone().unwrap_or_default();
        found.not_negative(&at.child("replicas"), i64::from(status.replicas));
        for (name, count) in [
            ("fullyLabeledReplicas", status.fully_labeled_replicas),
            ("readyReplicas", status.ready_replicas),
            ("availableReplicas", status.available_replicas),
        ] {
            let count = count.unwrap_or(0);
            found.not_negative(&at.child(name), i64::from(count));
            if count > status.replicas {
                found.invalid(
                    &at.child(name),
                    count,
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
        found.into_errors()
    }

    fn warnings(&self, _: Option<&Self>) -> Vec<String> {
        let spec = self
            .spec
            .template
            .as_ref()
            .and_then(|template| template.spec.as_ref());
        spec.map(|spec| {
            pod::warnings::of_spec(
                spec,
                &At::Root.child("spec").child("template").child("spec"),
            )
        })
        .unwrap_or_default()
    }

    fn field(&self, path: &str) -> Option<String> {
        (path == "status.replicas").then(|| {
            self.status
                .as_ref()
                .map_or(0, |status| status.replicas)
                .to_string()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Object, Resource, Typed};
    use serde_json::{Value, json};

    const SETS: Typed<ReplicaSet> = Typed::NEW;

    fn set(selector: Value) -> Box<dyn Object> {
        let mut object = SETS
            .from_value(json!({
                "metadata": {"name": "s", "namespace": "n"},
                "spec": {
                    "selector": selector,
                    "template": {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "c", "image": "x:1"}]}}
                }
            }))
            .unwrap();
        SETS.apply_defaults(&mut *object);
        SETS.prepare_create(&mut *object);
        object
    }

    #[test]
    fn selectors() {
        let good = set(json!({"matchLabels": {"app": "a"}}));
        assert_eq!(SETS.validate(&*good).message(), "[]");
        assert_eq!(good.to_value()["spec"]["replicas"], json!(1));
        let other =
            set(json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["b"]}]}));
        assert!(
            SETS.validate(&*other)
                .message()
                .contains("`selector` does not match template `labels`")
        );
        assert!(
            SETS.validate_update(&*other, &*good)
                .message()
                .contains("field is immutable")
        );
    }
}
