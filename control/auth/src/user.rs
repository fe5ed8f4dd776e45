//! The identity behind a request. A value only: it never says what that identity may do.
//!
//! Follows upstream's `apiserver/pkg/authentication/user`.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub const ANONYMOUS: &str = "system:anonymous";
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
pub const AUTHENTICATED: &str = "system:authenticated";
pub const MASTERS: &str = "system:masters";
pub const NODES: &str = "system:nodes";
pub const SERVICE_ACCOUNTS: &str = "system:serviceaccounts";
const NODE_PREFIX: &str = "system:node:";
const SERVICE_ACCOUNT_PREFIX: &str = "system:serviceaccount:";

/// `status.userInfo` of a SelfSubjectReview, in the same words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserInfo {
    #[serde(rename = "username")]
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extra: BTreeMap<String, Vec<String>>,
}

impl UserInfo {
    pub fn new(name: impl Into<String>, groups: &[&str]) -> Self {
        Self {
            name: name.into(),
            groups: groups.iter().map(|g| (*g).to_owned()).collect(),
            ..Self::default()
        }
    }

    /// Who sends neither certificate nor token.
    pub fn anonymous() -> Self {
        Self::new(ANONYMOUS, &[UNAUTHENTICATED])
    }

    /// The control plane's own identity for what no controller does (`system:apiserver` upstream).
    pub fn apiserver() -> Self {
        Self::new("system:apiserver", &[MASTERS, AUTHENTICATED])
    }

    /// A built-in component with an identity of its own, such as `system:kube-scheduler`.
    pub fn component(name: &str) -> Self {
        Self::new(name, &[AUTHENTICATED])
    }

    /// The identity of a built-in controller, as upstream names it: `replicaset-controller`.
    pub fn controller(name: &str) -> Self {
        Self::service_account("kube-system", name, "")
    }

    pub fn service_account(namespace: &str, name: &str, uid: &str) -> Self {
        let mut user = Self::new(
            service_account_name(namespace, name),
            &[
                SERVICE_ACCOUNTS,
                &format!("{SERVICE_ACCOUNTS}:{namespace}"),
                AUTHENTICATED,
            ],
        );
        uid.clone_into(&mut user.uid);
        user
    }

    pub fn node(name: &str) -> Self {
        Self::new(format!("{NODE_PREFIX}{name}"), &[NODES, AUTHENTICATED])
    }

    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }

    pub fn is_anonymous(&self) -> bool {
        self.name == ANONYMOUS
    }

    /// May do everything; RBAC is not asked.
    pub fn is_master(&self) -> bool {
        self.in_group(MASTERS)
    }

    /// The node that this identity is, if it is one: the name's prefix alone is not enough.
    pub fn as_node(&self) -> Option<&str> {
        self.name
            .strip_prefix(NODE_PREFIX)
            .filter(|n| !n.is_empty() && self.in_group(NODES))
    }

    /// (namespace, name) of the service account that this identity is.
    pub fn as_service_account(&self) -> Option<(&str, &str)> {
        self.name
            .strip_prefix(SERVICE_ACCOUNT_PREFIX)?
            .split_once(':')
            .filter(|(ns, n)| !ns.is_empty() && !n.is_empty() && !n.contains(':'))
    }
}

pub fn service_account_name(namespace: &str, name: &str) -> String {
    format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_stand_for_nodes_and_service_accounts() {
        assert_eq!(UserInfo::node("n1").as_node(), Some("n1"));
        assert_eq!(
            UserInfo::new("system:node:n1", &["dev"]).as_node(),
            None,
            "the group decides too"
        );
        assert_eq!(UserInfo::new("system:node:", &[NODES]).as_node(), None);
        assert_eq!(
            UserInfo::service_account("a", "b", "u").as_service_account(),
            Some(("a", "b"))
        );
        assert_eq!(
            UserInfo::new("system:serviceaccount:a", &[]).as_service_account(),
            None
        );
    }
}
