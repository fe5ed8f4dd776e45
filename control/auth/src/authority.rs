//! The secrets that make a cluster: its two certificate authorities and the key that signs service-account tokens.
//!
//! Made once, at the first start of the first server; kept as one sealed record in the store and never on a disk in
//! the clear. Two authorities, because a front proxy's certificate may name any user and a client's may not.

use crate::certificate::{Ca, CertificateError, Issued, LEAF_VALIDITY, Profile};
use crate::token::{TokenError, Tokens};
use crate::user;
use caravel_api::clock;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::net::IpAddr;

/// Issuer of service-account tokens unless configured otherwise, as kubeadm's.
pub const DEFAULT_ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error("cluster authority: {0}")]
    Certificate(#[from] CertificateError),
    #[error("service-account signing key: {0}")]
    Token(#[from] TokenError),
}

/// Everything secret of an [`Authority`], as stored (sealed) in the cluster's state.
#[derive(Clone, Serialize, Deserialize)]
pub struct AuthorityPem {
    pub cluster_cert: String,
    pub cluster_key: String,
    pub front_proxy_cert: String,
    pub front_proxy_key: String,
    pub token_key: String,
}

#[derive(Debug)]
pub struct Authority {
    cluster: Ca,
    front_proxy: Ca,
    tokens: Tokens,
}

/// Common name (with the server's number) and organisation of a peer certificate. They give no right at the API.
pub const PEER_PREFIX: &str = "caravel:server:";
pub const PEER_GROUP: &str = "caravel:servers";

/// The DNS name under which a server's peer certificate is checked. No resolver knows it.
pub fn peer_name(server: u64) -> String {
    format!("server-{server}.peer.caravel.internal")
}

fn peer(server: u64) -> Profile {
    Profile::Peer {
        name: format!("{PEER_PREFIX}{server}"),
        group: Some(PEER_GROUP.into()),
        dns: vec![peer_name(server)],
        ips: Vec::new(),
    }
}

impl Authority {
    pub fn create(issuer: &str) -> Result<Self, AuthorityError> {
        let now = clock::system();
        Ok(Self {
            cluster: Ca::create("caravel-cluster-ca", now)?,
            front_proxy: Ca::create("caravel-front-proxy-ca", now)?,
            tokens: Tokens::create(issuer)?,
        })
    }

    pub fn load(pem: &AuthorityPem, issuer: &str) -> Result<Self, AuthorityError> {
        Ok(Self {
            cluster: Ca::load(&pem.cluster_cert, &pem.cluster_key)?,
            front_proxy: Ca::load(&pem.front_proxy_cert, &pem.front_proxy_key)?,
            tokens: Tokens::load(&pem.token_key, issuer)?,
        })
    }

    pub fn to_pem(&self) -> AuthorityPem {
        AuthorityPem {
            cluster_cert: self.cluster.cert_pem().to_owned(),
            cluster_key: self.cluster.key_pem().to_owned(),
            front_proxy_cert: self.front_proxy.cert_pem().to_owned(),
            front_proxy_key: self.front_proxy.key_pem().to_owned(),
            token_key: self.tokens.key_pem().to_owned(),
        }
    }

    pub fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    pub fn cluster_ca(&self) -> &Ca {
        &self.cluster
    }

    pub fn front_proxy_ca(&self) -> &Ca {
        &self.front_proxy
    }

    /// The certificate that clients and nodes trust, in PEM: `ca.crt`, `certificate-authority-data`.
    pub fn ca_pem(&self) -> &str {
        self.cluster.cert_pem()
    }

    /// SHA-256 of the cluster CA's certificate (DER), in hex: what a join token pins.
    pub fn ca_hash(&self) -> String {
        hex::encode(Sha256::digest(self.cluster.der()))
    }

    /// A server's own certificate, with which it serves the API: leaf, then the cluster CA.
    pub fn issue_server(&self, dns: &[String], ips: &[IpAddr]) -> Result<Issued, CertificateError> {
        let profile = Profile::Server {
            name: "kube-apiserver".into(),
            group: None,
            dns: dns.to_vec(),
            ips: ips.to_vec(),
        };
        let leaf = self
            .cluster
            .issue(&profile, clock::system(), LEAF_VALIDITY)?;
        // The chain carries the CA itself, so that a joining node can compare its hash with its token's.
        Ok(Issued {
            cert_pem: format!("{}{}", leaf.cert_pem, self.ca_pem()),
            key_pem: leaf.key_pem,
        })
    }

    /// A user's certificate: CN = name, O = group.
    pub fn issue_client(
        &self,
        name: &str,
        group: Option<&str>,
    ) -> Result<Issued, CertificateError> {
        let profile = Profile::Client {
            name: name.into(),
            group: group.map(Into::into),
        };
        self.cluster.issue(&profile, clock::system(), LEAF_VALIDITY)
    }

    /// For the administrator's kubeconfig.
    pub fn issue_admin(&self) -> Result<Issued, CertificateError> {
        self.issue_client("kubernetes-admin", Some(user::MASTERS))
    }

    /// With which the API server calls nodes (`system:kubelet-api-admin`, held through `kubeadm:cluster-admins`' like).
    pub fn issue_kubelet_client(&self) -> Result<Issued, CertificateError> {
        self.issue_client("kube-apiserver-kubelet-client", Some(user::MASTERS))
    }

    /// With which the API server calls aggregated API servers.
    pub fn issue_front_proxy_client(&self) -> Result<Issued, CertificateError> {
        let profile = Profile::Client {
            name: "front-proxy-client".into(),
            group: None,
        };
        self.front_proxy
            .issue(&profile, clock::system(), LEAF_VALIDITY)
    }

    /// Signs a server's key for the port on which servers agree: it calls its like and is called by them.
    pub fn sign_peer(&self, server: u64, csr_pem: &str) -> Result<String, CertificateError> {
        let now = clock::system();
        self.cluster
            .sign_request(csr_pem, &peer(server), now, LEAF_VALIDITY)
    }

    /// A server's certificate for the port on which servers agree.
    pub fn issue_peer(&self, server: u64) -> Result<Issued, CertificateError> {
        self.cluster
            .issue(&peer(server), clock::system(), LEAF_VALIDITY)
    }

    /// Signs a node's key as the client `system:node:<name>`.
    pub fn sign_node_client(&self, node: &str, csr_pem: &str) -> Result<String, CertificateError> {
        let profile = Profile::Client {
            name: format!("system:node:{node}"),
            group: Some(user::NODES.into()),
        };
        self.cluster
            .sign_request(csr_pem, &profile, clock::system(), LEAF_VALIDITY)
    }

    /// Signs a node's key as the server behind its port 10250.
    pub fn sign_node_server(
        &self,
        node: &str,
        csr_pem: &str,
        ips: &[IpAddr],
    ) -> Result<String, CertificateError> {
        let profile = Profile::Server {
            name: format!("system:node:{node}"),
            group: Some(user::NODES.into()),
            dns: vec![node.into()],
            ips: ips.to_vec(),
        };
        self.cluster
            .sign_request(csr_pem, &profile, clock::system(), LEAF_VALIDITY)
    }
}
