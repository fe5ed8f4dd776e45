//! Who is asking: client certificate, then bearer token, then front proxy, else anonymous.
//!
//! A credential that is given and wrong is refused (401), never taken for anonymous. Follows upstream's
//! `apiserver/pkg/authentication/request/{x509,bearertoken,headerrequest,websocket}` and the service-account validator.

use crate::authority::Authority;
use crate::tls::{self, TlsError};
use crate::token::{Claims, TokenError};
use crate::user::{AUTHENTICATED, UserInfo};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderMap;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use sha2::{Digest as _, Sha256};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// The message of every 401, as upstream's.
pub const UNAUTHORIZED: &str = "Unauthorized";
/// Which certificate or token it was, for the audit log.
const CREDENTIAL: &str = "authentication.kubernetes.io/credential-id";
const NODE_EXTRA: &str = "authentication.kubernetes.io/node-name";

/// Why a credential was refused. It is logged; the client is only told [`UNAUTHORIZED`].
#[derive(Debug, thiserror::Error)]
pub enum AuthnError {
    #[error("x509: {0}")]
    Certificate(String),
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error("token audiences {0:?} is invalid for the target audiences {1:?}")]
    Audience(Vec<String>, Vec<String>),
    #[error("{0}")]
    Gone(String),
    #[error("invalid bearer token")]
    UnknownToken,
}

/// What verification must look up: uids of what lives now. `None` is "does not exist".
pub trait IdentityView {
    fn service_account_uid(&self, namespace: &str, name: &str) -> Option<String>;
    /// The pod's uid and, if it is being deleted, since when (seconds since 1970).
    fn pod(&self, namespace: &str, name: &str) -> Option<BoundObject>;
    fn secret(&self, namespace: &str, name: &str) -> Option<BoundObject>;
    fn node(&self, name: &str) -> Option<BoundObject>;
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoundObject {
    pub uid: String,
    pub deleted: Option<u64>,
}

/// How somebody proved who they are: for audit, and for what only certificates may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Certificate,
    ServiceAccountToken,
    FrontProxy,
    Anonymous,
}

#[derive(Clone, Debug)]
pub struct Authenticated {
    pub user: UserInfo,
    pub method: Method,
    /// Of the token, those that were asked for (TokenReview's `status.audiences`).
    pub audiences: Vec<String>,
}

pub struct Authenticator {
    authority: Arc<Authority>,
    clients: Arc<dyn ClientCertVerifier>,
    proxies: Arc<dyn ClientCertVerifier>,
    audiences: Vec<String>,
    clock: fn() -> SystemTime,
}

impl std::fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authenticator").finish_non_exhaustive()
    }
}

impl Authenticator {
    pub fn new(authority: Arc<Authority>) -> Result<Self, TlsError> {
        let clients = tls::chain_verifier(&[authority.cluster_ca().der().clone()])?;
        let proxies = tls::chain_verifier(&[authority.front_proxy_ca().der().clone()])?;
        let audiences = vec![authority.tokens().issuer().to_owned()];
        Ok(Self {
            authority,
            clients,
            proxies,
            audiences,
            clock: caravel_api::clock::system,
        })
    }

