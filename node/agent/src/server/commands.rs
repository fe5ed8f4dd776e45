//! `/exec` and `/attach`: a process in a container, or a container's own, joined to a client's streams.

use std::sync::Arc;

use caravel_runtime::{ExecSpec, RuntimeError, Session, Size};
use caravel_streaming::{Outcome, Process, Purpose, RemoteCommand, Wanted, negotiate, run_command};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::sync::mpsc;

use super::query::Query;
use super::{Body, State, answer, tasks, text};

/// How long a client with a terminal may take to tell its size before the command is started without.
const FIRST_SIZE: std::time::Duration = std::time::Duration::from_millis(100);

type Named<'a> = (&'a str, &'a str, &'a str);

/// What to start once the client's streams are there.
enum Work {
    Exec(ExecSpec),
    Attach { stdin: bool },
}

pub(super) async fn exec(
    state: &Arc<State>,
    named: Named<'_>,
    query: &Query,
    request: Request<Incoming>,
) -> Response<Body> {
    let wanted = wanted(query);
    let args = query.all("command");
    if args.is_empty() {
        return text(
            StatusCode::BAD_REQUEST,
            "you must specify at least 1 command for the container",
        );
    }
    let spec = ExecSpec {
        args,
        tty: wanted.tty,
        stdin: wanted.stdin,
        stdout: wanted.stdout,
        stderr: wanted.stderr,
        ..ExecSpec::default()
    };
    open(state, named, wanted, Work::Exec(spec), request)
}

pub(super) async fn attach(
    state: &Arc<State>,
    named: Named<'_>,
    query: &Query,
    request: Request<Incoming>,
) -> Response<Body> {
    let wanted = wanted(query);
    open(
        state,
        named,
        wanted,
        Work::Attach {
            stdin: wanted.stdin,
        },
        request,
    )
}

/// The API server's words for its own users' `stdin`, `stdout`, `stderr`; both are understood.
fn wanted(query: &Query) -> Wanted {
    let flag = |a: &str, b: &str| query.flag(a) || query.flag(b);
    Wanted {
        stdin: flag("input", "stdin"),
        stdout: flag("output", "stdout"),
        stderr: flag("error", "stderr"),
        tty: query.flag("tty"),
    }
    .normalised()
}

fn open(
    state: &Arc<State>,
    (namespace, pod, container): Named<'_>,
    wanted: Wanted,
    work: Work,
    mut request: Request<Incoming>,
) -> Response<Body> {
    if !wanted.is_valid() {
        return text(
            StatusCode::BAD_REQUEST,
            "you must specify at least 1 of stdin, stdout, stderr",
        );
    }
    let Some(view) = state.pods.get(namespace, pod) else {
        return text(StatusCode::NOT_FOUND, "pod does not exist");
    };
    let found = view
        .containers
        .get(container)
        .filter(|container| container.running)
        .and_then(|container| container.id.clone());
    let Some(id) = found else {
        return text(
            StatusCode::INTERNAL_SERVER_ERROR,
            &format!("container not found ({container:?})"),
        );
    };
    let accepted = match negotiate(request.headers(), Purpose::Command) {
        Ok(accepted) => accepted,
        Err(refused) => return text(refused.status, &refused.message),
    };
    let response = accepted
        .response()
        .map(|()| answer(StatusCode::OK, "text/plain", "").into_body());
    let upgrade = hyper::upgrade::on(&mut request);
    let runtime = state.runtime.clone();
    tasks::session(async move {
        let mut remote = match RemoteCommand::open(upgrade, &accepted, wanted).await {
            Ok(remote) => remote,
            Err(error) => return tracing::debug!(%error, "opening a client's streams"),
        };
        let (session, what) = match work {
            Work::Exec(mut spec) => {
                if let Some(size) = remote.first_size(FIRST_SIZE).await {
                    spec.size = Some(Size {
                        width: size.width,
                        height: size.height,
                    });
                }
                (
                    runtime.exec(&id, spec).await,
                    "error executing command in container: ",
                )
            }
            Work::Attach { stdin } => (
                runtime.attach(&id, stdin).await,
                "error attaching to container: ",
            ),
        };
        let attach = what.starts_with("error attaching");
        run_command(
            remote,
            session
                .map(|session| process(session, wanted, attach))
                .map_err(|error| failure(what, &error)),
        )
        .await;
    });
    response
}

fn failure(what: &str, error: &RuntimeError) -> Outcome {
    Outcome::Failed(format!("{what}{error}"))
}

fn process(session: Session, wanted: Wanted, attach: bool) -> Process {
    let Session {
        stdin,
        stdout,
        stderr,
        resize,
        exit,
    } = session;
    let resize = resize.map(|to| {
        let (sizes, mut from) = mpsc::channel::<caravel_streaming::Size>(8);
        tasks::session(async move {
            while let Some(size) = from.recv().await {
                let _ = to
                    .send(Size {
                        width: size.width,
                        height: size.height,
                    })
                    .await;
            }
        });
        sizes
    });
    Process {
        stdin,
        stdout: stdout.filter(|_| wanted.stdout),
        stderr: stderr.filter(|_| wanted.stderr),
        resize,
        exit: Box::pin(async move {
            match exit.await {
                // Who attaches learns the end of the streams; the code is in the pod's status.
                Ok(_) if attach => Outcome::Exited(0),
                Ok(code) => Outcome::Exited(code),
                Err(error) => Outcome::Failed(error.to_string()),
            }
        }),
    }
}
