//! A Caravel store behind etcd's KV service, so that one client can load both over the same protocol.
//!
//! A put is one committed transaction of one object (acknowledged = flushed); a range waits for the read barrier
//! first, as etcd's linearizable default does. What it must never do: acknowledge what the store has not.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::task::{Context, Poll};

use anyhow::Context as _;
use bytes::Bytes;
use caravel_api::{Encoded, Key};
use caravel_store::{Change, Expect, Store, Txn};
use tonic::body::Body;
use tonic::codegen::BoxFuture;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use crate::kv::{
    KeyValue, PUT, PutRequest, PutResponse, RANGE, RangeRequest, RangeResponse, ResponseHeader,
};
use crate::quorum;

#[derive(clap::Args)]
pub struct Args {
    /// Directory for the store and its keys
    #[arg(long)]
    dir: PathBuf,
    #[arg(long, default_value = "127.0.0.1:12379")]
    listen: SocketAddr,
    #[command(flatten)]
    quorum: quorum::Args,
}

pub async fn run(args: Args) -> anyhow::Result<()> {
    let opened = quorum::open(args.quorum, &args.dir).await?;
    println!("serving on {}", args.listen);
    tonic::transport::Server::builder()
        .tcp_nodelay(true)
        .add_service(Kv(opened.store.clone()))
        .serve(args.listen)
        .await
        .context("serve")
}

#[derive(Clone)]
struct Kv(Store);

impl tonic::server::NamedService for Kv {
    const NAME: &'static str = "etcdserverpb.KV";
}

impl tower::Service<http::Request<Body>> for Kv {
    type Response = http::Response<Body>;
    type Error = std::convert::Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let store = self.0.clone();
        Box::pin(async move {
            Ok(match request.uri().path() {
                PUT => {
                    let codec = ProstCodec::<PutResponse, PutRequest>::default();
                    let put = tower::service_fn(move |request: Request<PutRequest>| {
                        put(store.clone(), request.into_inner())
                    });
                    tonic::server::Grpc::new(codec).unary(put, request).await
                }
                RANGE => {
                    let codec = ProstCodec::<RangeResponse, RangeRequest>::default();
                    let range = tower::service_fn(move |request: Request<RangeRequest>| {
                        range(store.clone(), request.into_inner())
                    });
                    tonic::server::Grpc::new(codec).unary(range, request).await
                }
                _ => Status::unimplemented("only Put and Range").into_http(),
            })
        })
    }
}

async fn put(store: Store, request: PutRequest) -> Result<Response<PutResponse>, Status> {
    let name = text(&request.key)?;
    // An object of the shape the store keeps: as much JSON around the payload as a small ConfigMap has.
    let json = format!(
        r#"{{"metadata":{{"name":"{name}","namespace":"bench","uid":"{name}"}},"data":{{"x":"{}"}}}}"#,
        text(&request.value)?
    );
    let change = Change::Put {
        key: key(name),
        expect: Expect::Any,
        object: Encoded::new(json).map_err(|error| Status::invalid_argument(error.to_string()))?,
    };
    let committed = store
        .commit(Txn::new().with(change))
        .await
        .map_err(|error| Status::unavailable(error.to_string()))?;
    Ok(Response::new(PutResponse {
        header: Some(header(committed.revision.0)),
    }))
}

async fn range(store: Store, request: RangeRequest) -> Result<Response<RangeResponse>, Status> {
    let name = text(&request.key)?;
    let snapshot = store
        .fresh_snapshot()
        .await
        .map_err(|error| Status::unavailable(error.to_string()))?;
    let kvs: Vec<KeyValue> = snapshot
        .entry(&key(name))
        .map(|entry| KeyValue {
            key: request.key.clone(),
            value: entry.json.clone(),
        })
        .into_iter()
        .collect();
    Ok(Response::new(RangeResponse {
        header: Some(header(snapshot.revision().0)),
        count: kvs.len() as i64,
        kvs,
    }))
}

fn key(name: &str) -> Key {
    Key::from(format!("/registry/core/configmaps/bench/{name}"))
}

fn header(revision: u64) -> ResponseHeader {
    ResponseHeader {
        revision: revision as i64,
    }
}

/// The load sends letters, digits and dashes only: they need no escape inside JSON.
fn text(bytes: &Bytes) -> Result<&str, Status> {
    std::str::from_utf8(bytes)
        .ok()
        .filter(|text| {
            text.bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        })
        .ok_or_else(|| Status::invalid_argument("letters, digits and dashes only"))
}
