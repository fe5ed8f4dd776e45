//! The default roles for people, nodes and components, and who has them.
//!
//! Upstream's `bootstrappolicy/policy.go` and `namespace_policy.go`, with two of Caravel's own at the end of each table:
//! a node here is also its proxy and its DNS server, so nodes have `system:node-proxier` and `caravel:node`.

use super::Bootstrap;
use super::table::{
    EVENTS, READ, RuleRow, binding, cluster_binding, cluster_role, meta, role, rules,
};
use k8s_openapi::api::rbac::v1::{AggregationRule, ClusterRole, PolicyRule};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

const TO_ADMIN: (&str, &str) = ("rbac.authorization.k8s.io/aggregate-to-admin", "true");
const TO_EDIT: (&str, &str) = ("rbac.authorization.k8s.io/aggregate-to-edit", "true");
const TO_VIEW: (&str, &str) = ("rbac.authorization.k8s.io/aggregate-to-view", "true");

#[rustfmt::skip] // a table
const NODE: &[RuleRow] = &[
    ("create", "authentication.k8s.io", "tokenreviews"),
    ("create", "authorization.k8s.io", "localsubjectaccessreviews subjectaccessreviews"),
    (READ, "core", "services"),
    ("create get list watch", "core", "nodes"),
    ("patch update", "core", "nodes/status"),
    ("patch update", "core", "nodes"),
    EVENTS,
    (READ, "core", "pods"),
    ("create delete", "core", "pods"),
    ("patch update", "core", "pods/status"),
    ("create", "core", "pods/eviction"),
    (READ, "core", "configmaps secrets"),
    ("get", "core", "persistentvolumeclaims persistentvolumes"),
    ("get", "core", "endpoints"),
    ("create get list watch", "certificates.k8s.io", "certificatesigningrequests"),
    ("create delete get patch update", "coordination.k8s.io", "leases"),
    ("get", "storage.k8s.io", "volumeattachments"),
    ("create", "core", "serviceaccounts/token"),
    ("get patch update", "core", "persistentvolumeclaims/status"),
    (READ, "storage.k8s.io", "csidrivers"),
    ("create delete get patch update", "storage.k8s.io", "csinodes"),
    (READ, "node.k8s.io", "runtimeclasses"),
];

type Labels = &'static [(&'static str, &'static str)];

