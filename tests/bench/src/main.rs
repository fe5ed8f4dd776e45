//! The measuring half of `tests/bench/run`: what a shell cannot time well. Each command prints one JSON object.
//!
//! It asserts nothing about speed. Whatever has a peer is driven by the same code as its peer.

mod containers;
mod disk;
mod figures;
mod kv;
mod kv_server;
mod load;
mod quorum;

use clap::Parser;

/// The one of the program that is measured.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[derive(Parser)]
enum Command {
    /// Serve a Caravel store behind etcd's KV service, without TLS, as `etcd` itself does by default
    KvServe(kv_server::Args),
    /// Load etcd's KV service, whoever answers it
    KvLoad(load::Args),
    /// Append records to a file, each made durable: the limit of this disk
    Disk(disk::Args),
    /// Start containers by Caravel's shim, crun and runc in turn, over one root file system
    Containers(containers::Args),
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    match Command::parse() {
        Command::KvServe(args) => kv_server::run(args).await,
        Command::KvLoad(args) => load::run(args).await,
        Command::Disk(args) => disk::run(&args),
        Command::Containers(args) => containers::run(args).await,
    }
}
