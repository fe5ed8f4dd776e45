//! The types that the schema starts from: every kind that may be served, and what clients send beside objects.
//!
//! Upstream: `pkg/generated/openapi`. Everything these types refer to comes along by itself.

use schemars::SchemaGenerator;
use serde_json::{Map, Value};

macro_rules! roots {
    ($generator:ident, $module:path => $($kind:ident),* $(,)?) => {{
        use $module as module;
        $(let _ = $generator.subschema_for::<module::$kind>();)*
    }};
}

/// Every definition by its published name, as JSON schema. Costs some milliseconds and megabytes: keep what you make of it.
pub(crate) fn definitions() -> Map<String, Value> {
    let mut generator = SchemaGenerator::default();
    roots!(generator, k8s_openapi::api::admissionregistration::v1 => MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding, MutatingWebhookConfiguration, ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding, ValidatingWebhookConfiguration);
    roots!(generator, k8s_openapi::api::apps::v1 => ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet);
    roots!(generator, k8s_openapi::api::authentication::v1 => SelfSubjectReview, TokenRequest, TokenReview);
    roots!(generator, k8s_openapi::api::authorization::v1 => LocalSubjectAccessReview, SelfSubjectAccessReview, SelfSubjectRulesReview, SubjectAccessReview);
    roots!(generator, k8s_openapi::api::autoscaling::v1 => HorizontalPodAutoscaler, Scale);
    roots!(generator, k8s_openapi::api::autoscaling::v2 => HorizontalPodAutoscaler);
    roots!(generator, k8s_openapi::api::batch::v1 => CronJob, Job);
    roots!(generator, k8s_openapi::api::certificates::v1 => CertificateSigningRequest);
    roots!(generator, k8s_openapi::api::coordination::v1 => Lease);
    roots!(generator, k8s_openapi::api::core::v1 => Binding, ComponentStatus, ConfigMap, Endpoints, Event, LimitRange, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, PodTemplate, ReplicationController, ResourceQuota, Secret, Service, ServiceAccount);
    roots!(generator, k8s_openapi::api::discovery::v1 => EndpointSlice);
    roots!(generator, k8s_openapi::api::events::v1 => Event);
    roots!(generator, k8s_openapi::api::flowcontrol::v1 => FlowSchema, PriorityLevelConfiguration);
    roots!(generator, k8s_openapi::api::networking::v1 => Ingress, IngressClass, IPAddress, NetworkPolicy, ServiceCIDR);
    roots!(generator, k8s_openapi::api::node::v1 => RuntimeClass);
    roots!(generator, k8s_openapi::api::policy::v1 => Eviction, PodDisruptionBudget);
    roots!(generator, k8s_openapi::api::rbac::v1 => ClusterRole, ClusterRoleBinding, Role, RoleBinding);
    roots!(generator, k8s_openapi::api::scheduling::v1 => PriorityClass);
    roots!(generator, k8s_openapi::api::storage::v1 => CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment, VolumeAttributesClass);
    roots!(generator, k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1 => CustomResourceDefinition);
    roots!(generator, k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1 => APIService);
    roots!(generator, k8s_openapi::apimachinery::pkg::apis::meta::v1 => APIGroup, APIGroupList, APIResourceList, APIVersions, DeleteOptions, ListMeta, ObjectMeta, Patch, Status);
    roots!(generator, k8s_openapi::apimachinery::pkg::version => Info);
    generator.take_definitions(false)
}
