//! Tables of pods: what is refused, with which words.

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::strategy::Grace;
use crate::{Object, Resource, Typed};

const PODS: Typed<Pod> = Typed::NEW;

/// A pod as it lies in the store, changed by a JSON merge patch.
fn pod(patch: Value) -> Box<dyn Object> {
    let mut value = json!({
        "metadata": {"name": "p", "namespace": "n"},
        "spec": {
            "containers": [{"name": "main", "image": "nginx:1.9"}],
            "initContainers": [{"name": "init", "image": "nginx:1.9"}],
            "tolerations": [{"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}],
            "activeDeadlineSeconds": 2000
        }
    });
    merge(&mut value, patch);
    let mut object = PODS.from_value(value).unwrap();
    PODS.apply_defaults(&mut *object);
    PODS.prepare_create(&mut *object);
    object
}

fn merge(into: &mut Value, patch: Value) {
    match (into, patch) {
        (Value::Object(into), Value::Object(patch)) => {
            for (name, value) in patch {
                if value.is_null() {
                    into.remove(&name);
                } else {
                    merge(into.entry(name).or_insert(Value::Null), value);
                }
            }
        }
        (into, patch) => *into = patch,
    }
}

fn updated(patch: Value) -> String {
    let old = pod(json!({}));
    let mut new = pod(patch);
    PODS.prepare_update(&mut *new, &*old);
    PODS.validate_update(&*new, &*old).message()
}

#[test]
fn new_pods() {
    for (patch, want) in [
        (json!({}), "[]"),
        (
            json!({"spec": {"containers": []}}),
            "spec.containers: Required value",
        ),
        (
            json!({"spec": {"containers": [{"name": "a b", "image": "x"}]}}),
            r#"spec.containers[0].name: Invalid value: "a b": a lowercase RFC 1123 label"#,
        ),
        (
            json!({"spec": {"containers": [{"name": "a"}]}}),
            "spec.containers[0].image: Required value",
        ),
        (
            json!({"spec": {"containers": [{"name": "a", "image": " x"}]}}),
            r#"spec.containers[0].image: Invalid value: " x": must not have leading or trailing whitespace"#,
        ),
        (
            json!({"spec": {"containers": [{"name": "init", "image": "x"}]}}),
            r#"spec.initContainers[0].name: Duplicate value: "init""#,
        ),
        (
            json!({"spec": {"containers": [{"name": "a", "image": "x", "imagePullPolicy": "Sometimes"}]}}),
            r#"spec.containers[0].imagePullPolicy: Unsupported value: "Sometimes": supported values: "Always", "IfNotPresent", "Never""#,
        ),
        (
            json!({"spec": {"initContainers": [{"name": "i", "image": "x", "readinessProbe": {"exec": {"command": ["x"]}}}]}}),
            "spec.initContainers[0].readinessProbe: Forbidden: may not be set for init containers without restartPolicy=Always",
        ),
        (
            json!({"spec": {"initContainers": [{"name": "i", "image": "x", "restartPolicy": "Always", "readinessProbe": {"exec": {"command": ["x"]}}}]}}),
            "[]",
        ),
        (
            json!({"spec": {"ephemeralContainers": [{"name": "e", "image": "x"}]}}),
            "spec.ephemeralContainers: Forbidden: cannot be set on create",
        ),
        (
            json!({"spec": {"containers": [{"name": "a", "image": "x", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]}}),
            r#"spec.containers[0].volumeMounts[0].name: Not found: "v""#,
        ),
        (
            json!({"spec": {"containers": [{"name": "a", "image": "x", "ports": [{"containerPort": 70000}]}]}}),
            "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
        ),
        (
            json!({"spec": {"containers": [{"name": "a", "image": "x", "ports": [{"containerPort": 80, "hostPort": 1}, {"containerPort": 81, "hostPort": 1}]}]}}),
            r#"spec.containers[0].ports[1].hostPort: Duplicate value: "TCP//1""#,
        ),
        (
            json!({"spec": {"containers": [{"name": "a", "image": "x", "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}}]}}),
            r#"spec.containers[0].resources.requests: Invalid value: "2": must be less than or equal to cpu limit of 1"#,
        ),
        (
            json!({"spec": {"hostNetwork": true, "containers": [{"name": "a", "image": "x", "ports": [{"containerPort": 80, "hostPort": 81}]}]}}),
            "spec.containers[0].ports[0].hostPort: Invalid value: 81: must match `containerPort` when `hostNetwork` is true",
        ),
        (
            json!({"spec": {"restartPolicy": "Sometimes"}}),
            r#"spec.restartPolicy: Unsupported value: "Sometimes""#,
        ),
        (
            json!({"spec": {"dnsPolicy": "None"}}),
            "spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None",
        ),
        (
            json!({"spec": {"nodeName": "Not A Node"}}),
            r#"spec.nodeName: Invalid value: "Not A Node""#,
        ),
        (
            json!({"spec": {"activeDeadlineSeconds": 0}}),
            "spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive",
        ),
        (
            json!({"spec": {"tolerations": [{"operator": "Equal"}]}}),
            "operator must be Exists when `key` is empty",
        ),
        (
            json!({"spec": {"tolerations": [{"key": "a", "operator": "Exists", "value": "x"}]}}),
            "value must be empty when `operator` is 'Exists'",
        ),
        (
            json!({"spec": {"hostAliases": [{"ip": "300.0.0.1", "hostnames": ["a_b"]}]}}),
            r#"spec.hostAliases[0].ip: Invalid value: "300.0.0.1": must be a valid IP address"#,
        ),
        (
            json!({"spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "In"}]}]}}}}}),
            "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].values: Required value",
        ),
        (
            json!({"spec": {"nodeSelector": {"a": "b c"}}}),
            r#"spec.nodeSelector: Invalid value: "b c": a valid label must be"#,
        ),
        (
            json!({"spec": {"topologySpreadConstraints": [{"maxSkew": 0, "topologyKey": "z", "whenUnsatisfiable": "DoNotSchedule"}]}}),
            "spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero",
        ),
        (
            json!({"spec": {"securityContext": {"runAsUser": -1}}}),
            "spec.securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive",
        ),
        (
            json!({"metadata": {"name": "Not_A_Name"}}),
            r#"metadata.name: Invalid value: "Not_A_Name": a lowercase RFC 1123 subdomain"#,
        ),
    ] {
        let message = PODS.validate(&*pod(patch.clone())).message();
        assert!(message.contains(want), "{patch}: {message}");
        assert!(want != "[]" || message == "[]", "{patch}: {message}");
    }
}

#[test]
fn changed_pods() {
    let forbidden = "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
    for (patch, want) in [
        (json!({}), "[]"),
        (json!({"metadata": {"labels": {"a": "b"}}}), "[]"),
        (
            json!({"spec": {"containers": [{"name": "main", "image": "nginx:1.9.1", "imagePullPolicy": "IfNotPresent"}]}}),
            "[]",
        ),
        (
            json!({"spec": {"initContainers": [{"name": "init", "image": "nginx:1.9.1", "imagePullPolicy": "IfNotPresent"}]}}),
            "[]",
        ),
        (json!({"spec": {"activeDeadlineSeconds": 1000}}), "[]"),
        (
            json!({"spec": {"activeDeadlineSeconds": 2500}}),
            "spec.activeDeadlineSeconds: Invalid value: 2500: must be less than or equal to previous value",
        ),
        (
            json!({"spec": {"activeDeadlineSeconds": null}}),
            "spec.activeDeadlineSeconds: Invalid value: null: must not update from a positive integer to nil value",
        ),
        (
            json!({"spec": {"tolerations": [{"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 10}, {"key": "b", "operator": "Exists"}]}}),
            "[]",
        ),
        (
            json!({"spec": {"tolerations": []}}),
            "spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds",
        ),
        (json!({"spec": {"nodeName": "elsewhere"}}), forbidden),
        (
            json!({"spec": {"nodeName": "elsewhere"}}),
            "+ spec.nodeName: \"elsewhere\"",
        ),
        (
            json!({"spec": {"containers": [{"name": "main", "image": "nginx:1.9", "env": [{"name": "A", "value": "B"}]}]}}),
            forbidden,
        ),
        (
            json!({"spec": {"containers": [{"name": "main", "image": "nginx:1.9"}, {"name": "more", "image": "x"}]}}),
            "spec.containers: Forbidden: pod updates may not add or remove containers",
        ),
        (
            json!({"metadata": {"name": "q"}}),
            r#"metadata.name: Invalid value: "q": field is immutable"#,
        ),
    ] {
        let message = updated(patch.clone());
        assert!(message.contains(want), "{patch}: {message}");
        assert!(want != "[]" || message == "[]", "{patch}: {message}");
    }
}

#[test]
fn what_the_server_says_of_a_new_pod() {
    let object = pod(json!({"status": {"phase": "Running", "podIP": "1.2.3.4"}}));
    let pod = object.typed::<Pod>().unwrap();
    assert_eq!(
        serde_json::to_value(&pod.status).unwrap(),
        json!({"phase": "Pending", "qosClass": "BestEffort"})
    );
    assert_eq!(pod.metadata.generation, Some(1));
    for (path, want) in [
        ("status.phase", Some("Pending")),
        ("spec.nodeName", Some("")),
        ("spec.restartPolicy", Some("Always")),
        ("metadata.name", Some("p")),
        ("metadata.namespace", Some("n")),
        ("spec.color", None),
    ] {
        assert_eq!(PODS.field(&*object, path).as_deref(), want, "{path}");
        assert_eq!(PODS.selectable(path), want.is_some(), "{path}");
    }
}

#[test]
fn generation_counts_what_the_user_wants() {
    let old = pod(json!({}));
    for (patch, want) in [
        (json!({"metadata": {"labels": {"a": "b"}}}), 1),
        (json!({"spec": {"activeDeadlineSeconds": 10}}), 2),
    ] {
        let mut new = pod(patch.clone());
        PODS.prepare_update(&mut *new, &*old);
        assert_eq!(new.meta().generation, Some(want), "{patch}");
        assert!(!PODS.same(&*new, &*old));
    }
    assert!(PODS.same(&*pod(json!({})), &*old));
}

#[test]
fn status_writers_change_the_status_only() {
    let old = pod(json!({}));
    let mut new = pod(
        json!({"spec": {"nodeName": "x"}, "metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "a", "uid": "u"}]}}),
    );
    new.typed_mut::<Pod>().unwrap().status =
        serde_json::from_value(json!({"phase": "Running", "podIP": "10.0.0.1"})).unwrap();
    PODS.prepare_status(&mut *new, &*old);
    assert_eq!(PODS.validate_status(&*new, &*old).message(), "[]");
    let (new, old) = (new.typed::<Pod>().unwrap(), old.typed::<Pod>().unwrap());
    assert_eq!((&new.spec, &new.metadata), (&old.spec, &old.metadata));
    assert_eq!(
        serde_json::to_value(&new.status).unwrap(),
        json!({"phase": "Running", "podIP": "10.0.0.1", "qosClass": "BestEffort"})
    );
}

#[test]
fn grace() {
    for (patch, phase, requested, want) in [
        (json!({}), "Pending", None, Grace::Immediate),
        (
            json!({"spec": {"nodeName": "x"}}),
            "Running",
            None,
            Grace::After(30),
        ),
        (
            json!({"spec": {"nodeName": "x", "terminationGracePeriodSeconds": 5}}),
            "Running",
            None,
            Grace::After(5),
        ),
        (
            json!({"spec": {"nodeName": "x"}}),
            "Running",
            Some(1),
            Grace::After(1),
        ),
        (
            json!({"spec": {"nodeName": "x"}}),
            "Running",
            Some(0),
            Grace::Immediate,
        ),
        (
            json!({"spec": {"nodeName": "x"}}),
            "Running",
            Some(-7),
            Grace::After(1),
        ),
        (
            json!({"spec": {"nodeName": "x"}}),
            "Succeeded",
            None,
            Grace::Immediate,
        ),
    ] {
        let mut object = pod(patch.clone());
        object
            .typed_mut::<Pod>()
            .unwrap()
            .status
            .as_mut()
            .unwrap()
            .phase = Some(phase.to_owned());
        assert_eq!(
            PODS.grace(&*object, requested),
            want,
            "{patch} {phase} {requested:?}"
        );
    }
}
