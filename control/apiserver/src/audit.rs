//! A record of every request: who asked for what, and what became of it. One `audit.k8s.io/v1` Event a line, at level Metadata:
//! bodies are never recorded, so no secret can be.
//!
//! Follows `apiserver/pkg/audit` and its log backend. A [`Trail`] goes with a request; however the request ends, also with the
//! client gone or the handler in panic, the trail ends in a record. Records wait in a bounded queue for the thread that writes
//! them ([`file`]); where that cannot keep up, requests wait a moment for it, and what is lost then is counted.

mod event;
pub(crate) mod file;

use crate::body::{self, Body};
use crate::server::{ConfigError, Peer};
use crate::stack::Ask;
use caravel_auth::UserInfo;
use caravel_exporter::prometheus::{IntCounter, IntCounterVec, Opts};
use caravel_exporter::{MetricsError, Registry};
pub(crate) use event::Outcome;
use event::{Event, Stage};
use http::{Request, Response};
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Records that wait for the disk.
pub(crate) const QUEUE: usize = 4_096;
/// How long a request waits for a place in the queue before its record is lost.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long the end of the server waits for the last records.
const FLUSH: Duration = Duration::from_secs(2);

/// Where records go (`--audit-log-path` and its companions).
#[derive(Clone, Debug)]
pub struct AuditLog {
    /// The file; its directory must be there.
    pub path: PathBuf,
    /// A file that would grow beyond this is put aside first, bytes.
    pub max_bytes: u64,
    /// So many files that were put aside are kept.
    pub backups: usize,
}

/// What the writing thread is told.
pub(crate) enum Job {
    Line(Vec<u8>),
    /// Answered when everything before it is with the kernel.
    Flush(oneshot::Sender<()>),
}

/// The queue of records. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    jobs: mpsc::Sender<Job>,
    events: IntCounter,
    errors: IntCounter,
}

impl Log {
    /// The queue, its other end, and the counter of what could not be written.
    pub(crate) fn new(
        registry: &Registry,
    ) -> Result<(Self, mpsc::Receiver<Job>, IntCounter), MetricsError> {
        let bad = MetricsError::Register;
        let events = IntCounter::new(
            "apiserver_audit_event_total",
            "Counter of audit events generated and sent to the audit backend.",
        )
        .map_err(bad)?;
        let errors = IntCounterVec::new(
            Opts::new(
                "apiserver_audit_error_total",
                "Counter of audit events that failed to be audited properly. Plugin identifies the plugin affected by the error.",
            ),
            &["plugin"],
        )
        .map_err(bad)?;
        registry.register(events.clone())?;
        registry.register(errors.clone())?;
        let errors = errors.with_label_values(&["log"]);
        let (jobs, queue) = mpsc::channel(QUEUE);
        let log = Self {
            jobs,
            events,
            errors: errors.clone(),
        };
        Ok((log, queue, errors))
    }

    async fn write(&self, line: Vec<u8>) {
        self.events.inc();
        match self.jobs.try_send(Job::Line(line)) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(job)) => {
                if self.jobs.send_timeout(job, PATIENCE).await.is_err() {
                    self.errors.inc();
                }
            }
            Err(mpsc::error::TrySendError::Closed(_)) => self.errors.inc(),
        }
    }

    /// For those who cannot wait: a drop.
    fn write_now(&self, line: Vec<u8>) {
        self.events.inc();
        if self.jobs.try_send(Job::Line(line)).is_err() {
            self.errors.inc();
        }
    }

    /// Waits until what was recorded so far is with the kernel, for a moment.
    pub(crate) async fn flush(&self) {
        let (done, written) = oneshot::channel();
        let flushed = async {
            if self.jobs.send(Job::Flush(done)).await.is_ok() {
                let _ = written.await;
            }
        };
        if tokio::time::timeout(FLUSH, flushed).await.is_err() {
            tracing::warn!("the last audit records were not written in time");
        }
    }
}

/// What is being recorded about one request. Dropped before its end, it records that there was none.
pub(crate) struct Trail(Option<Box<Open>>);

struct Open {
    log: Log,
    event: Event,
}

