//! Requests against a whole API server without a socket: a table of what is asked and what is answered.

use bytes::Bytes;
use caravel_apiserver::{ApiServer, full_body};
use caravel_auth::UserInfo;
use futures::StreamExt;
use http::{Request, StatusCode, Version};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

#[path = "whole/server.rs"]
mod whole;

async fn server() -> Arc<ApiServer> {
    let api = whole::server(whole::authority(), None).await;
    for (path, object) in [
        (
            "/api/v1/namespaces",
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}}),
        ),
        (
            "/api/v1/namespaces/default/serviceaccounts",
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}),
        ),
    ] {
        let (status, body) = ask(&api, "POST", path, &object.to_string()).await;
        assert_eq!(status, 201, "{path} {body}");
    }
    api
}

/// A request by an administrator; the content type of a PATCH is given before its path: `merge:/api/...`.
async fn ask(api: &Arc<ApiServer>, method: &str, path: &str, body: &str) -> (u16, Value) {
    let (kind, path) = match path.split_once(":/") {
        Some(("merge", path)) => ("application/merge-patch+json", format!("/{path}")),
        Some(("json", path)) => ("application/json-patch+json", format!("/{path}")),
        Some(("strategic", path)) => ("application/strategic-merge-patch+json", format!("/{path}")),
        Some(("apply", path)) => ("application/apply-patch+yaml", format!("/{path}")),
        Some(("yaml", path)) => ("application/yaml", format!("/{path}")),
        Some(("text", path)) => ("text/plain", format!("/{path}")),
        _ => ("application/json", path.to_owned()),
    };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", kind)
        .extension(UserInfo::new(
            "admin",
            &["system:masters", "system:authenticated"],
        ))
        .body(full_body(body.to_owned()))
        .unwrap();
    let response = api.handle(request).await;
    let status = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (status, read(&bytes))
}

fn read(bytes: &Bytes) -> Value {
    serde_json::from_slice(bytes)
        .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(bytes).into_owned()))
}

const CM: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";

fn config(name: &str) -> String {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"l": name}}, "data": {"a": "1"}}).to_string()
}

fn pod(name: &str) -> String {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}]}}).to_string()
}

/// A client that still sends its body must not have its stream reset before it reads why it was refused.
#[tokio::test]
async fn a_refused_body_is_taken_over_http2() {
    let api = server().await;
    let (merge, text) = ("application/merge-patch+json", "text/plain");
    let one = format!("{CM}/one");
    for (version, user, method, path, kind, status, taken) in [
        (Version::HTTP_2, "nobody", "PATCH", &*one, merge, 403, 3),
        (Version::HTTP_11, "nobody", "PATCH", &*one, merge, 403, 0),
        (Version::HTTP_2, "admin", "PATCH", &*one, text, 415, 3),
        (Version::HTTP_2, "admin", "PATCH", CM, merge, 405, 3),
        (
            Version::HTTP_2,
            "admin",
            "POST",
            "/apis/a.b/v1/c",
            text,
            404,
            3,
        ),
        (Version::HTTP_2, "admin", "POST", "/healthz", text, 405, 3),
    ] {
        let sent = Arc::new(AtomicUsize::new(0));
        let count = sent.clone();
        let pieces = futures::stream::iter(0..3).map(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
            Ok(Frame::data(Bytes::from_static(b"{}")))
        });
        let groups: &[&str] = if user == "admin" {
            &["system:masters"]
        } else {
            &[]
        };
        let request = Request::builder()
            .method(method)
            .version(version)
            .uri(path)
            .header("content-type", kind)
            .extension(UserInfo::new(user, groups))
            .body(StreamBody::new(pieces).boxed_unsync())
            .unwrap();
        let response = api.handle(request).await;
        assert_eq!(response.status(), status, "{method} {path}");
        assert_eq!(sent.load(Ordering::Relaxed), taken, "{method} {path}");
    }
}

