//! Service-account tokens: ES256 JWTs bound to a service account and, mostly, to the pod that holds them.
//!
//! A signature alone proves little: [`crate::authn`] also asks whether the account and the bound object still
//! exist with the same uid. Claims are upstream's (`pkg/serviceaccount/claims.go`), so any OIDC client can read them.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Upstream refuses shorter ones (`expirationSeconds` >= 10 minutes) and clips at 2^32 seconds.
pub const MIN_TTL: u64 = 600;
pub const MAX_TTL: u64 = 1 << 32;
pub const DEFAULT_TTL: u64 = 3600;
/// The token of the volume that every pod gets: asked for an hour and 7 s, valid for a year while clients learn to rotate.
pub const POD_VOLUME_TTL: u64 = 3607;
pub const EXTENDED_TTL: u64 = 365 * 24 * 3600;

#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("cannot use the signing key: {0}")]
    Key(String),
    #[error("cannot sign: {0}")]
    Sign(#[source] jsonwebtoken::errors::Error),
    #[error("this is no token of this cluster")]
    Foreign,
    #[error("invalid bearer token: {0}")]
    Invalid(#[source] jsonwebtoken::errors::Error),
    #[error("service account token has expired")]
    Expired,
    #[error("token is not valid yet")]
    NotYet,
}

/// The object with whose life the token's ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bound {
    /// With the pod's node, if it runs on one.
    Pod {
        name: String,
        uid: String,
        node: Option<(String, String)>,
    },
    Secret {
        name: String,
        uid: String,
    },
    Node {
        name: String,
        uid: String,
    },
}

/// What to sign.
#[derive(Clone, Debug)]
pub struct TokenSpec {
    pub namespace: String,
    pub service_account: String,
    pub uid: String,
    /// Empty: the API server itself.
    pub audiences: Vec<String>,
    /// Seconds; callers have checked it against [`MIN_TTL`] and [`MAX_TTL`].
    pub ttl: u64,
    pub bound: Option<Bound>,
}

#[derive(Clone, Debug)]
pub struct IssuedToken {
    pub token: String,
    /// Seconds since 1970: `status.expirationTimestamp`. May be earlier than the token's own end, so that clients rotate.
    pub expires: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectRef {
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

/// The private claim `kubernetes.io`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrivateClaims {
    pub namespace: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<ObjectRef>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<ObjectRef>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<ObjectRef>,
    pub serviceaccount: ObjectRef,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warnafter: Option<u64>,
}

/// A token's content. Times are seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    pub aud: Vec<String>,
    pub exp: u64,
    pub iat: u64,
    pub iss: String,
    #[serde(default)]
    pub jti: String,
    #[serde(rename = "kubernetes.io")]
    pub kubernetes: PrivateClaims,
    #[serde(default)]
    pub nbf: u64,
    pub sub: String,
}

/// Signs and checks tokens.
pub struct Tokens {
    key_pem: String,
    issuer: String,
    key_id: String,
    /// Uncompressed point: 4, x, y.
    public: Vec<u8>,
    encoding: EncodingKey,
    decoding: DecodingKey,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens")
            .field("issuer", &self.issuer)
            .field("key_id", &self.key_id)
            .finish_non_exhaustive()
    }
}

impl Tokens {
    pub fn create(issuer: &str) -> Result<Self, TokenError> {
        let key = rcgen::KeyPair::generate().map_err(|e| TokenError::Key(e.to_string()))?;
        Self::load(&key.serialize_pem(), issuer)
    }

    pub fn load(key_pem: &str, issuer: &str) -> Result<Self, TokenError> {
        let key = rcgen::KeyPair::from_pem(key_pem).map_err(|e| TokenError::Key(e.to_string()))?;
        let public = key.public_key_raw().to_vec();
        if public.len() != 65 {
            return Err(TokenError::Key("not a P-256 key".into()));
        }
        let encoding = EncodingKey::from_ec_der(key.serialized_der());
        let decoding = DecodingKey::from_ec_components(
            &URL_SAFE_NO_PAD.encode(&public[1..33]),
            &URL_SAFE_NO_PAD.encode(&public[33..]),
        )
        .map_err(|e| TokenError::Key(e.to_string()))?;
        let key_id = URL_SAFE_NO_PAD.encode(Sha256::digest(&public));
        Ok(Self {
            key_pem: key_pem.to_owned(),
            issuer: issuer.to_owned(),
            key_id,
            public,
            encoding,
            decoding,
        })
    }

    pub(crate) fn key_pem(&self) -> &str {
        &self.key_pem
    }

    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// The public point's coordinates, base64url: what a JWK carries.
    pub fn public_coordinates(&self) -> (String, String) {
        (
            URL_SAFE_NO_PAD.encode(&self.public[1..33]),
            URL_SAFE_NO_PAD.encode(&self.public[33..]),
        )
    }

