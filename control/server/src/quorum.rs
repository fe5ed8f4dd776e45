//! This server's place in the quorum: begin a cluster, join one, or come back to one; and how it leaves for a while.
//!
//! [`open`] decides which of these it is from what the machine remembers, and opens the store accordingly. Nothing here
//! votes or counts votes; that is the store's.

use crate::authority;
use crate::config::ServerConfig;
use crate::place::{self, Place};
use anyhow::{Context, Result, bail, ensure};
use caravel_auth::Authority;
use caravel_auth::certificate;
use caravel_auth::join::JoinToken;
use caravel_client::{JoinTarget, join_server};
use caravel_peers::membership::Membership;
use caravel_peers::{GrpcTransport, Member, PeerTls, RosterError, Served, roster};
use caravel_rpc::cluster::v1::SignServerRequest;
use caravel_rpc::peer::v1::AdmitRequest;
use caravel_store::{CommitError, Identity, Lost, OpenError, Store, StoreConfig, Target};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};

const AGAIN: Duration = Duration::from_secs(1);
/// How often a server that waits says so.
const SAY: Duration = Duration::from_secs(10);
/// Neither the disk nor the files beside the keys tell what to show the other servers.
const NO_TLS: &str = "the certificate for the other servers is lost: its files are not in the directory peer beside the keys. \
                      Put them back from a backup of the machine, or move the data directory away and join again with --join URL --token TOKEN";
/// How long a leader that ends tries to hand over.
const HAND_OVER: Duration = Duration::from_secs(3);

/// What this start is.
#[derive(Debug, PartialEq, Eq)]
enum Start {
    /// A cluster of one server.
    Found,
    /// With the number got from a cluster that this machine has not been admitted to yet.
    Join(Place),
    /// Ask a cluster for a number first.
    Ask,
    Return(Option<Place>),
}

/// What to do, from what the machine remembers.
fn decide(begun: bool, place: Option<Place>, join: bool) -> Result<Start> {
    Ok(match (begun, place) {
        (true, place) => Start::Return(place),
        (false, Some(place)) if place.admitted && !join => bail!(
            "this machine is server {} of cluster {}, but its data directory is empty. A server without its disk must not come \
             back under its old number. With other servers left: remove it there (`caravel member remove {}`), then start this one \
             with --join URL --token TOKEN. With none left: restore a backup. To begin anew: remove the directory peer beside the keys",
            place.id,
            place.cluster,
            place.id
        ),
        (false, Some(place)) if !place.admitted && !place.founder => Start::Join(place),
        (false, Some(place)) if !place.admitted && !join => {
            debug_assert!(place.founder);
            Start::Found
        }
        (false, _) if join => Start::Ask,
        (false, _) => Start::Found,
    })
}

/// This server among its like.
pub(crate) struct Quorum {
    pub store: Store,
    pub membership: Membership,
    pub authority: Arc<Authority>,
    transport: Arc<GrpcTransport>,
    served: Served,
}

/// Opens the store and takes this server's place. Returns once a majority agrees that it has one.
///
/// # Errors
/// What cannot be mended by waiting: a damaged or foreign disk, a refused token, a server that was removed.
pub(crate) async fn open(config: &ServerConfig, listener: TcpListener) -> Result<Quorum> {
    let etc = &config.etc_dir;
    let dir = config.data_dir.join("db");
    let start = decide(
        caravel_store::is_begun(&dir),
        Place::load(etc)?,
        config.join.is_some(),
    )?;
    let transport = GrpcTransport::new();
    let place = match start {
        Start::Found => None,
        Start::Return(place) => place,
        Start::Join(place) => Some(place),
        Start::Ask => Some(ask(config, &transport).await?),
    };
    let store = open_store(config, place.as_ref(), transport.clone()).await?;
    let (authority, tls) = credentials(&config.etc_dir, &store, place.as_ref()).await?;
    transport.speak_as(store.identity(), tls.clone());
    let served = caravel_peers::serve(listener, &tls, &store, transport.clone())
        .context("serve the peers' port")?;
    let me = member(config, &store);
    let peers = place.as_ref().map(|place| place.peers.clone());
    take_part(&store, &transport, &me, &peers.unwrap_or_default()).await?;
    loop {
        majority(&store, &transport).await?;
        match roster::write(&store, &me).await {
            Ok(()) => break,
            // The majority was lost again meanwhile, or whoever led.
            Err(error @ (RosterError::NoQuorum(_) | RosterError::Busy)) => {
                tracing::warn!(%error, "this server cannot be written down yet");
            }
            Err(RosterError::Commit(error)) if !matches!(error, CommitError::TooLarge) => {
                tracing::warn!(%error, "this server cannot be written down yet");
                sleep(AGAIN).await;
            }
            Err(error) => return Err(error).context("write this server down"),
        }
    }
    let authority = match authority {
        Some(authority) => authority,
        None => authority::load_or_create(&store).await?,
    };
    let identity = store.identity();
    let place = Place {
        cluster: format!("{:032x}", identity.cluster),
        id: identity.node,
        founder: place.as_ref().is_none_or(|place| place.founder),
        admitted: true,
        peers: place.map(|place| place.peers).unwrap_or_default(),
    };
    place.save(etc)?;
    Ok(Quorum {
        membership: Membership::new(store.clone(), transport.clone()),
        store,
        authority: Arc::new(authority),
        transport,
        served,
    })
}

