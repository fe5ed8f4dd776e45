//! Clients that put or read 1 KB values through etcd's KV service as fast as they are answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use http::uri::PathAndQuery;
use serde_json::json;
use tonic::Request;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

use crate::figures::summary;
use crate::kv::{PUT, PutRequest, PutResponse, RANGE, RangeRequest, RangeResponse};

#[derive(clap::Args, Clone)]
pub struct Args {
    /// `http://host:port` of the service
    #[arg(long)]
    target: String,
    #[arg(long, default_value_t = 1)]
    clients: usize,
    /// HTTP/2 connections that the clients share
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// Seconds measured, after one to warm up
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    #[arg(long, default_value_t = 1024)]
    size: usize,
    /// Different keys, drawn at random
    #[arg(long, default_value_t = 10_000)]
    keys: u64,
    /// Read instead of write
    #[arg(long)]
    range: bool,
    /// Write so many times, key after key and from the first again, instead of for a time
    #[arg(long)]
    fill: Option<u64>,
}

pub async fn run(args: Args) -> anyhow::Result<()> {
    let mut channels = Vec::new();
    for _ in 0..args.connections.max(1) {
        let endpoint = Endpoint::from_shared(args.target.clone())?.tcp_nodelay(true);
        channels.push(endpoint.connect().await.context("connect")?);
    }
    let measuring = Arc::new(AtomicBool::new(args.fill.is_some()));
    let end = Arc::new(AtomicBool::new(false));
    let next = Arc::new(AtomicU64::new(0));
    let filling = Instant::now();
    let mut clients = tokio::task::JoinSet::new();
    for n in 0..args.clients {
        let channel = channels[n % channels.len()].clone();
        clients.spawn(client(
            args.clone(),
            n as u64,
            channel,
            measuring.clone(),
            end.clone(),
            next.clone(),
        ));
    }
    let mut elapsed = None;
    if args.fill.is_none() {
        tokio::time::sleep(Duration::from_secs(1)).await;
        measuring.store(true, Ordering::Relaxed);
        let begun = Instant::now();
        tokio::time::sleep(Duration::from_secs(args.seconds)).await;
        end.store(true, Ordering::Relaxed);
        elapsed = Some(begun.elapsed());
    }
    let mut latencies = Vec::new();
    while let Some(done) = clients.join_next().await {
        latencies.extend(done??);
    }
    let elapsed = elapsed.unwrap_or_else(|| filling.elapsed());
    let mut figures = summary(latencies);
    let n = figures["n"].as_u64().unwrap_or(0);
    figures["per_s"] = json!((n as f64 / elapsed.as_secs_f64()).round());
    figures["clients"] = json!(args.clients);
    println!("{figures}");
    Ok(())
}

/// One client: a request at a time. An error ends the run, so that no figure hides one.
async fn client(
    args: Args,
    number: u64,
    channel: Channel,
    measuring: Arc<AtomicBool>,
    end: Arc<AtomicBool>,
    next: Arc<AtomicU64>,
) -> anyhow::Result<Vec<Duration>> {
    let mut grpc = Grpc::new(channel);
    let mut random = Random(number.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let mut latencies = Vec::new();
    while !end.load(Ordering::Relaxed) {
        let number = match args.fill {
            Some(count) => {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    break;
                }
                number
            }
            None => random.next(),
        };
        let key = Bytes::from(format!("object-{}", number % args.keys));
        // Made before the clock starts: etcd and Caravel get the same incompressible letters.
        let value = if args.range {
            Bytes::new()
        } else {
            random.letters(args.size)
        };
        let begun = Instant::now();
        grpc.ready().await.context("a connection")?;
        if args.range {
            let codec = ProstCodec::<RangeRequest, RangeResponse>::default();
            let path = PathAndQuery::from_static(RANGE);
            grpc.unary(Request::new(RangeRequest { key }), path, codec)
                .await
                .context("range")?;
        } else {
            let codec = ProstCodec::<PutRequest, PutResponse>::default();
            let path = PathAndQuery::from_static(PUT);
            grpc.unary(Request::new(PutRequest { key, value }), path, codec)
                .await
                .context("put")?;
        }
        if measuring.load(Ordering::Relaxed) && !end.load(Ordering::Relaxed) {
            latencies.push(begun.elapsed());
        }
    }
    Ok(latencies)
}

/// xorshift64*: cheap enough not to be what is measured.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn letters(&mut self, count: usize) -> Bytes {
        const LETTERS: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-A";
        let mut text = Vec::with_capacity(count + 8);
        while text.len() < count {
            let mut bits = self.next();
            for _ in 0..8 {
                text.push(LETTERS[(bits & 63) as usize]);
                bits >>= 6;
            }
        }
        text.truncate(count);
        Bytes::from(text)
    }
}