    /// Signs. `now` is seconds since 1970.
    pub fn issue(&self, spec: &TokenSpec, now: u64) -> Result<IssuedToken, TokenError> {
        let mut kubernetes = PrivateClaims {
            namespace: spec.namespace.clone(),
            node: None,
            pod: None,
            secret: None,
            serviceaccount: ObjectRef {
                name: spec.service_account.clone(),
                uid: spec.uid.clone(),
            },
            warnafter: None,
        };
        let object = |name: &str, uid: &str| {
            Some(ObjectRef {
                name: name.to_owned(),
                uid: uid.to_owned(),
            })
        };
        match &spec.bound {
            None => {}
            Some(Bound::Pod { name, uid, node }) => {
                kubernetes.pod = object(name, uid);
                kubernetes.node = node.as_ref().and_then(|(name, uid)| object(name, uid));
            }
            Some(Bound::Secret { name, uid }) => kubernetes.secret = object(name, uid),
            Some(Bound::Node { name, uid }) => kubernetes.node = object(name, uid),
        }
        // Upstream's --service-account-extend-token-expiration: the default pod volume's token lives on after its date, with a warning time.
        let extended = spec.ttl == POD_VOLUME_TTL
            && spec.audiences.is_empty()
            && matches!(spec.bound, Some(Bound::Pod { .. }));
        let expires = now + spec.ttl;
        if extended {
            kubernetes.warnafter = Some(expires);
        }
        let claims = Claims {
            aud: if spec.audiences.is_empty() {
                vec![self.issuer.clone()]
            } else {
                spec.audiences.clone()
            },
            exp: now + if extended { EXTENDED_TTL } else { spec.ttl },
            iat: now,
            iss: self.issuer.clone(),
            jti: random_uuid(),
            kubernetes,
            nbf: now,
            sub: crate::user::service_account_name(&spec.namespace, &spec.service_account),
        };
        let header = Header {
            typ: None,
            kid: Some(self.key_id.clone()),
            ..Header::new(Algorithm::ES256)
        };
        let token =
            jsonwebtoken::encode(&header, &claims, &self.encoding).map_err(TokenError::Sign)?;
        Ok(IssuedToken { token, expires })
    }

    /// Signature, issuer and times; neither audience nor whether the bound objects live.
    pub fn verify(&self, token: &str, now: u64) -> Result<Claims, TokenError> {
        let mut rules = Validation::new(Algorithm::ES256);
        rules.validate_exp = false;
        rules.validate_aud = false;
        rules.set_issuer(&[&self.issuer]);
        rules.set_required_spec_claims(&["exp", "iss", "sub"]);
        let claims = jsonwebtoken::decode::<Claims>(token, &self.decoding, &rules)
            .map_err(|error| match error.kind() {
                jsonwebtoken::errors::ErrorKind::InvalidIssuer => TokenError::Foreign,
                _ => TokenError::Invalid(error),
            })?
            .claims;
        if now >= claims.exp {
            return Err(TokenError::Expired);
        }
        // A server whose clock is behind the signer's by less than this accepts the token, as upstream's minute of leeway.
        if claims.nbf > now + 60 {
            return Err(TokenError::NotYet);
        }
        Ok(claims)
    }
}

fn random_uuid() -> String {
    let mut b: [u8; 16] = rand::random();
    b[6] = (b[6] & 0x0f) | 0x40;
    b[8] = (b[8] & 0x3f) | 0x80;
    let h = hex::encode(b);
    format!(
        "{}-{}-{}-{}-{}",
        &h[..8],
        &h[8..12],
        &h[12..16],
        &h[16..20],
        &h[20..]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(ttl: u64) -> TokenSpec {
        let bound = Some(Bound::Pod {
            name: "p".into(),
            uid: "pu".into(),
            node: Some(("n".into(), "nu".into())),
        });
        TokenSpec {
            namespace: "ns".into(),
            service_account: "sa".into(),
            uid: "su".into(),
            audiences: vec![],
            ttl,
            bound,
        }
    }

    #[test]
    fn a_token_says_what_was_signed_and_ends() {
        let tokens = Tokens::create("https://issuer").unwrap();
        let issued = tokens.issue(&spec(700), 1000).unwrap();
        let claims = tokens.verify(&issued.token, 1699).unwrap();
        assert_eq!(claims.sub, "system:serviceaccount:ns:sa");
        assert_eq!(claims.aud, ["https://issuer"]);
        assert_eq!(claims.kubernetes.pod.unwrap().uid, "pu");
        assert_eq!(issued.expires, 1700);
        assert!(matches!(
            tokens.verify(&issued.token, 1700),
            Err(TokenError::Expired)
        ));
        assert!(matches!(
            tokens.verify(&issued.token, 900),
            Err(TokenError::NotYet)
        ));
        let other = Tokens::create("https://issuer").unwrap();
        assert!(matches!(
            other.verify(&issued.token, 1001),
            Err(TokenError::Invalid(_))
        ));
        let reloaded = Tokens::load(tokens.key_pem(), "https://issuer").unwrap();
        assert!(reloaded.verify(&issued.token, 1001).is_ok());
        assert_eq!(reloaded.key_id(), tokens.key_id());
    }

    #[test]
    fn the_pod_volumes_token_outlives_its_date() {
        let tokens = Tokens::create("https://issuer").unwrap();
        let issued = tokens.issue(&spec(POD_VOLUME_TTL), 1000).unwrap();
        assert_eq!(issued.expires, 4607);
        let claims = tokens.verify(&issued.token, 5000).unwrap();
        assert_eq!(claims.kubernetes.warnafter, Some(4607));
    }
}