impl Quorum {
    /// Returns when this server can no longer take part, and says why.
    pub async fn failure(store: Store, transport: Arc<GrpcTransport>) -> String {
        let mut removed = transport.removed();
        tokio::select! {
            why = store.failure() => why,
            _ = removed.wait_for(|removed| *removed) => {
                "this server was removed from the cluster. To let it join again as a new one: move its data directory away, and \
                 start it with --join URL --token TOKEN"
                    .to_owned()
            }
        }
    }

    pub fn transport(&self) -> Arc<GrpcTransport> {
        self.transport.clone()
    }

    /// Hands the leadership over, if there is anybody to take it, and closes the store.
    pub async fn end(self) {
        let status = self.store.status();
        if status.leads && status.voters.len() > 1 {
            let handed = self
                .store
                .members()
                .transfer(None, Instant::now() + HAND_OVER)
                .await;
            match handed {
                Ok(to) => tracing::info!(to, "handed over the leadership"),
                Err(error) => tracing::warn!(%error, "the leadership was not handed over"),
            }
        }
        self.store.shutdown().await;
        self.served.stop().await;
    }
}

fn member(config: &ServerConfig, store: &Store) -> Member {
    let identity = store.identity();
    Member {
        id: identity.node,
        name: config.name.clone(),
        peer_address: config.peer_address(),
        api_url: config.node_url(),
        incarnation: identity.incarnation,
        removed: false,
        supports: store.supports().0,
    }
}

async fn open_store(
    config: &ServerConfig,
    place: Option<&Place>,
    transport: Arc<GrpcTransport>,
) -> Result<Store> {
    let dir = config.data_dir.join("db");
    let mut store = StoreConfig::single(&dir, config.etc_dir.join("keys"));
    store.address = config.peer_address();
    store.timing = config.timing();
    if let Some(place) = place {
        store.node_id = place.id;
        store.cluster = Some(place.cluster()?);
        store.bootstrap = place.founder;
    }
    let opened = match Store::open_with(store.clone(), transport.clone()).await {
        Err(OpenError::Lost(lost)) => {
            Box::pin(mended(config, store, &lost, place, transport)).await
        }
        opened => opened.map_err(anyhow::Error::from),
    };
    opened.with_context(|| format!("open the store in {}", dir.display()))
}

/// Opens the store with another server's objects, for as long as it takes to get them.
async fn mended(
    config: &ServerConfig,
    store: StoreConfig,
    lost: &Lost,
    place: Option<&Place>,
    transport: Arc<GrpcTransport>,
) -> Result<Store> {
    let told = place.map(|place| place.peers.clone()).unwrap_or_default();
    let mut targets = lost.members.clone();
    for (id, address) in told {
        if id != lost.identity.node && !targets.iter().any(|target| target.id == id) {
            targets.push(Target { id, address });
        }
    }
    tracing::warn!(what = %lost.what, "the objects cannot be read: asking another server for its own");
    let tls = place::load_tls(&config.etc_dir)?.context(NO_TLS)?;
    transport.speak_as(lost.identity, tls);
    let mut said = Said::new();
    loop {
        for target in &targets {
            let received = match transport.state(target).await {
                Ok(received) => received,
                Err(status) => {
                    said.now_and_then(|| {
                        tracing::warn!(server = target.id, reason = %status.message(), "no objects from there");
                    });
                    continue;
                }
            };
            match Store::open_mended(store.clone(), transport.clone(), received).await {
                // It lags behind what is needed.
                Err(OpenError::Lost(_)) => {}
                opened => return Ok(opened?),
            }
        }
        sleep(AGAIN).await;
    }
}

