//! The API's port on this machine's loopback, balanced over the servers that are ready ([`caravel_client::balance`]).
//!
//! A process of its own (`caravel lab balance`), which also answers the hosts' DNS queries ([`crate::resolver`]).

use crate::layout::Layout;
use crate::record::Record;
use crate::resolver;
use anyhow::Context as _;
use caravel_client::{Kubeconfig, balance};
use std::net::Ipv4Addr;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;

const AGAIN: Duration = Duration::from_millis(100);

/// Until the process is told to end.
pub async fn run(layout: &Layout) -> anyhow::Result<()> {
    let record = Record::load(layout)?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, record.port))
        .await
        .with_context(|| format!("listen on 127.0.0.1:{}", record.port))?;
    let servers = watch::Sender::new(record.server_urls());
    tracing::info!(port = record.port, "balancing the API");
    let balancing = async {
        balance::run(listener, servers.subscribe(), ca(layout).await).await;
    };
    tokio::select! {
        () = balancing => Ok(()),
        // Without it the cluster works, but outside names do not resolve: say so, and go on.
        () = async {
            if let Err(error) = resolver::run(&record).await {
                tracing::error!("the lab's resolver cannot run: {error:#}");
            }
            std::future::pending().await
        } => Ok(()),
    }
}

/// The cluster's CA, once its first server has made it and `lab up` has written the kubeconfig.
async fn ca(layout: &Layout) -> String {
    loop {
        let text = tokio::fs::read_to_string(layout.kubeconfig()).await;
        if let Some(kubeconfig) = text.ok().and_then(|text| Kubeconfig::parse(&text).ok()) {
            return kubeconfig.ca;
        }
        tokio::time::sleep(AGAIN).await;
    }
}
