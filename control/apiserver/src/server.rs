//! What an API server is made of, and the two ways in: a socket ([`ApiServer::serve`]) and a call ([`ApiServer::handle`]).

use crate::allocate::ServiceRange;
use crate::audit::{self, AuditLog};
use crate::body::Body;
use crate::flow::Flow;
use crate::grpc;
use crate::internal::Internal;
use crate::pages::Pages;
use crate::tasks;
use caravel_auth::{Authenticator, Authority, Authorizer, UserInfo};
use caravel_exporter::{MetricsError, Registry, RequestMetrics};
use caravel_schema::Schema;
use caravel_store::{Epoch, Store};
use futures::future::BoxFuture;
use http::{Request, Response};
use parking_lot::Mutex;
use rustls::pki_types::CertificateDer;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// What the server is built from.
pub struct Config {
    /// The shared state.
    pub store: Store,
    /// The cluster's CA and signing key.
    pub authority: Arc<Authority>,
    /// Cluster IPs are taken from this network (`10.43.0.0/16`).
    pub service_cidr: String,
    /// Node ports are taken from this range.
    pub node_ports: RangeInclusive<u16>,
    /// How to speak TLS with nodes, as the API server.
    pub kubelet_tls: Arc<rustls::ClientConfig>,
    /// Requests of content type `application/grpc` go here.
    pub grpc: Option<tonic::service::Routes>,
    /// Where metrics are kept.
    pub metrics: Registry,
    /// `host:port` under which clients reach this server, for `/api`.
    pub advertise: String,
    /// Where each request is recorded; nowhere by default.
    pub audit: Option<AuditLog>,
}

/// Why a configuration cannot work.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A bad service network.
    #[error("service CIDR {0:?}: {1}")]
    ServiceCidr(String, String),
    /// Client-certificate verification could not be set up.
    #[error("set up authentication: {0}")]
    Tls(#[from] caravel_auth::tls::TlsError),
    /// A metric was registered twice.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// What is told of the gRPC services does not fit together.
    #[error("describe the gRPC services: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The audit log cannot be written.
    #[error(
        "open the audit log {}: {cause}. Its directory must be there and writable for the server", path.display()
    )]
    Audit {
        path: PathBuf,
        #[source]
        cause: std::io::Error,
    },
    /// The thread that writes it could not be started.
    #[error("start the audit log's writer: {0}")]
    Thread(#[source] std::io::Error),
}

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The peer's address; absent for calls without a socket.
    pub address: Option<SocketAddr>,
    /// The certificate chain it showed, not yet believed.
    pub certificates: Arc<[CertificateDer<'static>]>,
    /// Who the certificate was found to be, and when: verifying a chain costs more than most requests.
    known: Arc<Mutex<Option<(Instant, UserInfo)>>>,
}

/// After this a connection's certificate is verified again, for it may have expired.
const KNOWN_FOR: Duration = Duration::from_secs(60);

impl Peer {
    /// Somebody at an address, with the chain it showed (leaf first).
    #[must_use]
    pub fn new(address: Option<SocketAddr>, certificates: Vec<CertificateDer<'static>>) -> Self {
        Self {
            address,
            certificates: certificates.into(),
            known: Arc::default(),
        }
    }

    pub(crate) fn known(&self) -> Option<UserInfo> {
        self.known
            .lock()
            .as_ref()
            .filter(|(at, _)| at.elapsed() < KNOWN_FOR)
            .map(|(_, user)| user.clone())
    }

    pub(crate) fn remember(&self, user: &UserInfo) {
        *self.known.lock() = Some((Instant::now(), user.clone()));
    }
}

/// The API server.
pub struct ApiServer {
    pub(crate) store: Store,
    pub(crate) authority: Arc<Authority>,
    pub(crate) authenticator: Authenticator,
    pub(crate) authorizer: Authorizer,
    pub(crate) schema: &'static Schema,
    pub(crate) services: ServiceRange,
    pub(crate) node_ports: RangeInclusive<u16>,
    pub(crate) kubelet_tls: Arc<rustls::ClientConfig>,
    pub(crate) grpc: Option<tonic::service::Routes>,
    pub(crate) registry: Registry,
    pub(crate) metrics: RequestMetrics,
    pub(crate) flow: Flow,
    pub(crate) pages: Pages,
    pub(crate) advertise: String,
    pub(crate) audit: Option<audit::Log>,
    pub(crate) ending: CancellationToken,
}

impl ApiServer {
    /// Puts a server together; nothing is served yet.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn new(config: Config) -> Result<Arc<Self>, ConfigError> {
        let services = ServiceRange::parse(&config.service_cidr)
            .map_err(|why| ConfigError::ServiceCidr(config.service_cidr.clone(), why))?;
        let audit = match &config.audit {
            None => None,
            Some(wanted) => {
                let (log, writer) = audit::open(wanted, &config.metrics)?;
                tasks::audit(writer).map_err(ConfigError::Thread)?;
                Some(log)
            }
        };
        Ok(Arc::new(Self {
            audit,
            authenticator: Authenticator::new(config.authority.clone())?,
            authorizer: Authorizer,
            schema: Schema::get(),
            services,
            node_ports: config.node_ports,
            kubelet_tls: config.kubelet_tls,
            grpc: config.grpc.map(grpc::with_own).transpose()?,
            metrics: RequestMetrics::new(&config.metrics)?,
            flow: Flow::new(&config.metrics)?,
            registry: config.metrics,
            pages: Pages::default(),
            advertise: config.advertise,
            authority: config.authority,
            store: config.store,
            ending: CancellationToken::new(),
        }))
    }

    /// Serves until `shutdown`; watches end at once, other requests get a moment to finish.
    pub async fn serve(
        self: &Arc<Self>,
        listener: TcpListener,
        tls: Arc<rustls::ServerConfig>,
        shutdown: CancellationToken,
    ) {
        tasks::serve(self.clone(), listener, tls, shutdown).await;
    }

    /// Runs one request through the whole stack. Never fails: what goes wrong is a Status.
    ///
    /// Boxed, so that whoever calls it need not know what is inside: the compiler gives up on futures nested this deep.
    pub fn handle<'a>(
        self: &'a Arc<Self>,
        request: Request<Body>,
    ) -> BoxFuture<'a, Response<Body>> {
        Box::pin(crate::stack::handle(self, request))
    }

    /// The verbs for callers in this process.
    #[must_use]
    pub fn internal(self: &Arc<Self>, user: UserInfo, epoch: Option<Epoch>) -> Internal {
        Internal::new(self.clone(), user, epoch)
    }

    /// SHA-256 of the cluster's CA certificate, in hex: what a join token pins.
    #[must_use]
    pub fn ca_hash(&self) -> String {
        self.authority.ca_hash()
    }

    /// The store behind this server.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }
}
