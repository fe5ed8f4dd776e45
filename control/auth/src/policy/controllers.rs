//! One ClusterRole per built-in controller, `system:controller:<name>`, bound to `kube-system/<name>`.
//!
//! Upstream's `bootstrappolicy/controller_policy.go`; the controllers of a Caravel server act under these identities.

use super::table::{EVENTS, RuleRow, cluster_binding, cluster_role};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};

#[rustfmt::skip] // a table
const ROWS: &[(&str, &[RuleRow])] = &[
    ("attachdetach-controller", &[
        ("list watch", "core", "persistentvolumes persistentvolumeclaims"), ("R", "core", "nodes"), ("patch update", "core", "nodes/status"),
        ("list watch", "core", "pods"), EVENTS, ("get create delete list watch", "storage.k8s.io", "volumeattachments"),
        ("R", "storage.k8s.io", "csidrivers"), ("R", "storage.k8s.io", "csinodes"),
    ]),
    ("certificate-controller", &[
        ("R delete", "certificates.k8s.io", "certificatesigningrequests"),
        ("update", "certificates.k8s.io", "certificatesigningrequests/status certificatesigningrequests/approval"),
        ("approve", "certificates.k8s.io", "signers [kubernetes.io/kube-apiserver-client-kubelet]"),
        ("sign", "certificates.k8s.io", "signers [kubernetes.io/legacy-unknown] [kubernetes.io/kubelet-serving] [kubernetes.io/kube-apiserver-client-kubelet] [kubernetes.io/kube-apiserver-client]"),
        ("create", "authorization.k8s.io", "subjectaccessreviews"), EVENTS,
    ]),
    ("clusterrole-aggregation-controller", &[("escalate R patch update", "rbac.authorization.k8s.io", "clusterroles")]),
    ("cronjob-controller", &[
        ("R update", "batch", "cronjobs"), ("R create update delete patch", "batch", "jobs"), ("update", "batch", "cronjobs/status"),
        ("update", "batch", "cronjobs/finalizers"), ("list watch delete", "core", "pods"), EVENTS,
    ]),
    ("daemon-set-controller", &[
        ("R", "extensions apps", "daemonsets"), ("update", "extensions apps", "daemonsets/status"), ("update", "extensions apps", "daemonsets/finalizers"),
        ("list watch", "core", "nodes"), ("list watch create delete patch", "core", "pods"), ("create", "core", "pods/binding"),
        ("R create delete update patch", "apps", "controllerrevisions"), EVENTS,
    ]),
    ("deployment-controller", &[
        ("R update", "extensions apps", "deployments"), ("update", "extensions apps", "deployments/status"), ("update", "extensions apps", "deployments/finalizers"),
        ("R create update patch delete", "apps extensions", "replicasets"), ("R update", "core", "pods"), EVENTS,
    ]),
    ("disruption-controller", &[
        ("R", "extensions apps", "deployments"), ("R", "apps extensions", "replicasets"), ("R", "core", "replicationcontrollers"), ("R", "policy", "poddisruptionbudgets"),
        ("R", "apps", "statefulsets"), ("update", "policy", "poddisruptionbudgets/status"), ("patch update", "core", "pods/status"), ("get", "*", "*/scale"), EVENTS,
    ]),
    ("endpoint-controller", &[("R", "core", "services pods"), ("R create update delete", "core", "endpoints"), ("create", "core", "endpoints/restricted"), EVENTS]),
    ("endpointslice-controller", &[
        ("R", "core", "services pods nodes"), ("update", "core", "services/finalizers"), ("R create update delete", "discovery.k8s.io", "endpointslices"), EVENTS,
    ]),
    ("endpointslicemirroring-controller", &[
        ("R", "core", "services endpoints"), ("update", "core", "services/finalizers"), ("update", "core", "endpoints/finalizers"),
        ("R create update delete", "discovery.k8s.io", "endpointslices"), EVENTS,
    ]),
    ("ephemeral-volume-controller", &[("R", "core", "pods"), ("update", "core", "pods/finalizers"), ("R create", "core", "persistentvolumeclaims"), EVENTS]),
    ("expand-controller", &[
        ("R patch update", "core", "persistentvolumes"), ("patch update", "core", "persistentvolumeclaims/status"), ("R", "core", "persistentvolumeclaims"), EVENTS, ("get", "core", "services"),
    ]),
    ("generic-garbage-collector", &[("R patch update delete", "*", "*"), EVENTS]),
    ("horizontal-pod-autoscaler", &[
        ("R", "autoscaling", "horizontalpodautoscalers"), ("update", "autoscaling", "horizontalpodautoscalers/status"), ("get update", "*", "*/scale"), ("list watch", "core", "pods"),
        ("list watch", "metrics.k8s.io", "pods"), ("R", "custom.metrics.k8s.io", "*"), ("R", "external.metrics.k8s.io", "*"), EVENTS,
    ]),
    ("job-controller", &[
        ("R update patch", "batch", "jobs"), ("update", "batch", "jobs/status"), ("update", "batch", "jobs/finalizers"), ("list watch create delete patch", "core", "pods"), EVENTS,
    ]),
    ("namespace-controller", &[
        ("R delete", "core", "namespaces"), ("update", "core", "namespaces/finalize namespaces/status"), ("get list delete deletecollection", "*", "*"),
    ]),
    ("node-controller", &[
        ("R patch update delete", "core", "nodes"), ("patch update", "core", "nodes/status"), ("patch update", "core", "pods/status"), ("R delete", "core", "pods"), EVENTS,
    ]),
    ("persistent-volume-binder", &[
        ("R update create delete", "core", "persistentvolumes"), ("update", "core", "persistentvolumes/status"), ("R update", "core", "persistentvolumeclaims"),
        ("update", "core", "persistentvolumeclaims/status"), ("R create delete", "core", "pods"), ("R", "storage.k8s.io", "storageclasses"), ("R", "core", "nodes"),
        ("get create update delete", "core", "endpoints services"), ("get list", "core", "secrets"), EVENTS,
    ]),
    ("pod-garbage-collector", &[("list watch delete", "core", "pods"), ("get list", "core", "nodes"), ("patch", "core", "pods/status")]),
    ("pv-protection-controller", &[("R update", "core", "persistentvolumes"), EVENTS]),
    ("pvc-protection-controller", &[("R update", "core", "persistentvolumeclaims"), ("R", "core", "pods"), EVENTS]),
    ("replicaset-controller", &[
        ("R update", "apps extensions", "replicasets"), ("update", "apps extensions", "replicasets/status"), ("update", "apps extensions", "replicasets/finalizers"),
        ("list watch create delete patch", "core", "pods"), EVENTS,
    ]),
    ("replication-controller", &[
        ("R update", "core", "replicationcontrollers"), ("update", "core", "replicationcontrollers/status"), ("update", "core", "replicationcontrollers/finalizers"),
        ("list watch create delete patch", "core", "pods"), EVENTS,
    ]),
    ("resourcequota-controller", &[("list watch", "*", "*"), ("update", "core", "resourcequotas/status"), EVENTS]),
    ("root-ca-cert-publisher", &[("create update", "core", "configmaps"), EVENTS]),
    ("route-controller", &[("list watch", "core", "nodes"), ("patch", "core", "nodes/status"), EVENTS]),
    ("service-account-controller", &[("create", "core", "serviceaccounts"), EVENTS]),
    ("service-cidrs-controller", &[
        ("R patch update", "networking.k8s.io", "servicecidrs"), ("patch update", "networking.k8s.io", "servicecidrs/finalizers servicecidrs/status"), ("R", "networking.k8s.io", "ipaddresses"), EVENTS,
    ]),
    ("service-controller", &[("R", "core", "services"), ("patch update", "core", "services/status"), ("list watch", "core", "nodes"), EVENTS]),
    ("statefulset-controller", &[
        ("list watch", "core", "pods"), ("R", "apps", "statefulsets"), ("update", "apps", "statefulsets/status"), ("update", "apps", "statefulsets/finalizers"),
        ("create delete get patch update", "core", "pods"), ("R create delete patch update", "apps", "controllerrevisions"), ("get create", "core", "persistentvolumeclaims"), EVENTS,
        ("list watch update delete", "core", "persistentvolumeclaims"),
    ]),
    ("ttl-after-finished-controller", &[("R delete", "batch", "jobs"), EVENTS]),
    ("ttl-controller", &[("patch update list watch", "core", "nodes"), EVENTS]),
    ("validatingadmissionpolicy-status-controller", &[
        ("R", "admissionregistration.k8s.io", "validatingadmissionpolicies"), ("get patch update", "admissionregistration.k8s.io", "validatingadmissionpolicies/status"), EVENTS,
    ]),
];

pub fn bootstrap() -> (Vec<ClusterRole>, Vec<ClusterRoleBinding>) {
    ROWS.iter()
        .map(|(name, rows)| {
            let role = format!("system:controller:{name}");
            (
                cluster_role(&role, &[], rows),
                cluster_binding(&role, &role, &format!("sa:kube-system/{name}")),
            )
        })
        .unzip()
}
