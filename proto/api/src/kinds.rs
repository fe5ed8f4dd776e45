//! The table of kinds. Discovery, routes, RBAC names, printer columns and tests are derived from it: adding a kind
//! is one line here, one strategy and at most one controller.
//!
//! Follows upstream's API resource lists (names, short names, categories, verbs, subresources) of Kubernetes 1.37.

use std::fmt::Debug;

use k8s_openapi::Metadata;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::key::{Key, KeyRange, ROOT};

/// Whether objects of a kind live in namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Cluster,
    Namespaced,
}

/// A part of an object with a URL of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subresource {
    pub name: &'static str,
    pub verbs: &'static [&'static str],
    /// Group, version and kind of what is sent and received.
    pub kind: (&'static str, &'static str, &'static str),
}

/// One kind in one version.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub plural: &'static str,
    pub singular: &'static str,
    pub short_names: &'static [&'static str],
    pub categories: &'static [&'static str],
    pub scope: Scope,
    pub verbs: &'static [&'static str],
    pub subresources: &'static [Subresource],
    /// Group directory (`core` for the empty group) and plural under which objects are stored; both empty for kinds that are only asked (reviews).
    pub storage: (&'static str, &'static str),
    /// Name in the OpenAPI document, `io.k8s.api.apps.v1.Deployment`.
    pub definition: &'static str,
}

impl PartialEq for Row {
    fn eq(&self, other: &Row) -> bool {
        (self.group, self.version, self.plural) == (other.group, other.version, other.plural)
    }
}
impl Eq for Row {}

impl Row {
    /// `apps/v1`, or `v1` for the core group.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// `deployments.apps`, or `pods` for the core group: how upstream names a resource in messages.
    pub fn group_resource(&self) -> String {
        join_group(self.plural, self.group)
    }

    /// `Deployment.apps`, or `Pod` for the core group.
    pub fn group_kind(&self) -> String {
        join_group(self.kind, self.group)
    }

    pub fn is_namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }

    /// Are objects of this kind kept? Reviews are answered and forgotten.
    pub fn is_stored(&self) -> bool {
        !self.storage.0.is_empty()
    }

    /// Is this the version that objects are stored in? (events.k8s.io/v1 Events are stored as core/v1 ones.)
    pub fn is_storage_version(&self) -> bool {
        let directory = if self.group.is_empty() {
            "core"
        } else {
            self.group
        };
        self.storage == (directory, self.plural)
    }

    /// The row of the version that objects of this kind are stored in: this row, for all but converted kinds.
    pub fn storage_row(&'static self) -> &'static Row {
        if self.is_storage_version() || !self.is_stored() {
            return self;
        }
        KINDS
            .iter()
            .find(|row| row.storage == self.storage && row.is_storage_version())
            .unwrap_or(self)
    }

    pub fn subresource(&self, name: &str) -> Option<&'static Subresource> {
        self.subresources.iter().find(|sub| sub.name == name)
    }

    pub fn has_verb(&self, verb: &str) -> bool {
        self.verbs.contains(&verb)
    }

    /// All keys of this kind, or those in one namespace.
    pub fn prefix(&self, namespace: Option<&str>) -> KeyRange {
        let (group, plural) = self.storage;
        match namespace {
            Some(namespace) if self.is_namespaced() => {
                KeyRange::prefix(&format!("{ROOT}{group}/{plural}/{namespace}/"))
            }
            _ => KeyRange::prefix(&format!("{ROOT}{group}/{plural}/")),
        }
    }

    /// The key of one object; `namespace` is disregarded for cluster-scoped kinds.
    pub fn key(&self, namespace: &str, name: &str) -> Key {
        let (group, plural) = self.storage;
        if self.is_namespaced() {
            Key::from(format!("{ROOT}{group}/{plural}/{namespace}/{name}"))
        } else {
            Key::from(format!("{ROOT}{group}/{plural}/{name}"))
        }
    }
}

fn join_group(name: &str, group: &str) -> String {
    if group.is_empty() {
        name.to_owned()
    } else {
        format!("{name}.{group}")
    }
}

