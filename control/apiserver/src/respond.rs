//! Answers: JSON as it lies, YAML made of it, error Statuses, warnings, and gzip for what is large.
//!
//! It never looks into an object; shapes other than the object itself are made in `shape`.

use crate::body::{Body, BoxError, full};
use crate::negotiate::{Accepted, Encoding};
use bytes::Bytes;
use caravel_api::ApiError;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderValue, Response, StatusCode, header};
use http_body::{Body as _, Frame};
use http_body_util::BodyExt;
use std::io::Write;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// Answers larger than this are compressed when the client takes gzip (upstream's figure).
const GZIP_FROM: u64 = 128 * 1024;

/// Media types offered, for 406 and 415.
pub(crate) const OFFERED: &[&str] = &[
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
];

/// A JSON document in the encoding asked for.
pub(crate) fn document(status: StatusCode, json: Bytes, accepted: Accepted) -> Response<Body> {
    match accepted.encoding {
        Encoding::Json if accepted.pretty => {
            match serde_json::from_slice::<serde_json::Value>(&json) {
                Ok(value) => plain(
                    status,
                    "application/json",
                    serde_json::to_vec_pretty(&value).map_or(json, Bytes::from),
                ),
                Err(_) => plain(status, "application/json", json),
            }
        }
        Encoding::Json | Encoding::Protobuf => plain(status, "application/json", json),
        Encoding::Yaml => match yaml(&json) {
            Ok(text) => plain(status, "application/yaml", text.into()),
            Err(error) => self::error(
                &ApiError::internal(format!("write YAML: {error}")),
                Accepted::default(),
            ),
        },
    }
}

fn yaml(json: &[u8]) -> Result<String, BoxError> {
    let value: serde_json::Value = serde_json::from_slice(json)?;
    Ok(serde_yaml_ng::to_string(&value)?)
}

/// Bytes of a content type.
pub(crate) fn plain(
    status: StatusCode,
    content_type: &'static str,
    bytes: Bytes,
) -> Response<Body> {
    stream(status, content_type, full(bytes))
}

/// A body of a content type.
pub(crate) fn stream(status: StatusCode, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("no-cache, private"),
    );
    response
}

/// A failure as a Status object; as upstream, a path that nobody serves is answered in plain text. Clients in Go make a Status with
/// details of that, and some of kubectl's commands (debug) look into these.
pub(crate) fn error(error: &ApiError, accepted: Accepted) -> Response<Body> {
    if error.is_no_such_resource() {
        let mut response = plain(
            StatusCode::NOT_FOUND,
            "text/plain; charset=utf-8",
            Bytes::from_static(b"404 page not found\n"),
        );
        response.headers_mut().insert(
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        );
        return response;
    }
    let status = StatusCode::from_u16(error.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let accepted = Accepted {
        pretty: false,
        ..accepted
    };
    let mut response = document(status, error.to_json().into(), accepted);
    if let Some(seconds) = error.retry_after_seconds() {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if error.code == 401 {
        response.headers_mut().insert(
            header::WWW_AUTHENTICATE,
            HeaderValue::from_static("Bearer realm=\"caravel\""),
        );
    }
    response
}

/// Adds `Warning: 299 - "text"` headers.
pub(crate) fn warn(response: &mut Response<Body>, warnings: &[String]) {
    for text in warnings.iter().take(32) {
        let mut quoted = String::with_capacity(text.len() + 10);
        quoted.push_str("299 - \"");
        for character in text.chars().take(1024) {
            match character {
                '"' | '\\' => quoted.extend(['\\', character]),
                character if character.is_control() => quoted.push(' '),
                character => quoted.push(character),
            }
        }
        quoted.push('"');
        if let Ok(value) = HeaderValue::from_bytes(quoted.as_bytes()) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
}

/// Compresses a large answer.
pub(crate) fn gzip(response: Response<Body>) -> Response<Body> {
    let large = response
        .body()
        .size_hint()
        .exact()
        .is_some_and(|size| size > GZIP_FROM);
    if !large || response.headers().contains_key(header::CONTENT_ENCODING) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    parts.headers.remove(header::CONTENT_LENGTH);
    parts
        .headers
        .insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    parts
        .headers
        .append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    let encoder = GzEncoder::new(Vec::with_capacity(32 * 1024), Compression::new(1));
    Response::from_parts(
        parts,
        Gzip {
            inner: body,
            encoder: Some(encoder),
        }
        .boxed_unsync(),
    )
}

struct Gzip {
    inner: Body,
    encoder: Option<GzEncoder<Vec<u8>>>,
}

impl http_body::Body for Gzip {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        loop {
            let Some(encoder) = this.encoder.as_mut() else {
                return Poll::Ready(None);
            };
            let frame = ready!(Pin::new(&mut this.inner).poll_frame(cx));
            let out = match frame {
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                Some(Ok(frame)) => {
                    let Ok(data) = frame.into_data() else {
                        continue;
                    };
                    if let Err(error) = encoder.write_all(&data) {
                        return Poll::Ready(Some(Err(error.into())));
                    }
                    std::mem::take(encoder.get_mut())
                }
                None => match this.encoder.take().map(GzEncoder::finish) {
                    Some(Ok(rest)) => rest,
                    Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                    None => return Poll::Ready(None),
                },
            };
            if !out.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(out.into()))));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[tokio::test]
    async fn large_answers_are_compressed() {
        let text = "abc".repeat(100_000);
        let response = gzip(plain(StatusCode::OK, "text/plain", text.clone().into()));
        assert_eq!(response.headers()["content-encoding"], "gzip");
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let mut back = String::new();
        flate2::read::GzDecoder::new(&bytes[..])
            .read_to_string(&mut back)
            .unwrap();
        assert_eq!(back, text);
        assert!(
            !gzip(plain(StatusCode::OK, "text/plain", "abc".into()))
                .headers()
                .contains_key("content-encoding")
        );
    }

    #[test]
    fn warnings_are_quoted() {
        let mut response = plain(StatusCode::OK, "text/plain", Bytes::new());
        warn(&mut response, &["unknown field \"spec.foo\"".to_owned()]);
        assert_eq!(
            response.headers()["warning"],
            "299 - \"unknown field \\\"spec.foo\\\"\""
        );
    }

    #[tokio::test]
    async fn yaml_out() {
        let accepted = Accepted {
            encoding: Encoding::Yaml,
            ..Accepted::default()
        };
        let response = document(
            StatusCode::OK,
            Bytes::from_static(b"{\"a\":{\"b\":[1]}}"),
            accepted,
        );
        assert_eq!(
            response.into_body().collect().await.unwrap().to_bytes(),
            "a:\n  b:\n  - 1\n"
        );
    }
}
