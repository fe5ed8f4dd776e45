//! `/containerLogs`: a container's log, from the file that its shim writes.
//! Sentences as `pkg/kubelet/kubelet_pods.go` validateContainerLogStatus.

use std::path::PathBuf;
use std::sync::Arc;

use caravel_runtime::logs::{self, LogOptions};
use futures::{StreamExt, TryStreamExt};
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::ContainerStatus;

use super::query::Query;
use super::{Body, State, text};
use crate::PodView;

pub(super) async fn answer(
    state: &State,
    namespace: &str,
    pod: &str,
    container: &str,
    query: &Query,
) -> Response<Body> {
    let options = match options(query, Timestamp::now()) {
        Ok(options) => options,
        Err(message) => return text(StatusCode::UNPROCESSABLE_ENTITY, &message),
    };
    let Some(view) = state.pods.get(namespace, pod) else {
        return text(StatusCode::NOT_FOUND, &format!("pod {pod:?} not found\n"));
    };
    let previous = query.flag("previous");
    let path = match choose(&view, pod, container, previous) {
        Ok(path) => path,
        Err((status, message)) => return text(status, &message),
    };
    let pods = state.pods.clone();
    let (namespace, pod, name, followed) = (
        namespace.to_owned(),
        pod.to_owned(),
        container.to_owned(),
        path.clone(),
    );
    let alive = Arc::new(move || {
        let view = pods.get(&namespace, &pod);
        let container = view.as_ref().and_then(|view| view.containers.get(&name));
        container
            .is_some_and(|container| container.running && container.log.as_ref() == Some(&followed))
    });
    match logs::read(path.clone(), options, alive).await {
        Ok(stream) => {
            let frames = stream.map_ok(Frame::data).inspect(|item| {
                if let Err(error) = item {
                    tracing::warn!(%error, "reading a container's log");
                }
            });
            let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
            response
                .headers_mut()
                .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
            response
        }
        Err(error) => text(
            StatusCode::INTERNAL_SERVER_ERROR,
            &format!(
                "failed to try resolving symlinks in path {:?}: {error}",
                path.display()
            ),
        ),
    }
}

/// The file to read, or what to say instead.
fn choose(
    view: &PodView,
    pod: &str,
    container: &str,
    previous: bool,
) -> Result<PathBuf, (StatusCode, String)> {
    let spec = view.pod.spec.as_ref();
    let known = spec.is_some_and(|spec| {
        spec.containers
            .iter()
            .map(|c| &c.name)
            .chain(spec.init_containers.iter().flatten().map(|c| &c.name))
            .any(|name| name == container)
            || spec
                .ephemeral_containers
                .iter()
                .flatten()
                .any(|c| c.name == container)
    });
    if !known {
        return Err((
            StatusCode::NOT_FOUND,
            format!("container {container:?} not found in pod {pod:?}\n"),
        ));
    }
    let refuse = |why: String| Err((StatusCode::BAD_REQUEST, format!("{why}\n")));
    let logs = view.containers.get(container);
    if previous {
        return match logs.and_then(|logs| logs.previous_log.clone()) {
            Some(path) => Ok(path),
            None => refuse(format!(
                "previous terminated container {container:?} in pod {pod:?} not found"
            )),
        };
    }
    if let Some(path) = logs.and_then(|logs| logs.log.clone()) {
        return Ok(path);
    }
    let waiting = status(view, container)
        .and_then(|status| status.state.as_ref()?.waiting.as_ref()?.reason.clone());
    let why = match waiting.as_deref() {
        Some("ErrImagePull") => "image can't be pulled".to_owned(),
        Some("ImagePullBackOff") => "trying and failing to pull image".to_owned(),
        Some(reason) => reason.to_owned(),
        None => {
            return refuse(format!(
                "container {container:?} in pod {pod:?} is not available"
            ));
        }
    };
    refuse(format!(
        "container {container:?} in pod {pod:?} is waiting to start: {why}"
    ))
}

fn status<'a>(view: &'a PodView, container: &str) -> Option<&'a ContainerStatus> {
    let status = view.pod.status.as_ref()?;
    let lists = [
        &status.container_statuses,
        &status.init_container_statuses,
        &status.ephemeral_container_statuses,
    ];
    lists
        .into_iter()
        .flatten()
        .flatten()
        .find(|status| status.name == container)
}

fn options(query: &Query, now: Timestamp) -> Result<LogOptions, String> {
    let count = |name| -> Result<Option<u64>, String> {
        query
            .number(name)?
            .map(|value| {
                u64::try_from(value).map_err(|_| format!("invalid value for {name}: {value}"))
            })
            .transpose()
    };
    let since = match (
        count("sinceSeconds")?,
        query.text("sinceTime").filter(|text| !text.is_empty()),
    ) {
        (Some(seconds), _) => {
            let back = SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX));
            Some(now.checked_sub(back).unwrap_or(Timestamp::MIN))
        }
        (None, Some(text)) => Some(
            text.parse()
                .map_err(|_| format!("invalid value for sinceTime: {text:?}"))?,
        ),
        (None, None) => None,
    };
    let stderr = match query.text("stream") {
        None | Some("" | "All") => None,
        Some("Stdout") => Some(false),
        Some("Stderr") => Some(true),
        Some(other) => return Err(format!("invalid value for stream: {other:?}")),
    };
    Ok(LogOptions {
        follow: query.flag("follow"),
        tail: count("tailLines")?,
        since,
        timestamps: query.flag("timestamps"),
        limit_bytes: count("limitBytes")?,
        stderr,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters() {
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        let parse = |text| options(&Query::parse(text), now);
        let got = parse(
            "follow=true&tailLines=3&sinceSeconds=60&timestamps=true&limitBytes=9&stream=Stderr",
        )
        .unwrap();
        assert!(got.follow && got.timestamps);
        assert_eq!(
            (got.tail, got.limit_bytes, got.stderr),
            (Some(3), Some(9), Some(true))
        );
        assert_eq!(got.since, Some("2026-01-01T00:00:00Z".parse().unwrap()));
        for bad in [
            "tailLines=-1",
            "tailLines=x",
            "sinceTime=yesterday",
            "stream=x",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_there_is_to_read() {
        let pod = serde_json::json!({
            "metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}, {"name": "b"}]},
            "status": {"containerStatuses": [{"name": "b", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"waiting": {"reason": "ImagePullBackOff"}}}]}
        });
        let mut view = PodView {
            pod: Arc::new(serde_json::from_value(pod).unwrap()),
            ..PodView::default()
        };
        view.containers.insert(
            "a".into(),
            crate::ContainerView {
                log: Some("/l/0.log".into()),
                ..crate::ContainerView::default()
            },
        );
        assert_eq!(choose(&view, "p", "a", false), Ok("/l/0.log".into()));
        for (container, previous, status, message) in [
            (
                "a",
                true,
                400,
                "previous terminated container \"a\" in pod \"p\" not found\n",
            ),
            (
                "b",
                false,
                400,
                "container \"b\" in pod \"p\" is waiting to start: trying and failing to pull image\n",
            ),
            ("c", false, 404, "container \"c\" not found in pod \"p\"\n"),
        ] {
            let (got, text) = choose(&view, "p", container, previous).unwrap_err();
            assert_eq!((got.as_u16(), text.as_str()), (status, message));
        }
    }
}