    /// Under another clock (tests, simulation).
    #[must_use]
    pub fn with_clock(self, clock: fn() -> SystemTime) -> Self {
        Self { clock, ..self }
    }

    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The request's identity. `peer` is the TLS peer's certificate chain, leaf first (empty without one).
    /// `None`: neither a certificate nor a token was given; the caller continues as [`UserInfo::anonymous`] or refuses.
    pub fn authenticate(
        &self,
        headers: &HeaderMap,
        peer: &[CertificateDer<'_>],
        view: &dyn IdentityView,
    ) -> Result<Option<Authenticated>, AuthnError> {
        let mut refused = None;
        if let Some((leaf, chain)) = peer.split_first() {
            if self.verify(&*self.proxies, leaf, chain).is_ok()
                && let Some(user) = front_proxy_user(headers)
            {
                return Ok(Some(Authenticated {
                    user,
                    method: Method::FrontProxy,
                    audiences: vec![],
                }));
            }
            match self
                .verify(&*self.clients, leaf, chain)
                .and_then(|()| certificate_user(leaf))
            {
                Ok(user) => {
                    return Ok(Some(Authenticated {
                        user,
                        method: Method::Certificate,
                        audiences: vec![],
                    }));
                }
                Err(error) => refused = Some(error),
            }
        }
        if let Some(token) = bearer(headers) {
            return self
                .authenticate_token(&token, &self.audiences, view)
                .map(Some);
        }
        refused.map_or(Ok(None), Err)
    }

    /// A token on its own, for the given audiences (empty: the API server's), as TokenReview asks.
    pub fn authenticate_token(
        &self,
        token: &str,
        audiences: &[String],
        view: &dyn IdentityView,
    ) -> Result<Authenticated, AuthnError> {
        let claims = self.authority.tokens().verify(token, self.now())?;
        let wanted = if audiences.is_empty() {
            &self.audiences
        } else {
            audiences
        };
        let met: Vec<String> = wanted
            .iter()
            .filter(|a| claims.aud.contains(a))
            .cloned()
            .collect();
        if met.is_empty() {
            return Err(AuthnError::Audience(claims.aud, wanted.to_vec()));
        }
        self.still_lives(&claims, view)?;
        Ok(Authenticated {
            user: token_user(&claims),
            method: Method::ServiceAccountToken,
            audiences: met,
        })
    }

    fn still_lives(&self, claims: &Claims, view: &dyn IdentityView) -> Result<(), AuthnError> {
        let k = &claims.kubernetes;
        let (ns, account) = (&k.namespace, &k.serviceaccount);
        if claims.sub != crate::user::service_account_name(ns, &account.name) {
            return Err(AuthnError::Gone(
                "the token's subject is not its service account".into(),
            ));
        }
        match view.service_account_uid(ns, &account.name) {
            Some(uid) if uid == account.uid => {}
            Some(_) => {
                return Err(AuthnError::Gone(format!(
                    "service account UID ({}) does not match claim",
                    account.uid
                )));
            }
            None => {
                return Err(AuthnError::Gone(format!(
                    "serviceaccounts {:?} not found",
                    account.name
                )));
            }
        }
        let check =
            |kind: &str, claimed: &crate::token::ObjectRef, live: Option<BoundObject>| match live {
                None => Err(AuthnError::Gone(format!(
                    "service account token has been invalidated: {kind} {:?} not found",
                    claimed.name
                ))),
                Some(live) if live.uid != claimed.uid => Err(AuthnError::Gone(format!(
                    "the {kind}'s UID does not match claim"
                ))),
                // Upstream leaves a dying object's token a minute to clean up with.
                Some(live) if live.deleted.is_some_and(|at| at + 60 < self.now()) => Err(
                    AuthnError::Gone(format!("the token's {kind} has been deleted")),
                ),
                Some(_) => Ok(()),
            };
        if let Some(pod) = &k.pod {
            return check("pod", pod, view.pod(ns, &pod.name));
        }
        if let Some(secret) = &k.secret {
            return check("secret", secret, view.secret(ns, &secret.name));
        }
        match &k.node {
            Some(node) => check("node", node, view.node(&node.name)),
            None => Ok(()),
        }
    }

    fn verify(
        &self,
        verifier: &dyn ClientCertVerifier,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
    ) -> Result<(), AuthnError> {
        let now = UnixTime::since_unix_epoch(Duration::from_secs(self.now()));
        verifier
            .verify_client_cert(leaf, chain, now)
            .map(drop)
            .map_err(|e| AuthnError::Certificate(e.to_string()))
    }

    fn now(&self) -> u64 {
        (self.clock)()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs()
    }
}

/// `Authorization: Bearer T`, or the sub-protocol by which browsers' WebSockets carry a token.
fn bearer(headers: &HeaderMap) -> Option<String> {
    if let Some(value) = headers.get(http::header::AUTHORIZATION) {
        let (scheme, token) = value.to_str().ok()?.trim().split_once(' ')?;
        let token = token.trim();
        return (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty())
            .then(|| token.to_owned());
    }
    let offered = headers
        .get_all(http::header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|v| v.to_str().ok());
    let token = offered.flat_map(|v| v.split(',')).find_map(|p| {
        p.trim()
            .strip_prefix("base64url.bearer.authorization.k8s.io.")
    })?;
    String::from_utf8(URL_SAFE_NO_PAD.decode(token).ok()?).ok()
}

/// CN is the user, each O a group.
fn certificate_user(leaf: &CertificateDer<'_>) -> Result<UserInfo, AuthnError> {
    let (_, cert) = x509_parser::parse_x509_certificate(leaf)
        .map_err(|e| AuthnError::Certificate(e.to_string()))?;
    let name = cert
        .subject()
        .iter_common_name()
        .next()
        .and_then(|cn| cn.as_str().ok())
        .unwrap_or_default();
    if name.is_empty() {
        return Err(AuthnError::Certificate(
            "the certificate's subject has no common name".into(),
        ));
    }
    let mut groups: Vec<String> = cert
        .subject()
        .iter_organization()
        .filter_map(|o| o.as_str().ok())
        .map(str::to_owned)
        .collect();
    groups.push(AUTHENTICATED.to_owned());
    let print = hex::encode(Sha256::digest(leaf));
    Ok(UserInfo {
        name: name.to_owned(),
        groups,
        extra: [(CREDENTIAL.to_owned(), vec![format!("X509SHA256={print}")])].into(),
        ..UserInfo::default()
    })
}

/// `X-Remote-User` and its companions, believed only from our own proxy's certificate.
fn front_proxy_user(headers: &HeaderMap) -> Option<UserInfo> {
    let name = headers.get("x-remote-user")?.to_str().ok()?.to_owned();
    let mut groups: Vec<String> = headers
        .get_all("x-remote-group")
        .iter()
        .filter_map(|v| v.to_str().ok())
        .map(str::to_owned)
        .collect();
    if !groups.iter().any(|g| g == AUTHENTICATED) {
        groups.push(AUTHENTICATED.to_owned());
    }
    let mut user = UserInfo {
        name,
        groups,
        ..UserInfo::default()
    };
    for (key, value) in headers {
        if let (Some(key), Ok(value)) =
            (key.as_str().strip_prefix("x-remote-extra-"), value.to_str())
        {
            user.extra
                .entry(key.to_owned())
                .or_default()
                .push(value.to_owned());
        }
    }
    Some(user)
}

fn token_user(claims: &Claims) -> UserInfo {
    let k = &claims.kubernetes;
    let mut user =
        UserInfo::service_account(&k.namespace, &k.serviceaccount.name, &k.serviceaccount.uid);
    let mut extra = |key: &str, value: String| user.extra.insert(key.to_owned(), vec![value]);
    if !claims.jti.is_empty() {
        extra(CREDENTIAL, format!("JTI={}", claims.jti));
    }
    if let Some(pod) = &k.pod {
        extra("authentication.kubernetes.io/pod-name", pod.name.clone());
        extra("authentication.kubernetes.io/pod-uid", pod.uid.clone());
    }
    if let Some(node) = &k.node {
        extra(NODE_EXTRA, node.name.clone());
        extra("authentication.kubernetes.io/node-uid", node.uid.clone());
    }
    user
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::{Bound, TokenSpec};

    struct View(&'static str, Option<u64>);
    impl IdentityView for View {
        fn service_account_uid(&self, _: &str, name: &str) -> Option<String> {
            (name == "sa").then(|| "su".into())
        }
        fn pod(&self, _: &str, _: &str) -> Option<BoundObject> {
            (!self.0.is_empty()).then(|| BoundObject {
                uid: self.0.into(),
                deleted: self.1,
            })
        }
        fn secret(&self, _: &str, _: &str) -> Option<BoundObject> {
            None
        }
        fn node(&self, _: &str) -> Option<BoundObject> {
            None
        }
    }

    fn now() -> u64 {
        SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap()
            .as_secs()
    }

    #[test]
    fn certificates_name_users_and_foreign_ones_are_refused() {
        let authority = Arc::new(Authority::create(crate::authority::DEFAULT_ISSUER).unwrap());
        let other = Authority::create(crate::authority::DEFAULT_ISSUER).unwrap();
        let authenticator = Authenticator::new(authority.clone()).unwrap();
        let view = View("", None);
        let admin = crate::certificate::parse_pem(&authority.issue_admin().unwrap().cert_pem);
        let found = authenticator
            .authenticate(&HeaderMap::new(), &admin, &view)
            .unwrap()
            .unwrap();
        assert_eq!(found.user.name, "kubernetes-admin");
        assert_eq!(
            found.user.groups,
            ["system:masters", "system:authenticated"]
        );
        let credential = &found.user.extra[CREDENTIAL][0];
        assert_eq!(credential.len(), "X509SHA256=".len() + 64, "{credential}");
        let foreign = crate::certificate::parse_pem(&other.issue_admin().unwrap().cert_pem);
        assert!(
            authenticator
                .authenticate(&HeaderMap::new(), &foreign, &view)
                .is_err()
        );
        assert!(
            authenticator
                .authenticate(&HeaderMap::new(), &[], &view)
                .unwrap()
                .is_none()
        );
        // A front proxy's certificate names nobody by itself, and only it is believed about others.
        let proxy =
            crate::certificate::parse_pem(&authority.issue_front_proxy_client().unwrap().cert_pem);
        assert!(
            authenticator
                .authenticate(&HeaderMap::new(), &proxy, &view)
                .is_err()
        );
        let mut headers = HeaderMap::new();
        headers.insert("x-remote-user", "jane".parse().unwrap());
        let jane = authenticator
            .authenticate(&headers, &proxy, &view)
            .unwrap()
            .unwrap();
        assert_eq!(
            (jane.user.name.as_str(), jane.method),
            ("jane", Method::FrontProxy)
        );
        assert_eq!(
            authenticator
                .authenticate(&headers, &admin, &view)
                .unwrap()
                .unwrap()
                .user
                .name,
            "kubernetes-admin"
        );
    }

    #[test]
    fn tokens_die_with_what_they_are_bound_to() {
        let authority = Arc::new(Authority::create(crate::authority::DEFAULT_ISSUER).unwrap());
        let authenticator = Authenticator::new(authority.clone()).unwrap();
        let spec = TokenSpec {
            namespace: "ns".into(),
            service_account: "sa".into(),
            uid: "su".into(),
            audiences: vec![],
            ttl: 600,
            bound: Some(Bound::Pod {
                name: "p".into(),
                uid: "pu".into(),
                node: None,
            }),
        };
        let token = authority.tokens().issue(&spec, now()).unwrap().token;
        let mut headers = HeaderMap::new();
        headers.insert("authorization", format!("Bearer {token}").parse().unwrap());
        let cases = [
            (View("pu", None), true),
            (View("pu", Some(now() - 10)), true),
            (View("pu", Some(now() - 100)), false),
            (View("other", None), false),
            (View("", None), false),
        ];
        for (view, lives) in cases {
            assert_eq!(
                authenticator.authenticate(&headers, &[], &view).is_ok(),
                lives,
                "{:?} {:?}",
                view.0,
                view.1
            );
        }
        assert!(
            authenticator
                .authenticate_token(&token, &["vault".into()], &View("pu", None))
                .is_err()
        );
        let (wrong, foreign) = (
            TokenSpec {
                uid: "old".into(),
                ..spec.clone()
            },
            TokenSpec {
                service_account: "nobody".into(),
                ..spec
            },
        );
        for bad in [wrong, foreign] {
            let token = authority.tokens().issue(&bad, now()).unwrap().token;
            assert!(
                authenticator
                    .authenticate_token(&token, &[], &View("pu", None))
                    .is_err()
            );
        }
        headers.insert("authorization", "Bearer nonsense".parse().unwrap());
        assert!(
            authenticator
                .authenticate(&headers, &[], &View("pu", None))
                .is_err()
        );
    }
}
