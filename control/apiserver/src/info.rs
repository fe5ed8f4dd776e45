//! What a request is about, read from its method, path and query: the attributes that authorization, audit and
//! the router share. Upstream: apiserver/pkg/endpoints/request/requestinfo.go.
//!
//! It must never decide whether the thing exists: an unknown resource is still authorized first.

use crate::query::{Query, unescape};

/// A request's attributes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// The path as it came, unescaped segments joined: `/api/v1/...`.
    pub path: String,
    /// Whether `/api/v1/...` or `/apis/g/v/...` names a resource.
    pub is_resource: bool,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`, or for other paths the method in lower case.
    pub verb: String,
    /// API group, empty for core.
    pub group: String,
    /// API version.
    pub version: String,
    /// Plural name of the resource.
    pub resource: String,
    /// Subresource, empty for the object itself.
    pub subresource: String,
    /// Namespace, empty for cluster scope or all namespaces.
    pub namespace: String,
    /// Object name, empty for collections.
    pub name: String,
    /// What follows the subresource (proxy paths), joined by `/`, without a leading one.
    pub rest: String,
}

/// Longest path that is looked at; longer ones are 404 anyway.
const MAX_SEGMENTS: usize = 64;

impl RequestInfo {
    /// Reads the attributes of one request.
    #[must_use]
    pub fn parse(method: &http::Method, path: &str, query: &Query) -> Self {
        let parts: Vec<String> = path
            .split('/')
            .filter(|part| !part.is_empty())
            .take(MAX_SEGMENTS)
            .map(|part| unescape(part, false))
            .collect();
        let mut info = Self {
            path: unescape(path, false),
            verb: method.as_str().to_ascii_lowercase(),
            ..Self::default()
        };
        let rest: &[String] = match parts.first().map(String::as_str) {
            Some("api") if parts.len() >= 3 => {
                info.version.clone_from(&parts[1]);
                &parts[2..]
            }
            Some("apis") if parts.len() >= 4 => {
                info.group.clone_from(&parts[1]);
                info.version.clone_from(&parts[2]);
                &parts[3..]
            }
            _ => return info,
        };
        info.is_resource = true;
        let mut rest = rest;
        let mut old_watch = false;
        if rest[0] == "watch" && rest.len() > 1 {
            old_watch = true;
            rest = &rest[1..];
        }
        info.verb = match *method {
            http::Method::POST => "create",
            http::Method::GET | http::Method::HEAD => "get",
            http::Method::PUT => "update",
            http::Method::PATCH => "patch",
            http::Method::DELETE => "delete",
            _ => "",
        }
        .to_owned();
        if rest[0] == "namespaces" && rest.len() > 1 {
            info.namespace.clone_from(&rest[1]);
            if rest.len() > 2 && !matches!(rest[2].as_str(), "status" | "finalize") {
                rest = &rest[2..];
            }
        }
        info.resource.clone_from(&rest[0]);
        if let Some(name) = rest.get(1) {
            info.name.clone_from(name);
        }
        if let Some(subresource) = rest.get(2) {
            info.subresource.clone_from(subresource);
            info.rest = rest[3..].join("/");
        }
        if info.name.is_empty() {
            match info.verb.as_str() {
                "get" => {
                    info.verb = if old_watch || query.flag("watch") {
                        "watch"
                    } else {
                        "list"
                    }
                    .to_owned();
                    if let Some(name) = named(query) {
                        info.name = name;
                    }
                }
                "delete" => info.verb = "deletecollection".to_owned(),
                _ => {}
            }
        } else if old_watch && info.verb == "get" {
            info.verb = "watch".to_owned();
        }
        info
    }
}

/// The name that a field selector `metadata.name=x` fixes: RBAC rules with resourceNames then apply to lists.
fn named(query: &Query) -> Option<String> {
    query.text("fieldSelector")?.split(',').find_map(|term| {
        let value = term.strip_prefix("metadata.name=")?;
        let value = value.strip_prefix('=').unwrap_or(value);
        (!value.is_empty()).then(|| value.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests() {
        for (method, target, want) in [
            ("GET", "/api/v1/namespaces", "list|v1|namespaces|||"),
            ("GET", "/api/v1/namespaces/a", "get|v1|namespaces||a|a"),
            (
                "PUT",
                "/api/v1/namespaces/a/finalize",
                "update|v1|namespaces|finalize|a|a",
            ),
            ("GET", "/api/v1/namespaces/a/pods", "list|v1|pods||a|"),
            (
                "GET",
                "/api/v1/namespaces/a/pods?watch=1",
                "watch|v1|pods||a|",
            ),
            (
                "GET",
                "/api/v1/watch/namespaces/a/pods",
                "watch|v1|pods||a|",
            ),
            (
                "GET",
                "/api/v1/pods?fieldSelector=metadata.name%3Dx",
                "list|v1|pods|||x",
            ),
            (
                "POST",
                "/api/v1/namespaces/a/pods/b/exec?command=x",
                "create|v1|pods|exec|a|b",
            ),
            (
                "DELETE",
                "/apis/apps/v1/namespaces/a/deployments",
                "deletecollection|apps/v1|deployments||a|",
            ),
            (
                "PATCH",
                "/apis/apps/v1/namespaces/a/deployments/b/scale",
                "patch|apps/v1|deployments|scale|a|b",
            ),
            (
                "GET",
                "/api/v1/nodes/n/proxy/stats/summary",
                "get|v1|nodes|proxy||n",
            ),
            ("GET", "/api/v1", "get|||||"),
            ("GET", "/healthz", "get|||||"),
        ] {
            let (path, query) = target
                .split_once('?')
                .map_or((target, None), |(path, query)| (path, Some(query)));
            let info = RequestInfo::parse(&method.parse().unwrap(), path, &Query::parse(query));
            let version = if info.group.is_empty() {
                info.version.clone()
            } else {
                format!("{}/{}", info.group, info.version)
            };
            let got = [
                info.verb,
                version,
                info.resource,
                info.subresource,
                info.namespace,
                info.name,
            ]
            .join("|");
            assert_eq!(got, want, "{method} {target}");
        }
    }

    #[test]
    fn proxy_rest() {
        let info = RequestInfo::parse(
            &http::Method::GET,
            "/api/v1/nodes/n/proxy/stats/summary",
            &Query::default(),
        );
        assert_eq!(info.rest, "stats/summary");
    }
}