/// (name, aggregation labels, rules)
#[rustfmt::skip] // a table
const ROLES: &[(&str, Labels, &[RuleRow])] = &[
    ("cluster-admin", &[], &[("*", "*", "*"), ("*", "url", "*")]),
    ("system:discovery", &[], &[("get", "url", "/api /api/* /apis /apis/* /healthz /livez /openapi /openapi/* /readyz /version /version/")]),
    ("system:monitoring", &[], &[("get", "url", "/healthz /healthz/* /livez /livez/* /metrics /metrics/slis /readyz /readyz/*")]),
    ("system:basic-user", &[], &[("create", "authorization.k8s.io", "selfsubjectaccessreviews selfsubjectrulesreviews"), ("create", "authentication.k8s.io", "selfsubjectreviews")]),
    ("system:public-info-viewer", &[], &[("get", "url", "/healthz /livez /readyz /version /version/")]),
    ("system:service-account-issuer-discovery", &[], &[("get", "url", "/.well-known/openid-configuration /.well-known/openid-configuration/ /openid/v1/jwks /openid/v1/jwks/")]),
    ("system:aggregate-to-admin", &[TO_ADMIN], &[
        ("create", "authorization.k8s.io", "localsubjectaccessreviews"), ("R W", "rbac.authorization.k8s.io", "roles rolebindings"),
    ]),
    ("system:aggregate-to-edit", &[TO_EDIT], &[
        (READ, "core", "pods/attach pods/proxy pods/exec pods/portforward secrets services/proxy"), ("impersonate", "core", "serviceaccounts"),
        ("W", "core", "pods pods/attach pods/proxy pods/exec pods/portforward"), ("create", "core", "pods/eviction"),
        ("W", "core", "replicationcontrollers replicationcontrollers/scale serviceaccounts services services/proxy persistentvolumeclaims configmaps secrets events"),
        ("create", "core", "serviceaccounts/token"),
        ("W", "apps", "statefulsets statefulsets/scale daemonsets deployments deployments/scale deployments/rollback replicasets replicasets/scale"),
        ("W", "autoscaling", "horizontalpodautoscalers"), ("W", "batch", "jobs cronjobs"),
        ("W", "extensions", "daemonsets deployments deployments/scale deployments/rollback ingresses replicasets replicasets/scale replicationcontrollers/scale networkpolicies"),
        ("W", "policy", "poddisruptionbudgets"), ("W", "networking.k8s.io", "networkpolicies ingresses"),
        ("create delete deletecollection get list patch update watch", "coordination.k8s.io", "leases"), ("W", "resource.k8s.io", "resourceclaims resourceclaimtemplates"),
    ]),
    ("system:aggregate-to-view", &[TO_VIEW], &[
        (READ, "core", "pods replicationcontrollers replicationcontrollers/scale serviceaccounts services services/status endpoints persistentvolumeclaims persistentvolumeclaims/status configmaps"),
        (READ, "core", "limitranges resourcequotas bindings events pods/status resourcequotas/status namespaces/status replicationcontrollers/status pods/log"),
        (READ, "core", "namespaces"), (READ, "discovery.k8s.io", "endpointslices"),
        (READ, "apps", "controllerrevisions statefulsets statefulsets/status statefulsets/scale daemonsets daemonsets/status deployments deployments/status deployments/scale replicasets replicasets/status replicasets/scale"),
        (READ, "autoscaling", "horizontalpodautoscalers horizontalpodautoscalers/status"), (READ, "batch", "jobs cronjobs cronjobs/status jobs/status"),
        (READ, "extensions", "daemonsets daemonsets/status deployments deployments/scale deployments/status ingresses ingresses/status replicasets replicasets/scale replicasets/status replicationcontrollers/scale networkpolicies"),
        (READ, "policy", "poddisruptionbudgets poddisruptionbudgets/status"), (READ, "networking.k8s.io", "networkpolicies ingresses ingresses/status"),
        (READ, "resource.k8s.io", "resourceclaims resourceclaims/status resourceclaimtemplates"),
    ]),
    ("system:heapster", &[], &[(READ, "core", "events pods nodes namespaces"), (READ, "extensions", "deployments")]),
    ("system:node", &[], NODE),
    ("system:node-problem-detector", &[], &[("get", "core", "nodes"), ("patch", "core", "nodes/status"), EVENTS]),
    ("system:kubelet-api-admin", &[], &[(READ, "core", "nodes"), ("proxy", "core", "nodes"), ("*", "core", "nodes/proxy nodes/metrics nodes/stats nodes/log nodes/spec nodes/checkpoint nodes/configz nodes/healthz nodes/pods")]),
    ("system:node-bootstrapper", &[], &[("create get list watch", "certificates.k8s.io", "certificatesigningrequests")]),
    ("system:auth-delegator", &[], &[("create", "authentication.k8s.io", "tokenreviews"), ("create", "authorization.k8s.io", "subjectaccessreviews")]),
    ("system:kube-aggregator", &[], &[(READ, "core", "services endpoints")]),
    ("system:kube-controller-manager", &[], &[
        EVENTS, ("create", "coordination.k8s.io", "leases"), ("get update", "coordination.k8s.io", "leases [kube-controller-manager]"), ("create", "core", "secrets serviceaccounts"),
        ("delete", "core", "secrets"), ("get", "core", "configmaps namespaces secrets serviceaccounts"), ("update", "core", "secrets serviceaccounts"),
        ("create", "authentication.k8s.io", "tokenreviews"), ("create", "authorization.k8s.io", "subjectaccessreviews"), ("list watch", "*", "*"), ("create", "core", "serviceaccounts/token"),
    ]),
    ("system:kube-dns", &[], &[("list watch", "core", "endpoints services")]),
    ("system:persistent-volume-provisioner", &[], &[
        ("R create delete", "core", "persistentvolumes"), ("R update", "core", "persistentvolumeclaims"), (READ, "storage.k8s.io", "storageclasses"), ("watch", "core", "events"), EVENTS,
    ]),
    ("system:certificates.k8s.io:certificatesigningrequests:nodeclient", &[], &[("create", "certificates.k8s.io", "certificatesigningrequests/nodeclient")]),
    ("system:certificates.k8s.io:certificatesigningrequests:selfnodeclient", &[], &[("create", "certificates.k8s.io", "certificatesigningrequests/selfnodeclient")]),
    ("system:volume-scheduler", &[], &[(READ, "core", "persistentvolumeclaims persistentvolumes"), (READ, "storage.k8s.io", "storageclasses"), ("update patch", "core", "persistentvolumes"), ("update patch", "core", "persistentvolumeclaims")]),
    ("system:certificates.k8s.io:legacy-unknown-approver", &[], &[("approve", "certificates.k8s.io", "signers [kubernetes.io/legacy-unknown]")]),
    ("system:certificates.k8s.io:kubelet-serving-approver", &[], &[("approve", "certificates.k8s.io", "signers [kubernetes.io/kubelet-serving]")]),
    ("system:certificates.k8s.io:kube-apiserver-client-approver", &[], &[("approve", "certificates.k8s.io", "signers [kubernetes.io/kube-apiserver-client]")]),
    ("system:certificates.k8s.io:kube-apiserver-client-kubelet-approver", &[], &[("approve", "certificates.k8s.io", "signers [kubernetes.io/kube-apiserver-client-kubelet]")]),
    ("system:kube-scheduler", &[], &[
        EVENTS, ("create", "coordination.k8s.io", "leases"), ("get update", "coordination.k8s.io", "leases [kube-scheduler]"), (READ, "core", "nodes"), ("delete get list watch", "core", "pods"),
        ("create", "core", "bindings pods/binding"), ("patch update", "core", "pods/status"), (READ, "core", "replicationcontrollers services"), (READ, "apps extensions", "replicasets"),
        (READ, "apps", "statefulsets"), (READ, "policy", "poddisruptionbudgets"), (READ, "core", "persistentvolumeclaims persistentvolumes"),
        ("create", "authentication.k8s.io", "tokenreviews"), ("create", "authorization.k8s.io", "subjectaccessreviews"), (READ, "storage.k8s.io", "csinodes csidrivers csistoragecapacities"), (READ, "core", "namespaces"),
    ]),
    ("system:node-proxier", &[], &[
        ("list watch", "core", "services endpoints"), (READ, "core", "nodes"), EVENTS, ("list watch", "discovery.k8s.io", "endpointslices"), (READ, "networking.k8s.io", "servicecidrs"),
    ]),
    ("caravel:node", &[], &[(READ, "core", "namespaces"), (READ, "networking.k8s.io", "networkpolicies")]),
];