impl Trail {
    pub(crate) fn begin(log: Option<&Log>, ask: &Ask, request: &Request<Body>) -> Self {
        Self(log.map(|log| {
            let peer = request.extensions().get::<Peer>();
            let address = peer.and_then(|peer| peer.address);
            let id = ask.audit.to_str().unwrap_or_default();
            let mut event = Event::begin(id, request.uri(), request.headers(), address);
            event.about(&ask.info);
            Box::new(Open {
                log: log.clone(),
                event,
            })
        }))
    }

    /// What a create's object is called.
    pub(crate) fn created(&mut self, name: &str) {
        if let Some(open) = &mut self.0 {
            open.event.created(name);
        }
    }

    /// Who asks.
    pub(crate) fn user(&mut self, user: &UserInfo) {
        if let Some(open) = &mut self.0 {
            open.event.user(user);
        }
    }

    /// Whom they speak for.
    pub(crate) fn impersonates(&mut self, user: &UserInfo) {
        if let Some(open) = &mut self.0 {
            open.event.impersonates(user);
        }
    }

    /// Whether they may, and why.
    pub(crate) fn decided(&mut self, allowed: bool, reason: &str) {
        if let Some(open) = &mut self.0 {
            open.event.decided(allowed, reason);
        }
    }

    /// The request has its answer. A long one is recorded now and at its end, others now.
    pub(crate) async fn answered(
        mut self,
        response: Response<Body>,
        outcome: Outcome,
        long: bool,
    ) -> Response<Body> {
        let Some(mut open) = self.0.take() else {
            return response;
        };
        open.event.outcome(response.status().as_u16(), &outcome);
        if !long || !response.status().is_success() && response.status().as_u16() != 101 {
            let stage = match outcome {
                Outcome::Panicked => Stage::Panic,
                _ => Stage::ResponseComplete,
            };
            open.log.write(open.event.line(stage)).await;
            return response;
        }
        open.log
            .write(open.event.line(Stage::ResponseStarted))
            .await;
        if response.status().as_u16() == 101 {
            // The tunnel is no body of this answer; its end is not seen here.
            return response;
        }
        let trail = Trail(Some(open));
        // A long answer: its end ends the trail.
        response.map(|answer| body::keeping(answer, trail))
    }
}

impl Trail {
    /// The request is let in, and how it ends is not seen here: a tunnel, a call.
    pub(crate) async fn began(mut self) {
        if let Some(mut open) = self.0.take() {
            open.event.outcome(200, &Outcome::Answered);
            open.log
                .write(open.event.line(Stage::ResponseStarted))
                .await;
        }
    }
}

impl Drop for Trail {
    fn drop(&mut self) {
        if let Some(mut open) = self.0.take() {
            open.log.write_now(open.event.line(Stage::ResponseComplete));
        }
    }
}

/// The thread's other end, made with the server and run until it goes.
pub(crate) fn open(log: &AuditLog, registry: &Registry) -> Result<(Log, Writer), ConfigError> {
    let file = file::Rotating::open(log).map_err(|cause| ConfigError::Audit {
        path: log.path.clone(),
        cause,
    })?;
    let (log, queue, errors) = Log::new(registry)?;
    Ok((
        log,
        Writer {
            queue,
            file,
            errors,
        },
    ))
}

/// Writes what comes, until all senders are gone. Blocks: it wants a thread of its own.
pub(crate) struct Writer {
    queue: mpsc::Receiver<Job>,
    file: file::Rotating,
    errors: IntCounter,
}

impl Writer {
    pub(crate) fn run(mut self) {
        let mut batch = Vec::new();
        while self.queue.blocking_recv_many(&mut batch, 256) > 0 {
            let mut flushed = Vec::new();
            for job in batch.drain(..) {
                match job {
                    Job::Line(line) => self.write(&line),
                    Job::Flush(done) => flushed.push(done),
                }
            }
            self.flush();
            for done in flushed {
                let _ = done.send(());
            }
        }
    }

    fn write(&mut self, line: &[u8]) {
        if let Err(error) = self.file.write(line) {
            self.errors.inc();
            tracing::error!(%error, path = %self.file.path().display(), "write an audit record");
        }
    }

    fn flush(&mut self) {
        if let Err(error) = self.file.flush() {
            self.errors.inc();
            tracing::error!(%error, path = %self.file.path().display(), "write audit records");
        }
    }
}
