//! HTTPS to one server, with what is known of an outcome said exactly. It never retries and never goes elsewhere.

use crate::history::Outcome;
use anyhow::Context as _;
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use kube::client::Body;
use kube::config::Kubeconfig;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Every object of the load has it.
pub const LABEL: &str = "chaos=load";
/// Bytes that a large object has besides.
const PADDING: usize = 30_000;
const CONNECT: Duration = Duration::from_secs(3);
/// Connections that are kept for later, at the most worth trying.
const KEPT: usize = 3;

#[derive(Clone)]
pub struct Client {
    /// The server's name in the lab.
    pub server: String,
    http: kube::Client,
    /// Writes refused because a disk is full.
    full: Arc<AtomicU64>,
}

/// An object as it was read: the values written to it, in order, and its revision.
#[derive(Clone, Debug)]
pub struct Register {
    pub values: Vec<String>,
    pub revision: u64,
}

impl Client {
    /// `kubeconfig` is a file's text; of its server only the credentials are used.
    pub async fn new(kubeconfig: &str, server: &str, url: &str) -> anyhow::Result<Self> {
        caravel_client::connect::install_crypto();
        let kubeconfig = Kubeconfig::from_yaml(kubeconfig)?;
        let options = kube::config::KubeConfigOptions::default();
        let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await?;
        config.cluster_url = url.parse()?;
        config.connect_timeout = Some(CONNECT);
        // A request that is sent again by itself is two operations, of which the history would show one.
        config.default_retry = false;
        Ok(Self {
            server: server.to_owned(),
            http: kube::Client::try_from(config)?,
            full: Arc::default(),
        })
    }

    /// An answer of any status.
    async fn send(&self, request: Request<Body>) -> Result<(StatusCode, Vec<u8>), Unanswered> {
        let answer = self
            .http
            .send(request)
            .await
            .map_err(|error| Unanswered::from(&error))?;
        let status = answer.status();
        let body = answer.into_body().collect().await;
        let body = body.map_err(|error| Unanswered::from(&error))?;
        Ok((status, body.to_bytes().to_vec()))
    }

    async fn ask(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
        within: Duration,
    ) -> Result<(StatusCode, Value), Unanswered> {
        let body = body.map_or_else(Body::empty, |value| {
            Body::from(value.to_string().into_bytes())
        });
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", "application/json")
            .body(body)
            .expect("a method and a path of ours");
        let answer = tokio::time::timeout(within, self.send(request)).await;
        let (status, body) = answer.map_err(|late| Unanswered::from(&late))??;
        Ok((status, serde_json::from_slice(&body).unwrap_or_default()))
    }

