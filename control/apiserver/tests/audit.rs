//! The audit log of a whole API server: a line for each request, however it ends.

use caravel_apiserver::{ApiServer, AuditLog, Peer, full_body};
use caravel_auth::UserInfo;
use futures::FutureExt;
use http::Request;
use http_body_util::BodyExt;
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

#[path = "whole/server.rs"]
mod whole;

async fn server(path: &Path) -> Arc<ApiServer> {
    let log = AuditLog {
        path: path.to_owned(),
        max_bytes: 1 << 20,
        backups: 1,
    };
    whole::server(whole::authority(), Some(log)).await
}

fn request(
    method: &str,
    uri: &str,
    user: Option<UserInfo>,
    body: &str,
) -> Request<caravel_apiserver::Body> {
    let mut request = Request::builder()
        .method(method)
        .uri(uri)
        .header("content-type", "application/json")
        .header("user-agent", "test/1")
        .body(full_body(body.to_owned()))
        .unwrap();
    if let Some(user) = user {
        request.extensions_mut().insert(user);
    }
    request
        .extensions_mut()
        .insert(Peer::new(Some("192.0.2.9:1".parse().unwrap()), Vec::new()));
    request
}

/// The log's lines once there are so many, each as `stage verb uri user name code decision`.
async fn lines(path: &Path, count: usize) -> Vec<String> {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    loop {
        let text = std::fs::read_to_string(path).unwrap();
        // The last line may be half written.
        if text.matches('\n').count() >= count {
            let whole = text.rfind('\n').map_or("", |end| &text[..end]);
            return whole.lines().map(shown).collect();
        }
        assert!(tokio::time::Instant::now() < deadline, "only: {text}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn shown(line: &str) -> String {
    let event: Value = serde_json::from_str(line).unwrap();
    assert_eq!(event["sourceIPs"][0], "192.0.2.9");
    let show = |pointer: &str| match event.pointer(pointer) {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => "-".to_owned(),
    };
    [
        "/stage",
        "/verb",
        "/requestURI",
        "/user/username",
        "/objectRef/name",
        "/responseStatus/code",
        "/annotations/authorization.k8s.io~1decision",
    ]
    .map(show)
    .join(" ")
}

#[tokio::test]
async fn every_request_leaves_a_record() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.log");
    let api = server(&path).await;
    let admin = || Some(UserInfo::new("admin", &["system:masters"]));
    let joe = || Some(UserInfo::new("joe", &["system:authenticated"]));
    let namespaces = "/api/v1/namespaces";
    let named = r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"generateName":"a-"}}"#;
    for (method, uri, user, body) in [
        (
            "POST",
            namespaces,
            admin(),
            r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"a"}}"#,
        ),
        ("POST", namespaces, admin(), "{bad"),
        ("GET", "/api/v1/namespaces/a", joe(), ""),
        ("GET", "/readyz", None, ""),
    ] {
        api.handle(request(method, uri, user, body)).await;
    }
    let mut bad_token = request("GET", "/api/v1/pods", None, "");
    bad_token
        .headers_mut()
        .insert("authorization", "Bearer nonsense".parse().unwrap());
    api.handle(bad_token).await;
    // A watch is recorded when it begins, and when it ends.
    let watch = api
        .handle(request(
            "GET",
            "/api/v1/namespaces?watch=1&resourceVersion=0",
            admin(),
            "",
        ))
        .await;
    let want = [
        "ResponseComplete create /api/v1/namespaces admin a 201 allow",
        "ResponseComplete create /api/v1/namespaces admin - 400 allow",
        "ResponseComplete get /api/v1/namespaces/a joe a 403 forbid",
        "ResponseComplete get /readyz system:anonymous - 200 allow",
        "ResponseComplete list /api/v1/pods  - 401 -",
        "ResponseStarted watch /api/v1/namespaces?watch=1&resourceVersion=0 admin - 200 allow",
    ];
    let all = lines(&path, want.len()).await;
    for (got, want) in all.iter().zip(want) {
        // Who may see health is the default policy's to say, and there is none here.
        if !want.contains("/readyz") {
            assert_eq!(got, want);
        }
    }
    drop(watch);
    let end = lines(&path, 7).await.pop().unwrap();
    assert_eq!(
        end,
        "ResponseComplete watch /api/v1/namespaces?watch=1&resourceVersion=0 admin - 200 allow"
    );
    // The client goes before its body has come: the record says so.
    let body = http_body_util::StreamBody::new(futures::stream::pending()).boxed_unsync();
    let gone = request("POST", namespaces, admin(), named).map(|_| body);
    assert!(api.handle(gone).now_or_never().is_none());
    let end = lines(&path, 8).await.pop().unwrap();
    assert_eq!(
        end,
        "ResponseComplete create /api/v1/namespaces admin - - allow"
    );
}
