//! Clients that are slow, cut off, or send too much of something: each is refused within a bound, and the server goes on.
//!
//! Time is paused: it moves when nobody has anything to do, so that every deadline comes at once and a missing one fails the
//! test's own (an hour) instead of hanging it.

use bytes::Bytes;
use caravel_apiserver::{ApiServer, Body, BoxError, full_body};
use caravel_auth::{Authority, UserInfo, tls};
use futures::{StreamExt, stream};
use http::Request;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use rustls::RootCertStore;
use rustls::pki_types::ServerName;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

#[path = "whole/server.rs"]
mod whole;

/// No guard is this patient.
const NEVER: Duration = Duration::from_secs(3600);

struct Served {
    api: Arc<ApiServer>,
    authority: Arc<Authority>,
    address: SocketAddr,
    stop: CancellationToken,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn served() -> Served {
    let authority = whole::authority();
    let api = whole::server(authority.clone(), None).await;
    let issued = authority
        .issue_server(&["localhost".to_owned()], &["127.0.0.1".parse().unwrap()])
        .unwrap();
    let tls = tls::server_config(&issued.cert_pem, &issued.key_pem).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let (serving, ending) = (api.clone(), stop.clone());
    tokio::spawn(async move { serving.serve(listener, tls, ending).await });
    Served {
        api,
        authority,
        address,
        stop,
    }
}

impl Served {
    async fn connect(&self) -> TlsStream<TcpStream> {
        let mut roots = RootCertStore::empty();
        roots
            .add(self.authority.cluster_ca().der().clone())
            .unwrap();
        let config = rustls::ClientConfig::builder_with_provider(tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = TcpStream::connect(self.address).await.unwrap();
        tokio_rustls::TlsConnector::from(Arc::new(config))
            .connect(ServerName::try_from("localhost").unwrap(), stream)
            .await
            .unwrap()
    }

    /// Sends these bytes and reads until the server closes: the first line of its answer, empty without one.
    async fn answer(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect().await;
        // The server may close before it has read all.
        let _ = stream.write_all(bytes).await;
        let _ = stream.flush().await;
        let mut read = Vec::new();
        tokio::time::timeout(NEVER, stream.read_to_end(&mut read))
            .await
            .expect("the server closes the connection")
            .ok();
        let text = String::from_utf8_lossy(&read);
        text.lines().next().unwrap_or_default().to_owned()
    }

    async fn is_well(&self) {
        let bytes = b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        let line = self.answer(bytes).await;
        // There is no default policy here, so that anonymous sees 403.
        assert!(line.starts_with("HTTP/1.1 403"), "{line}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_says_nothing_is_sent_away() {
    let served = served().await;
    // No TLS at all.
    let mut silent = TcpStream::connect(served.address).await.unwrap();
    let mut read = Vec::new();
    let closed = tokio::time::timeout(NEVER, silent.read_to_end(&mut read)).await;
    assert!(closed.is_ok(), "a handshake has a deadline");
    for (what, bytes) in [
        ("nothing after the handshake", ""),
        ("half a head", "GET /version HTTP/1.1\r\nHost:"),
        ("half a preface of HTTP/2", "PRI * HTTP/2.0\r\n"),
        (
            "the preface of HTTP/2 only",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        ),
        (
            "nothing after an answer",
            "GET /version HTTP/1.1\r\nHost: x\r\n\r\n",
        ),
    ] {
        let line = served.answer(bytes.as_bytes()).await;
        assert!(!line.contains(" 200 "), "{what}: {line}");
    }
    served.is_well().await;
}

#[tokio::test(start_paused = true)]
async fn heads_are_bounded() {
    let served = served().await;
    let head = |headers: String| format!("GET /version HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
    let many: String = (0..2_000).map(|at| format!("x-{at}: v\r\n")).collect();
    let large = format!("x: {}\r\n", "v".repeat(2 << 20));
    for (what, bytes, want) in [
        ("many headers", head(many), " 431 "),
        ("a large header", head(large), " 431 "),
        (
            "a long path",
            format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(100_000)),
            " 414 ",
        ),
        ("no HTTP", "\0\0\0\0 nonsense\r\n\r\n".repeat(10), " 400 "),
    ] {
        let line = served.answer(bytes.as_bytes()).await;
        // Who goes on sending into a connection that is being closed may miss the answer, and nothing else.
        assert!(line.is_empty() || line.contains(want), "{what}: {line:?}");
    }
    served.is_well().await;
}

fn post(body: Body) -> Request<Body> {
    Request::post("/api/v1/namespaces")
        .header("content-type", "application/json")
        .extension(UserInfo::new("admin", &["system:masters"]))
        .body(body)
        .unwrap()
}

fn pieces(pieces: Vec<Result<&'static str, &'static str>>, endless: bool) -> Body {
    let pieces = stream::iter(pieces).map(|piece| match piece {
        Ok(text) => Ok(Frame::data(Bytes::from_static(text.as_bytes()))),
        Err(why) => Err(BoxError::from(why)),
    });
    if endless {
        StreamBody::new(pieces.chain(stream::pending())).boxed_unsync()
    } else {
        StreamBody::new(pieces).boxed_unsync()
    }
}

async fn status(api: &Arc<ApiServer>, request: Request<Body>) -> (u16, String) {
    let answer = tokio::time::timeout(NEVER, api.handle(request))
        .await
        .expect("an answer");
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8_lossy(&body).into_owned())
}

const NAMESPACE: &str = r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"half"}}"#;

#[tokio::test(start_paused = true)]
async fn bodies_that_do_not_end_are_refused_and_leave_nothing() {
    let api = whole::server(whole::authority(), None).await;
    for (what, body, want) in [
        ("never comes", pieces(vec![], true), 408),
        (
            "stops halfway",
            pieces(vec![Ok(&NAMESPACE[..20])], true),
            408,
        ),
        (
            "whole, but does not end",
            pieces(vec![Ok(NAMESPACE)], true),
            408,
        ),
        (
            "is cut off",
            pieces(vec![Ok(NAMESPACE), Err("reset")], false),
            400,
        ),
    ] {
        let (got, text) = status(&api, post(body)).await;
        assert_eq!(got, want, "a body that {what}: {text}");
    }
    let get = Request::get("/api/v1/namespaces/half")
        .extension(UserInfo::new("admin", &["system:masters"]))
        .body(full_body(""))
        .unwrap();
    assert_eq!(status(&api, get).await.0, 404);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_never_ends_is_not_kept() {
    let api = whole::server(whole::authority(), None).await;
    // 64 MB in pieces, without a length said in advance; none of it may be read beyond what is drained.
    let piece = Bytes::from(vec![b' '; 64 * 1024]);
    let taken = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = taken.clone();
    let flood = stream::repeat_with(move || {
        counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Ok::<_, BoxError>(Frame::data(piece.clone()))
    });
    let (got, text) = status(&api, post(StreamBody::new(flood).boxed_unsync())).await;
    assert_eq!(got, 413, "{text}");
    let read = taken.load(std::sync::atomic::Ordering::Relaxed) * 64 * 1024;
    assert!(read < 40 << 20, "{read} bytes were read");
}

#[tokio::test(start_paused = true)]
async fn a_cut_connection_leaves_nothing() {
    let served = served().await;
    let head = "POST /api/v1/namespaces HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{\"a\"";
    let mut stream = served.connect().await;
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    drop(stream);
    served.is_well().await;
    assert!(
        served
            .api
            .store()
            .snapshot()
            .entry(&caravel_api::Key::from("/registry/core/namespaces/a"))
            .is_none()
    );
}

#[tokio::test(start_paused = true)]
async fn what_nests_or_repeats_without_end_is_refused() {
    let api = whole::server(whole::authority(), None).await;
    let object = |member: &str| {
        format!(
            r#"{{"apiVersion":"v1","kind":"Namespace","metadata":{{"name":"half"}},"x":{member}}}"#
        )
    };
    let deep = |open: &str, close: &str, depth: usize| {
        format!("{}{}", open.repeat(depth), close.repeat(depth))
    };
    // Each line refers to the one before ten times: 10^9 in the end.
    let bomb: String = (1..=9).fold("a0: &a0 [x]\n".to_owned(), |text, at| {
        let before = format!("*a{}, ", at - 1).repeat(10);
        format!("{text}a{at}: &a{at} [{}]\n", before.trim_end_matches(", "))
    });
    let (json, yaml) = ("application/json", "application/yaml");
    let (patch, merge, strategic, apply) = (
        "application/json-patch+json",
        "application/merge-patch+json",
        "application/strategic-merge-patch+json",
        "application/apply-patch+yaml",
    );
    let made = status(&api, post(full_body(NAMESPACE))).await;
    assert_eq!(made.0, 201, "{}", made.1);
    let patched = "/api/v1/namespaces/half?fieldManager=me";
    for (method, kind, uri, body) in [
        (
            "POST",
            json,
            "/api/v1/namespaces",
            object(&deep("[", "]", 10_000)),
        ),
        (
            "POST",
            json,
            "/api/v1/namespaces",
            deep("{\"a\":", "}", 10_000),
        ),
        ("POST", json, "/api/v1/namespaces", "[".repeat(1 << 20)),
        (
            "POST",
            yaml,
            "/api/v1/namespaces",
            object(&deep("[", "]", 10_000)),
        ),
        ("POST", yaml, "/api/v1/namespaces", "- ".repeat(10_000)),
        ("POST", yaml, "/api/v1/namespaces", bomb.clone()),
        ("PATCH", json, patched, String::new()),
        (
            "PATCH",
            patch,
            patched,
            format!(
                r#"[{{"op":"add","path":"/x","value":{}}}]"#,
                deep("[", "]", 10_000)
            ),
        ),
        (
            "PATCH",
            merge,
            patched,
            deep("{\"a\":", "}", 10_000).replace(":}", ":1}"),
        ),
        (
            "PATCH",
            strategic,
            patched,
            deep("{\"a\":", "}", 10_000).replace(":}", ":1}"),
        ),
        ("PATCH", apply, patched, deep("{a: ", "}", 10_000)),
        ("PATCH", apply, patched, bomb),
        (
            "DELETE",
            json,
            "/api/v1/namespaces/half",
            deep("[", "]", 10_000),
        ),
        (
            "POST",
            json,
            "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
            deep("[", "]", 10_000),
        ),
    ] {
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .header("content-type", kind)
            .extension(UserInfo::new("admin", &["system:masters"]))
            .body(full_body(body.clone()))
            .unwrap();
        let (got, text) = status(&api, request).await;
        let shown = body.chars().take(40).collect::<String>();
        assert!(
            got == 400 || got == 415,
            "{method} {kind} {shown}: {got} {}",
            text.chars().take(200).collect::<String>()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn objects_have_a_size() {
    let api = whole::server(whole::authority(), None).await;
    let with = |count: usize, field: &str| {
        let all: serde_json::Map<_, _> = (0..count)
            .map(|at| (format!("k{at}"), serde_json::Value::from("v".repeat(60))))
            .collect();
        let mut object: serde_json::Value = serde_json::from_str(NAMESPACE).unwrap();
        object["metadata"][field] = all.into();
        object.to_string()
    };
    for (count, field, want) in [
        (20_000, "labels", 413),
        (20_000, "annotations", 422),
        (5_000, "annotations", 422),
        (3_000, "labels", 201),
    ] {
        let (got, text) = status(&api, post(full_body(with(count, field)))).await;
        let shown = text.chars().take(300).collect::<String>();
        assert_eq!(got, want, "{count} {field}: {shown}");
    }
}
