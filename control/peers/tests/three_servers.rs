//! Three servers over real sockets and mutual TLS: they form, agree, survive their leader, and refuse strangers.

use caravel_api::{Encoded, Key};
use caravel_auth::Authority;
use caravel_auth::authority::DEFAULT_ISSUER;
use caravel_peers::membership::Membership;
use caravel_peers::{GrpcTransport, Member, PeerTls, Served, roster, serve};
use caravel_rpc::peer::v1::AdmitRequest;
use caravel_store::{Level, Store, StoreConfig, Target, Txn};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep, timeout};

const WITHIN: Duration = Duration::from_secs(30);

struct Server {
    store: Store,
    transport: Arc<GrpcTransport>,
    address: String,
    served: Served,
    _dir: tempfile::TempDir,
}

impl Server {
    /// `id` 1 begins the cluster; others wait to be admitted.
    async fn start(authority: &Authority, id: u64, cluster: Option<u128>) -> Server {
        Server::supporting(authority, id, cluster, Level::HIGHEST).await
    }

    /// One that plays an older release.
    async fn supporting(
        authority: &Authority,
        id: u64,
        cluster: Option<u128>,
        supports: Level,
    ) -> Server {
        let dir = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let transport = GrpcTransport::new();
        let config = StoreConfig {
            supports,
            node_id: id,
            cluster,
            bootstrap: id == 1,
            address: address.clone(),
            ..StoreConfig::single(dir.path().join("data"), dir.path().join("keys"))
        };
        let store = Store::open_with(config, transport.clone()).await.unwrap();
        let issued = authority.issue_peer(id).unwrap();
        let tls = PeerTls {
            ca: authority.ca_pem().to_owned(),
            certificate: issued.cert_pem,
            key: issued.key_pem,
        };
        transport.speak_as(store.identity(), tls.clone());
        let served = serve(listener, &tls, &store, transport.clone()).unwrap();
        Server {
            store,
            transport,
            address,
            served,
            _dir: dir,
        }
    }

    fn target(&self) -> Target {
        Target {
            id: self.store.identity().node,
            address: self.address.clone(),
        }
    }

    fn request(&self) -> AdmitRequest {
        let identity = self.store.identity();
        AdmitRequest {
            id: identity.node,
            incarnation: identity.incarnation,
            name: format!("server-{}", identity.node),
            peer_address: self.address.clone(),
            api_url: String::new(),
            supports: self.store.supports().0,
        }
    }

