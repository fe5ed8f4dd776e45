//! What a leader that is cut off thinks of the nodes, and that nothing of it happens.

use super::{AGAIN, Field, PATIENCE};
use anyhow::{Context as _, ensure};
use serde_json::Value;
use std::time::Duration;
use tokio::time::{Instant, sleep};

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
/// A node whose lease is older than this is not heard of any more; the controller looks a second later.
const GRACE: Duration = Duration::from_secs(41);
/// A loop's write waits ten seconds for a majority: heal while it does.
const WAITS: Duration = Duration::from_secs(4);

impl Field<'_> {
    /// Waits until `who`, which hears nobody, takes a node for dead and waits for a majority to write that down.
    pub(super) async fn overdue(&mut self, who: usize) -> anyhow::Result<()> {
        let name = self.name(who)?;
        let client = self.clients[&name].clone();
        // Its own copy, as old as it is.
        let leases = client
            .must("GET", &format!("{LEASES}?resourceVersion=0"), None)
            .await?;
        let first = leases["items"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(renewed)
            .min();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
        let age = now.saturating_sub(first.context("there is no node")?);
        let rest = (GRACE + WAITS).saturating_sub(age);
        self.notes.push(format!(
            "{name} was cut off with a lease {:.1} s old, and is healed {:.1} s later",
            age.as_secs_f64(),
            rest.as_secs_f64()
        ));
        self.nodes_stay(rest).await
    }

    /// Nodes are ready all the time, as the servers that have a majority tell.
    pub(super) async fn nodes_stay(&mut self, time: Duration) -> anyhow::Result<()> {
        let other = self.name(crate::scenario::FIRST)?;
        let client = self.clients[&other].clone();
        let end = Instant::now() + time;
        let mut seen = 0;
        let mut unanswered = Instant::now() + PATIENCE;
        while Instant::now() < end {
            match client.must("GET", "/api/v1/nodes", None).await {
                Ok(nodes) => {
                    let nodes = nodes["items"].as_array().context("no nodes")?;
                    let unready = nodes.iter().find(|node| !super::restore::is_ready(node));
                    ensure!(
                        unready.is_none(),
                        "a node that lives is not ready: {unready:?}"
                    );
                    seen += nodes.len();
                    unanswered = Instant::now() + PATIENCE;
                }
                Err(error) => ensure!(Instant::now() < unanswered, "{error:#}"),
            }
            sleep(AGAIN / 2).await;
        }
        ensure!(seen > 0, "no node was seen");
        Ok(())
    }
}

/// Since 1970.
fn renewed(lease: &Value) -> Option<Duration> {
    let time: jiff::Timestamp = lease["spec"]["renewTime"].as_str()?.parse().ok()?;
    u64::try_from(time.as_millisecond())
        .ok()
        .map(Duration::from_millis)
}