/// A Rust type whose objects are stored, and its row.
pub trait Kind:
    k8s_openapi::Resource
    + Metadata<Ty = ObjectMeta>
    + Serialize
    + DeserializeOwned
    + Clone
    + PartialEq
    + Debug
    + Send
    + Sync
    + 'static
{
    fn row() -> &'static Row;
}

/// The row that serves `/apis/<group>/<version>/<plural>` (`/api/v1/<plural>` for the empty group).
pub fn by_resource(group: &str, version: &str, plural: &str) -> Option<&'static Row> {
    KINDS
        .iter()
        .find(|row| row.plural == plural && row.group == group && row.version == version)
}

/// The row of an object that says `apiVersion` and `kind`.
pub fn by_kind(group: &str, version: &str, kind: &str) -> Option<&'static Row> {
    KINDS
        .iter()
        .find(|row| row.kind == kind && row.group == group && row.version == version)
}

/// As [`by_kind`], from an `apiVersion` such as `apps/v1` or `v1`.
pub fn by_api_version(api_version: &str, kind: &str) -> Option<&'static Row> {
    let (group, version) = split_api_version(api_version);
    by_kind(group, version, kind)
}

/// The row whose objects lie under this key, in their storage version.
pub fn by_key(key: &Key) -> Option<&'static Row> {
    let (group, plural) = key
        .kind_prefix()
        .strip_prefix(ROOT)?
        .strip_suffix('/')?
        .split_once('/')?;
    KINDS
        .iter()
        .find(|row| row.storage == (group, plural) && row.is_storage_version())
}

/// `apps/v1` -> (`apps`, `v1`); `v1` -> (``, `v1`).
pub fn split_api_version(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}

/// Every (group, version) served, each once, in the table's order.
pub fn group_versions() -> Vec<(&'static str, &'static str)> {
    let mut seen = Vec::new();
    for row in KINDS {
        if !seen.contains(&(row.group, row.version)) {
            seen.push((row.group, row.version));
        }
    }
    seen
}

const ALL: &[&str] = &[
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];
/// Upstream's namespaces cannot be deleted as a collection.
const NO_COLLECTION: &[&str] = &[
    "create", "delete", "get", "list", "patch", "update", "watch",
];
const CREATE: &[&str] = &["create"];
const UPDATE: &[&str] = &["update"];
const GET: &[&str] = &["get"];
const GPU: &[&str] = &["get", "patch", "update"];
const CONNECT: &[&str] = &["create", "get"];
const PROXY: &[&str] = &["create", "delete", "get", "patch", "update"];

const SCALE: (&str, &str, &str) = ("autoscaling", "v1", "Scale");

macro_rules! kinds {
    ($( $module:ident $version:ident $group:literal in $dir:literal {
        $( kind $Kind:ident $plural:literal $singular:literal $scope:ident [$($short:literal)*] [$($category:literal)*] $verbs:ident
           stored($sdir:literal, $splural:literal)
           { $( own $own:literal $own_verbs:ident )* $( other $other:literal $other_verbs:ident $other_kind:expr ;)* } )*
        $( review $Review:ident $rplural:literal $rsingular:literal $rscope:ident )*
    } )*) => {
        /// Every kind that is served, in discovery's order of groups.
        pub static KINDS: &[Row] = &[$(
            $( Row {
                group: $group,
                version: stringify!($version),
                kind: stringify!($Kind),
                plural: $plural,
                singular: $singular,
                short_names: &[$($short),*],
                categories: &[$($category),*],
                scope: Scope::$scope,
                verbs: $verbs,
                subresources: &[
                    $( Subresource { name: $other, verbs: $other_verbs, kind: $other_kind }, )*
                    $( Subresource { name: $own, verbs: $own_verbs, kind: ($group, stringify!($version), stringify!($Kind)) }, )*
                ],
                storage: ($sdir, $splural),
                definition: concat!("io.k8s.api.", stringify!($module), ".", stringify!($version), ".", stringify!($Kind)),
            }, )*
            $( Row {
                group: $group,
                version: stringify!($version),
                kind: stringify!($Review),
                plural: $rplural,
                singular: $rsingular,
                short_names: &[],
                categories: &[],
                scope: Scope::$rscope,
                verbs: CREATE,
                subresources: &[],
                storage: ("", ""),
                definition: concat!("io.k8s.api.", stringify!($module), ".", stringify!($version), ".", stringify!($Review)),
            }, )*
        )*];

        $($( impl Kind for k8s_openapi::api::$module::$version::$Kind {
            fn row() -> &'static Row {
                static ROW: std::sync::OnceLock<&'static Row> = std::sync::OnceLock::new();
                ROW.get_or_init(|| {
                    by_kind($group, stringify!($version), stringify!($Kind)).expect("the same line of the table wrote the row")
                })
            }
        } )*)*
    };
}

