//! Acting as somebody else (`kubectl --as`): reads the `Impersonate-*` headers and asks whether that is allowed.
//!
//! Follows upstream's `apiserver/pkg/endpoints/filters/impersonation.go`. The impersonated identity replaces the
//! real one for everything after; audit keeps both.

use crate::attributes::Attributes;
use crate::authz::Authorizer;
use crate::node_authorizer::NodeView;
use crate::rbac::RbacView;
use crate::user::{ANONYMOUS, AUTHENTICATED, SERVICE_ACCOUNTS, UNAUTHENTICATED, UserInfo};
use http::HeaderMap;

const EXTRA: &str = "impersonate-extra-";

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImpersonationError {
    /// 403 with this message.
    #[error("{0}")]
    Forbidden(String),
    /// 500 upstream: groups, uid or extras without a user.
    #[error("requested {0} without impersonating a user")]
    NoUser(String),
    #[error("the header {0} is not readable text")]
    Unreadable(String),
}

/// Whom the request wants to be, if anybody.
pub fn requested(headers: &HeaderMap) -> Result<Option<UserInfo>, ImpersonationError> {
    let mut wanted = UserInfo::default();
    let mut others = Vec::new();
    for (key, value) in headers {
        let key = key.as_str();
        if !key.starts_with("impersonate-") {
            continue;
        }
        let value = value
            .to_str()
            .map_err(|_| ImpersonationError::Unreadable(key.to_owned()))?
            .to_owned();
        match key {
            "impersonate-user" => wanted.name = value,
            "impersonate-group" => {
                others.push(format!("group {value:?}"));
                wanted.groups.push(value);
            }
            "impersonate-uid" => {
                others.push(format!("uid {value:?}"));
                wanted.uid = value;
            }
            _ => {
                if let Some(extra) = key.strip_prefix(EXTRA) {
                    others.push(format!("extra {extra:?}"));
                    wanted.extra.entry(unescape(extra)).or_default().push(value);
                }
            }
        }
    }
    match (wanted.name.is_empty(), others.is_empty()) {
        (true, true) => Ok(None),
        (true, false) => Err(ImpersonationError::NoUser(others.join(", "))),
        (false, _) => Ok(Some(wanted)),
    }
}

/// The identity that `real` becomes. Each part of it must be allowed: user or service account, every group, uid, extra value.
pub fn impersonate<V: RbacView + NodeView + ?Sized>(
    real: &UserInfo,
    mut wanted: UserInfo,
    view: &V,
) -> Result<UserInfo, ImpersonationError> {
    const AUTHN: &str = "authentication.k8s.io";
    let check = |request: &Attributes<'_>| match Authorizer.authorize(request, view) {
        decision if decision.is_allowed() => Ok(()),
        decision => Err(ImpersonationError::Forbidden(
            request.forbidden_message(decision.reason()),
        )),
    };
    let ask = |group, resource, namespace| {
        Attributes::resource(real, "impersonate", group, resource, namespace)
    };
    match wanted.as_service_account() {
        Some((namespace, name)) => check(&ask("", "serviceaccounts", namespace).named(name))?,
        None => check(&ask("", "users", "").named(&wanted.name))?,
    }
    for group in &wanted.groups {
        check(&ask("", "groups", "").named(group))?;
    }
    if !wanted.uid.is_empty() {
        check(&ask(AUTHN, "uids", "").named(&wanted.uid))?;
    }
    for (key, values) in &wanted.extra {
        for value in values {
            check(&ask(AUTHN, "userextras", "").sub(key).named(value))?;
        }
    }
    if let (Some((namespace, _)), true) = (wanted.as_service_account(), wanted.groups.is_empty()) {
        let own = format!("{SERVICE_ACCOUNTS}:{namespace}");
        wanted.groups.extend([SERVICE_ACCOUNTS.to_owned(), own]);
    }
    let everybody = if wanted.name == ANONYMOUS {
        UNAUTHENTICATED
    } else {
        AUTHENTICATED
    };
    if !wanted.in_group(AUTHENTICATED) && !wanted.in_group(UNAUTHENTICATED) {
        wanted.groups.push(everybody.to_owned());
    }
    Ok(wanted)
}

/// Percent-decoding of an extra's key; what is no escape stays as it is.
fn unescape(key: &str) -> String {
    let bytes = key.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let decoded = (bytes[i] == b'%')
            .then(|| key.get(i + 1..i + 3))
            .flatten()
            .and_then(|h| u8::from_str_radix(h, 16).ok());
        out.push(decoded.unwrap_or(bytes[i]));
        i += if decoded.is_some() { 3 } else { 1 };
    }
    String::from_utf8(out).unwrap_or_else(|_| key.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_say_whom() {
        let mut headers = HeaderMap::new();
        assert_eq!(requested(&headers), Ok(None));
        headers.append("impersonate-group", "dev".parse().unwrap());
        assert!(matches!(
            requested(&headers),
            Err(ImpersonationError::NoUser(_))
        ));
        headers.append("impersonate-user", "jane".parse().unwrap());
        headers.append("impersonate-group", "ops".parse().unwrap());
        headers.append("impersonate-extra-acme.com%2fproject", "x".parse().unwrap());
        let wanted = requested(&headers).unwrap().unwrap();
        assert_eq!((wanted.name.as_str(), wanted.groups.len()), ("jane", 2));
        assert_eq!(wanted.extra["acme.com/project"], ["x"]);
    }
}
