//! Requests that end on a node: logs, exec, attach, port-forward, and the node proxy. They are checked here and passed on as bytes.
//! Upstream: pkg/registry/core/pod/strategy.go (`LogLocation`, `streamLocation`), pkg/registry/core/node/strategy.go.

use crate::body::{Body, empty};
use crate::kubelet::{self, Endpoint, KubeletError};
use crate::query::Query;
use crate::respond;
use crate::router::text;
use crate::server::ApiServer;
use crate::stack::Ask;
use crate::write::Target;
use caravel_api::{ApiError, FieldError, FieldErrors, Kind, ObjectName, Path};
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use k8s_openapi::api::core::v1::{Node, Pod};
use std::sync::Arc;

fn pod(api: &ApiServer, target: &Target) -> Result<Arc<Pod>, ApiError> {
    let name = ObjectName::new(target.namespace.as_str(), target.name.as_str());
    api.store
        .snapshot()
        .get::<Pod>(&name)
        .map_err(ApiError::internal)?
        .ok_or_else(|| ApiError::not_found(target.row, &target.name))
}

fn node(api: &ApiServer, name: &str) -> Result<Endpoint, ApiError> {
    let found = api
        .store
        .snapshot()
        .get::<Node>(&ObjectName::cluster(name))
        .map_err(ApiError::internal)?;
    let found = found.ok_or_else(|| ApiError::not_found(Node::row(), name))?;
    kubelet::endpoint(&found).map_err(unreachable)
}

fn unreachable(error: KubeletError) -> ApiError {
    match error {
        error @ KubeletError::NoAddress => ApiError::bad_request(error.to_string()),
        error => ApiError::internal(format!("error dialing backend: {error}")),
    }
}

fn node_name(pod: &Pod) -> &str {
    pod.spec
        .as_ref()
        .and_then(|spec| spec.node_name.as_deref())
        .unwrap_or_default()
}

/// Which container is meant: the named one, else the only one.
fn container(pod: &Pod, asked: Option<&str>) -> Result<String, ApiError> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let Some(spec) = pod.spec.as_ref() else {
        return Err(ApiError::internal("a pod without a spec"));
    };
    let mains: Vec<&str> = spec
        .containers
        .iter()
        .map(|container| container.name.as_str())
        .collect();
    let inits: Vec<&str> = spec
        .init_containers
        .iter()
        .flatten()
        .map(|container| container.name.as_str())
        .collect();
    let ephemeral: Vec<&str> = spec
        .ephemeral_containers
        .iter()
        .flatten()
        .map(|container| container.name.as_str())
        .collect();
    match (asked, mains.as_slice()) {
        (Some(asked), _)
            if mains.contains(&asked) || inits.contains(&asked) || ephemeral.contains(&asked) =>
        {
            Ok(asked.to_owned())
        }
        (Some(asked), _) => Err(ApiError::bad_request(format!(
            "container {asked} is not valid for pod {name}"
        ))),
        (None, [only]) => Ok((*only).to_owned()),
        (None, []) => Err(ApiError::bad_request(format!(
            "a container name must be specified for pod {name}"
        ))),
        (None, _) => {
            let mut why = format!(
                "a container name must be specified for pod {name}, choose one of: [{}]",
                mains.join(" ")
            );
            if !inits.is_empty() {
                why.push_str(&format!(
                    " or one of the init containers: [{}]",
                    inits.join(" ")
                ));
            }
            if !ephemeral.is_empty() {
                why.push_str(&format!(
                    " or one of the ephemeral containers: [{}]",
                    ephemeral.join(" ")
                ));
            }
            Err(ApiError::bad_request(why))
        }
    }
}

/// Options of a log that are passed on as they are.
const LOG: &[&str] = &[
    "follow",
    "previous",
    "sinceSeconds",
    "sinceTime",
    "timestamps",
    "tailLines",
    "limitBytes",
    "stream",
];

fn check_log(query: &Query, pod: &str) -> Result<(), ApiError> {
    let mut errors = Vec::new();
    for (name, least, why) in [
        ("tailLines", 0, "must be greater than or equal to 0"),
        ("limitBytes", 1, "must be greater than 0"),
        ("sinceSeconds", 1, "must be greater than 0"),
    ] {
        match query.number(name) {
            Ok(Some(value)) if value < least => {
                errors.push(FieldError::invalid(&Path::new(name), value, why))
            }
            Ok(_) => {}
            Err(given) => {
                return Err(ApiError::bad_request(format!(
                    "strconv.ParseInt: parsing {given:?}: invalid syntax"
                )));
            }
        }
    }
    if query.text("sinceSeconds").is_some() && query.text("sinceTime").is_some() {
        errors.push(FieldError::forbidden(
            &Path::root(),
            "at most one of `sinceTime` or `sinceSeconds` may be specified",
        ));
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(ApiError::invalid_kind(
            "",
            "PodLogOptions",
            pod,
            &FieldErrors(errors),
        ))
    }
}

