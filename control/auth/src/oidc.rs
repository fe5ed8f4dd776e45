//! What lets others check our tokens: the OIDC discovery document and the key set. Public facts only.
//!
//! Follows upstream's `pkg/serviceaccount/openidmetadata.go`.

use crate::token::Tokens;
use serde_json::{Value, json};

/// `/.well-known/openid-configuration`; `jwks_uri` is under the issuer unless the cluster advertises another.
pub fn configuration(tokens: &Tokens, jwks_uri: Option<&str>) -> Value {
    let default = format!("{}/openid/v1/jwks", tokens.issuer().trim_end_matches('/'));
    json!({
        "issuer": tokens.issuer(),
        "jwks_uri": jwks_uri.unwrap_or(&default),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
    })
}

/// `/openid/v1/jwks` (`application/jwk-set+json`).
pub fn key_set(tokens: &Tokens) -> Value {
    let (x, y) = tokens.public_coordinates();
    json!({ "keys": [{ "use": "sig", "kty": "EC", "kid": tokens.key_id(), "crv": "P-256", "alg": "ES256", "x": x, "y": y }] })
}
