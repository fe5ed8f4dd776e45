//! What a request wants to do, as authorizers see it, and the sentence that refuses it.
//!
//! Follows upstream's `apiserver/pkg/authorization/authorizer` and `endpoints/handlers/responsewriters/errors.go`.

use crate::user::UserInfo;

/// One request. Empty means "not given", as on the wire; a request is for a path if `resource` is empty.
#[derive(Clone, Debug)]
pub struct Attributes<'a> {
    pub user: &'a UserInfo,
    /// get, list, watch, create, update, patch, delete, deletecollection, or the lower-case HTTP method of a path.
    pub verb: &'a str,
    pub group: &'a str,
    pub version: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
    pub path: &'a str,
    /// The `path=value` terms of the field selector (`spec.nodeName`, `metadata.name`).
    pub fields: &'a [(String, String)],
}

impl<'a> Attributes<'a> {
    /// A request for a resource in a namespace ("" for the whole cluster).
    pub fn resource(
        user: &'a UserInfo,
        verb: &'a str,
        group: &'a str,
        resource: &'a str,
        namespace: &'a str,
    ) -> Self {
        Self {
            user,
            verb,
            group,
            version: "",
            resource,
            subresource: "",
            namespace,
            name: "",
            path: "",
            fields: &[],
        }
    }

    /// A request for a path that is no resource, such as `/healthz`.
    pub fn path(user: &'a UserInfo, verb: &'a str, path: &'a str) -> Self {
        Self {
            path,
            ..Self::resource(user, verb, "", "", "")
        }
    }

    #[must_use]
    pub fn named(self, name: &'a str) -> Self {
        Self { name, ..self }
    }

    #[must_use]
    #[allow(clippy::should_implement_trait)] // nobody subtracts requests
    pub fn sub(self, subresource: &'a str) -> Self {
        Self {
            subresource,
            ..self
        }
    }

    pub fn is_resource(&self) -> bool {
        !self.resource.is_empty()
    }

    pub fn is_read_only(&self) -> bool {
        matches!(self.verb, "get" | "list" | "watch")
    }

    /// `pods` or `pods/log`.
    pub fn resource_and_sub(&self) -> String {
        if self.subresource.is_empty() {
            self.resource.to_owned()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        }
    }

    /// `pods` or `deployments.apps`: how a Status names the resource.
    pub fn group_resource(&self) -> String {
        if self.group.is_empty() {
            self.resource.to_owned()
        } else {
            format!("{}.{}", self.resource, self.group)
        }
    }

    /// The part of a 403's message that names user, verb and object, with the authorizer's reason.
    pub fn denial(&self, reason: &str) -> String {
        let user = &self.user.name;
        let verb = self.verb;
        let mut message = if self.is_resource() {
            let mut m = format!(
                "User {user:?} cannot {verb} resource {:?} in API group {:?}",
                self.resource_and_sub(),
                self.group
            );
            if self.namespace.is_empty() {
                m.push_str(" at the cluster scope");
            } else {
                m.push_str(&format!(" in the namespace {:?}", self.namespace));
            }
            m
        } else {
            format!("User {user:?} cannot {verb} path {:?}", self.path)
        };
        if !reason.is_empty() {
            message.push_str(": ");
            message.push_str(reason);
        }
        message
    }

    /// The whole message of the 403, as `kubectl` prints it after `Error from server (Forbidden): `.
    pub fn forbidden_message(&self, reason: &str) -> String {
        let denial = self.denial(reason);
        match (self.is_resource(), self.name.is_empty()) {
            (true, true) => format!("{} is forbidden: {denial}", self.group_resource()),
            (true, false) => format!(
                "{} {:?} is forbidden: {denial}",
                self.group_resource(),
                self.name
            ),
            (false, _) => format!("forbidden: {denial}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_read_as_upstreams() {
        let jane = UserInfo::new("jane", &[]);
        let cases = [
            (
                Attributes::resource(&jane, "list", "", "pods", "default"),
                "",
                r#"pods is forbidden: User "jane" cannot list resource "pods" in API group "" in the namespace "default""#,
            ),
            (
                Attributes::resource(&jane, "get", "apps", "deployments", "").named("web"),
                "",
                r#"deployments.apps "web" is forbidden: User "jane" cannot get resource "deployments" in API group "apps" at the cluster scope"#,
            ),
            (
                Attributes::resource(&jane, "create", "", "pods", "a")
                    .named("p")
                    .sub("exec"),
                "why",
                r#"pods "p" is forbidden: User "jane" cannot create resource "pods/exec" in API group "" in the namespace "a": why"#,
            ),
            (
                Attributes::path(&jane, "get", "/metrics"),
                "",
                r#"forbidden: User "jane" cannot get path "/metrics""#,
            ),
        ];
        for (request, reason, message) in cases {
            assert_eq!(request.forbidden_message(reason), message);
        }
    }
}
