//! Pods.
//!
//! Follows `pkg/registry/core/pod/strategy.go`; defaults and validation, shared with the templates of workloads, are in
//! the files below.

pub mod container;
pub mod defaults;
pub mod env;
pub mod image;
pub mod normalise;
pub mod placement;
pub mod probe;
pub mod qos;
pub mod security;
pub mod spec;
pub mod status;
pub mod update;
pub mod volume;
pub mod warnings;

use caravel_api::FieldErrors;
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Amount;

use crate::found::{At, Found, text};
use crate::strategy::{Grace, Strategy};

impl Strategy for Pod {
    const GENERATION: bool = true;
    const FIELDS: &'static [&'static str] = &[
        "spec.hostNetwork",
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "status.nominatedNodeName",
        "status.phase",
        "status.podIP",
        "status.podIPs",
    ];

    fn normalise(&mut self) {
        normalise::pod(self);
    }

    fn amounts(&self) -> Vec<&Amount> {
        self.spec
            .as_ref()
            .map(normalise::amounts)
            .unwrap_or_default()
    }

    fn apply_defaults(&mut self) {
        defaults::pod(self);
    }

    fn prepare_create(&mut self) {
        let spec = self.spec.get_or_insert_default();
        let gated = spec
            .scheduling_gates
            .as_ref()
            .is_some_and(|gates| !gates.is_empty());
        let conditions = gated.then(|| {
            vec![PodCondition {
                type_: "PodScheduled".to_owned(),
                status: "False".to_owned(),
                reason: Some("SchedulingGated".to_owned()),
                message: Some("Scheduling is blocked due to non-empty scheduling gates".to_owned()),
                ..PodCondition::default()
            }]
        });
        self.status = Some(PodStatus {
            phase: Some("Pending".to_owned()),
            qos_class: Some(qos::class(spec).to_owned()),
            conditions,
            ..PodStatus::default()
        });
    }

    fn prepare_update(&mut self, old: &Self) {
        self.status.clone_from(&old.status);
        if let (Some(new), Some(old)) = (&mut self.spec, &old.spec) {
            new.ephemeral_containers
                .clone_from(&old.ephemeral_containers);
        }
    }

    fn prepare_status(&mut self, old: &Self) {
        self.spec.clone_from(&old.spec);
        self.metadata
            .owner_references
            .clone_from(&old.metadata.owner_references);
        let status = self.status.get_or_insert_default();
        if text(&status.qos_class).is_none() {
            status.qos_class = old
                .status
                .as_ref()
                .and_then(|status| status.qos_class.clone());
        }
    }

    fn desired_changed(&self, old: &Self) -> bool {
        self.spec != old.spec
    }

    fn validate(&self) -> FieldErrors {
        let mut found = Found::new();
        whole(&mut found, self);
        let at = At::Root.child("spec");
        let spec = spec_of(self);
        if spec
            .ephemeral_containers
            .as_ref()
            .is_some_and(|list| !list.is_empty())
        {
            found.forbidden(&at.child("ephemeralContainers"), "cannot be set on create");
        }
        if text(&spec.node_name).is_some()
            && spec
                .scheduling_gates
                .as_ref()
                .is_some_and(|gates| !gates.is_empty())
        {
            found.forbidden(
                &at.child("nodeName"),
                "cannot be set until all schedulingGates have been cleared",
            );
        }
        found.into_errors()
    }

    fn validate_update(&self, old: &Self) -> FieldErrors {
        let mut found = Found::new();
        whole(&mut found, self);
        update::validate(&mut found, self, old);
        found.into_errors()
    }

    fn validate_status(&self, old: &Self) -> FieldErrors {
        let mut found = Found::new();
        status::validate(&mut found, self, old);
        found.into_errors()
    }

    fn warnings(&self, _: Option<&Self>) -> Vec<String> {
        warnings::of_spec(spec_of(self), &At::Root.child("spec"))
    }

    /// A pod that runs nowhere, or has ended, has nothing to be graceful about.
    fn grace(&self, requested: Option<i64>) -> Grace {
        let spec = spec_of(self);
        let phase = self
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref());
        if text(&spec.node_name).is_none() || matches!(phase, Some("Failed" | "Succeeded")) {
            return Grace::Immediate;
        }
        match requested
            .or(spec.termination_grace_period_seconds)
            .unwrap_or(30)
        {
            0 => Grace::Immediate,
            negative if negative < 0 => Grace::After(1),
            seconds => Grace::After(seconds),
        }
    }

    fn field(&self, path: &str) -> Option<String> {
        let spec = spec_of(self);
        let status = self.status.as_ref();
        let value = match path {
            "spec.nodeName" => spec.node_name.clone(),
            "spec.restartPolicy" => spec.restart_policy.clone(),
            "spec.schedulerName" => spec.scheduler_name.clone(),
            "spec.serviceAccountName" => spec.service_account_name.clone(),
            "spec.hostNetwork" => Some(spec.host_network.unwrap_or(false).to_string()),
            "status.phase" => status.and_then(|status| status.phase.clone()),
            "status.podIP" => status.and_then(|status| status.pod_ip.clone()),
            "status.podIPs" => status.and_then(|status| status.pod_ip.clone()),
            "status.nominatedNodeName" => {
                status.and_then(|status| status.nominated_node_name.clone())
            }
            _ => return None,
        };
        Some(value.unwrap_or_default())
    }
}

fn spec_of(pod: &Pod) -> &PodSpec {
    static NONE: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);
    pod.spec.as_ref().unwrap_or(&NONE)
}

/// What any pod must be, new or changed.
fn whole(found: &mut Found, pod: &Pod) {
    let spec = spec_of(pod);
    if let Some(annotations) = &pod.metadata.annotations {
        spec::validate_annotations(
            found,
            annotations,
            spec,
            &At::Root.child("metadata").child("annotations"),
        );
    }
    let at = At::Root.child("spec");
    spec::validate(found, spec, spec::Place::Pod, &at);
    if text(&spec.service_account_name).is_none() {
        for (index, volume) in spec.volumes.iter().flatten().enumerate() {
            let sources = volume
                .projected
                .iter()
                .flat_map(|projected| projected.sources.iter().flatten());
            for (source_index, source) in sources.enumerate() {
                if source.service_account_token.is_some() {
                    found.forbidden(
                        &at.child("volumes")
                            .index(index)
                            .child("projected")
                            .child("sources")
                            .index(source_index)
                            .child("serviceAccountToken"),
                        "must not be specified when serviceAccountName is not set",
                    );
                }
            }
        }
    }
    for (list, containers) in [
        ("containers", spec.containers.as_slice()),
        (
            "initContainers",
            spec.init_containers.as_deref().unwrap_or_default(),
        ),
    ] {
        for (index, container) in containers.iter().enumerate() {
            container::image_spaces(
                found,
                container.image.as_deref(),
                &at.child(list).index(index),
            );
        }
    }
}

#[cfg(test)]
mod tests;
