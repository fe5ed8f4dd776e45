//! A gRPC channel to a cluster, for the services on the API's port.

use crate::connect::{Config, ConnectError, Credential};
use std::time::Duration;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

/// For a connection and, again, for its handshake: a server that is stopped takes connections, and says nothing.
const CONNECT: Duration = Duration::from_secs(3);

/// A channel to the first server that shakes hands. Certificates only: a token is no part of a channel.
///
/// # Errors
/// No server that answers, or a certificate that cannot be used.
pub async fn channel(config: &Config) -> Result<Channel, ConnectError> {
    let mut failed = Vec::new();
    for server in &config.servers {
        let endpoint = endpoint(config, server)?;
        match tokio::time::timeout(CONNECT, endpoint.connect()).await {
            Ok(Ok(channel)) => return Ok(channel),
            Ok(Err(error)) => failed.push(format!("{server}: {}", cause(&error))),
            Err(_) => failed.push(format!(
                "{server}: no answer within {} s",
                CONNECT.as_secs()
            )),
        }
    }
    Err(match failed.is_empty() {
        true => ConnectError::NoServers,
        false => ConnectError::NoServer(failed.join("; ")),
    })
}

fn endpoint(config: &Config, server: &str) -> Result<Endpoint, ConnectError> {
    let mut tls = ClientTlsConfig::new()
        .timeout(CONNECT)
        .ca_certificate(Certificate::from_pem(&config.ca));
    if let Credential::Certificate { cert, key } = &config.credential {
        tls = tls.identity(Identity::from_pem(cert, key));
    }
    Endpoint::from_shared(server.to_owned())
        // A channel connects again by itself.
        .and_then(|endpoint| endpoint.connect_timeout(CONNECT).tls_config(tls))
        .map_err(|error| ConnectError::Client(cause(&error)))
}

/// The innermost cause: tonic's own text is "transport error".
fn cause(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
