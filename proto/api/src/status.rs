//! How a request fails: code, reason and message, as `metav1.Status` in upstream's words.
//!
//! Follows `k8s.io/apimachinery/pkg/api/errors`. Clients act on code and reason; people read the message.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Status, StatusCause, StatusDetails};

use crate::field::FieldErrors;
use crate::kinds::Row;

/// A refusal, before it is put on the wire.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    pub code: u16,
    pub reason: &'static str,
    pub message: String,
    pub details: Option<Box<StatusDetails>>,
}

impl ApiError {
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        ApiError {
            code,
            reason,
            message: message.into(),
            details: None,
        }
    }

    fn about(mut self, group: &str, resource: &str, name: &str) -> Self {
        let details = self.details.get_or_insert_default();
        details.group = some(group);
        details.kind = some(resource);
        details.name = some(name);
        self
    }

    fn retry_after(mut self, seconds: i32) -> Self {
        self.details.get_or_insert_default().retry_after_seconds =
            Some(seconds).filter(|seconds| *seconds > 0);
        self
    }

    fn cause(mut self, reason: &str, message: impl Into<String>, field: &str) -> Self {
        let cause = StatusCause {
            reason: some(reason),
            message: Some(message.into()),
            field: some(field),
        };
        self.details
            .get_or_insert_default()
            .causes
            .get_or_insert_default()
            .push(cause);
        self
    }

    pub fn not_found(row: &Row, name: &str) -> Self {
        Self::not_found_in(row.group, row.plural, name)
    }

    /// As [`ApiError::not_found`] for what has no row: custom resources, subresources, bound objects.
    pub fn not_found_in(group: &str, plural: &str, name: &str) -> Self {
        Self::new(
            404,
            "NotFound",
            format!("{} {name:?} not found", qualified(group, plural)),
        )
        .about(group, plural, name)
    }

    /// No such path or resource at all.
    pub fn no_such_resource() -> Self {
        Self::new(
            404,
            "NotFound",
            "the server could not find the requested resource",
        )
    }

    /// Is this [`no_such_resource`](Self::no_such_resource)?
    pub fn is_no_such_resource(&self) -> bool {
        self.code == 404 && self.details.is_none()
    }

    pub fn already_exists(row: &Row, name: &str) -> Self {
        Self::new(
            409,
            "AlreadyExists",
            format!("{} {name:?} already exists", row.group_resource()),
        )
        .about(row.group, row.plural, name)
    }

    pub fn conflict(row: &Row, name: &str, why: impl std::fmt::Display) -> Self {
        Self::new(
            409,
            "Conflict",
            format!(
                "Operation cannot be fulfilled on {} {name:?}: {why}",
                row.group_resource()
            ),
        )
        .about(row.group, row.plural, name)
    }

    /// The conflict of a write whose resourceVersion is no longer the newest.
    pub fn stale(row: &Row, name: &str) -> Self {
        Self::conflict(
            row,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// Conflicts of a server-side apply; `causes` are (message, field).
    pub fn apply_conflict(
        message: impl Into<String>,
        causes: impl IntoIterator<Item = (String, String)>,
    ) -> Self {
        causes.into_iter().fold(
            Self::new(409, "Conflict", message),
            |error, (message, field)| error.cause("FieldManagerConflict", message, &field),
        )
    }

    pub fn invalid(row: &Row, name: &str, errors: &FieldErrors) -> Self {
        Self::invalid_kind(row.group, row.kind, name, errors)
    }

    /// As [`ApiError::invalid`] for what has no row.
    pub fn invalid_kind(group: &str, kind: &str, name: &str, errors: &FieldErrors) -> Self {
        let message = format!(
            "{} {name:?} is invalid: {}",
            qualified(group, kind),
            errors.message()
        );
        let error = Self::new(422, "Invalid", message).about(group, kind, name);
        errors.iter().fold(error, |error, field| {
            error.cause(field.kind.cause(), field.body(), &field.path)
        })
    }

    /// What an admission check refuses: `pods "x" is forbidden: <why>`.
    pub fn forbidden_because(
        group: &str,
        resource: &str,
        name: &str,
        why: impl std::fmt::Display,
    ) -> Self {
        let resource_text = qualified(group, resource);
        let message = if resource.is_empty() {
            format!("forbidden: {why}")
        } else if name.is_empty() {
            format!("{resource_text} is forbidden: {why}")
        } else {
            format!("{resource_text} {name:?} is forbidden: {why}")
        };
        Self::new(403, "Forbidden", message).about(group, resource, name)
    }

    /// What authorization refuses. `resource` may carry a subresource (`pods/log`); `namespace` empty means the cluster scope.
    pub fn forbidden(
        user: &str,
        verb: &str,
        group: &str,
        resource: &str,
        namespace: &str,
        name: &str,
        why: &str,
    ) -> Self {
        let place = if namespace.is_empty() {
            "at the cluster scope".to_owned()
        } else {
            format!("in the namespace {namespace:?}")
        };
        let mut text = format!(
            "User {user:?} cannot {verb} resource {resource:?} in API group {group:?} {place}"
        );
        if !why.is_empty() {
            text = format!("{text}: {why}");
        }
        let plural = resource.split('/').next().unwrap_or(resource);
        Self::forbidden_because(group, plural, name, text)
    }

    /// As [`ApiError::forbidden`], for a path that is no resource.
    pub fn forbidden_path(user: &str, verb: &str, path: &str) -> Self {
        let mut error = Self::new(
            403,
            "Forbidden",
            format!("forbidden: User {user:?} cannot {verb} path {path:?}"),
        );
        error.details = Some(Box::default());
        error
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// A watch or continue token from before what is remembered.
    pub fn gone(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    pub fn too_old(requested: crate::Revision, oldest: crate::Revision) -> Self {
        Self::gone(format!("too old resource version: {requested} ({oldest})"))
    }

    /// A read at a revision ahead of this replica.
    pub fn too_new(requested: crate::Revision, current: crate::Revision) -> Self {
        Self::timeout(
            format!("Too large resource version: {requested}, current: {current}"),
            1,
        )
        .cause("ResourceVersionTooLarge", "Too large resource version", "")
    }

    pub fn timeout(message: impl std::fmt::Display, retry_after_seconds: i32) -> Self {
        Self::new(504, "Timeout", format!("Timeout: {message}")).retry_after(retry_after_seconds)
    }

    /// A write that may or may not have been committed.
    pub fn timeout_unknown() -> Self {
        Self::timeout(
            "the outcome of the write is unknown; it may have been committed",
            0,
        )
    }

    pub fn server_timeout(row: &Row, verb: &str, retry_after_seconds: i32) -> Self {
        let message = format!(
            "The {verb} operation against {} could not be completed at this time, please try again.",
            row.group_resource()
        );
        Self::new(500, "ServerTimeout", message)
            .about(row.group, row.plural, verb)
            .retry_after(retry_after_seconds)
    }

    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: i32) -> Self {
        Self::new(429, "TooManyRequests", message).retry_after(retry_after_seconds)
    }

    pub fn too_large(message: impl std::fmt::Display) -> Self {
        Self::new(
            413,
            "RequestEntityTooLarge",
            format!("Request entity too large: {message}"),
        )
    }

    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        );
        Self::new(415, "UnsupportedMediaType", message)
    }

    pub fn not_acceptable(accepted: &[&str]) -> Self {
        Self::new(
            406,
            "NotAcceptable",
            format!(
                "only the following media types are accepted: {}",
                accepted.join(", ")
            ),
        )
    }

    pub fn method_not_allowed(row: &Row, action: &str) -> Self {
        Self::new(
            405,
            "MethodNotAllowed",
            format!(
                "{action} is not supported on resources of kind {:?}",
                row.group_resource()
            ),
        )
        .about(row.group, row.plural, "")
    }

    /// A method that no resource lies under.
    pub fn method_not_allowed_here() -> Self {
        Self::new(
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        )
    }

    pub fn internal(why: impl std::fmt::Display) -> Self {
        Self::new(
            500,
            "InternalError",
            format!("Internal error occurred: {why}"),
        )
        .cause("", why.to_string(), "")
    }

    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(503, "ServiceUnavailable", message)
    }

    /// A disk is full. Upstream passes etcd's "mvcc: database space exceeded" on as a 500; this says which disk and what to do.
    pub fn insufficient_storage(message: impl Into<String>) -> Self {
        Self::new(507, "InsufficientStorage", message)
    }

    pub fn not_implemented(message: impl Into<String>) -> Self {
        Self::new(501, "NotImplemented", message)
    }

    pub fn is_not_found(&self) -> bool {
        self.reason == "NotFound"
    }

    pub fn is_conflict(&self) -> bool {
        self.reason == "Conflict"
    }

    pub fn is_already_exists(&self) -> bool {
        self.reason == "AlreadyExists"
    }

    /// The whole seconds after which to try again, where the error says so.
    pub fn retry_after_seconds(&self) -> Option<i32> {
        self.details
            .as_ref()
            .and_then(|details| details.retry_after_seconds)
    }

    /// As it goes over the wire.
    pub fn to_status(&self) -> Status {
        Status {
            code: Some(i32::from(self.code)),
            details: self.details.as_deref().cloned(),
            message: Some(self.message.clone()),
            reason: some(self.reason),
            status: Some("Failure".to_owned()),
            ..Status::default()
        }
    }

    /// The Status as JSON, `kind` and `apiVersion` included.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(&self.to_status()).expect("a Status has string keys only")
    }
}

