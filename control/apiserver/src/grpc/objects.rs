//! The cluster's objects over gRPC: each call is made into the HTTP request it stands for and goes through the whole
//! stack, so that there is one way to be let in, one admission and one audit.
//!
//! Nothing is decided here. Credentials are those of the call; impersonation headers are passed on.

use super::{Caller, server};
use crate::body::{self, Body};
use crate::server::ApiServer;
use bytes::{Buf as _, Bytes, BytesMut};
use caravel_rpc::cluster::v1::objects_server::Objects;
use caravel_rpc::cluster::v1::{
    ApplyObjectRequest, ApplyObjectResponse, GetObjectRequest, GetObjectResponse,
    ListObjectsRequest, ListObjectsResponse, Resource, WatchObjectsRequest, WatchObjectsResponse,
};
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use http::{Method, StatusCode, header};
use http_body_util::BodyExt as _;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::Arc;
use tonic::{Code, Request, Response, Status};

/// Longest line of a watch: an object of the greatest size, with what is around it.
const LINE: usize = 8 << 20;

#[derive(Clone)]
pub(crate) struct ObjectsService;

/// One HTTP request to be made.
struct Call {
    api: Arc<ApiServer>,
    caller: Caller,
}

impl Call {
    fn of<T>(request: &Request<T>) -> Result<Self, Status> {
        let caller = request.extensions().get::<Caller>().cloned();
        Ok(Self {
            api: server(request)?,
            caller: caller.ok_or_else(|| Status::internal("the caller is not known"))?,
        })
    }

    async fn send(
        self,
        method: Method,
        uri: String,
        content: Option<(&str, Vec<u8>)>,
    ) -> Result<http::Response<Body>, Status> {
        let malformed = |error: http::Error| Status::invalid_argument(error.to_string());
        let (kind, bytes) = content.unwrap_or_default();
        let mut request = http::Request::builder()
            .method(method)
            .uri(uri)
            .body(body::full(bytes))
            .map_err(malformed)?;
        *request.headers_mut() = self.caller.headers;
        let json = header::HeaderValue::from_static("application/json");
        request.headers_mut().insert(header::ACCEPT, json);
        if !kind.is_empty() {
            let kind = header::HeaderValue::from_str(kind)
                .map_err(|error| Status::internal(error.to_string()))?;
            request.headers_mut().insert(header::CONTENT_TYPE, kind);
        }
        if let Some(peer) = self.caller.peer {
            request.extensions_mut().insert(peer);
        }
        let response = self.api.handle(request).await;
        if response.status().is_success() {
            return Ok(response);
        }
        let code = code(response.status());
        let said = whole(response.into_body()).await?;
        Err(Status::new(code, message(&said)))
    }

    async fn bytes(
        self,
        method: Method,
        uri: String,
        content: Option<(&str, Vec<u8>)>,
    ) -> Result<Bytes, Status> {
        let response = self.send(method, uri, content).await?;
        whole(response.into_body()).await
    }
}

async fn whole(body: Body) -> Result<Bytes, Status> {
    let collected = body.collect().await;
    Ok(collected
        .map_err(|error| Status::internal(error.to_string()))?
        .to_bytes())
}

/// The message of a `Status` object.
fn message(said: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Said {
        message: String,
    }
    match serde_json::from_slice::<Said>(said) {
        Ok(said) => said.message,
        Err(_) => String::from_utf8_lossy(said).into_owned(),
    }
}

fn code(status: StatusCode) -> Code {
    match status.as_u16() {
        400 | 406 | 414 | 415 | 422 => Code::InvalidArgument,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::NotFound,
        405 | 501 => Code::Unimplemented,
        409 => Code::Aborted,
        410 => Code::OutOfRange,
        413 | 429 => Code::ResourceExhausted,
        503 => Code::Unavailable,
        504 => Code::DeadlineExceeded,
        _ => Code::Internal,
    }
}

/// The path of a resource, or of one object of it.
fn path(resource: Option<&Resource>, namespace: &str, name: &str) -> Result<String, Status> {
    let resource = resource.ok_or_else(|| Status::invalid_argument("resource: required"))?;
    let mut path = match resource.group.as_str() {
        "" => "/api".to_owned(),
        group => format!("/apis/{}", part("resource.group", group)?),
    };
    let mut push = |field: &str, text: &str| -> Result<(), Status> {
        path.push('/');
        path.push_str(part(field, text)?);
        Ok(())
    };
    push("resource.version", &resource.version)?;
    if !namespace.is_empty() {
        push("namespaces", "namespaces")?;
        push("namespace", namespace)?;
    }
    push("resource.resource", &resource.resource)?;
    if !name.is_empty() {
        push("name", name)?;
    }
    Ok(path)
}