kinds! {
    core v1 "" in "core" {
        kind ConfigMap "configmaps" "configmap" Namespaced ["cm"] [] ALL stored("core", "configmaps") {}
        kind Endpoints "endpoints" "endpoints" Namespaced ["ep"] [] ALL stored("core", "endpoints") {}
        kind Event "events" "event" Namespaced ["ev"] [] ALL stored("core", "events") {}
        kind Namespace "namespaces" "namespace" Cluster ["ns"] [] NO_COLLECTION stored("core", "namespaces") {
            own "finalize" UPDATE own "status" GPU
        }
        kind Node "nodes" "node" Cluster ["no"] [] ALL stored("core", "nodes") {
            own "status" GPU
            other "proxy" PROXY ("", "v1", "NodeProxyOptions");
        }
        kind Pod "pods" "pod" Namespaced ["po"] ["all"] ALL stored("core", "pods") {
            own "log" GET own "status" GPU
            other "attach" CONNECT ("", "v1", "PodAttachOptions");
            other "binding" CREATE ("", "v1", "Binding");
            other "eviction" CREATE ("policy", "v1", "Eviction");
            other "exec" CONNECT ("", "v1", "PodExecOptions");
            other "portforward" CONNECT ("", "v1", "PodPortForwardOptions");
            other "proxy" PROXY ("", "v1", "PodProxyOptions");
        }
        kind Secret "secrets" "secret" Namespaced [] [] ALL stored("core", "secrets") {}
        kind ServiceAccount "serviceaccounts" "serviceaccount" Namespaced ["sa"] [] ALL stored("core", "serviceaccounts") {
            other "token" CREATE ("authentication.k8s.io", "v1", "TokenRequest");
        }
        kind Service "services" "service" Namespaced ["svc"] ["all"] ALL stored("core", "services") {
            own "status" GPU
            other "proxy" PROXY ("", "v1", "ServiceProxyOptions");
        }
        review Binding "bindings" "binding" Namespaced
    }
    apps v1 "apps" in "apps" {
        kind Deployment "deployments" "deployment" Namespaced ["deploy"] ["all"] ALL stored("apps", "deployments") {
            own "status" GPU
            other "scale" GPU SCALE;
        }
        kind ReplicaSet "replicasets" "replicaset" Namespaced ["rs"] ["all"] ALL stored("apps", "replicasets") {
            own "status" GPU
            other "scale" GPU SCALE;
        }
    }
    events v1 "events.k8s.io" in "events.k8s.io" {
        kind Event "events" "event" Namespaced ["ev"] [] ALL stored("core", "events") {}
    }
    authentication v1 "authentication.k8s.io" in "authentication.k8s.io" {
        review SelfSubjectReview "selfsubjectreviews" "selfsubjectreview" Cluster
        review TokenReview "tokenreviews" "tokenreview" Cluster
    }
    authorization v1 "authorization.k8s.io" in "authorization.k8s.io" {
        review LocalSubjectAccessReview "localsubjectaccessreviews" "localsubjectaccessreview" Namespaced
        review SelfSubjectAccessReview "selfsubjectaccessreviews" "selfsubjectaccessreview" Cluster
        review SelfSubjectRulesReview "selfsubjectrulesreviews" "selfsubjectrulesreview" Cluster
        review SubjectAccessReview "subjectaccessreviews" "subjectaccessreview" Cluster
    }
    networking v1 "networking.k8s.io" in "networking.k8s.io" {
        kind IPAddress "ipaddresses" "ipaddress" Cluster ["ip"] [] ALL stored("networking.k8s.io", "ipaddresses") {}
        kind ServiceCIDR "servicecidrs" "servicecidr" Cluster [] [] ALL stored("networking.k8s.io", "servicecidrs") {
            own "status" GPU
        }
    }
    rbac v1 "rbac.authorization.k8s.io" in "rbac.authorization.k8s.io" {
        kind ClusterRoleBinding "clusterrolebindings" "clusterrolebinding" Cluster [] [] ALL stored("rbac.authorization.k8s.io", "clusterrolebindings") {}
        kind ClusterRole "clusterroles" "clusterrole" Cluster [] [] ALL stored("rbac.authorization.k8s.io", "clusterroles") {}
        kind RoleBinding "rolebindings" "rolebinding" Namespaced [] [] ALL stored("rbac.authorization.k8s.io", "rolebindings") {}
        kind Role "roles" "role" Namespaced [] [] ALL stored("rbac.authorization.k8s.io", "roles") {}
    }
    coordination v1 "coordination.k8s.io" in "coordination.k8s.io" {
        kind Lease "leases" "lease" Namespaced [] [] ALL stored("coordination.k8s.io", "leases") {}
    }
    discovery v1 "discovery.k8s.io" in "discovery.k8s.io" {
        kind EndpointSlice "endpointslices" "endpointslice" Namespaced [] [] ALL stored("discovery.k8s.io", "endpointslices") {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::{apps::v1::Deployment, core::v1::Node, events::v1::Event};

    #[test]
    fn rows_are_found_by_every_name() {
        assert_eq!(
            by_resource("apps", "v1", "deployments").unwrap().kind,
            "Deployment"
        );
        assert_eq!(
            by_api_version("rbac.authorization.k8s.io/v1", "Role")
                .unwrap()
                .plural,
            "roles"
        );
        assert_eq!(
            by_kind("", "v1", "Pod").unwrap().definition,
            "io.k8s.api.core.v1.Pod"
        );
        assert!(by_resource("apps", "v1", "pods").is_none());
        assert_eq!(Deployment::row().group_resource(), "deployments.apps");
        assert_eq!(Event::row().storage_row().api_version(), "v1");
        assert_eq!(by_key(&Event::row().key("a", "b")).unwrap().group, "");
        assert!(
            !by_kind("authorization.k8s.io", "v1", "SubjectAccessReview")
                .unwrap()
                .is_stored()
        );
    }

    #[test]
    fn keys_follow_the_scope() {
        assert_eq!(
            Deployment::row().key("a", "b").as_str(),
            "/registry/apps/deployments/a/b"
        );
        assert_eq!(
            Node::row().key("ignored", "n").as_str(),
            "/registry/core/nodes/n"
        );
        assert!(
            Deployment::row()
                .prefix(Some("a"))
                .contains(&Deployment::row().key("a", "b"))
        );
        assert!(
            !Deployment::row()
                .prefix(Some("a"))
                .contains(&Deployment::row().key("ab", "b"))
        );
        assert!(
            Node::row()
                .prefix(Some("a"))
                .contains(&Node::row().key("", "b"))
        );
    }

    #[test]
    fn the_table_is_consistent() {
        for row in KINDS {
            assert_eq!(
                KINDS.iter().filter(|other| *other == row).count(),
                1,
                "{row:?}"
            );
            assert!(row.verbs.is_sorted(), "{row:?}");
            assert_eq!(row.singular, row.kind.to_lowercase(), "{row:?}");
            if row.is_stored() {
                assert!(by_key(&row.key("ns", "n")).is_some(), "{row:?}");
            }
        }
    }
}
