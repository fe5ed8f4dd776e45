//! Join tokens, for tools: made, listed and revoked by the verbs of the API, under the caller's name.

use caravel_api::{ApiError, KeyRange, Kind as _};
use caravel_apiserver::{ApiServer, DeleteOptions, Internal};
use caravel_auth::UserInfo;
use caravel_auth::join::{self, SECRET_NAMESPACE, Scope, StoredToken};
use caravel_rpc::cluster::v1::{
    CreateJoinTokenRequest, CreateJoinTokenResponse, JoinRole, JoinToken,
};
use k8s_openapi::api::core::v1::Secret;
use std::sync::Arc;
use tonic::{Code, Request, Status};

/// Where tokens lie among the Secrets.
const PREFIX: &str = "/registry/core/secrets/kube-system/";
/// Bytes of a description.
const DESCRIPTION: usize = 256;

/// The API that a call came to, as its caller.
pub(super) struct Tokens {
    api: Arc<ApiServer>,
    verbs: Internal,
}

impl Tokens {
    pub fn of<T>(request: &Request<T>) -> Result<Self, Status> {
        let unknown = || Status::internal("the caller is not known");
        let api = request.extensions().get::<Arc<ApiServer>>();
        let user = request.extensions().get::<UserInfo>();
        let (api, user) = api.zip(user).ok_or_else(unknown)?;
        Ok(Self {
            api: api.clone(),
            verbs: api.internal(user.clone(), None).manager("caravel"),
        })
    }

    pub async fn create(
        &self,
        asked: &CreateJoinTokenRequest,
    ) -> Result<CreateJoinTokenResponse, Status> {
        let scope = match asked.role() {
            JoinRole::Node => Scope::Node,
            JoinRole::Server => Scope::Server,
            JoinRole::Unspecified | JoinRole::Any => {
                return Err(Status::invalid_argument("role: NODE or SERVER"));
            }
        };
        if asked.description.len() > DESCRIPTION {
            return Err(Status::invalid_argument(format!(
                "description: more than {DESCRIPTION} bytes"
            )));
        }
        let expires =
            (asked.ttl_seconds > 0).then(|| super::now().saturating_add(asked.ttl_seconds));
        let (token, stored) = join::create(&self.api.ca_hash(), scope, expires, &asked.description);
        let failed = |error: serde_json::Error| Status::internal(error.to_string());
        let secret = serde_json::to_value(stored.to_secret().map_err(failed)?).map_err(failed)?;
        self.verbs
            .create(Secret::row(), SECRET_NAMESPACE, secret)
            .await
            .map_err(|error| status(&error))?;
        tracing::info!(id = %token.id, role = %scope, "made a join token");
        Ok(CreateJoinTokenResponse {
            id: token.id.clone(),
            token: token.to_string(),
        })
    }

    pub async fn list(&self) -> Result<Vec<JoinToken>, Status> {
        let snapshot = self.api.store().fresh_snapshot().await;
        let snapshot = snapshot.map_err(|error| Status::unavailable(error.to_string()))?;
        let secrets = snapshot.list(&KeyRange::prefix(PREFIX));
        let stored = secrets.filter_map(|entry| {
            let secret: Secret = serde_json::from_slice(&entry.json).ok()?;
            StoredToken::from_secret(&secret)
        });
        Ok(stored.map(told).collect())
    }

    pub async fn delete(&self, id: &str) -> Result<(), Status> {
        if !self.list().await?.iter().any(|token| token.id == id) {
            return Err(Status::not_found(format!("there is no join token {id:?}")));
        }
        let (name, options) = (join::secret_name(id), DeleteOptions::default());
        self.verbs
            .delete(Secret::row(), SECRET_NAMESPACE, &name, &options)
            .await
            .map_err(|error| status(&error))?;
        tracing::info!(id, "revoked a join token");
        Ok(())
    }
}

fn told(stored: StoredToken) -> JoinToken {
    let role = match stored.scope {
        Scope::Node => JoinRole::Node,
        Scope::Server => JoinRole::Server,
        Scope::Any => JoinRole::Any,
    };
    JoinToken {
        id: stored.id,
        role: role.into(),
        expires: stored.expires.unwrap_or(0),
        description: stored.description,
    }
}

fn status(error: &ApiError) -> Status {
    let code = match error.code {
        403 => Code::PermissionDenied,
        404 => Code::NotFound,
        409 => Code::Aborted,
        422 => Code::InvalidArgument,
        429 => Code::ResourceExhausted,
        503 => Code::Unavailable,
        504 => Code::DeadlineExceeded,
        _ => Code::Internal,
    };
    Status::new(code, error.message.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_of_a_token_is_no_secret() {
        let (token, stored) = join::create("hash", Scope::Server, Some(7), "for a server");
        let (salt, hash) = (stored.salt.clone(), stored.hash.clone());
        let told = told(stored);
        assert_eq!(
            (told.id.as_str(), told.role()),
            (token.id.as_str(), JoinRole::Server)
        );
        assert_eq!(
            (told.expires, told.description.as_str()),
            (7, "for a server")
        );
        let said = format!("{told:?}");
        for secret in [token.secret, salt, hash] {
            assert!(!said.contains(&secret), "{said}");
        }
    }
}
