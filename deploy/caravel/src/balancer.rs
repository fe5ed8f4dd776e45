//! The node's own way to the servers: a loopback port balanced over those that are ready, and the list of them kept true.
//!
//! The list is learnt from the cluster (the endpoints of `default/kubernetes`), so that servers may come and go without
//! anybody telling the nodes; it is written down for the next start. The endpoints are those that the cluster knows to live,
//! which a server that just came or just returned is not yet: whoever was known before stays behind them on the list, as
//! a server that is not ready costs nothing. As k3s' agent load balancer.

use anyhow::Context as _;
use caravel_client::{Config, balance, connect};
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::Api;
use kube::runtime::{WatchStreamExt as _, watcher};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Beside the node's certificates.
const FILE: &str = "servers.json";
/// Servers on the list; those known longest without being an endpoint leave first.
const MOST: usize = 16;

pub struct Balancer {
    listener: TcpListener,
    port: u16,
    servers: watch::Sender<Vec<String>>,
    file: PathBuf,
    /// As the node, at the servers themselves.
    direct: Config,
}

impl Balancer {
    /// Takes the port. `config` names the servers that are known; those of the last run are added.
    ///
    /// # Errors
    /// A port that is in use.
    pub async fn open(port: u16, dir: &Path, config: Config) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
            .await
            .with_context(|| {
                format!("listen on 127.0.0.1:{port} for the way to the servers (--balancer-port)")
            })?;
        let file = dir.join(FILE);
        let last: Vec<String> = std::fs::read(&file)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        let all = merged(last, &config.servers);
        Ok(Self {
            listener,
            port,
            servers: watch::Sender::new(all),
            file,
            direct: config,
        })
    }

    /// How the node's programs reach the API.
    pub fn config(&self) -> Config {
        Config {
            servers: vec![format!("https://127.0.0.1:{}", self.port)],
            ..self.direct.clone()
        }
    }

    /// Until `shutdown`.
    pub async fn keep(self, shutdown: CancellationToken) {
        let config = self.config();
        let (servers, file) = (&self.servers, &self.file);
        let all = async {
            tokio::join!(
                balance::run(self.listener, servers.subscribe(), self.direct.ca.clone()),
                learn(&config, servers, file)
            )
        };
        shutdown.run_until_cancelled(all).await;
    }
}

/// Follows the endpoints of the API.
async fn learn(config: &Config, servers: &watch::Sender<Vec<String>>, file: &Path) {
    let Some(url) = config.servers.first() else {
        return;
    };
    let client = match connect::client(config, url) {
        Ok(client) => client,
        Err(error) => return tracing::error!(%error, "the list of servers cannot be followed"),
    };
    let slices: Api<EndpointSlice> = Api::namespaced(client, "default");
    let only = watcher::Config::default().fields("metadata.name=kubernetes");
    let mut changes = watcher(slices, only)
        .default_backoff()
        .applied_objects()
        .into_stream()
        .boxed();
    while let Some(change) = changes.next().await {
        let slice = match change {
            Ok(slice) => slice,
            Err(error) => {
                tracing::debug!(%error, "the list of servers");
                continue;
            }
        };
        let urls = merged(urls(&slice), &servers.borrow());
        if *servers.borrow() == urls {
            continue;
        }
        tracing::info!(servers = ?urls, "the cluster's servers");
        if let Err(error) = save(file, &urls) {
            tracing::warn!("the list of servers is not written down: {error:#}");
        }
        servers.send_replace(urls);
    }
}

/// Those first, and whoever else was known.
fn merged(first: Vec<String>, known: &[String]) -> Vec<String> {
    let mut all = first;
    for url in known {
        if all.len() < MOST && !all.contains(url) {
            all.push(url.clone());
        }
    }
    all
}

fn urls(slice: &EndpointSlice) -> Vec<String> {
    let port = slice
        .ports
        .iter()
        .flatten()
        .find_map(|port| port.port)
        .and_then(|port| u16::try_from(port).ok())
        .unwrap_or(6443);
    let addresses = slice
        .endpoints
        .iter()
        .flatten()
        .flat_map(|endpoint| endpoint.addresses.iter());
    let mut urls: Vec<String> = addresses
        .filter_map(|address| address.parse::<IpAddr>().ok())
        .map(|address| format!("https://{}", SocketAddr::new(address, port)))
        .collect();
    urls.sort();
    urls
}

fn save(file: &Path, urls: &[String]) -> anyhow::Result<()> {
    let beside = file.with_extension("new");
    std::fs::write(&beside, serde_json::to_vec(urls)?)?;
    Ok(std::fs::rename(beside, file)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_name_the_servers() {
        let slice: EndpointSlice = serde_json::from_value(serde_json::json!({
            "addressType": "IPv4",
            "metadata": { "name": "kubernetes" },
            "endpoints": [{ "addresses": ["192.0.2.2"] }, { "addresses": ["192.0.2.1", "not one"] }],
            "ports": [{ "name": "https", "port": 7443 }],
        }))
        .unwrap();
        assert_eq!(
            urls(&slice),
            ["https://192.0.2.1:7443", "https://192.0.2.2:7443"]
        );
    }

    #[test]
    fn a_server_that_is_no_endpoint_stays_behind_them() {
        let list = |urls: &[&str]| urls.iter().map(|url| (*url).to_owned()).collect::<Vec<_>>();
        assert_eq!(
            merged(list(&["b"]), &list(&["a", "b", "c"])),
            ["b", "a", "c"]
        );
        assert_eq!(merged(list(&[]), &list(&["a"])), ["a"]);
        let many: Vec<String> = (0..20).map(|n| n.to_string()).collect();
        let kept = merged(list(&["new"]), &many);
        assert_eq!((kept.len(), kept[0].as_str()), (MOST, "new"));
    }

    #[tokio::test]
    async fn the_last_list_is_known_at_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config {
            servers: vec!["https://192.0.2.1:6443".into()],
            ca: String::new(),
            credential: caravel_client::Credential::Anonymous,
            namespace: None,
        };
        save(&dir.path().join(FILE), &["https://192.0.2.2:6443".into()]).unwrap();
        let balancer = Balancer::open(0, dir.path(), config).await.unwrap();
        assert_eq!(
            *balancer.servers.borrow(),
            ["https://192.0.2.2:6443", "https://192.0.2.1:6443"]
        );
    }
}
