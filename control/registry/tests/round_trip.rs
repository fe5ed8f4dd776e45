//! For every kind: what is stored reads back as what was written, a second round changes nothing, and writing an object
//! back as it was read is no change.

use caravel_registry::{Resource, resource};
use serde_json::{Value, json};

fn samples() -> Vec<(&'static str, &'static str, Value)> {
    let pod = json!({
        "serviceAccount": "default", "hostNetwork": false, "nodeSelector": {}, "tolerations": [],
        "initContainers": [{"name": "i", "image": "busybox", "command": ["true"], "args": [], "resources": {"limits": {"cpu": 1, "memory": "0.5Gi"}}}],
        "containers": [{
            "name": "a", "image": "nginx", "tty": false, "ports": [{"containerPort": 80, "hostPort": 0}], "securityContext": {},
            "env": [{"name": "E", "value": ""}, {"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}, {"name": "C", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}],
            "readinessProbe": {"httpGet": {"path": "/", "port": "http"}, "initialDelaySeconds": 0},
            "lifecycle": {"preStop": {"exec": {"command": ["sleep", "1"]}}},
            "volumeMounts": [{"name": "c", "mountPath": "/c", "readOnly": false}]
        }],
        "volumes": [
            {"name": "c", "configMap": {"name": "c"}}, {"name": "e"}, {"name": "h", "hostPath": {"path": "/x"}}, {"name": "m", "emptyDir": {"medium": "", "sizeLimit": "1024Ki"}},
            {"name": "p", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}, {"downwardAPI": {"items": [{"path": "l", "fieldRef": {"fieldPath": "metadata.labels"}}]}}]}}
        ]
    });
    let template = json!({"metadata": {"labels": {"app": "a"}}, "spec": pod.clone()});
    let meta = json!({"name": "x", "namespace": "n", "labels": {}, "annotations": {"a": ""}, "finalizers": []});
    let cluster = json!({"name": "x"});
    vec![
        (
            "v1",
            "ConfigMap",
            json!({"metadata": meta, "data": {"a": "", "b": "[]"}, "binaryData": {}}),
        ),
        (
            "v1",
            "Secret",
            json!({"metadata": meta, "stringData": {"a": "b"}, "data": {"c": "ZA=="}}),
        ),
        ("v1", "Namespace", json!({"metadata": cluster})),
        (
            "v1",
            "Node",
            json!({"metadata": cluster, "spec": {"podCIDR": "10.0.0.0/24", "taints": [{"key": "a", "value": "", "effect": "NoSchedule"}]}, "status": {"capacity": {"cpu": "2000m", "memory": "1024Ki"}}}),
        ),
        ("v1", "Pod", json!({"metadata": meta, "spec": pod})),
        (
            "v1",
            "Service",
            json!({"metadata": meta, "spec": {"type": "NodePort", "clusterIP": "10.0.0.1", "ports": [{"port": 80, "nodePort": 30000}], "selector": {"app": "a"}}}),
        ),
        (
            "v1",
            "Endpoints",
            json!({"metadata": meta, "subsets": [{"addresses": [{"ip": "10.0.0.1"}], "notReadyAddresses": [], "ports": [{"port": 80}]}]}),
        ),
        (
            "v1",
            "ServiceAccount",
            json!({"metadata": meta, "secrets": []}),
        ),
        (
            "v1",
            "Event",
            json!({"metadata": meta, "involvedObject": {"namespace": "n"}, "reason": "R", "count": 1, "lastTimestamp": "2020-01-01T00:00:00Z"}),
        ),
        (
            "events.k8s.io/v1",
            "Event",
            json!({
                "metadata": meta, "eventTime": "2020-01-01T00:00:00.123456Z", "reportingController": "c", "reportingInstance": "i", "action": "A", "reason": "R",
                "type": "Normal", "regarding": {"namespace": "n"}, "note": "hello"
            }),
        ),
        (
            "apps/v1",
            "Deployment",
            json!({"metadata": meta, "spec": {"paused": false, "selector": {"matchLabels": {"app": "a"}, "matchExpressions": []}, "strategy": {}, "template": template}}),
        ),
        (
            "apps/v1",
            "ReplicaSet",
            json!({"metadata": meta, "spec": {"minReadySeconds": 0, "selector": {"matchLabels": {"app": "a"}}, "template": template}}),
        ),
        (
            "coordination.k8s.io/v1",
            "Lease",
            json!({"metadata": meta, "spec": {"holderIdentity": "h", "renewTime": "2020-01-01T00:00:00.123456Z"}}),
        ),
        (
            "discovery.k8s.io/v1",
            "EndpointSlice",
            json!({"metadata": meta, "addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {}}], "ports": [{"port": 80}]}),
        ),
        (
            "networking.k8s.io/v1",
            "IPAddress",
            json!({"metadata": {"name": "10.0.0.1"}, "spec": {"parentRef": {"group": "", "resource": "services", "namespace": "n", "name": "s"}}}),
        ),
        (
            "networking.k8s.io/v1",
            "ServiceCIDR",
            json!({"metadata": cluster, "spec": {"cidrs": ["10.43.0.0/16"]}}),
        ),
        (
            "rbac.authorization.k8s.io/v1",
            "Role",
            json!({"metadata": meta, "rules": [{"apiGroups": [""], "resources": ["pods"], "resourceNames": [], "verbs": ["get"]}]}),
        ),
        (
            "rbac.authorization.k8s.io/v1",
            "ClusterRole",
            json!({"metadata": cluster, "rules": [], "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]}}),
        ),
        (
            "rbac.authorization.k8s.io/v1",
            "RoleBinding",
            json!({"metadata": meta, "roleRef": {"kind": "Role", "name": "r"}, "subjects": [{"kind": "User", "name": "u", "apiGroup": ""}]}),
        ),
        (
            "rbac.authorization.k8s.io/v1",
            "ClusterRoleBinding",
            json!({"metadata": cluster, "roleRef": {"kind": "ClusterRole", "name": "r"}, "subjects": []}),
        ),
    ]
}

fn row(api_version: &str, kind: &str) -> &'static dyn Resource {
    resource(caravel_api::kinds::by_api_version(api_version, kind).unwrap())
}

#[test]
fn every_kind_reads_back_as_it_was_written() {
    for (api_version, kind, sample) in samples() {
        let rules = row(api_version, kind);
        let mut first = rules
            .from_value(sample)
            .unwrap_or_else(|error| panic!("{kind}: {error}"));
        rules.apply_defaults(&mut *first);
        rules.prepare_create(&mut *first);
        assert_eq!(
            rules.validate(&*first).message(),
            "[]",
            "{api_version} {kind}"
        );
        let stored = rules.encode_stored(&*first);
        let mut again = rules.decode_stored(&stored).unwrap();
        assert!(
            rules.same(&*first, &*again),
            "{kind}: {} != {}",
            first.to_value(),
            again.to_value()
        );
        rules.apply_defaults(&mut *again);
        assert_eq!(rules.encode_stored(&*again), stored, "{api_version} {kind}");

        let mut written = rules.decode(&first.to_vec()).unwrap();
        rules.apply_defaults(&mut *written);
        rules.prepare_update(&mut *written, &*first);
        assert_eq!(
            rules.validate_update(&*written, &*first).message(),
            "[]",
            "{api_version} {kind}"
        );
        assert!(
            rules.same(&*written, &*first),
            "{kind}: {} != {}",
            written.to_value(),
            first.to_value()
        );
    }
}

#[test]
fn every_kind_has_a_sample() {
    for row in caravel_api::KINDS.iter().filter(|row| row.is_stored()) {
        assert!(
            samples().iter().any(
                |(api_version, kind, _)| *api_version == row.api_version() && *kind == row.kind
            ),
            "{}",
            row.kind
        );
    }
}
