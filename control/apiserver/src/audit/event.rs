//! An audit Event and its text. Pure but for the clock's reading; everything a client can make long is cut.

use crate::info::RequestInfo;
use caravel_api::{ApiError, time};
use caravel_auth::UserInfo;
use http::{HeaderMap, Uri, header};
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// Longest text that a client chooses, in characters; the rest is left out.
const LONG: usize = 2_048;
/// Most addresses that are taken from X-Forwarded-For.
const HOPS: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum Stage {
    ResponseStarted,
    ResponseComplete,
    Panic,
}

/// What became of a request, beside the status code.
#[derive(Debug)]
pub(crate) enum Outcome {
    Answered,
    Failed(Box<ApiError>),
    Panicked,
}

#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct ObjectRef {
    #[serde(skip_serializing_if = "String::is_empty")]
    resource: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    namespace: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    api_group: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    api_version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    subresource: String,
}

#[derive(Clone, Debug, Default, Serialize)]
struct Metadata {}

#[derive(Clone, Debug, Default, Serialize)]
struct Answer {
    metadata: Metadata,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    code: u16,
}

/// In upstream's order of members.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Event {
    kind: &'static str,
    api_version: &'static str,
    level: &'static str,
    #[serde(rename = "auditID")]
    audit_id: String,
    stage: Stage,
    #[serde(rename = "requestURI")]
    request_uri: String,
    verb: String,
    user: UserInfo,
    #[serde(skip_serializing_if = "Option::is_none")]
    impersonated_user: Option<UserInfo>,
    #[serde(rename = "sourceIPs", skip_serializing_if = "Vec::is_empty")]
    source_ips: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    user_agent: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    object_ref: Option<ObjectRef>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_status: Option<Answer>,
    request_received_timestamp: String,
    stage_timestamp: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<&'static str, String>,
}

fn cut(text: &str) -> String {
    text.chars().take(LONG).collect()
}

impl Event {
    pub(super) fn begin(
        id: &str,
        uri: &Uri,
        headers: &HeaderMap,
        peer: Option<SocketAddr>,
    ) -> Self {
        let agent = headers
            .get(header::USER_AGENT)
            .and_then(|value| value.to_str().ok());
        Self {
            kind: "Event",
            api_version: "audit.k8s.io/v1",
            level: "Metadata",
            audit_id: id.to_owned(),
            stage: Stage::ResponseComplete,
            request_uri: cut(uri
                .path_and_query()
                .map_or(uri.path(), http::uri::PathAndQuery::as_str)),
            verb: String::new(),
            user: UserInfo::default(),
            impersonated_user: None,
            source_ips: sources(headers, peer),
            user_agent: cut(agent.unwrap_or_default()),
            object_ref: None,
            response_status: None,
            request_received_timestamp: now(),
            stage_timestamp: String::new(),
            annotations: BTreeMap::new(),
        }
    }

    pub(super) fn about(&mut self, info: &RequestInfo) {
        self.verb = cut(&info.verb);
        self.object_ref = info.is_resource.then(|| ObjectRef {
            resource: cut(&info.resource),
            namespace: cut(&info.namespace),
            name: cut(&info.name),
            api_group: cut(&info.group),
            api_version: cut(&info.version),
            subresource: cut(&info.subresource),
        });
    }

    /// A new object's name, which is in its body and not in the path.
    pub(super) fn created(&mut self, name: &str) {
        if let Some(object) = &mut self.object_ref
            && object.name.is_empty()
        {
            object.name = cut(name);
        }
    }

    pub(super) fn user(&mut self, user: &UserInfo) {
        self.user = user.clone();
    }

    pub(super) fn impersonates(&mut self, user: &UserInfo) {
        self.impersonated_user = Some(user.clone());
    }

    pub(super) fn decided(&mut self, allowed: bool, reason: &str) {
        let decision = if allowed { "allow" } else { "forbid" };
        self.annotations
            .insert("authorization.k8s.io/decision", decision.to_owned());
        self.annotations
            .insert("authorization.k8s.io/reason", cut(reason));
    }

    pub(super) fn outcome(&mut self, code: u16, outcome: &Outcome) {
        let mut answer = Answer {
            code,
            ..Answer::default()
        };
        if let Outcome::Failed(error) = outcome {
            answer.status = Some("Failure");
            answer.message = Some(cut(&error.message));
            answer.reason = Some(error.reason.to_string());
        }
        self.response_status = Some(answer);
    }

