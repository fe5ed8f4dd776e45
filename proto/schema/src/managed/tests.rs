//! Ownership as upstream's documentation tells it, one story per test.

use serde_json::{Value, json};

use super::*;
use crate::Schema;

const MAP: &str = "io.k8s.api.core.v1.ConfigMap";
const DEPLOYMENT: &str = "io.k8s.api.apps.v1.Deployment";

fn writer(manager: &'static str) -> Writer<'static> {
    Writer {
        manager,
        api_version: "v1",
        subresource: "",
        now: "2026-01-02T03:04:05.6Z".parse().unwrap(),
    }
}

fn map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m", "namespace": "default"}, "data": data})
}

fn owners(object: &Value) -> Value {
    let list = object["metadata"]["managedFields"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    list.iter()
        .map(|entry| json!([entry["manager"], entry["operation"], entry["fieldsV1"]]))
        .collect()
}

fn tracked(old: Option<&Value>, mut new: Value, definition: &str, writer: &Writer<'_>) -> Value {
    track_update(old, &mut new, Schema::get().of(definition), writer);
    new
}

fn applied(
    live: Option<&Value>,
    config: Value,
    manager: &'static str,
    force: bool,
) -> Result<Value, ApplyError> {
    apply(
        live,
        &config,
        Schema::get().of(MAP),
        &writer(manager),
        force,
    )
}

#[test]
fn create_owns_everything() {
    let created = tracked(None, map(json!({"a": "1"})), MAP, &writer("kubectl-create"));
    assert_eq!(
        created["metadata"]["managedFields"],
        json!([{
            "manager": "kubectl-create", "operation": "Update", "apiVersion": "v1", "time": "2026-01-02T03:04:05Z",
            "fieldsType": "FieldsV1", "fieldsV1": {"f:data": {".": {}, "f:a": {}}},
        }])
    );
}

#[test]
fn create_of_a_deployment_reads_as_upstreams() {
    let object = json!({
        "metadata": {"name": "d", "labels": {"app": "web"}},
        "spec": {
            "replicas": 1, "selector": {"matchLabels": {"app": "web"}}, "strategy": {"type": "Recreate"},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "c", "image": "i", "resources": {}}], "restartPolicy": "Always"},
            },
        },
        "status": {},
    });
    let created = tracked(None, object, DEPLOYMENT, &writer("kubectl-create"));
    assert_eq!(
        owners(&created),
        json!([["kubectl-create", "Update", {
            "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
            "f:spec": {
                "f:replicas": {}, "f:selector": {}, "f:strategy": {"f:type": {}},
                "f:template": {
                    "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
                    "f:spec": {
                        "f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:image": {}, "f:name": {}, "f:resources": {}}},
                        "f:restartPolicy": {},
                    },
                },
            },
        }]])
    );
}

#[test]
fn an_update_takes_what_it_changes_and_forgets_what_it_removes() {
    let created = tracked(
        None,
        map(json!({"a": "1", "b": "2", "c": "3"})),
        MAP,
        &writer("one"),
    );
    let mut next = created.clone();
    next["data"] = json!({"a": "9", "b": "2", "d": "4"});
    let updated = tracked(Some(&created), next, MAP, &writer("two"));
    assert_eq!(
        owners(&updated),
        json!([
            ["one", "Update", {"f:data": {".": {}, "f:b": {}}}],
            ["two", "Update", {"f:data": {"f:a": {}, "f:d": {}}}],
        ])
    );
    let same = tracked(Some(&updated), updated.clone(), MAP, &writer("three"));
    assert_eq!(same, updated);
}

#[test]
fn a_list_sent_empty_forgets_ownership_and_one_left_out_keeps_it() {
    let created = tracked(None, map(json!({"a": "1"})), MAP, &writer("one"));
    for reset in [json!([]), json!([{}])] {
        let mut next = created.clone();
        next["metadata"]["managedFields"] = reset;
        let forgotten = tracked(Some(&created), next, MAP, &writer("one"));
        assert_eq!(forgotten["metadata"].get("managedFields"), None);
    }
    let kept = tracked(Some(&created), map(json!({"a": "1"})), MAP, &writer("two"));
    assert_eq!(kept, created);
}

#[test]
fn status_belongs_to_who_writes_the_subresource() {
    let created = tracked(
        None,
        json!({"metadata": {}, "spec": {"replicas": 1}}),
        DEPLOYMENT,
        &writer("kubectl"),
    );
    let mut next = created.clone();
    next["status"] = json!({"conditions": [{"type": "Available", "status": "True"}]});
    let status = Writer {
        subresource: "status",
        ..writer("controller")
    };
    let updated = tracked(Some(&created), next, DEPLOYMENT, &status);
    let entry = &updated["metadata"]["managedFields"][0];
    assert_eq!(entry["subresource"], "status");
    assert_eq!(
        entry["fieldsV1"]["f:status"]["f:conditions"],
        json!({".": {}, "k:{\"type\":\"Available\"}": {".": {}, "f:status": {}, "f:type": {}}})
    );
}

