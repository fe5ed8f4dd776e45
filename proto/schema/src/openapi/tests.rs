//! What kubectl looks for in the documents.

use serde_json::Value;

use super::*;

fn v3(path: &str) -> Value {
    serde_json::from_slice(&v3_document(path).unwrap().body).unwrap()
}

#[test]
fn the_index_names_every_document() {
    let index: Value = serde_json::from_slice(&v3_index().body).unwrap();
    let apps = index["paths"]["apis/apps/v1"]["serverRelativeURL"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(
        apps,
        format!(
            "/openapi/v3/apis/apps/v1?hash={}",
            v3_document("apis/apps/v1").unwrap().etag
        )
    );
    assert!(index["paths"].get("api/v1").is_some());
    assert!(v3_document("apis/nobody/v1").is_none());
}

#[test]
fn explain_finds_a_kind_and_its_fields() {
    let apps = v3("apis/apps/v1");
    let gvk = &apps["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments"]["get"]["x-kubernetes-group-version-kind"];
    let definition = &apps["components"]["schemas"]["io.k8s.api.apps.v1.Deployment"];
    assert_eq!(&definition["x-kubernetes-group-version-kind"][0], gvk);
    let strategy = &apps["components"]["schemas"]["io.k8s.api.apps.v1.DeploymentSpec"]["properties"]
        ["strategy"];
    assert_eq!(
        strategy["allOf"][0]["$ref"],
        "#/components/schemas/io.k8s.api.apps.v1.DeploymentStrategy"
    );
    assert_eq!(strategy["x-kubernetes-patch-strategy"], "retainKeys");
    let containers =
        &apps["components"]["schemas"]["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!(
        containers["items"]["allOf"][0]["$ref"],
        "#/components/schemas/io.k8s.api.core.v1.Container"
    );
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(containers["x-kubernetes-list-map-keys"][0], "name");
    assert!(!definition["description"].as_str().unwrap().is_empty());
}

#[test]
fn every_patch_takes_validation_dry_run_and_strategic_merge() {
    for (path, item) in v3("apis/apps/v1")["paths"].as_object().unwrap() {
        let Some(patch) = item.get("patch") else {
            continue;
        };
        let names: Vec<&str> = patch["parameters"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|one| one["name"].as_str())
            .collect();
        assert!(
            names.contains(&"fieldValidation") && names.contains(&"dryRun"),
            "{path}"
        );
        assert!(
            patch["requestBody"]["content"]
                .get("application/strategic-merge-patch+json")
                .is_some(),
            "{path}"
        );
    }
}

#[test]
fn every_reference_leads_somewhere() {
    fn check(value: &Value, whole: &Value) {
        match value {
            Value::Object(object) => {
                if let Some(target) = object.get("$ref").and_then(Value::as_str) {
                    assert!(
                        whole.pointer(target.trim_start_matches('#')).is_some(),
                        "{target}"
                    );
                }
                object.values().for_each(|value| check(value, whole));
            }
            Value::Array(items) => items.iter().for_each(|value| check(value, whole)),
            _ => {}
        }
    }
    for path in [
        "api/v1",
        "apis/apps/v1",
        "apis/rbac.authorization.k8s.io/v1",
    ] {
        let document = v3(path);
        check(&document, &document);
    }
    let v2: Value = serde_json::from_slice(&v2_document(false).body).unwrap();
    check(&v2, &v2);
    assert!(
        v2["definitions"]
            .get("io.k8s.api.apps.v1.Deployment")
            .is_some()
    );
}

#[test]
fn the_protobuf_begins_as_a_document_does() {
    let body = v2_document(true).body;
    // Field 1, "2.0"; then field 2, the info.
    assert_eq!(&body[..6], b"\x0a\x032.0\x12");
}