/// A part of a path must not become several, or a query.
fn part<'a>(field: &str, text: &'a str) -> Result<&'a str, Status> {
    let plain =
        |character: char| character.is_ascii_alphanumeric() || "-._:~@$!".contains(character);
    if text.is_empty() {
        return Err(Status::invalid_argument(format!("{field}: required")));
    }
    if text == "." || text == ".." || !text.chars().all(plain) {
        return Err(Status::invalid_argument(format!(
            "{field}: {text:?} cannot be part of a path"
        )));
    }
    Ok(text)
}

/// `path` with the parameters that have a value.
fn with_query(path: &str, parameters: &[(&str, &str)]) -> String {
    let mut uri = path.to_owned();
    let mut between = '?';
    for (name, value) in parameters.iter().filter(|(_, value)| !value.is_empty()) {
        uri.push(between);
        uri.push_str(name);
        uri.push('=');
        for byte in value.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                uri.push(char::from(byte));
            } else {
                // Writing to a String does not fail.
                let _ = write!(uri, "%{byte:02X}");
            }
        }
        between = '&';
    }
    uri
}

fn number(value: u32) -> String {
    match value {
        0 => String::new(),
        value => value.to_string(),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct List<'a> {
    api_version: String,
    kind: String,
    metadata: ListMeta,
    #[serde(borrow, default)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListMeta {
    #[serde(default)]
    resource_version: String,
    #[serde(default, rename = "continue")]
    next: String,
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(rename = "type")]
    kind: String,
    #[serde(borrow)]
    object: &'a RawValue,
}

/// A watch over HTTP on its way to being one over gRPC.
struct Watching {
    body: Body,
    read: BytesMut,
    /// Bytes at the beginning that hold no end of a line.
    scanned: usize,
    lines: VecDeque<Bytes>,
    ended: bool,
}

impl Watching {
    async fn next(mut self) -> Option<(Result<WatchObjectsResponse, Status>, Self)> {
        loop {
            if let Some(line) = self.lines.pop_front() {
                let event = event(&line);
                self.ended |= event.is_err();
                return Some((event, self));
            }
            if self.ended {
                return None;
            }
            match self.body.frame().await? {
                Ok(frame) => self.take(frame.data_ref().map_or(&[][..], |data| data)),
                Err(error) => {
                    self.ended = true;
                    return Some((Err(Status::unavailable(error.to_string())), self));
                }
            }
            if self.read.len() > LINE {
                self.ended = true;
                return Some((Err(Status::internal("an event is too long")), self));
            }
        }
    }

    fn take(&mut self, data: &[u8]) {
        self.read.extend_from_slice(data);
        while let Some(at) = self.read[self.scanned..]
            .iter()
            .position(|byte| *byte == b'\n')
        {
            let line = self.read.split_to(self.scanned + at).freeze();
            self.read.advance(1);
            self.scanned = 0;
            if !line.is_empty() {
                self.lines.push_back(line);
            }
        }
        self.scanned = self.read.len();
    }
}

fn event(line: &[u8]) -> Result<WatchObjectsResponse, Status> {
    let line: Line<'_> =
        serde_json::from_slice(line).map_err(|error| Status::internal(error.to_string()))?;
    let object = line.object.get().as_bytes();
    if line.kind != "ERROR" {
        return Ok(WatchObjectsResponse {
            r#type: line.kind,
            object: object.to_vec(),
        });
    }
    #[derive(Deserialize)]
    struct Failed {
        #[serde(default)]
        code: u16,
    }
    let status = serde_json::from_slice(object)
        .ok()
        .and_then(|failed: Failed| StatusCode::from_u16(failed.code).ok());
    Err(Status::new(
        status.map_or(Code::Internal, code),
        message(object),
    ))
}

#[tonic::async_trait]
impl Objects for ObjectsService {
    async fn get_object(
        &self,
        request: Request<GetObjectRequest>,
    ) -> Result<Response<GetObjectResponse>, Status> {
        let call = Call::of(&request)?;
        let asked = request.into_inner();
        let path = path(
            asked.resource.as_ref(),
            &asked.namespace,
            part("name", &asked.name)?,
        )?;
        let object = call.bytes(Method::GET, path, None).await?.into();
        Ok(Response::new(GetObjectResponse { object }))
    }