/// (name, labels, labels of the roles that it is made of)
#[rustfmt::skip] // a table
const AGGREGATED: &[(&str, Labels, Labels)] = &[
    ("admin", &[], &[TO_ADMIN]),
    ("edit", &[TO_ADMIN], &[TO_EDIT]),
    ("view", &[TO_EDIT], &[TO_VIEW]),
];

/// (name of binding and role unless given, subjects)
#[rustfmt::skip] // a table
const BINDINGS: &[(&str, &str, &str)] = &[
    ("cluster-admin", "cluster-admin", "group:system:masters"),
    ("system:monitoring", "system:monitoring", "group:system:monitoring"),
    ("system:discovery", "system:discovery", "group:system:authenticated"),
    ("system:basic-user", "system:basic-user", "group:system:authenticated"),
    ("system:public-info-viewer", "system:public-info-viewer", "group:system:authenticated group:system:unauthenticated"),
    ("system:node-proxier", "system:node-proxier", "user:system:kube-proxy"),
    ("system:kube-controller-manager", "system:kube-controller-manager", "user:system:kube-controller-manager"),
    ("system:kube-dns", "system:kube-dns", "sa:kube-system/kube-dns"),
    ("system:kube-scheduler", "system:kube-scheduler", "user:system:kube-scheduler"),
    ("system:volume-scheduler", "system:volume-scheduler", "user:system:kube-scheduler"),
    ("system:service-account-issuer-discovery", "system:service-account-issuer-discovery", "group:system:serviceaccounts"),
    // Who checks our tokens from outside has no identity here; the documents are public facts.
    ("caravel:service-account-issuer-discovery", "system:service-account-issuer-discovery", "group:system:unauthenticated"),
    ("caravel:node-proxier", "system:node-proxier", "group:system:nodes"),
    ("caravel:node", "caravel:node", "group:system:nodes"),
];

