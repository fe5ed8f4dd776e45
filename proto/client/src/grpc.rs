//! A gRPC channel to a cluster, for the services on the API's port.

use crate::connect::{Config, ConnectError, Credential, first_reachable};
use std::time::Duration;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

const CONNECT: Duration = Duration::from_secs(5);

/// A channel to the first server that accepts a connection. Certificates only: a token is no part of a channel.
///
/// # Errors
/// No server that answers, or a certificate that cannot be used.
pub async fn channel(config: &Config) -> Result<Channel, ConnectError> {
    let server = first_reachable(&config.servers).await?;
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&config.ca));
    if let Credential::Certificate { cert, key } = &config.credential {
        tls = tls.identity(Identity::from_pem(cert, key));
    }
    let unusable = |error: tonic::transport::Error| ConnectError::Client(error.to_string());
    Endpoint::from_shared(server.clone())
        .map_err(unusable)?
        .tls_config(tls)
        .map_err(unusable)?
        .connect_timeout(CONNECT)
        .connect()
        .await
        .map_err(|error| ConnectError::NoServer(format!("{server}: {error}")))
}