    /// The record of a stage, with its line end.
    pub(super) fn line(&mut self, stage: Stage) -> Vec<u8> {
        self.stage = stage;
        self.stage_timestamp = now();
        if self.response_status.is_none() {
            self.annotations.insert(
                "caravel.dev/outcome",
                "the client went away before it was answered".to_owned(),
            );
        }
        // Strings and numbers only: nothing in it can fail to be JSON.
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.push(b'\n');
        line
    }
}

fn now() -> String {
    time::rfc3339_micro(jiff::Timestamp::now())
}

/// As upstream: what proxies say, then the connection's own. Anybody may say the former.
fn sources(headers: &HeaderMap, peer: Option<SocketAddr>) -> Vec<String> {
    let said = headers
        .get_all("x-forwarded-for")
        .iter()
        .chain(headers.get("x-real-ip"))
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|part| part.trim().parse::<std::net::IpAddr>().ok())
        .take(HOPS);
    let mut all: Vec<String> = said
        .chain(peer.map(|peer| peer.ip().to_canonical()))
        .map(|address| address.to_string())
        .collect();
    all.dedup();
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::Query;
    use serde_json::{Value, json};

    fn event(method: &str, uri: &str, headers: &[(&'static str, &str)]) -> Event {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        let uri: Uri = uri.parse().unwrap();
        let peer = Some("192.0.2.7:5".parse().unwrap());
        let mut event = Event::begin("id", &uri, &map, peer);
        let query = Query::parse(uri.query());
        event.about(&RequestInfo::parse(
            &method.parse().unwrap(),
            uri.path(),
            &query,
        ));
        event
    }

    fn read(mut event: Event) -> Value {
        let line = event.line(Stage::ResponseComplete);
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        let mut value: Value = serde_json::from_slice(&line).unwrap();
        for time in ["requestReceivedTimestamp", "stageTimestamp"] {
            let text = value[time].as_str().unwrap();
            assert_eq!(text.len(), "2026-01-01T00:00:00.000000Z".len(), "{text}");
            value.as_object_mut().unwrap().remove(time);
        }
        value
    }

    #[test]
    fn a_record_says_who_what_and_how_it_went() {
        let mut seen = event(
            "PUT",
            "/apis/apps/v1/namespaces/a/deployments/b/scale?dryRun=All",
            &[
                ("user-agent", "kubectl/v1.37"),
                ("x-forwarded-for", "198.51.100.1, nonsense"),
            ],
        );
        seen.user(&UserInfo::new("joe", &["dev"]));
        seen.impersonates(&UserInfo::new("ann", &[]));
        seen.decided(false, "no rule");
        seen.outcome(
            403,
            &Outcome::Failed(Box::new(ApiError::new(403, "Forbidden", "no"))),
        );
        assert_eq!(
            read(seen),
            json!({
                "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "Metadata", "auditID": "id",
                "stage": "ResponseComplete", "requestURI": "/apis/apps/v1/namespaces/a/deployments/b/scale?dryRun=All",
                "verb": "update", "user": {"username": "joe", "groups": ["dev"]}, "impersonatedUser": {"username": "ann"},
                "sourceIPs": ["198.51.100.1", "192.0.2.7"], "userAgent": "kubectl/v1.37",
                "objectRef": {"resource": "deployments", "namespace": "a", "name": "b", "apiGroup": "apps", "apiVersion": "v1", "subresource": "scale"},
                "responseStatus": {"metadata": {}, "status": "Failure", "message": "no", "reason": "Forbidden", "code": 403},
                "annotations": {"authorization.k8s.io/decision": "forbid", "authorization.k8s.io/reason": "no rule"},
            })
        );
    }

    #[test]
    fn what_is_no_resource_and_has_no_end() {
        let value = read(event("GET", "/readyz?verbose", &[]));
        assert_eq!(value["verb"], "get");
        assert!(value.get("objectRef").is_none() && value.get("responseStatus").is_none());
        assert!(value["annotations"]["caravel.dev/outcome"].is_string());
    }

    #[test]
    fn what_a_client_makes_long_is_cut() {
        let long = "x".repeat(20_000);
        let uri = format!("/api/v1/namespaces/{long}/pods/{long}?{long}");
        let hops = vec!["198.51.100.1, 198.51.100.2"; 1000].join(",");
        let mut seen = event(
            "GET",
            &uri,
            &[("user-agent", &long), ("x-forwarded-for", &hops)],
        );
        seen.outcome(
            404,
            &Outcome::Failed(Box::new(ApiError::new(404, "NotFound", long))),
        );
        let line = seen.line(Stage::ResponseComplete);
        assert!(line.len() < 20_000, "{}", line.len());
    }
}
