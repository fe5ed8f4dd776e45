//! `caravel up`: a server and a node on this machine, in one process. The node joins like any other, by a token.

use crate::cli::UpArgs;
use crate::{node, server, tasks};
use anyhow::Context as _;
use caravel_auth::join::JoinToken;
use caravel_client::{Kubeconfig, connect};
use std::path::Path;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(60);

pub async fn run(args: UpArgs) -> anyhow::Result<()> {
    let config = server::config(args.server)?;
    let (kubeconfig, url, token_file) = (
        config.kubeconfig_path(),
        config.node_url(),
        config.data_dir.join("node-token"),
    );
    let shutdown = CancellationToken::new();
    tasks::cancel_after(tasks::terminated(), shutdown.clone());
    let node = async {
        let token = tokio::select! {
            token = server_and_token(&kubeconfig, &token_file) => token?,
            () = shutdown.cancelled() => return Ok(()),
        };
        tracing::info!("kubectl --kubeconfig {} get nodes", kubeconfig.display());
        Box::pin(node::join_and_run(
            args.node,
            &[url],
            Some(token),
            shutdown.clone(),
        ))
        .await
    };
    // Either's failure ends both.
    let (server, node) = tokio::join!(
        async {
            let result = caravel_server::run(config, shutdown.clone()).await;
            shutdown.cancel();
            result
        },
        async {
            let result = Box::pin(node).await;
            shutdown.cancel();
            result
        }
    );
    server.context("the server")?;
    node.context("the node")
}

/// Waits for the server, and reads the join token that it keeps for its machine.
async fn server_and_token(kubeconfig: &Path, token: &Path) -> anyhow::Result<JoinToken> {
    let wait = async {
        while ready(kubeconfig).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait)
        .await
        .with_context(|| format!("the server is not ready after {} s", PATIENCE.as_secs()))?;
    let text =
        std::fs::read_to_string(token).with_context(|| format!("read {}", token.display()))?;
    text.parse().with_context(|| format!("{}", token.display()))
}

async fn ready(path: &Path) -> anyhow::Result<()> {
    let kubeconfig = Kubeconfig::parse(&std::fs::read_to_string(path)?)?;
    connect::connect(&kubeconfig.config())
        .await?
        .apiserver_version()
        .await?;
    Ok(())
}
