//! What a server shows its peers, and whom it believes: certificates of the cluster's CA made for servers only.

use caravel_auth::authority::{PEER_GROUP, PEER_PREFIX, peer_name};
use tonic::transport::{Certificate, ClientTlsConfig, Identity, ServerTlsConfig};

/// A server's certificate for its peers, all PEM.
#[derive(Clone)]
pub struct PeerTls {
    /// The cluster's CA.
    pub ca: String,
    pub certificate: String,
    pub key: String,
}

impl PeerTls {
    /// To speak with server `id` and nobody else.
    pub(crate) fn towards(&self, id: u64) -> ClientTlsConfig {
        ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&self.ca))
            .identity(Identity::from_pem(&self.certificate, &self.key))
            .domain_name(peer_name(id))
    }

    /// To be spoken to by holders of the CA's certificates. That it is a server's is checked with each call.
    pub(crate) fn serving(&self) -> ServerTlsConfig {
        ServerTlsConfig::new()
            .identity(Identity::from_pem(&self.certificate, &self.key))
            .client_ca_root(Certificate::from_pem(&self.ca))
    }
}

/// The number of the server that a certificate (DER) was made for; none if it was made for somebody else.
pub(crate) fn server_of(certificate: &[u8]) -> Option<u64> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let subject = certificate.subject();
    let ours = subject
        .iter_organization()
        .any(|group| group.as_str().is_ok_and(|group| group == PEER_GROUP));
    let name = subject.iter_common_name().next()?.as_str().ok()?;
    ours.then(|| name.strip_prefix(PEER_PREFIX)?.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use caravel_auth::Authority;
    use caravel_auth::authority::DEFAULT_ISSUER;
    use caravel_auth::certificate::parse_pem;

    #[test]
    fn only_a_servers_certificate_names_a_server() {
        let authority = Authority::create(DEFAULT_ISSUER).unwrap();
        let of = |pem: &str| server_of(&parse_pem(pem)[0]);
        assert_eq!(of(&authority.issue_peer(7).unwrap().cert_pem), Some(7));
        assert_eq!(of(&authority.issue_admin().unwrap().cert_pem), None);
        // A user who is named like a server is in no server's group.
        let liar = authority.issue_client("caravel:server:7", None).unwrap();
        assert_eq!(of(&liar.cert_pem), None);
        assert_eq!(server_of(b"nothing"), None);
    }
}