    async fn list_objects(
        &self,
        request: Request<ListObjectsRequest>,
    ) -> Result<Response<ListObjectsResponse>, Status> {
        let call = Call::of(&request)?;
        let asked = request.into_inner();
        let path = path(asked.resource.as_ref(), &asked.namespace, "")?;
        let uri = with_query(
            &path,
            &[
                ("labelSelector", &asked.label_selector),
                ("fieldSelector", &asked.field_selector),
                ("limit", &number(asked.limit)),
                ("continue", &asked.r#continue),
            ],
        );
        let bytes = call.bytes(Method::GET, uri, None).await?;
        let list: List<'_> =
            serde_json::from_slice(&bytes).map_err(|error| Status::internal(error.to_string()))?;
        let objects = list.items.unwrap_or_default().into_iter();
        Ok(Response::new(ListObjectsResponse {
            objects: objects
                .map(|object| object.get().as_bytes().to_vec())
                .collect(),
            api_version: list.api_version,
            kind: list.kind,
            resource_version: list.metadata.resource_version,
            r#continue: list.metadata.next,
        }))
    }

    type WatchObjectsStream = BoxStream<'static, Result<WatchObjectsResponse, Status>>;

    async fn watch_objects(
        &self,
        request: Request<WatchObjectsRequest>,
    ) -> Result<Response<Self::WatchObjectsStream>, Status> {
        let call = Call::of(&request)?;
        let asked = request.into_inner();
        let path = path(asked.resource.as_ref(), &asked.namespace, "")?;
        let uri = with_query(
            &path,
            &[
                ("watch", "true"),
                ("allowWatchBookmarks", "true"),
                ("labelSelector", &asked.label_selector),
                ("fieldSelector", &asked.field_selector),
                ("resourceVersion", &asked.resource_version),
                ("timeoutSeconds", &number(asked.timeout_seconds)),
            ],
        );
        let response = call.send(Method::GET, uri, None).await?;
        let watching = Watching {
            body: response.into_body(),
            read: BytesMut::new(),
            scanned: 0,
            lines: VecDeque::new(),
            ended: false,
        };
        Ok(Response::new(
            stream::unfold(watching, Watching::next).boxed(),
        ))
    }

    async fn apply_object(
        &self,
        request: Request<ApplyObjectRequest>,
    ) -> Result<Response<ApplyObjectResponse>, Status> {
        let call = Call::of(&request)?;
        let asked = request.into_inner();
        let path = path(
            asked.resource.as_ref(),
            &asked.namespace,
            part("name", &asked.name)?,
        )?;
        let uri = with_query(
            &path,
            &[
                ("fieldManager", &asked.field_manager),
                ("force", if asked.force { "true" } else { "" }),
                ("dryRun", if asked.dry_run { "All" } else { "" }),
            ],
        );
        let content = ("application/apply-patch+yaml", asked.object);
        let object = call.bytes(Method::PATCH, uri, Some(content)).await?.into();
        Ok(Response::new(ApplyObjectResponse { object }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(group: &str, version: &str, resource: &str) -> Resource {
        Resource {
            group: group.into(),
            version: version.into(),
            resource: resource.into(),
        }
    }

    #[test]
    fn a_call_is_the_path_it_stands_for() {
        let pods = resource("", "v1", "pods");
        let apps = resource("apps", "v1", "deployments");
        let of = |resource, namespace, name| path(Some(resource), namespace, name).unwrap();
        assert_eq!(of(&pods, "", ""), "/api/v1/pods");
        assert_eq!(of(&pods, "a", "b"), "/api/v1/namespaces/a/pods/b");
        assert_eq!(of(&apps, "a", ""), "/apis/apps/v1/namespaces/a/deployments");
        for (resource, namespace, name) in [
            (resource("", "v1", "pods/x"), "", ""),
            (resource("", "..", "pods"), "", ""),
            (resource("", "v1", "pods"), "a/b", ""),
            (resource("", "v1", "pods"), "a", "b?dryRun=All"),
            (resource("", "v1", "pods"), "a", ".."),
            (resource("", "v1", "pods"), "a", "%2e"),
            (resource("", "v1", ""), "", ""),
        ] {
            let refused = path(Some(&resource), namespace, name).unwrap_err();
            assert_eq!(refused.code(), Code::InvalidArgument, "{namespace} {name}");
        }
        assert_eq!(
            with_query("/p", &[("a", ""), ("b", "x=1,y!=2"), ("c", "z")]),
            "/p?b=x%3D1%2Cy%21%3D2&c=z"
        );
    }

    #[tokio::test]
    async fn a_watch_is_cut_into_its_events() {
        let frames = [
            &b"{\"type\":\"ADDED\",\"object\":{\"a\":1}}\n{\"type\":\"MODI"[..],
            b"FIED\",\"object\":{\"a\":2}}\n",
            b"{\"type\":\"ERROR\",\"object\":{\"code\":410,\"message\":\"too old\"}}\n",
            b"{\"type\":\"ADDED\",\"object\":{}}\n",
        ];
        let frames =
            stream::iter(frames.map(|data| {
                Ok::<_, body::BoxError>(http_body::Frame::data(Bytes::from_static(data)))
            }));
        let watching = Watching {
            body: http_body_util::StreamBody::new(frames).boxed_unsync(),
            read: BytesMut::new(),
            scanned: 0,
            lines: VecDeque::new(),
            ended: false,
        };
        let events: Vec<_> = stream::unfold(watching, Watching::next).collect().await;
        assert_eq!(events.len(), 3);
        let first = events[0].as_ref().unwrap();
        assert_eq!(
            (first.r#type.as_str(), &first.object[..]),
            ("ADDED", &b"{\"a\":1}"[..])
        );
        assert_eq!(events[1].as_ref().unwrap().r#type, "MODIFIED");
        let end = events[2].as_ref().unwrap_err();
        assert_eq!((end.code(), end.message()), (Code::OutOfRange, "too old"));
    }
}
