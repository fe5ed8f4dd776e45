//! Which priority level a request belongs to, and which flow of it: upstream's mandatory and suggested configuration as two tables.
//!
//! Follows `apis/flowcontrol/bootstrap/default.go`. A schema is matched in the order of the table, the first wins; the flow is
//! what shares fairly with the others of its level (a user, or a namespace).

use crate::info::RequestInfo;
use caravel_auth::UserInfo;
use caravel_auth::user::{NODES, SERVICE_ACCOUNTS};

/// How requests of one priority are run: a share of the server's seats, and the queues for those that must wait.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Level {
    pub name: &'static str,
    /// `nominalConcurrencyShares`: its part of all seats, in proportion to the others'.
    pub shares: usize,
    /// `lendablePercent`: how much of that others may use while this level does not.
    pub lendable_percent: usize,
    /// 0: nobody waits.
    pub queues: usize,
    /// How many of the queues one flow may fill.
    pub hand: usize,
    /// Requests that wait in one queue.
    pub queue_length: usize,
}

const fn queued(
    name: &'static str,
    shares: usize,
    lendable_percent: usize,
    queues: usize,
    hand: usize,
) -> Level {
    Level {
        name,
        shares,
        lendable_percent,
        queues,
        hand,
        queue_length: 50,
    }
}

/// The limited levels; `exempt` is the absence of one.
pub(crate) static LEVELS: &[Level] = &[
    queued("node-high", 40, 25, 64, 6),
    queued("system", 30, 33, 64, 6),
    queued("leader-election", 10, 0, 16, 4),
    queued("workload-high", 40, 50, 128, 6),
    queued("workload-low", 100, 90, 128, 6),
    queued("global-default", 20, 50, 128, 6),
    Level {
        name: CATCH_ALL,
        shares: 5,
        lendable_percent: 0,
        queues: 0,
        hand: 0,
        queue_length: 0,
    },
];

const CATCH_ALL: &str = "catch-all";

/// What tells the flows of a schema apart (`distinguisherMethod`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    User,
    Namespace,
}

/// Which requests go to which level.
#[derive(Debug)]
pub(crate) struct Schema {
    pub name: &'static str,
    /// A name in [`LEVELS`]; none for `exempt`.
    pub level: Option<&'static str>,
    by: By,
    matches: fn(&UserInfo, &RequestInfo) -> bool,
}

const fn schema(
    name: &'static str,
    level: &'static str,
    by: By,
    matches: fn(&UserInfo, &RequestInfo) -> bool,
) -> Schema {
    Schema {
        name,
        level: Some(level),
        by,
        matches,
    }
}

/// In the order of their `matchingPrecedence`.
pub(crate) static SCHEMAS: &[Schema] = &[
    Schema {
        name: "exempt",
        level: None,
        by: By::User,
        matches: |user, _| user.is_master(),
    },
    Schema {
        name: "probes",
        level: None,
        by: By::User,
        matches: |_, info| {
            !info.is_resource
                && info.verb == "get"
                && matches!(info.path.as_str(), "/healthz" | "/livez" | "/readyz")
        },
    },
    schema(
        "system-leader-election",
        "leader-election",
        By::User,
        |user, info| {
            let component = matches!(
                user.name.as_str(),
                "system:kube-controller-manager" | "system:kube-scheduler"
            );
            is_election(info) && (component || is_system_account(user))
        },
    ),
    schema(
        "endpoint-controller",
        "workload-high",
        By::User,
        |user, info| {
            user.name == "system:serviceaccount:kube-system:endpoint-controller"
                && info.resource == "endpoints"
                && info.group.is_empty()
        },
    ),
    schema(
        "workload-leader-election",
        "leader-election",
        By::User,
        |user, info| is_election(info) && user.in_group(SERVICE_ACCOUNTS),
    ),
    schema("system-node-high", "node-high", By::User, |user, info| {
        let node = info.group.is_empty()
            && info.resource == "nodes"
            && matches!(info.subresource.as_str(), "" | "status");
        user.in_group(NODES) && (node || is_lease(info))
    }),
    schema("system-nodes", "system", By::User, |user, _| {
        user.in_group(NODES)
    }),
    schema(
        "kube-controller-manager",
        "workload-high",
        By::Namespace,
        |user, _| user.name == "system:kube-controller-manager",
    ),
    schema(
        "kube-scheduler",
        "workload-high",
        By::Namespace,
        |user, _| user.name == "system:kube-scheduler",
    ),
    schema(
        "kube-system-service-accounts",
        "workload-high",
        By::Namespace,
        |user, _| is_system_account(user),
    ),
    schema("service-accounts", "workload-low", By::User, |user, _| {
        user.in_group(SERVICE_ACCOUNTS)
    }),
    schema("global-default", "global-default", By::User, |user, _| {
        user.in_group(caravel_auth::user::AUTHENTICATED)
            || user.in_group(caravel_auth::user::UNAUTHENTICATED)
    }),
    schema(CATCH_ALL, CATCH_ALL, By::User, |_, _| true),
];

