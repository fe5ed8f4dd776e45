//! The service by which a machine becomes a node: a join token in, certificates out. Upstream's counterpart is TLS bootstrapping.
//!
//! The caller has no certificate yet; the token is its only credential, and a wrong one is told nothing more than that.
//! Later it renews its certificates without a token, by the ones that it has.

use caravel_api::{ObjectName, names, time};
use caravel_auth::join::{SECRET_NAMESPACE, Scope, StoredToken, secret_name};
use caravel_auth::{Authority, UserInfo, user};
use caravel_peers::roster;
use caravel_rpc::cluster::v1::join_server::{Join, JoinServer};
use caravel_rpc::cluster::v1::{
    ClusterConfig, Peer, SignNodeRequest, SignNodeResponse, SignServerRequest, SignServerResponse,
};
use caravel_store::Store;
use k8s_openapi::api::core::v1::{Node, Secret};
use std::net::IpAddr;
use std::sync::Arc;
use tonic::{Request, Response, Status};

/// Most addresses that a node's certificate is given.
const ADDRESSES: usize = 16;

/// What joining needs of the server.
pub(crate) struct JoinService {
    pub store: Store,
    pub authority: Arc<Authority>,
    pub cluster: ClusterConfig,
}

impl JoinService {
    /// As routes for the API's port.
    pub(crate) fn routes(self) -> tonic::service::Routes {
        tonic::service::Routes::new(JoinServer::new(self).max_decoding_message_size(256 * 1024))
    }

    /// Where the API is served now.
    fn servers(&self) -> Vec<String> {
        let living = roster::living(&self.store.snapshot()).unwrap_or_default();
        living.into_iter().map(|member| member.api_url).collect()
    }

    /// One that was deleted has no certificates to renew: it joins again, with a token.
    fn knows(&self, node: &str) -> bool {
        let found = self
            .store
            .snapshot()
            .get::<Node>(&ObjectName::cluster(node));
        found.is_ok_and(|node| node.is_some())
    }

    fn admits(&self, id: &str, secret: &str, scope: Scope) -> bool {
        let name = ObjectName::new(SECRET_NAMESPACE, secret_name(id));
        let found = self.store.snapshot().get::<Secret>(&name).ok().flatten();
        let now = time::now().as_second().unsigned_abs();
        found
            .and_then(|kept| StoredToken::from_secret(&kept))
            .is_some_and(|token| token.scope.covers(scope) && token.admits(secret, now))
    }
}

/// A node may renew its own certificates by the ones that it has, and nobody else's.
fn is_node(caller: &UserInfo, node: &str) -> bool {
    caller.name.strip_prefix("system:node:") == Some(node)
        && caller.groups.iter().any(|group| group == user::NODES)
}

#[tonic::async_trait]
impl Join for JoinService {
    async fn sign_node(
        &self,
        request: Request<SignNodeRequest>,
    ) -> Result<Response<SignNodeResponse>, Status> {
        let caller = request.extensions().get::<UserInfo>().cloned();
        let request = request.into_inner();
        let renews = request.token_id.is_empty()
            && caller.is_some_and(|caller| is_node(&caller, &request.node_name))
            && self.knows(&request.node_name);
        if !renews && !self.admits(&request.token_id, &request.token_secret, Scope::Node) {
            tracing::warn!(node = %request.node_name, token = %request.token_id, "a join was refused: the token is unknown, wrong or expired");
            return Err(Status::unauthenticated(
                "the join token is unknown, wrong or expired",
            ));
        }
        let node = &request.node_name;
        if let Some(fault) = names::dns_subdomain(node).into_iter().next() {
            return Err(Status::invalid_argument(format!(
                "node name {node:?}: {fault}"
            )));
        }
        if request.addresses.len() > ADDRESSES {
            return Err(Status::invalid_argument(format!(
                "more than {ADDRESSES} addresses"
            )));
        }
        let addresses = request
            .addresses
            .iter()
            .map(|text| {
                text.parse::<IpAddr>()
                    .map_err(|_| Status::invalid_argument(format!("{text:?} is no IP address")))
            })
            .collect::<Result<Vec<_>, _>>()?;
        let refused =
            |error: caravel_auth::CertificateError| Status::invalid_argument(error.to_string());
        let answer = SignNodeResponse {
            client_certificate: self
                .authority
                .sign_node_client(node, &request.client_csr)
                .map_err(refused)?,
            server_certificate: self
                .authority
                .sign_node_server(node, &request.server_csr, &addresses)
                .map_err(refused)?,
            ca_certificates: self.authority.ca_pem().to_owned(),
            cluster: Some(ClusterConfig {
                servers: self.servers(),
                ..self.cluster.clone()
            }),
        };
        tracing::info!(node = %request.node_name, renews, "signed the certificates of a node");
        Ok(Response::new(answer))
    }

    async fn sign_server(
        &self,
        request: Request<SignServerRequest>,
    ) -> Result<Response<SignServerResponse>, Status> {
        let request = request.into_inner();
        if !self.admits(&request.token_id, &request.token_secret, Scope::Server) {
            tracing::warn!(server = %request.name, token = %request.token_id, "a server's join was refused: the token is unknown, wrong, expired or a node's");
            return Err(Status::unauthenticated(
                "the join token is unknown, wrong, expired, or not made for servers (`caravel token create --role server`)",
            ));
        }
        if let Some(fault) = names::dns_subdomain(&request.name).into_iter().next() {
            return Err(Status::invalid_argument(format!(
                "server name {:?}: {fault}",
                request.name
            )));
        }
        let peers = roster::living(&self.store.snapshot())
            .map_err(|error| Status::internal(error.to_string()))?;
        let id = roster::invite(&self.store, &request.name)
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        let certificate = self
            .authority
            .sign_peer(id, &request.csr)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        tracing::info!(server = %request.name, id, "signed the certificate of a joining server");
        Ok(Response::new(SignServerResponse {
            id,
            cluster: self.store.identity().cluster.to_be_bytes().to_vec(),
            certificate,
            ca_certificates: self.authority.ca_pem().to_owned(),
            peers: peers
                .into_iter()
                .map(|peer| Peer {
                    id: peer.id,
                    address: peer.peer_address,
                })
                .collect(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_renews_its_own_certificates() {
        let caller = |name: &str, groups: &[&str]| UserInfo {
            name: name.into(),
            groups: groups.iter().map(|g| (*g).into()).collect(),
            ..UserInfo::default()
        };
        for (caller, may) in [
            (
                caller("system:node:a", &["system:nodes", "system:authenticated"]),
                true,
            ),
            (caller("system:node:b", &["system:nodes"]), false),
            (caller("system:node:a", &["system:authenticated"]), false),
            (caller("a", &["system:nodes"]), false),
            (
                caller("system:anonymous", &["system:unauthenticated"]),
                false,
            ),
            (caller("kubernetes-admin", &["system:masters"]), false),
        ] {
            assert_eq!(is_node(&caller, "a"), may, "{caller:?}");
        }
    }
}
