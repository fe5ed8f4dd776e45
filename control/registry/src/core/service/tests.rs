//! Tables of Services: defaults, what is refused, what may change.

use k8s_openapi::api::core::v1::Service;
use serde_json::{Value, json};

use crate::{Object, Resource, Typed};

const SERVICES: Typed<Service> = Typed::NEW;

fn service(spec: Value) -> Box<dyn Object> {
    let mut object = SERVICES
        .from_value(json!({"metadata": {"name": "s", "namespace": "n"}, "spec": spec}))
        .unwrap();
    SERVICES.apply_defaults(&mut *object);
    SERVICES.prepare_create(&mut *object);
    object
}

#[test]
fn defaults() {
    for (spec, want) in [
        (
            json!({"ports": [{"port": 80}]}),
            json!({
                "internalTrafficPolicy": "Cluster", "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}],
                "sessionAffinity": "None", "type": "ClusterIP"
            }),
        ),
        (
            json!({"type": "NodePort", "clusterIP": "10.0.0.1", "sessionAffinity": "ClientIP"}),
            json!({
                "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "externalTrafficPolicy": "Cluster", "internalTrafficPolicy": "Cluster",
                "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10800}}, "type": "NodePort"
            }),
        ),
        (
            json!({"type": "ExternalName", "externalName": "a.b"}),
            json!({"externalName": "a.b", "sessionAffinity": "None", "type": "ExternalName"}),
        ),
    ] {
        let object = service(spec.clone());
        assert_eq!(object.to_value()["spec"], want, "{spec}");
        assert_eq!(object.to_value()["status"], json!({"loadBalancer": {}}));
    }
}

#[test]
fn new_services() {
    for (spec, want) in [
        (json!({"ports": [{"port": 80}]}), "[]"),
        (json!({}), "spec.ports: Required value"),
        (json!({"clusterIP": "None"}), "[]"),
        (
            json!({"clusterIP": "None", "type": "NodePort"}),
            "may not be set to 'None' for NodePort services",
        ),
        (
            json!({"clusterIP": "x", "ports": [{"port": 80}]}),
            r#"spec.clusterIPs[0]: Invalid value: "x": must be a valid IP address"#,
        ),
        (
            json!({"type": "Best", "ports": [{"port": 80}]}),
            r#"spec.type: Unsupported value: "Best": supported values: "ClusterIP", "ExternalName", "LoadBalancer", "NodePort""#,
        ),
        (
            json!({"ports": [{"port": 80}, {"port": 81, "name": "a"}]}),
            "spec.ports[0].name: Required value",
        ),
        (
            json!({"ports": [{"port": 80, "name": "a"}, {"port": 81, "name": "a"}]}),
            r#"spec.ports[1].name: Duplicate value: "a""#,
        ),
        (
            json!({"ports": [{"port": 80, "name": "a"}, {"port": 80, "name": "b"}]}),
            r#"spec.ports[1]: Duplicate value: {"port":80,"protocol":"TCP"}"#,
        ),
        (
            json!({"ports": [{"port": 0}]}),
            "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
        ),
        (
            json!({"ports": [{"port": 80, "nodePort": 30000}]}),
            "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
        ),
        (
            json!({"ports": [{"port": 80, "targetPort": "a_b"}]}),
            "spec.ports[0].targetPort: Invalid value",
        ),
        (
            json!({"ports": [{"port": 80}], "sessionAffinity": "Always"}),
            r#"spec.sessionAffinity: Unsupported value: "Always""#,
        ),
        (
            json!({"ports": [{"port": 80}], "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 86401}}}),
            "must be greater than 0 and less than 86400",
        ),
        (
            json!({"type": "ExternalName"}),
            "spec.externalName: Required value",
        ),
        (
            json!({"ports": [{"port": 80}], "externalTrafficPolicy": "Local"}),
            "may only be set for externally-accessible services",
        ),
        (
            json!({"ports": [{"port": 80}], "externalIPs": ["127.0.0.1"]}),
            "may not be in the loopback range",
        ),
        (
            json!({"ports": [{"port": 80}], "selector": {"a": "b c"}}),
            "spec.selector: Invalid value",
        ),
    ] {
        let message = SERVICES.validate(&*service(spec.clone())).message();
        assert!(message.contains(want), "{spec}: {message}");
        assert!(want != "[]" || message == "[]", "{spec}: {message}");
    }
    let mut named = service(json!({"ports": [{"port": 80}]}));
    named.meta_mut().name = Some("1st".to_owned());
    assert!(
        SERVICES
            .validate(&*named)
            .message()
            .contains("metadata.name: Invalid value: \"1st\": a DNS-1035 label")
    );
}

#[test]
fn changed_services() {
    let held = json!({"clusterIP": "10.0.0.1", "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack", "ports": [{"port": 80}]});
    for (old, spec, want) in [
        (held.clone(), json!({"ports": [{"port": 81}]}), "[]"),
        (
            held.clone(),
            json!({"clusterIP": "10.0.0.2", "ports": [{"port": 80}]}),
            "spec.clusterIPs[0]: Invalid value: [\"10.0.0.2\"]: may not change once set",
        ),
        (
            held.clone(),
            json!({"type": "ExternalName", "externalName": "a.b", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack"}),
            "[]",
        ),
        (
            json!({"type": "NodePort", "clusterIP": "10.0.0.1", "ports": [{"port": 80}], "externalTrafficPolicy": "Local"}),
            json!({"type": "ClusterIP", "clusterIP": "10.0.0.1", "ports": [{"port": 80}], "externalTrafficPolicy": "Local"}),
            "[]",
        ),
    ] {
        let old = service(old);
        let mut new = service(spec.clone());
        SERVICES.prepare_update(&mut *new, &*old);
        let message = SERVICES.validate_update(&*new, &*old).message();
        assert!(message.contains(want), "{spec}: {message}");
        assert!(want != "[]" || message == "[]", "{spec}: {message}");
    }
}
