//! watch: every change after a revision, in order, until the client, the clock or the server ends it.
//!
//! It never drops a change: what it cannot deliver ends in an ERROR event (410) and the client lists again.
//! Upstream: apiserver/pkg/endpoints/handlers/{watch,get}.go, apiserver/pkg/storage/cacher.

use crate::body::{Body, BoxError};
use crate::freshness;
use crate::negotiate::Shape;
use crate::options::refuse;
use crate::query::Query;
use crate::respond;
use crate::selection::Selection;
use crate::server::ApiServer;
use crate::shape::{self, Include};
use crate::stack::Ask;
use crate::verbs::list;
use bytes::{BufMut, Bytes, BytesMut};
use caravel_api::{ApiError, FieldError, Path, Revision, Row};
use caravel_exporter::prometheus::IntCounter;
use caravel_exporter::{Guard, Observation};
use caravel_store::{Event, EventKind, Snapshot, Watch, WatchError, WatchItem};
use futures::FutureExt;
use http::{Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use rand::Rng;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Upstream's `--min-request-timeout`: watches without a timeout end after one to two times this.
const MIN_TIMEOUT: u64 = 1800;
/// Frames that are ready are sent together up to this many bytes.
const BATCH: usize = 64 * 1024;

/// Where a watch begins.
struct Start {
    /// Objects shown first.
    initial: Option<Snapshot>,
    after: Revision,
    /// Whether their end is marked by a bookmark.
    mark_end: bool,
}

/// Answers a watch.
pub(crate) async fn watch(
    api: &ApiServer,
    ask: &Ask,
    row: &'static Row,
) -> Result<Response<Body>, ApiError> {
    let mut selection = Selection::parse(row, &ask.query)?;
    if !ask.info.name.is_empty() && selection.name().is_none() {
        let field = format!("metadata.name={}", ask.info.name);
        selection = Selection::parse(row, &Query::parse(Some(&format!("fieldSelector={field}"))))?;
    }
    let bookmarks = ask.query.flag("allowWatchBookmarks");
    let start = start(api, &ask.query, bookmarks).await?;
    let range = list::range(row, &ask.info.namespace, &selection);
    let form = Form {
        row,
        shape: ask.accepted.shape,
        include: Include::parse(ask.query.get("includeObject"))?,
        columns_sent: false,
    };
    let mut stream = Stream {
        form,
        selection,
        bookmarks,
        deadline: Instant::now() + timeout(&ask.query)?,
        ready: VecDeque::new(),
        source: None,
        ending: api.ending.clone(),
        contact: api.store.contact(),
        sent: api.metrics.watch_events(row.group, row.version, row.kind),
        _counted: counted(api, row, ask),
    };
    match api.store.watch(range.clone(), start.after).await {
        Ok(source) => stream.source = Some(source),
        Err(WatchError::Gone) => {
            let oldest = api.store.snapshot().revision();
            stream
                .ready
                .push_back(error_frame(&ApiError::too_old(start.after, oldest)));
            return Ok(stream.response());
        }
        Err(WatchError::NotYet) => {
            return Err(ApiError::too_new(
                start.after,
                api.store.snapshot().revision(),
            ));
        }
    }
    if let Some(snapshot) = &start.initial {
        for entry in snapshot
            .list(&range)
            .filter(|entry| stream.selection.matches(entry))
        {
            let frame = stream.form.frame(EventKind::Added, &entry.json)?;
            stream.ready.push_back(frame);
        }
        if start.mark_end && bookmarks {
            stream
                .ready
                .push_back(stream.form.bookmark(snapshot.revision(), true)?);
        }
    }
    Ok(stream.response())
}

fn counted(api: &ApiServer, row: &'static Row, ask: &Ask) -> Guard {
    api.metrics.long_running(&Observation {
        verb: "WATCH",
        group: row.group,
        version: row.version,
        resource: row.plural,
        subresource: "",
        scope: if ask.info.namespace.is_empty() {
            "cluster"
        } else {
            "namespace"
        },
        code: 200,
        dry_run: false,
        took: Duration::ZERO,
    })
}

fn timeout(query: &Query) -> Result<Duration, ApiError> {
    let given = query.number("timeoutSeconds").map_err(|text| {
        ApiError::bad_request(format!(
            "strconv.ParseInt: parsing {text:?}: invalid syntax"
        ))
    })?;
    let seconds = given
        .and_then(|seconds| u64::try_from(seconds).ok())
        .filter(|seconds| *seconds > 0);
    Ok(Duration::from_secs(seconds.unwrap_or_else(|| {
        MIN_TIMEOUT + rand::rng().random_range(0..MIN_TIMEOUT)
    })))
}

async fn start(api: &ApiServer, query: &Query, bookmarks: bool) -> Result<Start, ApiError> {
    let version = query.text("resourceVersion");
    let wanted = query.text("resourceVersionMatch");
    let send = query
        .get("sendInitialEvents")
        .map(|_| query.flag("sendInitialEvents"));
    let mut errors = Vec::new();
    let path = Path::new("resourceVersionMatch");
    match (send, wanted) {
        (None, Some(_)) => {
            errors.push(FieldError::forbidden(
                &path,
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            ));
        }
        (Some(_), None) => {
            errors.push(FieldError::forbidden(
                &Path::new("sendInitialEvents"),
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            ));
        }
        (Some(_), Some(other)) if other != "NotOlderThan" => {
            errors.push(FieldError::not_supported(&path, other, &["NotOlderThan"]));
        }
        _ => {}
    }
    refuse("ListOptions", errors)?;
    let revision = version.map(list::parse).transpose()?.unwrap_or_default();
    let mark_end = send == Some(true) && bookmarks;
    if send == Some(false) {
        let after = if revision == Revision(0) {
            api.store.snapshot().revision()
        } else {
            revision
        };
        return Ok(Start {
            initial: None,
            after,
            mark_end,
        });
    }
    if revision != Revision(0) && send.is_none() {
        return Ok(Start {
            initial: None,
            after: revision,
            mark_end,
        });
    }
    let snapshot = match version {
        None => freshness::current(&api.store).await?,
        Some(_) => freshness::at_least(&api.store, revision).await?,
    };
    Ok(Start {
        after: snapshot.revision(),
        initial: Some(snapshot),
        mark_end,
    })
}

/// How events of this watch look.
struct Form {
    row: &'static Row,
    shape: Shape,
    include: Include,
    columns_sent: bool,
}

impl Form {
    fn frame(&mut self, kind: EventKind, json: &Bytes) -> Result<Bytes, ApiError> {
        let json = shape::versioned(self.row, json.clone())?;
        let shown = match self.shape {
            Shape::Table => {
                let revision = shape::revision_of(&json);
                let columns = !std::mem::replace(&mut self.columns_sent, true);
                shape::table(
                    self.row,
                    &[json],
                    json!({ "resourceVersion": revision }),
                    self.include,
                    columns,
                )?
            }
            Shape::Metadata | Shape::MetadataList => shape::metadata(&json)?,
            Shape::Object | Shape::Discovery | Shape::DiscoveryBeta => json,
        };
        Ok(caravel_store::frame(kind, &shown))
    }

    /// The frame of an event that is shown as it happened; shared by all watchers where the form allows.
    fn shared(&mut self, event: &Event) -> Result<Bytes, ApiError> {
        if self.shape == Shape::Object && self.row.is_storage_version() {
            return Ok(event.frame());
        }
        self.frame(event.kind, &event.entry.json)
    }

    fn bookmark(&mut self, revision: Revision, end: bool) -> Result<Bytes, ApiError> {
        let mut metadata =
            json!({ "resourceVersion": revision.to_string(), "creationTimestamp": null });
        if end && let Some(members) = metadata.as_object_mut() {
            members.insert(
                "annotations".to_owned(),
                json!({ "k8s.io/initial-events-end": "true" }),
            );
        }
        let object = match self.shape {
            Shape::Table => json!({
                "kind": "Table",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": { "resourceVersion": revision.to_string() },
                "columnDefinitions": Value::Null,
                "rows": [{ "cells": [], "object": {
                    "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata } }],
            }),
            Shape::Metadata | Shape::MetadataList => {
                json!({ "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata })
            }
            _ => {
                json!({ "kind": self.row.kind, "apiVersion": self.row.api_version(), "metadata": metadata })
            }
        };
        Ok(Bytes::from(format!(
            "{{\"type\":\"BOOKMARK\",\"object\":{object}}}\n"
        )))
    }
}

fn error_frame(error: &ApiError) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_slice(b"{\"type\":\"ERROR\",\"object\":");
    frame.put_slice(&error.to_json());
    frame.put_slice(b"}\n");
    frame.freeze()
}

/// What an event is for this selection: an object may enter or leave it.
fn seen(selection: &Selection, event: &Event) -> Option<EventKind> {
    if selection.is_everything() {
        return Some(event.kind);
    }
    let now = event.kind != EventKind::Deleted && selection.matches(&event.entry);
    let before = match event.kind {
        EventKind::Added => false,
        EventKind::Modified => event
            .previous
            .as_ref()
            .is_some_and(|previous| selection.matches(previous)),
        EventKind::Deleted => selection.matches(&event.entry),
    };
    match (before, now) {
        (false, false) => None,
        (false, true) => Some(EventKind::Added),
        (true, true) => Some(EventKind::Modified),
        (true, false) => Some(EventKind::Deleted),
    }
}

struct Stream {
    form: Form,
    selection: Selection,
    bookmarks: bool,
    deadline: Instant,
    ready: VecDeque<Bytes>,
    /// None once the watch has ended: what is ready is still sent.
    source: Option<Watch>,
    ending: CancellationToken,
    contact: tokio::sync::watch::Receiver<bool>,
    sent: IntCounter,
    _counted: Guard,
}

impl Stream {
    fn response(self) -> Response<Body> {
        let frames = futures::stream::unfold(self, |mut stream| async move {
            let piece = stream.next().await?;
            Some((Ok::<_, BoxError>(Frame::data(piece)), stream))
        });
        respond::stream(
            StatusCode::OK,
            "application/json",
            StreamBody::new(frames).boxed_unsync(),
        )
    }

    /// The next bytes to send, `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(piece) = self.gathered() {
                return Some(piece);
            }
            let item = {
                let source = self.source.as_mut()?;
                tokio::select! {
                    item = source.next() => item,
                    () = tokio::time::sleep_until(self.deadline) => return None,
                    () = self.ending.cancelled() => return None,
                    // Clients go on from the same revision at a server that is in touch.
                    _ = self.contact.wait_for(|in_touch| !in_touch) => return None,
                }
            };
            self.take(item);
            while self.ready.len() < 256
                && let Some(item) = self
                    .source
                    .as_mut()
                    .and_then(|source| source.next().now_or_never())
            {
                self.take(item);
            }
        }
    }

    /// Frames that are ready, joined; a single one is passed on without a copy.
    fn gathered(&mut self) -> Option<Bytes> {
        let first = self.ready.pop_front()?;
        self.sent.inc();
        let fits = |next: &Bytes, size: usize| size + next.len() <= BATCH;
        if self
            .ready
            .front()
            .is_none_or(|next| !fits(next, first.len()))
        {
            return Some(first);
        }
        let mut piece = BytesMut::with_capacity(BATCH.min(first.len() * (self.ready.len() + 1)));
        piece.put(first);
        while let Some(next) = self.ready.front() {
            if !fits(next, piece.len()) {
                break;
            }
            if let Some(next) = self.ready.pop_front() {
                self.sent.inc();
                piece.put(next);
            }
        }
        Some(piece.freeze())
    }

    fn take(&mut self, item: Result<WatchItem, caravel_store::Gone>) {
        let frame = match item {
            Ok(WatchItem::Event(event)) => match seen(&self.selection, &event) {
                None => return,
                Some(kind) if kind == event.kind => self.form.shared(&event),
                // The object left the selection: it is shown as it was, at the revision of its leaving.
                Some(EventKind::Deleted) => {
                    let last = event
                        .previous
                        .as_ref()
                        .unwrap_or(&event.entry)
                        .encoded()
                        .at(event.revision);
                    self.form.frame(EventKind::Deleted, &last)
                }
                Some(kind) => self.form.frame(kind, &event.entry.json),
            },
            Ok(WatchItem::Progress(revision)) if self.bookmarks => {
                self.form.bookmark(revision, false)
            }
            Ok(WatchItem::Progress(_)) => return,
            Err(gone) => {
                self.source = None;
                Ok(error_frame(&ApiError::gone(format!(
                    "too old resource version: {gone}"
                ))))
            }
        };
        match frame {
            Ok(frame) => self.ready.push_back(frame),
            Err(error) => {
                self.source = None;
                self.ready.push_back(error_frame(&error));
            }
        }
    }
}
