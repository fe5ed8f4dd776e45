//! The server's side of joining: a token and two keys in, two certificates and the cluster's addresses out.
//!
//! Serves clients that have no certificate yet, so it is routed before authorization; the token is all it believes.

use crate::authority::Authority;
use crate::join::StoredToken;
use caravel_rpc::cluster::v1::join_server::Join;
use caravel_rpc::cluster::v1::{ClusterConfig, SignNodeRequest, SignNodeResponse};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;
use tonic::{Request, Response, Status};

const MAX_ADDRESSES: usize = 16;

/// What joining reads of the cluster.
pub trait JoinView: Send + Sync + 'static {
    fn token(&self, id: &str) -> Option<StoredToken>;
    fn cluster(&self) -> ClusterConfig;
}

pub struct JoinService<V> {
    authority: Arc<Authority>,
    view: V,
}

impl<V: JoinView> JoinService<V> {
    pub fn new(authority: Arc<Authority>, view: V) -> Self {
        Self { authority, view }
    }
}

#[tonic::async_trait]
impl<V: JoinView> Join for JoinService<V> {
    async fn sign_node(&self, request: Request<SignNodeRequest>) -> Result<Response<SignNodeResponse>, Status> {
        let request = request.into_inner();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let admitted = self.view.token(&request.token_id).is_some_and(|token| token.admits(&request.token_secret, now));
        if !admitted {
            return Err(Status::unauthenticated("the join token is unknown, wrong or expired; make one with `caravel token create`"));
        }
        if !is_node_name(&request.node_name) {
            return Err(Status::invalid_argument(format!("{:?} is no node name: lower-case letters, digits, '-' and '.', at most 253", request.node_name)));
        }
        if request.addresses.len() > MAX_ADDRESSES {
            return Err(Status::invalid_argument(format!("more than {MAX_ADDRESSES} addresses")));
        }
        let addresses: Vec<IpAddr> = request
            .addresses
            .iter()
            .map(|a| a.parse().map_err(|_| Status::invalid_argument(format!("{a:?} is no IP address"))))
            .collect::<Result<_, _>>()?;
        let bad = |e: crate::certificate::CertificateError| Status::invalid_argument(e.to_string());
        let client_certificate = self.authority.sign_node_client(&request.node_name, &request.client_csr).map_err(bad)?;
        let server_certificate = self.authority.sign_node_server(&request.node_name, &request.server_csr, &addresses).map_err(bad)?;
        tracing::info!(node = request.node_name, token = request.token_id, "signed a node's certificates");
        Ok(Response::new(SignNodeResponse {
            client_certificate,
            server_certificate,
            ca_certificates: self.authority.ca_pem().to_owned(),
            cluster: Some(self.view.cluster()),
        }))
    }
}

fn is_node_name(name: &str) -> bool {
    let part = |p: &str| {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        !p.is_empty() && p.bytes().all(|b| inner(b) || b == b'-') && p.bytes().next().is_some_and(inner) && p.bytes().last().is_some_and(inner)
    };
    name.len() <= 253 && name.split('.').all(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct View(StoredToken);
    impl JoinView for View {
        fn token(&self, id: &str) -> Option<StoredToken> {
            (id == self.0.id).then(|| self.0.clone())
        }
        fn cluster(&self) -> ClusterConfig {
            ClusterConfig::default()
        }
    }

    #[tokio::test]
    async fn only_a_good_token_gets_certificates() {
        let authority = Arc::new(Authority::create(crate::authority::DEFAULT_ISSUER).unwrap());
        let (token, stored) = crate::join::create(&authority.ca_hash(), None, "");
        let service = JoinService::new(authority, View(stored));
        let (_, csr) = crate::certificate::signing_request("x").unwrap();
        let good = SignNodeRequest {
            token_id: token.id.clone(), token_secret: token.secret.clone(), node_name: "n1".into(), client_csr: csr.clone(), server_csr: csr.clone(), addresses: vec!["10.0.0.1".into()],
        };
        let answer = service.sign_node(Request::new(good.clone())).await.unwrap().into_inner();
        let der = crate::certificate::parse_pem(&answer.client_certificate);
        let (_, cert) = x509_parser::parse_x509_certificate(&der[0]).unwrap();
        assert_eq!(cert.subject().to_string(), "O=system:nodes, CN=system:node:n1");
        for (bad, code) in [
            (SignNodeRequest { token_secret: "guess".into(), ..good.clone() }, tonic::Code::Unauthenticated),
            (SignNodeRequest { token_id: "other".into(), ..good.clone() }, tonic::Code::Unauthenticated),
            (SignNodeRequest { node_name: "N 1".into(), ..good.clone() }, tonic::Code::InvalidArgument),
            (SignNodeRequest { client_csr: "junk".into(), ..good.clone() }, tonic::Code::InvalidArgument),
            (SignNodeRequest { addresses: vec!["junk".into()], ..good }, tonic::Code::InvalidArgument),
        ] {
            assert_eq!(service.sign_node(Request::new(bad)).await.unwrap_err().code(), code);
        }
    }
}
