//! What a handler leaves unread of a request's body.
//!
//! Over HTTP/2 a stream that is answered before its request has ended is reset after the answer, and a client that still sends
//! may drop the answer with it (curl before 8: "stream was not closed cleanly"). So what is left is taken first. Over
//! HTTP/1 that would ask a client that waits for `100 Continue` to send.

use crate::body::{self, BoxError};
use bytes::Bytes;
use http::{Request, Version};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

/// Who asked may be refused altogether, and is not waited for longer.
const DEADLINE: Duration = Duration::from_secs(1);

/// `None` once it has ended.
type Shared = Arc<Mutex<Option<body::Body>>>;

/// The rest of a body that may be left unread.
pub(crate) struct Unread(Option<Shared>);

impl Unread {
    /// The same request, and what its handler will leave of its body.
    pub(crate) fn of(request: Request<body::Body>) -> (Request<body::Body>, Self) {
        if request.version() != Version::HTTP_2 || request.body().is_end_stream() {
            return (request, Self(None));
        }
        let (head, body) = request.into_parts();
        let shared = Arc::new(Mutex::new(Some(body)));
        let body = Reading(shared.clone()).boxed_unsync();
        (Request::from_parts(head, body), Self(Some(shared)))
    }

    /// Takes it and throws it away, within reason; not from one who still reads it, as what is passed on to a node may be.
    pub(crate) async fn take(self) {
        let rest = self.0.and_then(Arc::into_inner);
        let rest = rest.and_then(Mutex::into_inner);
        if let Some(mut body) = rest {
            // What does not come in time is reset.
            let _ = tokio::time::timeout(DEADLINE, body::drain(&mut body)).await;
        }
    }
}

struct Reading(Shared);

impl http_body::Body for Reading {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut shared = self.0.lock();
        let Some(body) = shared.as_mut() else {
            return Poll::Ready(None);
        };
        let frame = ready!(Pin::new(body).poll_frame(cx));
        if !matches!(frame, Some(Ok(_))) {
            *shared = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        let shared = self.0.lock();
        shared.as_ref().is_none_or(|body| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let shared = self.0.lock();
        shared
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), |body| body.size_hint())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_that_is_still_read_is_left_to_its_reader() {
        let mut request = Request::new(body::full("abc"));
        *request.version_mut() = Version::HTTP_2;
        let (request, unread) = Unread::of(request);
        unread.take().await;
        assert_eq!(body::read(request.into_body()).await.unwrap(), "abc");
    }
}
