//! The hosts' DNS server, on the gateway's address: knows the lab's own zone, and hands the rest to this machine's resolvers.
//!
//! `NAME.caravel.test` is a host, `www.caravel.test` (or any other name there) this machine: names outside the cluster
//! that always resolve. In an isolated lab everything else does not exist, at once, so that nothing waits for a network.

use crate::record::Record;
use crate::tasks;
use anyhow::Context as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::sync::Semaphore;

pub const ZONE: &str = "caravel.test";
const UPSTREAM: Duration = Duration::from_secs(2);
const MAX_QUERIES: usize = 256;
const TTL: u32 = 30;
const A: u16 = 1;

#[derive(Clone, Copy)]
enum Code {
    NoError = 0,
    ServerFailure = 2,
    NoSuchName = 3,
}

pub async fn run(record: &Record) -> anyhow::Result<()> {
    let address = SocketAddr::from((record.gateway(), 53));
    let socket = Arc::new(
        UdpSocket::bind(address)
            .await
            .with_context(|| format!("listen on {address}/udp"))?,
    );
    let upstreams: Arc<[SocketAddr]> = if record.masquerade {
        upstreams().into()
    } else {
        Arc::new([])
    };
    let places = Arc::new(Semaphore::new(MAX_QUERIES));
    let record = Arc::new(record.clone());
    let mut buffer = vec![0; 4096];
    loop {
        let Ok((length, client)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        // More than this at once is dropped; clients ask again.
        let Ok(place) = places.clone().try_acquire_owned() else {
            continue;
        };
        let query = buffer[..length].to_vec();
        let (socket, upstreams, record) = (socket.clone(), upstreams.clone(), record.clone());
        tasks::serve(async move {
            let _place = place;
            let Some((name, kind, end)) = question(&query) else {
                return;
            };
            let reply = match own(&record, &name) {
                Some(address) => {
                    answer(&query[..end], Code::NoError, (kind == A).then_some(address))
                }
                None if upstreams.is_empty() => answer(&query[..end], Code::NoSuchName, None),
                None => forward(&query, &upstreams)
                    .await
                    .unwrap_or_else(|| answer(&query[..end], Code::ServerFailure, None)),
            };
            let _ = socket.send_to(&reply, client).await;
        });
    }
}

/// This machine's resolvers.
fn upstreams() -> Vec<SocketAddr> {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let addresses = text
        .lines()
        .filter_map(|l| l.trim().strip_prefix("nameserver"))
        .filter_map(|a| a.trim().parse::<IpAddr>().ok());
    addresses
        .take(3)
        .map(|ip| SocketAddr::from((ip, 53)))
        .collect()
}

async fn forward(query: &[u8], upstreams: &[SocketAddr]) -> Option<Vec<u8>> {
    for upstream in upstreams {
        let ask = async {
            let any = if upstream.is_ipv4() {
                "0.0.0.0:0"
            } else {
                "[::]:0"
            };
            let socket = UdpSocket::bind(any).await.ok()?;
            socket.connect(upstream).await.ok()?;
            socket.send(query).await.ok()?;
            let mut buffer = vec![0; 4096];
            let length = socket.recv(&mut buffer).await.ok()?;
            buffer.truncate(length);
            (buffer.get(..2) == query.get(..2)).then_some(buffer)
        };
        if let Ok(Some(reply)) = tokio::time::timeout(UPSTREAM, ask).await {
            return Some(reply);
        }
    }
    None
}

fn own(record: &Record, name: &str) -> Option<Ipv4Addr> {
    let host = name.strip_suffix(ZONE)?;
    let host = host.strip_suffix('.').or(host.is_empty().then_some(""))?;
    Some(
        record
            .hosts
            .iter()
            .find(|h| h.name == host)
            .map_or(record.gateway(), |h| h.address),
    )
}

/// Name (lower case, without the last dot), type, and where the question ends, of a query with one question.
fn question(query: &[u8]) -> Option<(String, u16, usize)> {
    let header = query.get(..12)?;
    let is_query = header[2] & 0xf8 == 0;
    if !is_query || header[4..6] != [0, 1] {
        return None;
    }
    let mut name = String::new();
    let mut at = 12;
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        if length > 63 {
            return None;
        }
        if !name.is_empty() {
            name.push('.');
        }
        name.push_str(&String::from_utf8_lossy(query.get(at..at + length)?).to_ascii_lowercase());
        at += length;
    }
    let kind = u16::from_be_bytes([*query.get(at)?, *query.get(at + 1)?]);
    query.get(at + 3)?;
    Some((name, kind, at + 4))
}

/// A reply to a query that is cut after its question.
fn answer(query: &[u8], code: Code, address: Option<Ipv4Addr>) -> Vec<u8> {
    let mut reply = query.to_vec();
    // Response, authoritative, recursion desired as asked, recursion available.
    reply[2] = 0x84 | (query[2] & 1);
    reply[3] = 0x80 | code as u8;
    reply[6..12].fill(0);
    if let Some(address) = address {
        reply[7] = 1;
        reply.extend([0xc0, 12, 0, 1, 0, 1]);
        reply.extend(TTL.to_be_bytes());
        reply.extend([0, 4]);
        reply.extend(address.octets());
    }
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_questions_and_answers_them() {
        let mut query = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        query.extend(b"\x03WWW\x07caravel\x04test\x00\x00\x01\x00\x01");
        let (name, kind, end) = question(&query).unwrap();
        assert_eq!(
            (name.as_str(), kind, end),
            ("www.caravel.test", A, query.len())
        );
        let reply = answer(
            &query[..end],
            Code::NoError,
            Some(Ipv4Addr::new(1, 2, 3, 4)),
        );
        assert_eq!(&reply[..8], [0xab, 0xcd, 0x85, 0x80, 0, 1, 0, 1]);
        assert_eq!(&reply[reply.len() - 4..], [1, 2, 3, 4]);
        for cut in 0..query.len() {
            assert!(question(&query[..cut]).is_none(), "{cut}");
        }
    }

    #[test]
    fn the_labs_own_names() {
        let subnet = "10.9.8.0/24".parse().unwrap();
        let record = Record {
            id: String::new(),
            subnet,
            port: 1,
            masquerade: false,
            forwarding_was_off: false,
            hosts: crate::record::hosts(subnet, 1, 0),
        };
        for (name, expected) in [
            ("server-1.caravel.test", Some("10.9.8.11")),
            ("www.caravel.test", Some("10.9.8.1")),
            ("caravel.test", Some("10.9.8.1")),
            ("notcaravel.test", None),
            ("example.com", None),
        ] {
            assert_eq!(
                own(&record, name).map(|a| a.to_string()).as_deref(),
                expected,
                "{name}"
            );
        }
    }
}
