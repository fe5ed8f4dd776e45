//! Who calls: from the certificate that TLS has already checked, or the token that is yet to be. Pure.

use std::collections::BTreeMap;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use x509_parser::prelude::{FromDer, X509Certificate};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Caller {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

impl Caller {
    /// CN and O, as everywhere in Kubernetes. None without a name.
    pub fn of_certificate(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let subject = certificate.subject();
        let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
        let mut groups: Vec<String> = subject
            .iter_organization()
            .filter_map(|group| group.as_str().ok())
            .map(str::to_owned)
            .collect();
        groups.push("system:authenticated".into());
        (!name.is_empty()).then_some(Self {
            name,
            groups,
            ..Self::default()
        })
    }

    /// The API server itself, which has authorised its own caller; and whoever may do everything.
    pub fn is_api_server(&self) -> bool {
        self.name == "system:kube-apiserver"
            || self.groups.iter().any(|group| group == "system:masters")
    }
}

pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    (scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty()).then(|| token.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_the_api_server() {
        let caller = |name: &str, groups: &[&str]| Caller {
            name: name.into(),
            groups: groups.iter().map(|g| (*g).into()).collect(),
            ..Caller::default()
        };
        for (caller, yes) in [
            (
                caller("kube-apiserver-kubelet-client", &["system:masters"]),
                true,
            ),
            (caller("system:kube-apiserver", &[]), true),
            (caller("system:node:a", &["system:nodes"]), false),
            (caller("kube-apiserver-kubelet-client", &[]), false),
        ] {
            assert_eq!(caller.is_api_server(), yes, "{caller:?}");
        }
    }

    #[test]
    fn tokens() {
        for (value, token) in [
            ("Bearer abc", Some("abc")),
            ("bearer  x ", Some("x")),
            ("Basic abc", None),
            ("Bearer ", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, value.parse().unwrap());
            assert_eq!(bearer(&headers), token);
        }
    }
}