#[rustfmt::skip] // a table
const NAMESPACED: &[(&str, &str, &[RuleRow])] = &[
    ("kube-system", "extension-apiserver-authentication-reader", &[(READ, "core", "configmaps [extension-apiserver-authentication]")]),
    ("kube-system", "system:controller:bootstrap-signer", &[(READ, "core", "secrets")]),
    ("kube-system", "system:controller:cloud-provider", &[("create R update", "core", "configmaps")]),
    ("kube-system", "system:controller:token-cleaner", &[("R delete", "core", "secrets"), EVENTS]),
    ("kube-system", "system::leader-locking-kube-controller-manager", &[("watch", "core", "configmaps"), ("get update", "core", "configmaps [kube-controller-manager]")]),
    ("kube-system", "system::leader-locking-kube-scheduler", &[("watch", "core", "configmaps"), ("get update", "core", "configmaps [kube-scheduler]")]),
    ("kube-public", "system:controller:bootstrap-signer", &[(READ, "core", "configmaps"), ("update", "core", "configmaps [cluster-info]"), EVENTS]),
];

#[rustfmt::skip] // a table
const NAMESPACED_BINDINGS: &[(&str, &str, &str, &str)] = &[
    ("kube-system", "system::extension-apiserver-authentication-reader", "extension-apiserver-authentication-reader", "user:system:kube-controller-manager user:system:kube-scheduler"),
    ("kube-system", "system:controller:bootstrap-signer", "system:controller:bootstrap-signer", "sa:kube-system/bootstrap-signer"),
    ("kube-system", "system:controller:cloud-provider", "system:controller:cloud-provider", "sa:kube-system/cloud-provider"),
    ("kube-system", "system:controller:token-cleaner", "system:controller:token-cleaner", "sa:kube-system/token-cleaner"),
    ("kube-system", "system::leader-locking-kube-controller-manager", "system::leader-locking-kube-controller-manager", "user:system:kube-controller-manager sa:kube-system/kube-controller-manager"),
    ("kube-system", "system::leader-locking-kube-scheduler", "system::leader-locking-kube-scheduler", "user:system:kube-scheduler sa:kube-system/kube-scheduler"),
    ("kube-public", "system:controller:bootstrap-signer", "system:controller:bootstrap-signer", "sa:kube-system/bootstrap-signer"),
];

/// What the node authorizer allows any node, beside its rules about particular objects.
pub fn node_rules() -> Vec<PolicyRule> {
    rules(NODE)
}

pub(super) fn bootstrap() -> Bootstrap {
    let mut cluster_roles: Vec<ClusterRole> = ROLES
        .iter()
        .map(|(name, labels, rows)| cluster_role(name, labels, rows))
        .collect();
    cluster_roles.extend(AGGREGATED.iter().map(|(name, labels, selectors)| {
        ClusterRole {
            metadata: meta(None, name, labels),
            rules: Some(vec![]),
            aggregation_rule: Some(AggregationRule {
                cluster_role_selectors: Some(
                    selectors
                        .iter()
                        .map(|(k, v)| LabelSelector {
                            match_labels: Some([((*k).to_owned(), (*v).to_owned())].into()),
                            match_expressions: None,
                        })
                        .collect(),
                ),
            }),
        }
    }));
    Bootstrap {
        cluster_roles,
        cluster_role_bindings: BINDINGS
            .iter()
            .map(|(name, role, subjects)| cluster_binding(name, role, subjects))
            .collect(),
        roles: NAMESPACED
            .iter()
            .map(|(namespace, name, rows)| role(namespace, name, rows))
            .collect(),
        role_bindings: NAMESPACED_BINDINGS
            .iter()
            .map(|(namespace, name, role, subjects)| binding(namespace, name, role, subjects))
            .collect(),
    }
}
