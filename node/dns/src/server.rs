//! The sockets and the request handler.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use hickory_server::net::runtime::Time;
use hickory_server::net::xfer::Protocol;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo, Server};
use hickory_server::zone_handler::MessageResponseBuilder;
use socket2::{Domain, Socket, Type};

use crate::forward::forward;
use crate::source::{Current, follow};
use crate::tasks;
use crate::zone::{Answer, Asked, Data};

/// Seconds an answer may be kept: as CoreDNS' kubernetes plugin.
const TTL: u32 = 5;
/// An idle TCP client is let go after this time.
const TCP_PATIENCE: Duration = Duration::from_secs(10);

/// What the server needs to know.
#[derive(Clone)]
pub struct DnsConfig {
    /// Where to listen, UDP and TCP. An address need not be there yet.
    pub listen: Vec<SocketAddr>,
    /// The cluster's domain, as `cluster.local`.
    pub domain: String,
    /// Who is asked about other names.
    pub upstreams: Vec<SocketAddr>,
    /// Where Services and EndpointSlices are read.
    pub client: kube::Client,
}

/// Why the server cannot run.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// An address cannot be listened on.
    #[error("listen on {address}: {source}; is another DNS server there?")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The server ended by itself.
    #[error("the DNS server ended: {0}")]
    Ended(String),
}

/// Serves until `shutdown` is done.
///
/// # Errors
/// When an address cannot be listened on.
pub async fn run(config: DnsConfig, shutdown: impl Future<Output = ()>) -> Result<(), DnsError> {
    let current = Current::default();
    let handler = Handler {
        current: current.clone(),
        domain: config.domain.clone(),
        upstreams: config.upstreams.clone(),
    };
    let mut server = Server::new(handler);
    for address in &config.listen {
        let listen = |source| DnsError::Listen {
            address: *address,
            source,
        };
        let udp = socket(*address, Type::DGRAM).map_err(listen)?;
        server.register_socket(tokio::net::UdpSocket::from_std(udp.into()).map_err(listen)?);
        let tcp = socket(*address, Type::STREAM).map_err(listen)?;
        tcp.listen(128).map_err(listen)?;
        server.register_listener(
            tokio::net::TcpListener::from_std(tcp.into()).map_err(listen)?,
            TCP_PATIENCE,
            64,
        );
    }
    let following = tasks::follow(follow(config.client, config.domain, current));
    let ended = tokio::select! {
        () = shutdown => server.shutdown_gracefully().await,
        ended = server.block_until_done() => ended,
    };
    following.abort();
    ended.map_err(|error| DnsError::Ended(error.to_string()))
}

fn socket(address: SocketAddr, kind: Type) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if address.is_ipv4() {
        socket.set_freebind_v4(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

struct Handler {
    current: Current,
    domain: String,
    upstreams: Vec<SocketAddr>,
}

/// A response about to be sent.
#[derive(Default)]
struct Reply {
    code: Option<ResponseCode>,
    authoritative: bool,
    truncated: bool,
    answers: Vec<Record>,
    authorities: Vec<Record>,
}

#[async_trait::async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut out: R,
    ) -> ResponseInfo {
        let reply = self.reply(request).await;
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.response_code = reply.code.unwrap_or(ResponseCode::NoError);
        metadata.authoritative = reply.authoritative;
        metadata.truncation = reply.truncated;
        metadata.recursion_available = true;
        let response = MessageResponseBuilder::from_message_request(request).build(
            metadata,
            reply.answers.iter(),
            reply.authorities.iter(),
            std::iter::empty(),
            std::iter::empty(),
        );
        match out.send_response(response).await {
            Ok(info) => info,
            Err(error) => {
                tracing::debug!(%error, "cannot answer");
                let mut failed =
                    Metadata::new(request.metadata.id, MessageType::Response, OpCode::Query);
                failed.response_code = ResponseCode::ServFail;
                hickory_proto::op::Header {
                    metadata: failed,
                    counts: Default::default(),
                }
                .into()
            }
        }
    }
}