/// pods/log
pub(crate) async fn log(
    api: &ApiServer,
    ask: &Ask,
    target: &Target,
) -> Result<Response<Body>, ApiError> {
    let pod = pod(api, target)?;
    check_log(&ask.query, &target.name)?;
    let container = container(&pod, ask.query.text("container"))?;
    let name = node_name(&pod);
    if name.is_empty() {
        // Not yet on a node: there is nothing to read, and that is no error.
        return Ok(text(StatusCode::OK, ""));
    }
    let endpoint = node(api, name)?;
    let options: Vec<String> = LOG
        .iter()
        .filter_map(|option| {
            ask.query
                .text(option)
                .map(|value| format!("{option}={}", escape(value)))
        })
        .collect();
    let path = format!(
        "/containerLogs/{}/{}/{container}{}{}",
        target.namespace,
        target.name,
        if options.is_empty() { "" } else { "?" },
        options.join("&")
    );
    let response = kubelet::get(api.kubelet_tls.clone(), &endpoint, &path)
        .await
        .map_err(unreachable)?;
    let status = response.status();
    if status == StatusCode::OK {
        let body = response.into_body().map_err(Into::into).boxed_unsync();
        return Ok(respond::stream(StatusCode::OK, "text/plain", body));
    }
    let said = crate::body::read(response.into_body().map_err(Into::into).boxed_unsync())
        .await
        .unwrap_or_default();
    let said = String::from_utf8_lossy(&said).trim().to_owned();
    Err(match status {
        // The node's refusals are the user's: upstream passes its words on as a bad request.
        StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND => ApiError::bad_request(said),
        _ => ApiError::internal(format!("the node answered {status}: {said}")),
    })
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(byte as char);
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// pods/exec, pods/attach, pods/portforward
pub(crate) async fn stream(
    api: &ApiServer,
    ask: &Ask,
    target: &Target,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    if !matches!(*request.method(), Method::GET | Method::POST) {
        return Err(ApiError::method_not_allowed_here());
    }
    let pod = pod(api, target)?;
    let query = &ask.query;
    let mut options = Vec::new();
    let mut path = match target.subresource {
        "portforward" => {
            options.extend(
                query
                    .all("ports")
                    .flat_map(|ports| ports.split(','))
                    .filter(|port| !port.is_empty())
                    .map(|port| format!("port={}", escape(port))),
            );
            format!("/portForward/{}/{}", target.namespace, target.name)
        }
        subresource => {
            let wants = |name: &str| query.flag(name);
            if !(wants("stdin") || wants("stdout") || wants("stderr")) {
                let path = Path::root();
                let errors = vec![FieldError::invalid(
                    &path,
                    "",
                    "you must specify at least one of stdin, stdout, stderr",
                )];
                let kind = if subresource == "exec" {
                    "PodExecOptions"
                } else {
                    "PodAttachOptions"
                };
                return Err(ApiError::invalid_kind(
                    "",
                    kind,
                    &target.name,
                    &FieldErrors(errors),
                ));
            }
            if subresource == "exec" && query.all("command").next().is_none() {
                return Err(ApiError::bad_request(
                    "you must specify at least 1 command for the container",
                ));
            }
            for (name, kubelets) in [
                ("stdin", "input"),
                ("stdout", "output"),
                ("stderr", "error"),
                ("tty", "tty"),
            ] {
                if wants(name) {
                    options.push(format!("{kubelets}=1"));
                }
            }
            options.extend(
                query
                    .all("command")
                    .map(|word| format!("command={}", escape(word))),
            );
            let container = container(&pod, query.text("container"))?;
            format!(
                "/{subresource}/{}/{}/{container}",
                target.namespace, target.name
            )
        }
    };
    let name = node_name(&pod);
    if name.is_empty() {
        return Err(ApiError::bad_request(format!(
            "pod {} does not have a host assigned",
            target.name
        )));
    }
    if !kubelet::wants_upgrade(request.headers()) {
        return Err(ApiError::bad_request("Upgrade request required"));
    }
    let endpoint = node(api, name)?;
    if !options.is_empty() {
        path = format!("{path}?{}", options.join("&"));
    }
    kubelet::forward(api.kubelet_tls.clone(), &endpoint, &path, request)
        .await
        .map_err(unreachable)
}

/// nodes/proxy. Pods and services are reached through their node, which is not offered yet.
pub(crate) async fn proxy(
    api: &ApiServer,
    ask: &Ask,
    target: &Target,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    if target.row.plural != "nodes" {
        return Err(ApiError::not_implemented(format!(
            "proxying to {} is not offered yet",
            target.row.plural
        )));
    }
    let endpoint = node(api, &target.name)?;
    let query = request
        .uri()
        .query()
        .map(|query| format!("?{query}"))
        .unwrap_or_default();
    let path = format!("/{}{query}", ask.info.rest);
    let request = if kubelet::wants_upgrade(request.headers()) || *request.method() != Method::GET {
        request
    } else {
        request.map(|_| empty())
    };
    kubelet::forward(api.kubelet_tls.clone(), &endpoint, &path, request)
        .await
        .map_err(unreachable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_container() {
        let pod = |mains: &[&str], inits: &[&str]| -> Pod {
            let list = |names: &[&str]| {
                names
                    .iter()
                    .map(|name| serde_json::json!({ "name": name }))
                    .collect::<Vec<_>>()
            };
            serde_json::from_value(serde_json::json!({
                "metadata": { "name": "p" },
                "spec": { "containers": list(mains), "initContainers": list(inits) }
            }))
            .unwrap()
        };
        let say = |pod: Pod, asked| container(&pod, asked).unwrap_or_else(|error| error.message);
        assert_eq!(say(pod(&["a"], &["i"]), None), "a");
        assert_eq!(say(pod(&["a"], &["i"]), Some("i")), "i");
        assert_eq!(
            say(pod(&["a"], &[]), Some("nobody")),
            "container nobody is not valid for pod p"
        );
        assert_eq!(
            say(pod(&["a", "b"], &[]), None),
            "a container name must be specified for pod p, choose one of: [a b]"
        );
        assert_eq!(
            say(pod(&["a", "b"], &["i"]), None),
            "a container name must be specified for pod p, choose one of: [a b] or one of the init containers: [i]"
        );
    }
}
