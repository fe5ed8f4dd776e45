//! One server of a quorum of three, each a process of its own, over mutual TLS on loopback: what `kv-serve` serves when it is
//! given a number. The first makes everybody's certificates and invites the others; a file each tells them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use caravel_auth::Authority;
use caravel_auth::authority::DEFAULT_ISSUER;
use caravel_peers::{GrpcTransport, Member, PeerTls, Served, roster, serve};
use caravel_rpc::peer::v1::AdmitRequest;
use caravel_store::{Store, StoreConfig, Target};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};

const SERVERS: u64 = 3;
const INVITED_WITHIN: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(100);

#[derive(clap::Args)]
pub struct Args {
    /// Number of this server of three; without it a server is alone
    #[arg(long, requires = "shared")]
    server: Option<u64>,
    /// Directory in which the servers find each other
    #[arg(long)]
    shared: Option<PathBuf>,
    #[arg(long, default_value = "127.0.0.1:12381")]
    peer: SocketAddr,
}

/// What a server must be told to join.
#[derive(Serialize, Deserialize)]
struct Invitation {
    ca: String,
    certificate: String,
    key: String,
    cluster: u128,
    /// Where the first one is.
    first: SocketAddr,
}

pub struct Opened {
    pub store: Store,
    _served: Option<Served>,
}

pub async fn open(args: Args, dir: &Path) -> anyhow::Result<Opened> {
    let (Some(number), Some(shared)) = (args.server, &args.shared) else {
        let config = StoreConfig::single(dir.join("data"), dir.join("keys"));
        let store = Store::open(config).await.context("open the store")?;
        return Ok(Opened {
            store,
            _served: None,
        });
    };
    std::fs::create_dir_all(shared).context("create the directory shared by the servers")?;
    if number == 1 {
        first(dir, shared, args.peer).await
    } else {
        other(dir, shared, number, args.peer).await
    }
}

async fn first(dir: &Path, shared: &Path, peer: SocketAddr) -> anyhow::Result<Opened> {
    let authority = Authority::create(DEFAULT_ISSUER)?;
    let tls = |id| -> anyhow::Result<PeerTls> {
        let issued = authority.issue_peer(id)?;
        Ok(PeerTls {
            ca: authority.ca_pem().to_owned(),
            certificate: issued.cert_pem,
            key: issued.key_pem,
        })
    };
    let (opened, _) = begin(dir, 1, None, peer, tls(1)?).await?;
    let me = opened.store.identity();
    let own = Member {
        id: me.node,
        incarnation: me.incarnation,
        peer_address: peer.to_string(),
        ..Member::default()
    };
    roster::write(&opened.store, &own).await?;
    for _ in 1..SERVERS {
        let id = roster::invite(&opened.store, "bench").await?;
        let tls = tls(id)?;
        let invitation = Invitation {
            ca: tls.ca,
            certificate: tls.certificate,
            key: tls.key,
            cluster: me.cluster,
            first: peer,
        };
        let new = shared.join(format!("{id}.new"));
        std::fs::write(&new, serde_json::to_vec(&invitation)?)?;
        std::fs::rename(new, shared.join(format!("{id}.json")))?;
    }
    Ok(opened)
}

async fn other(dir: &Path, shared: &Path, number: u64, peer: SocketAddr) -> anyhow::Result<Opened> {
    let file = shared.join(format!("{number}.json"));
    let told = async {
        while !file.exists() {
            sleep(POLL).await;
        }
    };
    timeout(INVITED_WITHIN, told)
        .await
        .context("nobody invited this server")?;
    let invitation: Invitation = serde_json::from_slice(&std::fs::read(file)?)?;
    let tls = PeerTls {
        ca: invitation.ca,
        certificate: invitation.certificate,
        key: invitation.key,
    };
    let (opened, transport) = begin(dir, number, Some(invitation.cluster), peer, tls).await?;
    let me = opened.store.identity();
    let request = AdmitRequest {
        id: me.node,
        incarnation: me.incarnation,
        name: format!("server-{number}"),
        peer_address: peer.to_string(),
        api_url: String::new(),
        supports: opened.store.supports().0,
    };
    let first = Target {
        id: 1,
        address: invitation.first.to_string(),
    };
    // One change at a time: while another server is admitted, this one is told to try again.
    let admitted = async {
        loop {
            match transport.admit(&first, request.clone()).await {
                Err(status) if status.code() == tonic::Code::FailedPrecondition => {
                    sleep(POLL).await;
                }
                other => return other,
            }
        }
    };
    let answer = timeout(INVITED_WITHIN, admitted)
        .await
        .context("this server is not admitted")??;
    anyhow::ensure!(answer.voter, "this server got no vote");
    Ok(opened)
}

async fn begin(
    dir: &Path,
    node_id: u64,
    cluster: Option<u128>,
    peer: SocketAddr,
    tls: PeerTls,
) -> anyhow::Result<(Opened, Arc<GrpcTransport>)> {
    let listener = TcpListener::bind(peer)
        .await
        .context("listen for the other servers")?;
    let transport = GrpcTransport::new();
    let config = StoreConfig {
        node_id,
        cluster,
        bootstrap: cluster.is_none(),
        address: peer.to_string(),
        ..StoreConfig::single(dir.join("data"), dir.join("keys"))
    };
    let store = Store::open_with(config, transport.clone())
        .await
        .context("open the store")?;
    transport.speak_as(store.identity(), tls.clone());
    let served = serve(listener, &tls, &store, transport.clone())?;
    let opened = Opened {
        store,
        _served: Some(served),
    };
    Ok((opened, transport))
}