fn is_system_account(user: &UserInfo) -> bool {
    user.as_service_account()
        .is_some_and(|(namespace, _)| namespace == "kube-system")
}

fn is_lease(info: &RequestInfo) -> bool {
    info.group == "coordination.k8s.io" && info.resource == "leases"
}

fn is_election(info: &RequestInfo) -> bool {
    is_lease(info) && matches!(info.verb.as_str(), "get" | "create" | "update")
}

/// The schema of a request: the first that matches.
pub(crate) fn classify(user: &UserInfo, info: &RequestInfo) -> &'static Schema {
    SCHEMAS
        .iter()
        .find(|schema| (schema.matches)(user, info))
        .unwrap_or(&SCHEMAS[SCHEMAS.len() - 1])
}

impl Schema {
    /// What shares fairly within the level.
    pub(crate) fn flow<'a>(&self, user: &'a UserInfo, info: &'a RequestInfo) -> &'a str {
        match self.by {
            By::User => &user.name,
            By::Namespace => &info.namespace,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::Query;

    #[test]
    fn requests_find_their_level() {
        let masters = UserInfo::new("admin", &["system:masters", "system:authenticated"]);
        let node = UserInfo::node("n1");
        let controller = UserInfo::controller("endpoint-controller");
        let app = UserInfo::service_account("shop", "app", "");
        let joe = UserInfo::new("joe", &["system:authenticated"]);
        let scheduler = UserInfo::component("system:kube-scheduler");
        let leases = "/apis/coordination.k8s.io/v1/namespaces/a/leases";
        for (user, method, path, want) in [
            (&masters, "DELETE", "/api/v1/nodes", "exempt - admin"),
            (&joe, "GET", "/readyz", "probes - joe"),
            (
                &joe,
                "GET",
                "/api/v1/pods",
                "global-default global-default joe",
            ),
            (&joe, "GET", leases, "global-default global-default joe"),
            (
                &scheduler,
                "GET",
                &format!("{leases}/x"),
                "system-leader-election leader-election system:kube-scheduler",
            ),
            (
                &scheduler,
                "POST",
                "/api/v1/namespaces/a/pods/b/binding",
                "kube-scheduler workload-high a",
            ),
            (
                &controller,
                "PUT",
                &format!("{leases}/x"),
                "system-leader-election leader-election system:serviceaccount:kube-system:endpoint-controller",
            ),
            (
                &controller,
                "PUT",
                "/api/v1/namespaces/a/endpoints/x",
                "endpoint-controller workload-high system:serviceaccount:kube-system:endpoint-controller",
            ),
            (
                &controller,
                "GET",
                "/api/v1/namespaces/a/pods",
                "kube-system-service-accounts workload-high a",
            ),
            (
                &app,
                "PUT",
                &format!("{leases}/x"),
                "workload-leader-election leader-election system:serviceaccount:shop:app",
            ),
            (
                &app,
                "GET",
                leases,
                "service-accounts workload-low system:serviceaccount:shop:app",
            ),
            (
                &app,
                "GET",
                "/api/v1/pods",
                "service-accounts workload-low system:serviceaccount:shop:app",
            ),
            (
                &node,
                "PATCH",
                "/api/v1/nodes/n1/status",
                "system-node-high node-high system:node:n1",
            ),
            (
                &node,
                "PUT",
                &format!("{leases}/n1"),
                "system-node-high node-high system:node:n1",
            ),
            (
                &node,
                "GET",
                "/api/v1/pods",
                "system-nodes system system:node:n1",
            ),
            (
                &UserInfo::anonymous(),
                "GET",
                "/version",
                "global-default global-default system:anonymous",
            ),
            (
                &UserInfo::new("ghost", &[]),
                "GET",
                "/version",
                "catch-all catch-all ghost",
            ),
        ] {
            let info = RequestInfo::parse(&method.parse().unwrap(), path, &Query::default());
            let schema = classify(user, &info);
            let got = format!(
                "{} {} {}",
                schema.name,
                schema.level.unwrap_or("-"),
                schema.flow(user, &info)
            );
            assert_eq!(got, want, "{} {method} {path}", user.name);
        }
    }

    #[test]
    fn every_schema_names_a_level() {
        for schema in SCHEMAS {
            let known = |name: &str| LEVELS.iter().any(|level| level.name == name);
            assert!(schema.level.is_none_or(known), "{}", schema.name);
        }
    }
}