fn some(text: &str) -> Option<String> {
    Some(text)
        .filter(|text| !text.is_empty())
        .map(str::to_owned)
}

fn qualified(group: &str, name: &str) -> String {
    if group.is_empty() {
        name.to_owned()
    } else {
        format!("{name}.{group}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::{FieldError, Path};
    use crate::kinds::by_kind;

    #[test]
    fn messages_are_upstreams() {
        let pod = by_kind("", "v1", "Pod").unwrap();
        let deployment = by_kind("apps", "v1", "Deployment").unwrap();
        let errors = FieldErrors(vec![FieldError::required(
            &Path::new("spec").child("selector"),
            "",
        )]);
        for (error, code, text) in [
            (ApiError::not_found(pod, "x"), 404, r#"pods "x" not found"#),
            (
                ApiError::already_exists(deployment, "x"),
                409,
                r#"deployments.apps "x" already exists"#,
            ),
            (
                ApiError::invalid(deployment, "x", &errors),
                422,
                r#"Deployment.apps "x" is invalid: spec.selector: Required value"#,
            ),
            (
                ApiError::forbidden("u", "list", "", "pods", "default", "", ""),
                403,
                r#"pods is forbidden: User "u" cannot list resource "pods" in API group "" in the namespace "default""#,
            ),
            (
                ApiError::forbidden("u", "get", "apps", "deployments", "", "d", "why"),
                403,
                r#"deployments.apps "d" is forbidden: User "u" cannot get resource "deployments" in API group "apps" at the cluster scope: why"#,
            ),
            (
                ApiError::forbidden_path("u", "get", "/x"),
                403,
                r#"forbidden: User "u" cannot get path "/x""#,
            ),
        ] {
            assert_eq!((error.code, error.to_string().as_str()), (code, text));
        }
        let json: serde_json::Value =
            serde_json::from_slice(&ApiError::invalid(deployment, "x", &errors).to_json()).unwrap();
        assert_eq!(json["kind"], "Status");
        assert_eq!(json["details"]["causes"][0]["field"], "spec.selector");
    }
}
