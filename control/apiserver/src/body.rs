//! Bodies: reading one within a size and a time, and making the few kinds that are sent.
//!
//! A request body is never held beyond [`MAX_BODY`]; a list is copied out a piece at a time, so that its
//! memory is the snapshot it shares and one buffer. Nothing here parses.

use bytes::{BufMut, Bytes, BytesMut};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::{BodyExt, Empty, Full};
use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// Any error of a body's source.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// The body of requests and responses throughout the stack.
pub type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, BoxError>;

/// Upstream's limit of a request body, bytes.
pub const MAX_BODY: usize = 3 * 1024 * 1024;
/// A whole body must have arrived after this.
const BODY_DEADLINE: Duration = Duration::from_secs(30);
/// How much of a body that is too large is read and thrown away, and for how long.
const DRAIN: usize = 32 * 1024 * 1024;
const DRAIN_DEADLINE: Duration = Duration::from_secs(5);
/// Pieces in which a list is sent.
const PIECE: usize = 64 * 1024;

/// Why a body could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Larger than [`MAX_BODY`].
    #[error("limit is {MAX_BODY}")]
    TooLarge,
    /// Not complete in time.
    #[error("request body was not received within {} s", BODY_DEADLINE.as_secs())]
    Slow,
    /// The client went away or broke the framing.
    #[error("unexpected end of request body: {0}")]
    Cut(#[source] BoxError),
}

/// No bytes.
#[must_use]
pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// These bytes.
#[must_use]
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// The same body; `kept` is dropped when it was sent, or given up.
pub(crate) fn keeping<T: Send + Unpin + 'static>(body: Body, kept: T) -> Body {
    Keeping { body, _kept: kept }.boxed_unsync()
}

struct Keeping<T> {
    body: Body,
    _kept: T,
}

impl<T: Unpin> http_body::Body for Keeping<T> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Reads a body to its end, within the limits.
///
/// # Errors
/// See [`ReadError`].
pub async fn read(body: Body) -> Result<Bytes, ReadError> {
    let mut body = body;
    let known = body.size_hint().lower() > MAX_BODY as u64;
    let read = if known {
        Err(ReadError::TooLarge)
    } else {
        tokio::time::timeout(BODY_DEADLINE, collect(&mut body))
            .await
            .map_err(|_| ReadError::Slow)?
    };
    if matches!(read, Err(ReadError::TooLarge)) {
        // A client that is still sending reads no answer: let it finish, within reason.
        let _ = tokio::time::timeout(DRAIN_DEADLINE, drain(&mut body)).await;
    }
    read
}

/// Reads on and throws away, up to [`DRAIN`] bytes.
pub(crate) async fn drain(body: &mut Body) {
    let mut left = DRAIN;
    while let Some(Ok(frame)) = body.frame().await {
        let size = frame.data_ref().map_or(0, Bytes::len);
        match left.checked_sub(size) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

async fn collect(body: &mut Body) -> Result<Bytes, ReadError> {
    let mut first: Option<Bytes> = None;
    let mut more = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(ReadError::Cut)?.into_data() else {
            continue;
        };
        if first.as_ref().map_or(0, Bytes::len) + more.len() + data.len() > MAX_BODY {
            return Err(ReadError::TooLarge);
        }
        match &first {
            None => first = Some(data),
            Some(_) => more.put(data),
        }
    }
    let first = first.unwrap_or_default();
    if more.is_empty() {
        return Ok(first);
    }
    let mut all = BytesMut::with_capacity(first.len() + more.len());
    all.put(first);
    all.put(more);
    Ok(all.freeze())
}

/// Stored objects between a head and a tail, separated by commas, copied out in pieces.
pub struct Listing {
    parts: VecDeque<Bytes>,
    left: u64,
    offset: usize,
}

impl Listing {
    /// `head` item `,` item ... `tail`.
    #[must_use]
    pub fn new(head: Bytes, items: Vec<Bytes>, tail: Bytes) -> Self {
        let comma = Bytes::from_static(b",");
        let mut parts = VecDeque::with_capacity(items.len() * 2 + 2);
        parts.push_back(head);
        for (index, item) in items.into_iter().enumerate() {
            if index > 0 {
                parts.push_back(comma.clone());
            }
            parts.push_back(item);
        }
        parts.push_back(tail);
        let left = parts.iter().map(|part| part.len() as u64).sum();
        Self {
            parts,
            left,
            offset: 0,
        }
    }

    /// Everything at once, for answers that are transformed further.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        let mut out = BytesMut::with_capacity(usize::try_from(self.left).unwrap_or(0));
        for part in self.parts {
            out.put(part);
        }
        out.freeze()
    }
}

impl http_body::Body for Listing {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if this.left == 0 {
            return Poll::Ready(None);
        }
        let mut piece =
            BytesMut::with_capacity(PIECE.min(usize::try_from(this.left).unwrap_or(PIECE)));
        while let Some(part) = this.parts.front() {
            let room = PIECE - piece.len();
            let rest = &part[this.offset..];
            if rest.len() <= room {
                piece.put_slice(rest);
                this.parts.pop_front();
                this.offset = 0;
            } else {
                piece.put_slice(&rest[..room]);
                this.offset += room;
                break;
            }
        }
        this.left -= piece.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(piece.freeze()))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn listing_is_joined_in_pieces() {
        let item = Bytes::from(vec![b'x'; 50_000]);
        let list = Listing::new(
            Bytes::from_static(b"["),
            vec![item.clone(), item.clone(), item],
            Bytes::from_static(b"]"),
        );
        assert_eq!(list.size_hint().exact(), Some(150_004));
        let all = list.collect().await.unwrap().to_bytes();
        assert_eq!(all.len(), 150_004);
        assert_eq!(
            (all[0], all[50_001], all[100_002], all[150_003]),
            (b'[', b',', b',', b']')
        );
    }

    #[tokio::test]
    async fn too_large_is_refused() {
        assert!(matches!(
            read(full(vec![0; MAX_BODY + 1])).await,
            Err(ReadError::TooLarge)
        ));
        assert_eq!(read(full("abc")).await.unwrap(), "abc");
    }
}