/// The authority, where this replica has it or founds it, and what to show peers.
async fn credentials(
    etc: &Path,
    store: &Store,
    place: Option<&Place>,
) -> Result<(Option<Authority>, PeerTls)> {
    let founds = place.is_none_or(|place| place.founder);
    let authority = match authority::local(store)? {
        Some(authority) => authority,
        // The replica lost its newest entries to a power cut. A founder's too: others may have joined since, and without its
        // certificate it reaches none of them.
        None => match place::load_tls(etc)? {
            Some(tls) if place.is_some() => return Ok((None, tls)),
            _ if founds => authority::load_or_create(store).await?,
            _ => bail!(NO_TLS),
        },
    };
    let issued = authority.issue_peer(store.identity().node)?;
    let tls = PeerTls {
        ca: authority.ca_pem().to_owned(),
        certificate: issued.cert_pem,
        key: issued.key_pem,
    };
    place::save_tls(etc, &tls)?;
    Ok((Some(authority), tls))
}

/// Gets a number, a certificate and the key ring from a cluster.
async fn ask(config: &ServerConfig, transport: &GrpcTransport) -> Result<Place> {
    let servers = config.join.clone().unwrap_or_default();
    let token = config.join_token.as_deref().context(
        "joining needs --token: `caravel token create --role server` on a server prints one",
    )?;
    let token: JoinToken = token.parse().context("--token")?;
    let (key, csr) = certificate::signing_request(&config.name)?;
    let target = JoinTarget {
        servers: servers.clone(),
        ca_hash: token.ca_hash.clone(),
    };
    let request = SignServerRequest {
        token_id: token.id.clone(),
        token_secret: token.secret.clone(),
        name: config.name.clone(),
        csr,
    };
    let mut said = Said::new();
    let answer = loop {
        match join_server(&target, request.clone()).await {
            Ok(answer) => break answer,
            Err(error) if error.is_temporary() => {
                said.now_and_then(|| tracing::warn!("cannot join yet: {error}"));
                sleep(AGAIN).await;
            }
            Err(error) => return Err(error).context("join the cluster"),
        }
    };
    let cluster: [u8; 16] = answer
        .cluster
        .try_into()
        .map_err(|_| anyhow::anyhow!("the server told no cluster number"))?;
    let cluster = u128::from_be_bytes(cluster);
    let place = Place {
        cluster: format!("{cluster:032x}"),
        id: answer.id,
        founder: false,
        admitted: false,
        peers: answer
            .peers
            .into_iter()
            .map(|peer| (peer.id, peer.address))
            .collect(),
    };
    ensure!(!place.peers.is_empty(), "the server told of no peers");
    let tls = PeerTls {
        ca: answer.ca_certificates,
        certificate: answer.certificate,
        key,
    };
    let joining = Identity {
        cluster,
        node: place.id,
        incarnation: 0,
    };
    transport.speak_as(joining, tls.clone());
    let (keys, current) = key_ring(transport, &place.peers).await?;
    caravel_store::keys::take_over(&config.etc_dir.join("keys"), &keys, current)?;
    place::save_tls(&config.etc_dir, &tls)?;
    place.save(&config.etc_dir)?;
    tracing::info!(id = place.id, cluster = %place.cluster, "got a number from the cluster");
    Ok(place)
}

async fn key_ring(
    transport: &GrpcTransport,
    peers: &[(u64, String)],
) -> Result<(std::collections::BTreeMap<u32, [u8; 32]>, u32)> {
    let mut refused = Vec::new();
    for (id, address) in peers {
        let target = Target {
            id: *id,
            address: address.clone(),
        };
        match transport.keys(&target).await {
            Ok(keys) => return Ok(keys),
            Err(status) => refused.push(format!("{address}: {}", status.message())),
        }
    }
    bail!(
        "no server handed over the key ring: {}. Is the peers' port open between the servers?",
        refused.join("; ")
    )
}

