//! Who is let in at the node's port, over real TLS on loopback: each way in, and everybody else.

use std::sync::Arc;

use async_trait::async_trait;
use caravel_auth::Authority;
use caravel_auth::certificate::Issued;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::DropGuard;

use super::access::AccessError;
use super::attributes::Attributes;
use super::*;

/// Tokens are their users' names; "scraper" may read metrics, "broken" cannot be asked about.
struct Reviews;

#[async_trait]
impl Access for Reviews {
    async fn authenticate(&self, token: &str) -> Result<Option<Caller>, AccessError> {
        if token == "broken" {
            return Err(AccessError::Token(kube::Error::Service("gone".into())));
        }
        Ok(["scraper", "nobody"].contains(&token).then(|| Caller {
            name: token.to_owned(),
            ..Caller::default()
        }))
    }

    async fn authorize(&self, caller: &Caller, asked: &Attributes) -> Result<bool, AccessError> {
        assert_eq!(asked.node, "n1");
        Ok(caller.name == "scraper" && (asked.verb, asked.subresource) == ("get", "metrics"))
    }
}

struct Node {
    ca: String,
    address: SocketAddr,
    _end: DropGuard,
    _served: tokio::task::JoinHandle<()>,
}

async fn node(authority: &Authority) -> Node {
    let shutdown = CancellationToken::new();
    let serving = authority
        .issue_server(&["n1".into()], &["127.0.0.1".parse().unwrap()])
        .unwrap();
    let acceptor = tls::acceptor(&Certificates {
        cert: &serving.cert_pem,
        key: &serving.key_pem,
        client_ca: authority.ca_pem(),
    })
    .unwrap();
    let state = State::new(
        "n1".into(),
        Pods::default(),
        Arc::new(caravel_runtime::fake::Fake::default()),
        Arc::new(Reviews),
        Registry::new(),
        "/".into(),
    );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let end = shutdown.clone().drop_guard();
    let served = tokio::spawn(tasks::accept(listener, acceptor, Arc::new(state), shutdown));
    Node {
        ca: authority.ca_pem().to_owned(),
        address,
        _end: end,
        _served: served,
    }
}

/// The answer's first line and body; an error where not even TLS came about.
async fn ask(
    node: &Node,
    certificate: Option<&Issued>,
    token: Option<&str>,
    request: &str,
) -> std::io::Result<String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    for ca in CertificateDer::pem_slice_iter(node.ca.as_bytes()) {
        roots.add(ca.unwrap()).unwrap();
    }
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match certificate {
        None => config.with_no_client_auth(),
        Some(issued) => config
            .with_client_auth_cert(
                CertificateDer::pem_slice_iter(issued.cert_pem.as_bytes())
                    .map(Result::unwrap)
                    .collect(),
                PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap(),
            )
            .unwrap(),
    };
    let stream = TcpStream::connect(node.address).await?;
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let mut stream = connector.connect(name, stream).await?;
    let token = token.map_or_else(String::new, |t| format!("Authorization: Bearer {t}\r\n"));
    let text = format!("{request} HTTP/1.1\r\nHost: n1\r\nConnection: close\r\n{token}\r\n");
    stream.write_all(text.as_bytes()).await?;
    let mut answer = Vec::new();
    // The server may end the connection without TLS's good-bye.
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8(answer).unwrap();
    if answer.is_empty() {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let code = head.split_whitespace().nth(1).unwrap();
    Ok(format!(
        "{code} {}",
        body.lines().next().unwrap_or_default()
    ))
}

#[tokio::test]
async fn only_the_api_server_and_whom_it_allows_are_answered() {
    let ours = Authority::create("https://ours").unwrap();
    let theirs = Authority::create("https://theirs").unwrap();
    let node = node(&ours).await;
    let of = |authority: &Authority, name: &str, group: Option<&str>| {
        authority.issue_client(name, group).unwrap()
    };
    let api_server = ours.issue_kubelet_client().unwrap();
    let other_node = of(&ours, "system:node:n2", Some("system:nodes"));
    let user = of(&ours, "jane", None);
    let scraper = of(&ours, "scraper", None);
    let exec = "POST /exec/default/p/c?command=id&output=1";
    let forbidden = |user: &str, verb: &str, what: &str| {
        format!("403 Forbidden (user={user}, verb={verb}, resource=nodes, subresource={what})")
    };
    for (certificate, token, request, answer) in [
        (None, None, "GET /healthz", "401 Unauthorized".into()),
        (None, None, "GET /metrics", "401 Unauthorized".into()),
        (None, None, exec, "401 Unauthorized".into()),
        (
            None,
            Some("unknown"),
            "GET /pods",
            "401 Unauthorized".into(),
        ),
        (
            None,
            Some("nobody"),
            "GET /metrics",
            forbidden("nobody", "get", "metrics"),
        ),
        (
            None,
            Some("nobody"),
            exec,
            forbidden("nobody", "create", "proxy"),
        ),
        (
            None,
            Some("scraper"),
            "GET /pods",
            forbidden("scraper", "get", "proxy"),
        ),
        (
            None,
            Some("scraper"),
            exec,
            forbidden("scraper", "create", "proxy"),
        ),
        (None, Some("scraper"), "GET /metrics", "200 ".into()),
        (
            None,
            Some("broken"),
            "GET /metrics",
            "500 ask the API server about a token: ServiceError: gone".into(),
        ),
        (
            Some(&user),
            None,
            "GET /pods",
            forbidden("jane", "get", "proxy"),
        ),
        // A certificate decides: a better token beside it is of no use.
        (
            Some(&user),
            Some("scraper"),
            "GET /metrics",
            forbidden("jane", "get", "metrics"),
        ),
        (
            Some(&other_node),
            None,
            exec,
            forbidden("system:node:n2", "create", "proxy"),
        ),
        (Some(&scraper), None, "GET /metrics", "200 ".into()),
        (Some(&api_server), None, "GET /healthz", "200 ok".into()),
        (
            Some(&api_server),
            None,
            "GET /nothing",
            "404 404 page not found".into(),
        ),
    ] {
        let got = ask(&node, certificate, token, request).await.unwrap();
        let fits = if answer == "200 " {
            got.starts_with(&answer)
        } else {
            got == answer
        };
        assert!(fits, "{request} token {token:?}: {got:?}, not {answer:?}");
    }
    for name in ["system:kube-apiserver", "kube-apiserver-kubelet-client"] {
        let forged = of(&theirs, name, Some("system:masters"));
        let got = ask(&node, Some(&forged), None, "GET /healthz").await;
        assert!(
            got.is_err(),
            "another authority's {name} was answered: {got:?}"
        );
    }
}