#[tokio::test]
async fn statuses() {
    let api = server().await;
    let deep = format!("{}1{}", "{\"a\":".repeat(10_000), "}".repeat(10_000));
    let one = format!("{CM}/one");
    // In order: later rows see what earlier ones did.
    let rows: Vec<(&str, String, String, u16, &str, &str)> = vec![
        ("POST", CM.into(), config("one"), 201, "/metadata/name", "one"),
        ("POST", CM.into(), config("one"), 409, "/message", "configmaps \"one\" already exists"),
        ("POST", CM.into(), "{bad".into(), 400, "/reason", "BadRequest"),
        ("POST", format!("yaml:{CM}"), "a: [b".into(), 400, "/reason", "BadRequest"),
        ("POST", CM.into(), deep, 400, "/message", "the object provided is unrecognized: exceeded max depth"),
        ("POST", format!("text:{CM}"), config("x"), 415, "/reason", "UnsupportedMediaType"),
        ("POST", CM.into(), "x".repeat(4 << 20), 413, "/reason", "RequestEntityTooLarge"),
        ("POST", CM.into(), config("Bad_Name"), 422, "/reason", "Invalid"),
        ("POST", format!("{CM}?dryRun=All"), config("dry"), 201, "/metadata/name", "dry"),
        ("GET", format!("{CM}/dry"), String::new(), 404, "/message", "configmaps \"dry\" not found"),
        ("POST", format!("{CM}?dryRun=x"), config("dry"), 422, "/reason", "Invalid"),
        ("POST", format!("{CM}?fieldValidation=Strict"), r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"s"},"foo":1}"#.into(), 400, "/message",
            "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: unknown field \"foo\""),
        ("POST", "/api/v1/namespaces/nowhere/configmaps".into(), config("one"), 404, "/message", "namespaces \"nowhere\" not found"),
        ("POST", CM.into(), r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","namespace":"b"}}"#.into(), 400, "/message",
            "the namespace of the provided object does not match the namespace sent on the request"),
        ("GET", one.clone(), String::new(), 200, "/data/a", "1"),
        ("PATCH", format!("merge:{one}"), r#"{"data":{"b":"2"}}"#.into(), 200, "/data/b", "2"),
        ("PATCH", format!("json:{one}"), r#"[{"op":"remove","path":"/data/b"},{"op":"add","path":"/data/c","value":"3"}]"#.into(), 200, "/data/c", "3"),
        ("PATCH", format!("strategic:{one}"), r#"{"data":{"c":null,"d":"4"}}"#.into(), 200, "/data/d", "4"),
        ("PATCH", one.clone(), "{}".into(), 415, "/reason", "UnsupportedMediaType"),
        ("PATCH", format!("strategic:{one}"), "5".into(), 400, "/message", "json: cannot unmarshal number into Go value of type map[string]interface {}"),
        ("PATCH", format!("strategic:{one}"), r#"{"data":{"a":5}}"#.into(), 422, "/details/causes/0/message",
            "Invalid value: \"map[data:map[a:5]]\": ConfigMap in version \"v1\" cannot be handled as a ConfigMap: json: cannot unmarshal number into Go struct field ConfigMap.data.a of type string"),
        ("PATCH", format!("{PODS}/none/ephemeralcontainers"), "{}".into(), 404, "", "404 page not found\n"),
        ("POST", PODS.into(), pod("q").replace("\"image\"", "\"resources\":{\"limits\":{\"cpu\":\"x\"}},\"image\""), 400, "/message",
            "Pod in version \"v1\" cannot be handled as a Pod: quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"),
        ("GET", format!("{CM}?labelSelector=,"), String::new(), 400, "/message", "found ',', expected: !, identifier, or 'end of string'"),
        ("PATCH", format!("apply:{one}"), config("one"), 422, "/reason", "Invalid"),
        ("PATCH", format!("apply:{CM}/made?fieldManager=me"), "{apiVersion: v1, kind: ConfigMap, data: {k: v}}".into(), 201, "/data/k", "v"),
        ("PATCH", format!("apply:{CM}/made?fieldManager=me"), "{apiVersion: v1, kind: ConfigMap, data: {k: w}}".into(), 200, "/data/k", "w"),
        ("PATCH", format!("apply:{CM}/made?fieldManager=you"), "{apiVersion: v1, kind: ConfigMap, data: {k: x}}".into(), 409, "/reason", "Conflict"),
        ("PATCH", format!("apply:{CM}/made?fieldManager=you&force=true"), "{apiVersion: v1, kind: ConfigMap, data: {k: x}}".into(), 200, "/data/k", "x"),
        ("PUT", one.clone(), r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"one","resourceVersion":"1"}}"#.into(), 409, "/reason", "Conflict"),
        ("PUT", one.clone(), config("two"), 400, "/reason", "BadRequest"),
        ("PUT", format!("{CM}/none"), config("none"), 404, "/reason", "NotFound"),
        ("DELETE", one.clone(), r#"{"preconditions":{"uid":"other"}}"#.into(), 409, "/reason", "Conflict"),
        ("DELETE", one.clone(), "{}".into(), 200, "/status", "Success"),
        ("DELETE", one, "{}".into(), 404, "/reason", "NotFound"),
        ("GET", "/api/v1/namespaces/default/widgets".into(), String::new(), 404, "", "404 page not found
"),
        ("GET", format!("{CM}?labelSelector=a+in"), String::new(), 400, "/reason", "BadRequest"),
        ("GET", format!("{CM}?fieldSelector=x=y"), String::new(), 400, "/message", "field label not supported: x"),
        ("GET", format!("{CM}?resourceVersionMatch=Exact"), String::new(), 422, "/reason", "Invalid"),
        ("GET", format!("{CM}?continue=zzz"), String::new(), 400, "/reason", "BadRequest"),
        ("DELETE", "/api/v1/namespaces".into(), String::new(), 405, "/reason", "MethodNotAllowed"),
        ("POST", PODS.into(), pod("p"), 201, "/spec/serviceAccountName", "default"),
        ("GET", format!("{PODS}/p/log"), String::new(), 200, "", ""),
        ("GET", format!("{PODS}/p/log?container=nobody"), String::new(), 400, "/message", "container nobody is not valid for pod p"),
        ("POST", format!("{PODS}/p/exec?command=x&stdout=1"), String::new(), 400, "/message", "pod p does not have a host assigned"),
        ("POST", format!("{PODS}/p/binding"), r#"{"apiVersion":"v1","kind":"Binding","metadata":{"name":"p"},"target":{"kind":"Node","name":"n"}}"#.into(), 201, "/status", "Success"),
        ("POST", format!("{PODS}/p/binding"), r#"{"apiVersion":"v1","kind":"Binding","metadata":{"name":"p"},"target":{"kind":"Node","name":"m"}}"#.into(), 409, "/message",
            "Operation cannot be fulfilled on pods/binding \"p\": pod p is already assigned to node \"n\""),
        ("DELETE", format!("{PODS}/p"), "{}".into(), 200, "/metadata/deletionGracePeriodSeconds", "30"),
        ("GET", format!("{PODS}/p"), String::new(), 200, "/spec/nodeName", "n"),
        ("DELETE", format!("{PODS}/p"), r#"{"gracePeriodSeconds":0}"#.into(), 200, "/kind", "Pod"),
        ("GET", format!("{PODS}/p"), String::new(), 404, "/reason", "NotFound"),
        ("GET", "/version".into(), String::new(), 200, "/major", "1"),
        ("GET", "/readyz".into(), String::new(), 200, "", "ok"),
        ("GET", "/nothing".into(), String::new(), 404, "", "404 page not found
"),
        ("GET", "/apis/apps/v1".into(), String::new(), 200, "/groupVersion", "apps/v1"),
    ];
    for (method, path, body, status, pointer, want) in rows {
        let (got, answer) = ask(&api, method, &path, &body).await;
        let shown = match answer.pointer(pointer) {
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
            None => String::new(),
        };
        assert_eq!(
            (got, shown.as_str()),
            (status, want),
            "{method} {path}: {answer}"
        );
    }
}

#[tokio::test]
async fn who_may_not() {
    let api = server().await;
    let request = |path: &str, user: Option<UserInfo>| {
        let mut request = Request::builder().uri(path).body(full_body("")).unwrap();
        if let Some(user) = user {
            request.extensions_mut().insert(user);
        }
        request
    };
    let jane = UserInfo::new("jane", &["system:authenticated"]);
    let response = api
        .handle(request("/api/v1/namespaces/default/pods", Some(jane)))
        .await;
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
    let body = read(&response.into_body().collect().await.unwrap().to_bytes());
    assert_eq!(
        body["message"],
        "pods is forbidden: User \"jane\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""
    );
    let mut token = request("/api", None);
    token
        .headers_mut()
        .insert("authorization", "Bearer nonsense".parse().unwrap());
    assert_eq!(api.handle(token).await.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn pages_show_one_state() {
    let api = server().await;
    for name in ["a", "b", "c", "d", "e"] {
        ask(&api, "POST", CM, &config(name)).await;
    }
    let names = |list: &Value| -> Vec<String> {
        list["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item["metadata"]["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let (_, first) = ask(&api, "GET", &format!("{CM}?limit=2"), "").await;
    assert_eq!(names(&first), ["a", "b"]);
    assert_eq!(first["metadata"]["remainingItemCount"], 3);
    ask(&api, "DELETE", &format!("{CM}/c"), "").await;
    let token = first["metadata"]["continue"].as_str().unwrap();
    let (_, second) = ask(&api, "GET", &format!("{CM}?limit=2&continue={token}"), "").await;
    assert_eq!(names(&second), ["c", "d"]);
    assert_eq!(
        second["metadata"]["resourceVersion"],
        first["metadata"]["resourceVersion"]
    );
    let (_, selected) = ask(&api, "GET", &format!("{CM}?labelSelector=l+in+(a,e)"), "").await;
    assert_eq!(names(&selected), ["a", "e"]);
    let (_, gone) = ask(&api, "DELETE", &format!("{CM}?labelSelector=l!=a"), "").await;
    assert_eq!(names(&gone), ["b", "d", "e"]);
    let (_, left) = ask(&api, "GET", CM, "").await;
    assert_eq!(names(&left), ["a"]);
}

#[tokio::test]
async fn services_get_addresses_and_give_them_back() {
    let api = server().await;
    let path = "/api/v1/namespaces/default/services";
    let service = |name: &str, ip: &str| {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
               "spec": {"type": "NodePort", "clusterIP": ip, "ports": [{"port": 80}]}})
        .to_string()
    };
    let (status, made) = ask(&api, "POST", path, &service("a", "10.43.0.77")).await;
    assert_eq!(status, 201, "{made}");
    assert!(made["spec"]["ports"][0]["nodePort"].as_i64().unwrap() >= 30000);
    let (status, refused) = ask(&api, "POST", path, &service("b", "10.43.0.77")).await;
    assert_eq!(status, 422, "{refused}");
    let (_, address) = ask(
        &api,
        "GET",
        "/apis/networking.k8s.io/v1/ipaddresses/10.43.0.77",
        "",
    )
    .await;
    assert_eq!(address["spec"]["parentRef"]["name"], "a");
    ask(&api, "DELETE", &format!("{path}/a"), "").await;
    let (status, _) = ask(&api, "POST", path, &service("b", "10.43.0.77")).await;
    assert_eq!(status, 201);
}

#[tokio::test]
async fn a_watch_follows_its_selection() {
    let api = server().await;
    let request = Request::builder()
        .uri(format!("{CM}?watch=1&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&labelSelector=l%3Da&timeoutSeconds=5"))
        .extension(UserInfo::new("admin", &["system:masters"]))
        .body(full_body(""))
        .unwrap();
    let mut body = api.handle(request).await.into_body();
    let mut seen = Vec::new();
    let mut next = async |seen: &mut Vec<String>| {
        let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
        for line in frame
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
        {
            let event: Value = serde_json::from_slice(line).unwrap();
            seen.push(event["type"].as_str().unwrap().to_owned());
        }
    };
    next(&mut seen).await;
    assert_eq!(seen, ["BOOKMARK"]);
    for (method, path, body) in [
        ("POST", CM.to_owned(), config("b")),
        ("POST", CM.to_owned(), config("a")),
        (
            "PATCH",
            format!("merge:{CM}/a"),
            r#"{"data":{"a":"2"}}"#.to_owned(),
        ),
        (
            "PATCH",
            format!("merge:{CM}/a"),
            r#"{"metadata":{"labels":{"l":"z"}}}"#.to_owned(),
        ),
        (
            "PATCH",
            format!("merge:{CM}/a"),
            r#"{"metadata":{"labels":{"l":"a"}}}"#.to_owned(),
        ),
        ("DELETE", format!("{CM}/a"), String::new()),
    ] {
        let (status, answer) = ask(&api, method, &path, &body).await;
        assert!(status < 300, "{answer}");
    }
    while seen.len() < 6 {
        next(&mut seen).await;
    }
    assert_eq!(
        seen,
        [
            "BOOKMARK", "ADDED", "MODIFIED", "DELETED", "ADDED", "DELETED"
        ]
    );
}