impl Handler {
    async fn reply(&self, request: &Request) -> Reply {
        let failed = |code| Reply {
            code: Some(code),
            ..Reply::default()
        };
        if request.metadata.op_code != OpCode::Query {
            return failed(ResponseCode::NotImp);
        }
        let Ok(info) = request.request_info() else {
            return failed(ResponseCode::FormErr);
        };
        let question = Name::from(info.query.name().clone());
        let name = question.to_ascii().trim_end_matches('.').to_lowercase();
        let stream = request.protocol() != Protocol::Udp;
        let Some(zone) = self.current.get() else {
            // Nothing is known of the cluster yet: its names must not be denied, the others can be had.
            return match name.ends_with(&self.domain) {
                true => failed(ResponseCode::ServFail),
                false => self.pass_on(request.as_slice(), stream).await,
            };
        };
        match zone.answer(&name, asked(info.query.query_type())) {
            Answer::NotOurs => self.pass_on(request.as_slice(), stream).await,
            Answer::Found(data) => {
                let mut answers: Vec<Record> =
                    data.iter().filter_map(|d| record(&question, d)).collect();
                if let [Data::Cname(target)] = &data[..] {
                    answers.extend(self.chase(target, info.query.query_type()).await);
                }
                Reply {
                    authoritative: true,
                    answers,
                    ..Reply::default()
                }
            }
            Answer::NoData => Reply {
                authoritative: true,
                authorities: self.soa(),
                ..Reply::default()
            },
            Answer::NoName => Reply {
                code: Some(ResponseCode::NXDomain),
                authoritative: true,
                authorities: self.soa(),
                ..Reply::default()
            },
        }
    }

    async fn pass_on(&self, question: &[u8], stream: bool) -> Reply {
        match forward(question, &self.upstreams, stream).await {
            Ok(message) => Reply {
                code: Some(message.metadata.response_code),
                authoritative: false,
                truncated: message.metadata.truncation,
                answers: message.answers,
                authorities: message.authorities,
            },
            Err(error) => {
                tracing::debug!(%error, "no resolver answered");
                Reply {
                    code: Some(ResponseCode::ServFail),
                    ..Reply::default()
                }
            }
        }
    }

    /// Addresses behind an ExternalName, so that simple clients need not ask again.
    async fn chase(&self, target: &str, kind: RecordType) -> Vec<Record> {
        let Ok(name) = Name::from_ascii(format!("{target}.")) else {
            return vec![];
        };
        if let Some(zone) = self.current.get()
            && let Answer::Found(data) = zone.answer(&target.to_lowercase(), asked(kind))
        {
            return data.iter().filter_map(|d| record(&name, d)).collect();
        }
        let mut message = Message::query();
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(name, kind));
        match message.to_vec() {
            Ok(bytes) => self.pass_on(&bytes, false).await.answers,
            Err(_) => vec![],
        }
    }

    /// The record that tells how long a denial may be kept.
    fn soa(&self) -> Vec<Record> {
        let name = |text: String| Name::from_ascii(text);
        let (Ok(zone), Ok(server), Ok(mail)) = (
            name(format!("{}.", self.domain)),
            name(format!("ns.dns.{}.", self.domain)),
            name(format!("hostmaster.{}.", self.domain)),
        ) else {
            return vec![];
        };
        vec![Record::from_rdata(
            zone,
            TTL,
            RData::SOA(SOA::new(server, mail, 1, 7200, 1800, 86400, TTL)),
        )]
    }
}

fn asked(kind: RecordType) -> Asked {
    match kind {
        RecordType::A => Asked::A,
        RecordType::AAAA => Asked::Aaaa,
        RecordType::SRV => Asked::Srv,
        RecordType::PTR => Asked::Ptr,
        RecordType::TXT => Asked::Txt,
        RecordType::CNAME => Asked::Cname,
        _ => Asked::Other,
    }
}

fn record(name: &Name, data: &Data) -> Option<Record> {
    let full = |text: &str| Name::from_ascii(format!("{text}.")).ok();
    let data = match data {
        Data::A(ip) => RData::A(A(*ip)),
        Data::Aaaa(ip) => RData::AAAA(AAAA(*ip)),
        Data::Cname(target) => RData::CNAME(CNAME(full(target)?)),
        Data::Ptr(target) => RData::PTR(PTR(full(target)?)),
        Data::Srv { port, target } => RData::SRV(SRV::new(0, 100, *port, full(target)?)),
        Data::Txt(text) => RData::TXT(TXT::new(vec![text.clone()])),
    };
    Some(Record::from_rdata(name.clone(), TTL, data))
}

/// Addresses that a server with this configuration answers on itself.
impl DnsConfig {
    /// The addresses listened on, without their ports.
    pub fn own_addresses(&self) -> Vec<IpAddr> {
        self.listen.iter().map(SocketAddr::ip).collect()
    }
}