/// Asks to be admitted, until this server has a vote.
async fn take_part(
    store: &Store,
    transport: &GrpcTransport,
    me: &Member,
    peers: &[(u64, String)],
) -> Result<()> {
    let mut said = Said::new();
    loop {
        let known = store.members().list();
        let own = known.iter().find(|member| member.id == me.id);
        if own.is_some_and(|own| own.voter && own.address == me.peer_address) {
            return Ok(());
        }
        if store.status().leads {
            // Alone, at another address than before.
            let moved = store.members().add(me.id, &me.peer_address).await;
            moved.context("tell the cluster this server's address")?;
            continue;
        }
        for target in targets(store, peers, me.id) {
            let request = AdmitRequest {
                id: me.id,
                incarnation: me.incarnation,
                name: me.name.clone(),
                peer_address: me.peer_address.clone(),
                api_url: me.api_url.clone(),
                supports: me.supports,
            };
            match transport.admit(&target, request).await {
                Ok(answer) if answer.voter => break,
                Ok(_) => {
                    tracing::info!("a learner so far: catching up");
                    break;
                }
                Err(status) if caravel_peers::refuses(&status) => {
                    bail!("the cluster does not admit this server: {}", status.message())
                }
                Err(status) => said.now_and_then(|| {
                    tracing::warn!(server = target.id, address = %target.address, reason = %status.message(), "not admitted yet")
                }),
            }
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// Whom to ask: the members this replica knows, else those it was told of.
fn targets(store: &Store, peers: &[(u64, String)], me: u64) -> Vec<Target> {
    let known = store.members().list();
    let members = known
        .into_iter()
        .map(|member| (member.id, member.address))
        .chain(peers.iter().cloned())
        .filter(|(id, _)| *id != me);
    let mut targets: Vec<Target> = Vec::new();
    for (id, address) in members {
        if !targets.iter().any(|target| target.id == id) {
            targets.push(Target { id, address });
        }
    }
    targets
}

/// Waits until a majority confirms that this replica is current.
async fn majority(store: &Store, transport: &GrpcTransport) -> Result<()> {
    let mut said = Said::new();
    let removed = transport.removed();
    while store.fresh_snapshot().await.is_err() {
        ensure!(
            !*removed.borrow(),
            "this server was removed from the cluster. Move its data directory away and join again as a new one"
        );
        let status = store.status();
        ensure!(status.healthy, "the store has stopped");
        said.now_and_then(|| {
            tracing::warn!(
                voters = ?status.voters,
                leader = ?status.leader,
                "waiting for a majority of the servers"
            );
        });
    }
    Ok(())
}

/// Says something at once, and then only now and then.
struct Said(Option<Instant>);

impl Said {
    fn new() -> Self {
        Self(None)
    }

    fn now_and_then(&mut self, say: impl FnOnce()) {
        if self.0.is_none_or(|last| last.elapsed() > SAY) {
            self.0 = Some(Instant::now());
            say();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_start_is() {
        let place = |founder: bool, admitted: bool| Place {
            cluster: String::new(),
            id: 2,
            founder,
            admitted,
            peers: Vec::new(),
        };
        let is = |begun, place, join| decide(begun, place, join).ok();
        assert_eq!(is(false, None, false), Some(Start::Found));
        assert_eq!(is(false, None, true), Some(Start::Ask));
        // It had its number, and was interrupted before it had a disk.
        let early = place(false, false);
        assert_eq!(
            is(false, Some(early.clone()), true),
            Some(Start::Join(early.clone()))
        );
        // A disk is never left for another cluster by a flag that stayed in a file.
        let member = place(false, true);
        assert_eq!(
            is(true, Some(member.clone()), true),
            Some(Start::Return(Some(member.clone())))
        );
        // Wiped: refused, unless it is to join as a new one.
        assert_eq!(is(false, Some(member.clone()), false), None);
        assert_eq!(is(false, Some(member), true), Some(Start::Ask));
        assert_eq!(is(false, Some(place(true, true)), false), None);
    }

    #[tokio::test]
    async fn a_founder_whose_newest_entries_are_lost_shows_the_certificate_it_had() {
        let etc = tempfile::tempdir().unwrap();
        let store = Store::memory().await.unwrap();
        let place = Place {
            cluster: String::new(),
            id: 1,
            founder: true,
            admitted: true,
            peers: Vec::new(),
        };
        let joined = Place {
            founder: false,
            ..place.clone()
        };
        let lost = credentials(etc.path(), &store, Some(&joined)).await;
        assert!(lost.is_err());
        let had = PeerTls {
            ca: "ca".into(),
            certificate: "certificate".into(),
            key: "key".into(),
        };
        place::save_tls(etc.path(), &had).unwrap();
        let (authority, tls) = credentials(etc.path(), &store, Some(&place)).await.unwrap();
        assert!(authority.is_none());
        assert_eq!(tls.certificate, had.certificate);
        // It writes nothing before it has met the others.
        assert!(authority::local(&store).unwrap().is_none());

        // What an older cluster left on a machine that begins one is not believed.
        let (authority, tls) = credentials(etc.path(), &store, None).await.unwrap();
        assert!(authority.is_some());
        assert_ne!(tls.certificate, had.certificate);
    }
}