    /// A request of the test itself, which must succeed.
    pub async fn must(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<Value> {
        let within = Duration::from_secs(20);
        let mut answer = self.ask(method, path, body, within).await;
        // A connection that was kept may be one to the server of before a restart.
        for _ in 0..KEPT {
            if method != "GET" || answer.is_ok() {
                break;
            }
            answer = self.ask(method, path, body, within).await;
        }
        let (status, value) =
            answer.with_context(|| format!("{method} {path}: {} does not answer", self.server))?;
        anyhow::ensure!(
            status.is_success(),
            "{method} {path} at {}: {status} {value}",
            self.server
        );
        Ok(value)
    }

    /// An answer as it is: its status and its bytes.
    pub async fn raw(&self, path: &str) -> anyhow::Result<(u16, Vec<u8>)> {
        let request = Request::get(path).body(Body::empty())?;
        let answer = tokio::time::timeout(Duration::from_secs(20), self.send(request)).await?;
        let (status, body) =
            answer.with_context(|| format!("GET {path}: {} does not answer", self.server))?;
        Ok((status.as_u16(), body))
    }

    /// One of the server's figures.
    pub async fn metric(&self, name: &str) -> anyhow::Result<u64> {
        let (status, body) = self.raw("/metrics").await?;
        anyhow::ensure!(status == 200, "GET /metrics: {status}");
        let text = String::from_utf8_lossy(&body).into_owned();
        let value = text.lines().find_map(|line| {
            let (named, value) = line.split_once(' ')?;
            (named == name).then_some(value)
        });
        let value: f64 = value.with_context(|| format!("no {name}"))?.parse()?;
        Ok(value as u64)
    }

    /// Is a watch that would go on after this revision told that it cannot, so that its client lists again?
    pub async fn is_gone(&self, namespace: &str, after: u64) -> anyhow::Result<bool> {
        let mut answer = self.watch(namespace, after).await?;
        if answer.status() != StatusCode::OK {
            return Ok(answer.status() == StatusCode::GONE);
        }
        let first = tokio::time::timeout(CONNECT, answer.body_mut().frame()).await;
        let Ok(Some(Ok(frame))) = first else {
            return Ok(false);
        };
        let line = frame.into_data().unwrap_or_default();
        let event: Value = serde_json::from_slice(&line).unwrap_or_default();
        Ok(event["type"] == "ERROR" && event["object"]["code"] == 410)
    }

    pub async fn ready(&self) -> bool {
        let answer = self.ask("GET", "/readyz", None, CONNECT).await;
        answer.is_ok_and(|(status, _)| status == StatusCode::OK)
    }

    pub fn refused_as_full(&self) -> u64 {
        self.full.load(Ordering::Relaxed)
    }

    /// How a consistent read is answered.
    pub async fn status_of(&self, namespace: &str) -> Option<u16> {
        let answer = self
            .ask("GET", &path(namespace, ""), None, Duration::from_secs(20))
            .await;
        answer.ok().map(|(status, _)| status.as_u16())
    }

    /// Writes a large object, so that a disk or a log fills. Not part of the history.
    pub async fn bulk(&self, namespace: &str, name: &str, bytes: usize) {
        let mut body = object(namespace, name, &["x".repeat(bytes)], None);
        body["metadata"]["labels"] = json!({"chaos": "bulk"});
        let within = Duration::from_secs(5);
        let all = path(namespace, "");
        let mut sent = self.ask("POST", &all, Some(&body), within).await;
        if matches!(sent, Ok((StatusCode::CONFLICT, _))) {
            let one = path(namespace, name);
            sent = self.ask("PUT", &one, Some(&body), within).await;
        }
        // What becomes of it is seen by others.
        drop(sent);
    }

    /// When the server says that an object is made, in seconds since 1970. Nothing is stored.
    pub async fn made_at(&self, namespace: &str) -> anyhow::Result<i64> {
        let body = object(namespace, "clock", &[], None);
        let path = format!("{}?dryRun=All", path(namespace, ""));
        let made = self.must("POST", &path, Some(&body)).await?;
        let time = made["metadata"]["creationTimestamp"]
            .as_str()
            .context("an object without a time")?;
        let time: jiff::Timestamp = time.parse()?;
        Ok(time.as_second())
    }

    pub async fn read(
        &self,
        namespace: &str,
        key: &str,
        within: Duration,
    ) -> (Outcome, Option<Register>) {
        match self.ask("GET", &path(namespace, key), None, within).await {
            Ok((StatusCode::OK, value)) => match register(&value) {
                Some(register) => (done(&register), Some(register)),
                None => (Outcome::Unknown, None),
            },
            Ok((StatusCode::NOT_FOUND, _)) => (Outcome::Absent, None),
            _ => (Outcome::Unknown, None),
        }
    }

    pub async fn create(
        &self,
        namespace: &str,
        key: &str,
        value: &str,
        within: Duration,
    ) -> Outcome {
        let body = object(namespace, key, &[value.to_owned()], None);
        let answer = self
            .ask("POST", &path(namespace, ""), Some(&body), within)
            .await;
        self.written(answer)
    }

    /// Appends a value to what was read.
    pub async fn update(
        &self,
        namespace: &str,
        key: &str,
        read: &Register,
        value: &str,
        within: Duration,
    ) -> Outcome {
        let mut values = read.values.clone();
        values.push(value.to_owned());
        let body = object(namespace, key, &values, Some(read.revision));
        let answer = self
            .ask("PUT", &path(namespace, key), Some(&body), within)
            .await;
        self.written(answer)
    }

    /// As the API's conventions have it: 503, 429 and 507 are said before anything is done; 504 and 500 may have been done.
    fn written(&self, answer: Result<(StatusCode, Value), Unanswered>) -> Outcome {
        match answer {
            Ok((StatusCode::OK | StatusCode::CREATED, value)) => {
                register(&value).map_or(Outcome::Unknown, |r| done(&r))
            }
            Ok((StatusCode::NOT_FOUND, _)) => Outcome::Absent,
            Ok((StatusCode::CONFLICT, _)) => Outcome::Conflict,
            Ok((StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS, _))
            | Err(Unanswered { unsent: true, .. }) => Outcome::Refused,
            Ok((StatusCode::INSUFFICIENT_STORAGE, _)) => {
                self.full.fetch_add(1, Ordering::Relaxed);
                Outcome::Refused
            }
            Ok((status, value)) => {
                // Neither is a fault's doing: somebody should see it.
                if !matches!(status.as_u16(), 500 | 504) {
                    eprintln!("     a write was answered with {status}: {value}");
                }
                Outcome::Unknown
            }
            Err(_) => Outcome::Unknown,
        }
    }

    /// All objects of the load, consistently, and the revision of the list.
    pub async fn list(&self, namespace: &str) -> anyhow::Result<(u64, Vec<(String, Register)>)> {
        let list = self
            .must(
                "GET",
                &format!("{}?labelSelector={LABEL}", path(namespace, "")),
                None,
            )
            .await?;
        let items = list["items"].as_array().context("a list without items")?;
        let items = items.iter().map(|item| {
            let name = item["metadata"]["name"]
                .as_str()
                .context("an object without a name")?;
            Ok((
                name.to_owned(),
                register(item).context("an object that is not ours")?,
            ))
        });
        let revision = revision(&list).context("a list without a revision")?;
        Ok((revision, items.collect::<anyhow::Result<_>>()?))
    }

    /// A watch of the load's objects: lines of JSON.
    pub async fn watch(&self, namespace: &str, after: u64) -> anyhow::Result<http::Response<Body>> {
        let uri = format!(
            "{}?watch=1&allowWatchBookmarks=true&resourceVersion={after}&labelSelector={LABEL}",
            path(namespace, "")
        );
        let request = Request::get(uri).body(Body::empty())?;
        let answer =
            tokio::time::timeout(Duration::from_secs(10), self.http.send(request)).await??;
        Ok(answer)
    }
}

pub fn path(namespace: &str, name: &str) -> String {
    let path = format!("/api/v1/namespaces/{namespace}/configmaps");
    if name.is_empty() {
        path
    } else {
        format!("{path}/{name}")
    }
}

fn object(namespace: &str, name: &str, values: &[String], revision: Option<u64>) -> Value {
    let mut metadata = json!({"name": name, "namespace": namespace, "labels": {"chaos": "load"}});
    if let Some(revision) = revision {
        metadata["resourceVersion"] = json!(revision.to_string());
    }
    // Some are large: what databases do with those is a matter of its own.
    let padding = if name.starts_with('w') { PADDING } else { 0 };
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata,
        "data": {"values": values.join(" "), "padding": "x".repeat(padding)}})
}

pub fn register(object: &Value) -> Option<Register> {
    let values = object["data"]["values"].as_str()?.split(' ');
    Some(Register {
        values: values.map(str::to_owned).collect(),
        revision: revision(object)?,
    })
}

pub fn revision(object: &Value) -> Option<u64> {
    object["metadata"]["resourceVersion"].as_str()?.parse().ok()
}

fn done(register: &Register) -> Outcome {
    match register.values.last() {
        Some(value) => Outcome::Done {
            value: value.clone(),
            revision: register.revision,
        },
        None => Outcome::Unknown,
    }
}

/// Was no connection made?
/// A request without an answer.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
struct Unanswered {
    /// It surely did not reach the server.
    unsent: bool,
    why: String,
}

impl<E: std::error::Error + 'static> From<&E> for Unanswered {
    fn from(error: &E) -> Self {
        let (mut unsent, mut why) = (false, error.to_string());
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
        while let Some(error) = cause {
            if let Some(error) = error.downcast_ref::<hyper_util::client::legacy::Error>() {
                unsent = error.is_connect();
            }
            cause = error.source();
            if let Some(cause) = cause {
                why = format!("{why}: {cause}");
            }
        }
        Unanswered { unsent, why }
    }
}