    async fn write(&self, name: &str) -> u64 {
        let object = Encoded::new(format!(r#"{{"metadata":{{"name":"{name}"}}}}"#)).unwrap();
        let key = Key::from(format!("/registry/core/configmaps/a/{name}"));
        self.store
            .commit(Txn::create(key, object))
            .await
            .unwrap()
            .revision
            .0
    }

    async fn reads(&self, name: &str) -> bool {
        let key = Key::from(format!("/registry/core/configmaps/a/{name}"));
        let snapshot = self.store.fresh_snapshot().await.unwrap();
        snapshot.entry(&key).is_some()
    }
}

/// Three voters of one cluster.
async fn three(authority: &Authority) -> Vec<Server> {
    let first = Server::start(authority, 1, None).await;
    let me = first.store.identity();
    let own = Member {
        id: 1,
        incarnation: me.incarnation,
        peer_address: first.address.clone(),
        ..Member::default()
    };
    roster::write(&first.store, &own).await.unwrap();
    let mut servers = vec![first];
    for expected in [2, 3] {
        let id = roster::invite(&servers[0].store, "x").await.unwrap();
        assert_eq!(id, expected);
        let server = Server::start(authority, id, Some(me.cluster)).await;
        // Any server takes the request; the second one must hand it on.
        let by = servers.last().unwrap().target();
        let answer = server.transport.admit(&by, server.request()).await.unwrap();
        assert!(answer.voter);
        servers.push(server);
    }
    servers
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + WITHIN;
    while !holds().await {
        assert!(Instant::now() < end, "{what}");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_server_serves_and_the_rest_go_on_without_the_leader() {
    let authority = Authority::create(DEFAULT_ISSUER).unwrap();
    let mut servers = three(&authority).await;
    servers[2].write("by-a-follower").await;
    for server in &servers {
        assert!(server.reads("by-a-follower").await);
    }
    // More than fits the log's first messages, so that appends really stream.
    for n in 0..200 {
        servers[n % 3].write(&format!("many-{n}")).await;
    }
    let leader = servers[0].store.status().leader.unwrap();
    let at = servers
        .iter()
        .position(|server| server.store.identity().node == leader)
        .unwrap();
    let gone = servers.remove(at);
    gone.store.shutdown().await;
    gone.served.stop().await;
    // The next write waits for the new leader, and finds it.
    let wrote = timeout(WITHIN, async {
        loop {
            let object = Encoded::new(r#"{"metadata":{"name":"after"}}"#).unwrap();
            let txn = Txn::create(Key::from("/registry/core/configmaps/a/after"), object);
            if servers[0].store.commit(txn).await.is_ok() || servers[0].reads("after").await {
                break;
            }
        }
    });
    wrote.await.unwrap();
    for server in &servers {
        assert!(server.reads("after").await);
        assert!(server.reads("many-199").await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_handed_over_and_a_removed_server_is_told() {
    let authority = Authority::create(DEFAULT_ISSUER).unwrap();
    let servers = three(&authority).await;
    let by = Membership::new(servers[1].store.clone(), servers[1].transport.clone());
    assert_eq!(by.lead(Some(3)).await.unwrap(), 3);
    eventually("server 3 leads", async || {
        servers[1].store.status().leader == Some(3)
    })
    .await;
    // The leader itself is removed: another takes over first.
    by.remove(3).await.unwrap();
    eventually("two voters are left", async || {
        servers[0].store.status().voters == [1, 2]
    })
    .await;
    servers[0].write("without-3").await;
    let mut removed = servers[2].transport.removed();
    timeout(WITHIN, removed.wait_for(|removed| *removed))
        .await
        .expect("server 3 learns that it was removed")
        .unwrap();
    let to = servers[0].target();
    let again = servers[2].transport.admit(&to, servers[2].request()).await;
    assert!(again.unwrap_err().message().contains("was removed"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_and_refilled_disks_are_refused() {
    let authority = Authority::create(DEFAULT_ISSUER).unwrap();
    let servers = three(&authority).await;
    let cluster = servers[0].store.identity().cluster;
    let to = servers[0].target();
    // Another cluster's authority.
    let stranger = Server::start(&Authority::create("other").unwrap(), 2, Some(cluster)).await;
    assert!(stranger.transport.keys(&to).await.is_err());
    // A certificate of the cluster that is no server's.
    let user = authority.issue_admin().unwrap();
    let outsider = GrpcTransport::new();
    let tls = PeerTls {
        ca: authority.ca_pem().to_owned(),
        certificate: user.cert_pem,
        key: user.key_pem,
    };
    outsider.speak_as(servers[1].store.identity(), tls);
    let refused = outsider.keys(&to).await.unwrap_err();
    assert!(refused.message().contains("no server's"), "{refused}");
    // A server's own certificate on a disk that was wiped and filled anew, and one under another's number.
    let wiped = Server::start(&authority, 2, Some(cluster)).await;
    let refused = wiped.transport.keys(&to).await.unwrap_err();
    assert!(refused.message().contains("another disk"), "{refused}");
    let mut lies = servers[1].store.identity();
    lies.node = 3;
    let issued = authority.issue_peer(2).unwrap();
    let tls = PeerTls {
        ca: authority.ca_pem().to_owned(),
        certificate: issued.cert_pem,
        key: issued.key_pem,
    };
    let liar = GrpcTransport::new();
    liar.speak_as(lies, tls);
    let refused = liar.keys(&to).await.unwrap_err();
    assert!(refused.message().contains("server 2's"), "{refused}");
    // Who may speak does get the keys.
    let (keys, current) = servers[1].transport.keys(&to).await.unwrap();
    assert_eq!((keys.len(), current), (1, 1));
    // And hands over new ones, whole or not at all.
    servers[1]
        .transport
        .hold_key(&to, 2, [7; 32])
        .await
        .unwrap();
    servers[1]
        .transport
        .hold_key(&to, 2, [7; 32])
        .await
        .unwrap();
    let refused = servers[1].transport.hold_key(&to, 2, [8; 32]).await;
    assert_eq!(refused.unwrap_err().code(), tonic::Code::FailedPrecondition);
    assert!(stranger.transport.hold_key(&to, 3, [7; 32]).await.is_err());
    let seen = servers[1].transport.observe(&to).await.unwrap();
    assert_eq!((seen.key, seen.holds.as_slice()), (1, &[1, 2][..]));
    assert_eq!(seen.leads, !seen.replicas.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_level_rises_by_what_servers_say_and_an_older_one_is_not_admitted() {
    let authority = Authority::create(DEFAULT_ISSUER).unwrap();
    let servers = three(&authority).await;
    let cluster = servers[0].store.identity().cluster;
    let leader = servers.iter().find(|one| one.store.status().leads).unwrap();
    let mut reports = BTreeMap::from([(leader.store.identity().node, leader.store.supports())]);
    for server in &servers {
        if let Ok(seen) = leader.transport.observe(&server.target()).await {
            let said = (Level::told(seen.supports), Level::told(seen.level));
            assert_eq!(said, (Level::HIGHEST, Level::FIRST));
            reports.insert(server.store.identity().node, said.0);
        }
    }
    let epoch = leader.store.leadership().borrow().unwrap();
    let raised = leader.store.raise(epoch, &reports).await;
    assert_eq!(raised, Ok(Level::HIGHEST));
    for server in &servers {
        eventually("every server is at the level", async || {
            server.store.level() == Level::HIGHEST
        })
        .await;
    }
    let id = roster::invite(&servers[0].store, "old").await.unwrap();
    let old = Server::supporting(&authority, id, Some(cluster), Level::FIRST).await;
    for supports in [1, 0] {
        // 0: a release that does not know of levels says nothing.
        let request = AdmitRequest {
            supports,
            ..old.request()
        };
        let refused = old.transport.admit(&servers[1].target(), request).await;
        let refused = refused.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
        let expected = format!(
            "server {id} supports log entries up to level 1, and the cluster is at level 2: start a newer release on it"
        );
        assert_eq!(refused.message(), expected);
    }
    assert_eq!(servers[0].store.members().list().len(), 3);
    // One that says more than it can stops at the first entry that it does not know, be it admitted before or not.
    let request = AdmitRequest {
        supports: Level::HIGHEST.0,
        ..old.request()
    };
    let by = servers[1].target();
    let (why, _) = tokio::join!(
        timeout(WITHIN, old.store.failure()),
        timeout(WITHIN, old.transport.admit(&by, request))
    );
    let why = why.unwrap();
    assert!(why.contains("supports levels up to 1"), "{why}");
}
