//! Join tokens: how a machine that has nothing proves that it may join, and knows that the cluster is the right one.
//!
//! `K10<SHA-256 of the cluster CA>::<id>:<secret>`, as k3s' secure token: the joiner pins the CA by its hash before it
//! sends the secret. The cluster keeps only a salted hash of the secret; losing its database loses no token.

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use rand::RngCore as _;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::str::FromStr;

const PREFIX: &str = "K10";
/// Stored tokens are Secrets of this type in this namespace, so that `kubectl` can list and revoke them.
pub const SECRET_TYPE: &str = "caravel.dev/join-token";
pub const SECRET_NAMESPACE: &str = "kube-system";
const SECRET_KEY: &str = "token.json";

/// Name of the Secret that keeps the token with this id.
pub fn secret_name(id: &str) -> String {
    format!("join-token-{id}")
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this is no join token: expected K10<64 hex digits>::<id>:<secret>, as `caravel token create` prints it"
)]
pub struct MalformedToken;

/// What a person copies to the joining machine.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// SHA-256 of the cluster CA's certificate (DER), lower-case hex.
    pub ca_hash: String,
    pub id: String,
    pub secret: String,
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken({})", self.id)
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}::{}:{}", self.ca_hash, self.id, self.secret)
    }
}

impl FromStr for JoinToken {
    type Err = MalformedToken;
    fn from_str(text: &str) -> Result<Self, MalformedToken> {
        let (ca_hash, rest) = text
            .trim()
            .strip_prefix(PREFIX)
            .and_then(|t| t.split_once("::"))
            .ok_or(MalformedToken)?;
        let (id, secret) = rest.split_once(':').ok_or(MalformedToken)?;
        let hex = ca_hash.len() == 64 && ca_hash.bytes().all(|b| b.is_ascii_hexdigit());
        if !hex || id.is_empty() || secret.is_empty() {
            return Err(MalformedToken);
        }
        Ok(Self {
            ca_hash: ca_hash.to_ascii_lowercase(),
            id: id.to_owned(),
            secret: secret.to_owned(),
        })
    }
}

/// What a token's holder may become.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    #[default]
    Node,
    Server,
    /// The administrator's own token, as k3s'.
    Any,
}

impl Scope {
    /// Whether a token of this scope serves for `wanted`.
    pub fn covers(self, wanted: Scope) -> bool {
        self == Scope::Any || self == wanted
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Scope::Node => "node",
            Scope::Server => "server",
            Scope::Any => "any",
        })
    }
}

/// What the cluster keeps of a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredToken {
    pub id: String,
    /// Hex of salt, and of SHA-256(salt || secret). The secret has 128 random bits, so one round is enough.
    pub salt: String,
    pub hash: String,
    /// Seconds since 1970; absent: does not expire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    #[serde(default)]
    pub scope: Scope,
}

impl StoredToken {
    pub fn to_secret(&self) -> Result<Secret, serde_json::Error> {
        Ok(Secret {
            metadata: ObjectMeta {
                name: Some(secret_name(&self.id)),
                namespace: Some(SECRET_NAMESPACE.into()),
                ..ObjectMeta::default()
            },
            type_: Some(SECRET_TYPE.into()),
            data: Some([(SECRET_KEY.to_owned(), ByteString(serde_json::to_vec(self)?))].into()),
            ..Secret::default()
        })
    }

    /// `None` for a Secret that keeps no token, or one that does not fit its name.
    pub fn from_secret(secret: &Secret) -> Option<Self> {
        let bytes = secret
            .data
            .as_ref()?
            .get(SECRET_KEY)
            .filter(|_| secret.type_.as_deref() == Some(SECRET_TYPE))?;
        let token: Self = serde_json::from_slice(&bytes.0).ok()?;
        (secret.metadata.name.as_deref() == Some(&secret_name(&token.id))).then_some(token)
    }

    /// Compares in constant time.
    pub fn admits(&self, secret: &str, now: u64) -> bool {
        let hash = digest(&self.salt, secret);
        let differs = hash
            .bytes()
            .zip(self.hash.bytes())
            .fold(hash.len() ^ self.hash.len(), |d, (a, b)| {
                d | usize::from(a ^ b)
            });
        differs == 0 && self.expires.is_none_or(|end| now < end)
    }
}

/// A new token: what to print once, and what to keep.
pub fn create(
    ca_hash: &str,
    scope: Scope,
    expires: Option<u64>,
    description: &str,
) -> (JoinToken, StoredToken) {
    let token = JoinToken {
        ca_hash: ca_hash.to_owned(),
        id: random(6),
        secret: random(16),
    };
    let stored = store(&token, scope, expires, description);
    (token, stored)
}

/// What to keep of a token whose secret the administrator chose (`--token`).
pub fn store(
    token: &JoinToken,
    scope: Scope,
    expires: Option<u64>,
    description: &str,
) -> StoredToken {
    let salt = random(16);
    StoredToken {
        id: token.id.clone(),
        hash: digest(&salt, &token.secret),
        salt,
        expires,
        description: description.to_owned(),
        scope,
    }
}

fn digest(salt: &str, secret: &str) -> String {
    hex::encode(
        Sha256::new()
            .chain_update(salt)
            .chain_update(secret)
            .finalize(),
    )
}

fn random(bytes: usize) -> String {
    let mut buffer = vec![0; bytes];
    rand::rng().fill_bytes(&mut buffer);
    hex::encode(buffer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_serves_for_what_it_was_made() {
        for (scope, node, server) in [
            (Scope::Node, true, false),
            (Scope::Server, false, true),
            (Scope::Any, true, true),
        ] {
            let covers = (scope.covers(Scope::Node), scope.covers(Scope::Server));
            assert_eq!(covers, (node, server), "{scope:?}");
        }
    }

    #[test]
    fn a_token_survives_paper_and_opens_only_its_own_lock() {
        let (token, stored) = create(&"ab".repeat(32), Scope::Node, Some(100), "for n1");
        assert_eq!(token.to_string().parse::<JoinToken>().as_ref(), Ok(&token));
        assert!(stored.admits(&token.secret, 99));
        assert!(!stored.admits(&token.secret, 100), "it has expired");
        assert!(!stored.admits("guess", 1));
        assert!(!format!("{stored:?}").contains(&token.secret));
        assert_eq!(
            StoredToken::from_secret(&stored.to_secret().unwrap()).as_ref(),
            Some(&stored)
        );
        for bad in [
            "",
            "K10::a:b",
            "K10zz::a:b",
            &format!("K10{}::a", "ab".repeat(32)),
            &format!("K10{}:::b", "ab".repeat(32)),
        ] {
            assert_eq!(
                bad.parse::<JoinToken>().map(drop),
                Err(MalformedToken),
                "{bad}"
            );
        }
    }
}