#[test]
fn apply_creates_repeats_and_removes() {
    let one = applied(None, map(json!({"a": "1", "b": "2"})), "one", false).unwrap();
    assert_eq!(one["data"], json!({"a": "1", "b": "2"}));
    assert_eq!(
        owners(&one),
        json!([["one", "Apply", {"f:data": {"f:a": {}, "f:b": {}}}]])
    );
    assert_eq!(
        applied(Some(&one), map(json!({"a": "1", "b": "2"})), "one", false).unwrap(),
        one
    );
    let less = applied(Some(&one), map(json!({"a": "1"})), "one", false).unwrap();
    assert_eq!(less["data"], json!({"a": "1"}));
    let none = applied(
        Some(&less),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}}),
        "one",
        false,
    )
    .unwrap();
    assert_eq!(none.get("data"), None);
}

#[test]
fn what_kubectl_prints_can_be_applied() {
    let mut live = applied(None, map(json!({"a": "1"})), "one", false).unwrap();
    live["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
    live["metadata"]["uid"] = json!("u");
    let mut printed = map(json!({"a": "1"}));
    printed["metadata"]["creationTimestamp"] = Value::Null;
    assert_eq!(applied(Some(&live), printed, "one", false).unwrap(), live);
}

#[test]
fn apply_refuses_what_others_own_unless_forced() {
    let created = tracked(None, map(json!({"a": "1", "b": "2"})), MAP, &writer("one"));
    let refused = applied(Some(&created), map(json!({"a": "9"})), "two", false).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "Apply failed with 1 conflict: conflict with \"one\" using v1: .data.a"
    );
    let ApplyError::Conflict { causes, .. } = refused else {
        panic!()
    };
    assert_eq!(
        causes,
        [ConflictCause {
            message: "conflict with \"one\" using v1".into(),
            field: ".data.a".into()
        }]
    );

    let refused = applied(
        Some(&created),
        map(json!({"a": "9", "b": "8"})),
        "two",
        false,
    )
    .unwrap_err();
    assert_eq!(
        refused.to_string(),
        "Apply failed with 2 conflicts: conflicts with \"one\" using v1:\n- .data.a\n- .data.b"
    );

    let forced = applied(Some(&created), map(json!({"a": "9"})), "two", true).unwrap();
    assert_eq!(forced["data"], json!({"a": "9", "b": "2"}));
    assert_eq!(
        owners(&forced),
        json!([["two", "Apply", {"f:data": {"f:a": {}}}], ["one", "Update", {"f:data": {".": {}, "f:b": {}}}]])
    );
}

#[test]
fn shared_fields_stay_until_the_last_owner_lets_go() {
    let one = applied(None, map(json!({"a": "1"})), "one", false).unwrap();
    let both = applied(Some(&one), map(json!({"a": "1"})), "two", false).unwrap();
    let refused = applied(Some(&both), map(json!({"a": "2"})), "two", false).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "Apply failed with 1 conflict: conflict with \"one\": .data.a"
    );
    let bare = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}});
    let left = applied(Some(&both), bare.clone(), "one", false).unwrap();
    assert_eq!(left["data"], json!({"a": "1"}));
    let gone = applied(Some(&left), bare, "two", false).unwrap();
    assert_eq!(gone.get("data"), None);
}

#[test]
fn what_was_never_tracked_belongs_to_before_first_apply() {
    let refused = applied(
        Some(&map(json!({"a": "1"}))),
        map(json!({"a": "2"})),
        "two",
        false,
    )
    .unwrap_err();
    assert_eq!(
        refused.to_string(),
        "Apply failed with 1 conflict: conflict with \"before-first-apply\" using v1: .data.a"
    );
}

#[test]
fn a_container_applied_before_goes_without_touching_its_neighbour() {
    let ty = Schema::get().of(DEPLOYMENT);
    let deployment = |containers: Value| json!({"metadata": {"name": "d"}, "spec": {"template": {"spec": {"containers": containers}}}});
    let (a, b) = (
        json!({"name": "a", "image": "x"}),
        json!({"name": "b", "image": "y"}),
    );
    let live = apply(None, &deployment(json!([a, b])), ty, &writer("one"), false).unwrap();
    let live = apply(
        Some(&live),
        &deployment(json!([{"name": "a", "workingDir": "/w"}])),
        ty,
        &writer("two"),
        false,
    )
    .unwrap();
    let live = apply(
        Some(&live),
        &deployment(json!([{"name": "c", "image": "z"}])),
        ty,
        &writer("one"),
        false,
    )
    .unwrap();
    assert_eq!(
        live["spec"]["template"]["spec"]["containers"],
        json!([{"name": "a", "workingDir": "/w"}, {"name": "c", "image": "z"}])
    );
}

#[test]
fn too_many_updaters_melt_into_one() {
    let mut object = tracked(None, map(json!({"k": "0"})), MAP, &writer("m00"));
    let names = [
        "m01", "m02", "m03", "m04", "m05", "m06", "m07", "m08", "m09", "m10", "m11", "m12",
    ];
    for name in names {
        let mut next = object.clone();
        next["data"][name] = json!("x");
        object = tracked(Some(&object), next, MAP, &writer(name));
    }
    let list = object["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(list.len(), 10);
    assert!(
        list.iter()
            .any(|entry| entry["manager"] == "ancient-changes")
    );
}
