//! The API's port on this machine's loopback: connections go to a living server, the last good one first.
//!
//! A process of its own (`caravel lab balance`), which also answers the hosts' DNS queries ([`crate::resolver`]).
//! It knows nothing of TLS: what passes through is the client's and the server's affair.

use crate::layout::Layout;
use crate::record::Record;
use crate::{resolver, tasks};
use anyhow::Context as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

const CONNECT: Duration = Duration::from_secs(2);
const MAX_CONNECTIONS: usize = 4096;

/// Until the process is told to end.
pub async fn run(layout: &Layout) -> anyhow::Result<()> {
    let record = Record::load(layout)?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, record.port))
        .await
        .with_context(|| format!("listen on 127.0.0.1:{}", record.port))?;
    let servers: Arc<[SocketAddr]> = record
        .servers()
        .map(|s| SocketAddr::from((s.address, 6443)))
        .collect();
    tracing::info!(port = record.port, ?servers, "balancing the API");
    tokio::select! {
        result = accept(listener, servers) => result,
        // Without it the cluster works, but outside names do not resolve: say so, and go on.
        () = async {
            if let Err(error) = resolver::run(&record).await {
                tracing::error!("the lab's resolver cannot run: {error:#}");
            }
            std::future::pending().await
        } => Ok(()),
    }
}

async fn accept(listener: TcpListener, servers: Arc<[SocketAddr]>) -> anyhow::Result<()> {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let good = Arc::new(AtomicUsize::new(0));
    loop {
        let place = places.clone().acquire_owned().await?;
        let (mut client, _) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!("accept: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (servers, good) = (servers.clone(), good.clone());
        tasks::serve(async move {
            let _place = place;
            let Some(mut server) = reach(&servers, &good).await else {
                return;
            };
            let _ = (client.set_nodelay(true), server.set_nodelay(true));
            let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
        });
    }
}

async fn reach(servers: &[SocketAddr], good: &AtomicUsize) -> Option<TcpStream> {
    let first = good.load(Ordering::Relaxed);
    for n in 0..servers.len() {
        let at = (first + n) % servers.len();
        if let Ok(Ok(stream)) = tokio::time::timeout(CONNECT, TcpStream::connect(servers[at])).await
        {
            good.store(at, Ordering::Relaxed);
            return Some(stream);
        }
    }
    None
}
