//! What a request to this node means to RBAC: a subresource of the Node. Pure.
//! Upstream: `pkg/kubelet/server/auth.go` NodeRequestAttributes.

use http::Method;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub verb: &'static str,
    pub node: String,
    pub subresource: &'static str,
}

pub(crate) fn of(node: &str, method: &Method, path: &str) -> Attributes {
    let verb = match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "get",
    };
    let below = |prefix: &str| {
        path == prefix
            || path
                .strip_prefix(prefix)
                .is_some_and(|rest| rest.starts_with('/'))
    };
    let subresource = if below("/stats") {
        "stats"
    } else if below("/metrics") {
        "metrics"
    } else if below("/logs") {
        "log"
    } else {
        "proxy"
    };
    Attributes {
        verb,
        node: node.to_owned(),
        subresource,
    }
}

impl Attributes {
    pub fn refusal(&self, user: &str) -> String {
        format!(
            "Forbidden (user={user}, verb={}, resource=nodes, subresource={})",
            self.verb, self.subresource
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subresources() {
        for (method, path, verb, subresource) in [
            (Method::GET, "/stats/summary", "get", "stats"),
            (Method::GET, "/metrics", "get", "metrics"),
            (Method::GET, "/metricsx", "get", "proxy"),
            (Method::POST, "/exec/a/b/c", "create", "proxy"),
            (Method::GET, "/logs/x", "get", "log"),
        ] {
            let got = of("n", &method, path);
            assert_eq!((got.verb, got.subresource), (verb, subresource), "{path}");
        }
        assert_eq!(
            of("n", &Method::GET, "/pods").refusal("bob"),
            "Forbidden (user=bob, verb=get, resource=nodes, subresource=proxy)"
        );
    }
}
