//! Three replicas in one process: forwarding, barriers, fail-over, and catching up by log and by snapshot.

use std::collections::BTreeMap;
use std::time::Duration;

use caravel_api::{Encoded, Key, KeyRange, Revision};
use caravel_store::{
    BackendKind, Change, CommitError, Expect, Gone, Limits, Links, Store, StoreConfig, Timing, Txn,
    WatchItem,
};
use tokio::time::{Instant, sleep, timeout};

struct Cluster {
    links: Links,
    stores: BTreeMap<u64, Store>,
}

fn key(name: &str) -> Key {
    Key::from(format!("/registry/core/configmaps/default/{name}"))
}

fn put(name: &str, expect: Expect) -> Txn {
    let object = Encoded::new(format!(r#"{{"metadata":{{"name":"{name}"}}}}"#)).unwrap();
    Txn::new().with(Change::Put {
        key: key(name),
        expect,
        object,
    })
}

impl Cluster {
    async fn new(config: impl Fn(u64) -> StoreConfig) -> Self {
        let links = Links::default();
        let mut stores = BTreeMap::new();
        for id in 1..=3 {
            let store = Store::open_with(
                StoreConfig {
                    node_id: id,
                    bootstrap: false,
                    ..config(id)
                },
                links.transport(id),
            )
            .await
            .unwrap();
            links.join(id, store.peer());
            stores.insert(id, store);
        }
        let members = stores
            .keys()
            .map(|id| (*id, format!("server-{id}")))
            .collect();
        stores[&1].form(members).await.unwrap();
        Cluster { links, stores }
    }

    /// The replica that leads, apart from `but`.
    async fn leader(&self, but: Option<u64>) -> u64 {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let leading = self
                .stores
                .iter()
                .find(|(id, store)| Some(**id) != but && store.leadership().borrow().is_some());
            if let Some((id, _)) = leading {
                return *id;
            }
            assert!(Instant::now() < deadline, "nobody leads");
            sleep(Duration::from_millis(10)).await;
        }
    }

    fn follower(&self, leader: u64) -> &Store {
        &self.stores[&(leader % 3 + 1)]
    }

    /// As a client would: again and again while nothing happened.
    async fn commit(&self, on: u64, txn: Txn) -> Revision {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            match self.stores[&on].commit(txn.clone()).await {
                Ok(committed) => return committed.revision,
                Err(CommitError::NoQuorum | CommitError::Unknown) if Instant::now() < deadline => {
                    sleep(Duration::from_millis(20)).await
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    async fn all_reach(&self, revision: Revision) {
        for store in self.stores.values() {
            store
                .at_least(revision, Instant::now() + Duration::from_secs(30))
                .await
                .unwrap();
        }
    }
}

fn quick() -> Timing {
    Timing {
        heartbeat: Duration::from_millis(50),
        election_min: Duration::from_millis(250),
        election_max: Duration::from_millis(500),
        commit: Duration::from_secs(2),
        contact: Duration::from_secs(2),
        ..Timing::default()
    }
}

async fn in_touch(store: &Store, expected: bool) {
    let mut contact = store.contact();
    let reached = contact.wait_for(|contact| *contact == expected);
    timeout(Duration::from_secs(20), reached)
        .await
        .expect("the replica notices")
        .unwrap();
}

fn in_memory(_: u64) -> StoreConfig {
    StoreConfig {
        timing: quick(),
        ..StoreConfig::memory()
    }
}

#[tokio::test(start_paused = true)]
async fn any_replica_takes_writes_and_current_reads() {
    let cluster = Cluster::new(in_memory).await;
    let leader = cluster.leader(None).await;
    let follower = cluster.follower(leader);
    let mut watch = follower
        .watch(KeyRange::all(), follower.snapshot().revision())
        .await
        .unwrap();
    let committed = follower.commit(put("a", Expect::Absent)).await.unwrap();
    assert_eq!(
        follower.commit(put("a", Expect::Absent)).await,
        Err(CommitError::Conflict(key("a"), committed.revision))
    );
    let written = cluster.stores[&leader]
        .commit(put("b", Expect::Absent))
        .await
        .unwrap();
    assert!(follower.fresh_snapshot().await.unwrap().revision() >= written.revision);
    for name in ["a", "b"] {
        let item = timeout(Duration::from_secs(10), watch.next())
            .await
            .unwrap()
            .unwrap();
        assert!(matches!(item, WatchItem::Event(event) if event.entry.meta.name == name));
    }
    cluster.all_reach(written.revision).await;
    // Only the leader acts.
    let epoch = cluster.stores[&leader].leadership().borrow().unwrap();
    assert_eq!(
        follower.commit_under(epoch, put("c", Expect::Absent)).await,
        Err(CommitError::Deposed)
    );
    cluster.stores[&leader]
        .commit_under(epoch, put("c", Expect::Absent))
        .await
        .unwrap();
}

/// Their clocks would wait for two minutes.
#[tokio::test(start_paused = true)]
async fn a_leader_whose_process_ended_is_replaced_without_waiting_for_its_silence() {
    let cluster = Cluster::new(|_| StoreConfig {
        timing: Timing {
            election_min: Duration::from_secs(120),
            election_max: Duration::from_secs(180),
            ..quick()
        },
        ..StoreConfig::memory()
    })
    .await;
    let old = cluster.leader(None).await;
    let others: Vec<u64> = (1..=3).filter(|id| *id != old).collect();
    let written = cluster.commit(old, put("a", Expect::Any)).await;
    cluster.all_reach(written).await;

    // One errs: the others vouch for the leader.
    let epoch = *cluster.stores[&old].leadership().borrow();
    cluster.stores[&others[0]].peer().leader_ended(old).await;
    assert_eq!(*cluster.stores[&old].leadership().borrow(), epoch);
    cluster.commit(others[0], put("a", Expect::Any)).await;

    // The first in order lacks what was written while it was cut off, so that it is the other's turn.
    cluster.links.isolate(others[0]);
    let last = cluster.commit(old, put("b", Expect::Absent)).await;
    cluster.links.heal();
    cluster.links.isolate(old);
    let peers = others.iter().map(|id| cluster.stores[id].peer());
    futures::future::join_all(peers.map(|peer| async move { peer.leader_ended(old).await })).await;
    assert_eq!(cluster.leader(Some(old)).await, others[1]);
    let next = cluster.commit(others[0], put("c", Expect::Absent)).await;
    assert!(next > last);
}

#[tokio::test(start_paused = true)]
async fn a_cut_off_leader_is_replaced_and_loses_nothing_acknowledged() {
    let cluster = Cluster::new(in_memory).await;
    let mut acknowledged = Vec::new();
    for round in 0..4 {
        let old = cluster.leader(None).await;
        let epoch = cluster.stores[&old].leadership().borrow().unwrap();
        for n in 0..10 {
            let name = format!("r{round}n{n}");
            acknowledged.push((
                name.clone(),
                cluster.commit(1 + n % 3, put(&name, Expect::Any)).await,
            ));
        }
        cluster.links.isolate(old);
        let new = cluster.leader(Some(old)).await;
        let reign = cluster.stores[&new].leadership().borrow().unwrap();
        assert!(reign > epoch);
        // The old leader acknowledges nothing any more, and says that it does not know.
        let lost = cluster.stores[&old]
            .commit_under(epoch, put("ghost", Expect::Any))
            .await;
        assert!(
            matches!(
                lost,
                Err(CommitError::Unknown | CommitError::NoQuorum | CommitError::Deposed)
            ),
            "{lost:?}"
        );
        assert!(cluster.stores[&old].fresh_snapshot().await.is_err());
        let name = format!("r{round}-after");
        let revision = cluster.commit(new, put(&name, Expect::Any)).await;
        acknowledged.push((name, revision));
        // One that is cut off knows it; the others are in touch with each other.
        in_touch(&cluster.stores[&old], false).await;
        assert!(*cluster.stores[&new].contact().borrow());
        cluster.links.heal();
        cluster.all_reach(revision).await;
        in_touch(&cluster.stores[&old], true).await;
    }
    let last = cluster.commit(1, put("last", Expect::Any)).await;
    cluster.all_reach(last).await;
    for (id, store) in &cluster.stores {
        let snapshot = store.snapshot();
        for (name, revision) in &acknowledged {
            assert_eq!(
                snapshot.entry(&key(name)).map(|entry| entry.revision),
                Some(*revision),
                "{name} on {id}"
            );
        }
        assert!(snapshot.entry(&key("ghost")).is_none());
    }
}

#[tokio::test]
async fn one_that_was_long_away_catches_up_by_a_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits {
        log_entries: 10,
        snapshot_every: 20,
        tail_bytes: 2_000,
        ..Limits::default()
    };
    let config = |id: u64| {
        let own = dir.path().join(id.to_string());
        StoreConfig {
            timing: quick(),
            limits,
            backend: BackendKind::Sled,
            ..StoreConfig::single(own.join("data"), own.join("keys"))
        }
    };
    let mut cluster = Cluster::new(config).await;
    let leader = cluster.leader(None).await;
    let away = leader % 3 + 1;
    let before = cluster.commit(leader, put("before", Expect::Any)).await;
    cluster.all_reach(before).await;
    let mut watch = cluster.stores[&away]
        .watch(KeyRange::all(), before)
        .await
        .unwrap();
    cluster.links.isolate(away);
    let mut last = before;
    for n in 0..700 {
        last = cluster
            .commit(leader, put(&format!("n{}", n % 60), Expect::Any))
            .await;
    }
    // Purging waits for replication that is under way; what was missed must be gone before the way is open again.
    let missed = |cluster: &Cluster| cluster.stores[&leader].status().log_bytes;
    let whole = missed(&cluster);
    for n in 0.. {
        if missed(&cluster) < whole.max(100_000) / 3 {
            break;
        }
        assert!(n < 10_000, "the leader's log was never purged");
        last = cluster
            .commit(leader, put(&format!("n{}", n % 60), Expect::Any))
            .await;
    }
    cluster.links.heal();
    let last = cluster
        .commit(leader, put("after", Expect::Any))
        .await
        .max(last);
    cluster.all_reach(last).await;
    let expected: Vec<(Key, Revision)> = cluster.stores[&leader]
        .snapshot()
        .list(&KeyRange::all())
        .map(|entry| (entry.key.clone(), entry.revision))
        .collect();
    let found = |store: &Store| {
        store
            .snapshot()
            .list(&KeyRange::all())
            .map(|entry| (entry.key.clone(), entry.revision))
            .collect::<Vec<_>>()
    };
    assert_eq!(found(&cluster.stores[&away]), expected);
    // What lay between was not seen, and the watch says so.
    assert!(matches!(
        timeout(Duration::from_secs(10), watch.next()).await,
        Ok(Err(Gone))
    ));
    // And it is on its disk.
    let store = cluster.stores.remove(&away).unwrap();
    cluster.links.leave(away);
    store.shutdown().await;
    drop(store);
    let store = Store::open_with(
        StoreConfig {
            node_id: away,
            bootstrap: false,
            ..config(away)
        },
        cluster.links.transport(away),
    )
    .await
    .unwrap();
    assert!(store.snapshot().count(&KeyRange::all()) >= 60);
    cluster.links.join(away, store.peer());
    store
        .at_least(last, Instant::now() + Duration::from_secs(30))
        .await
        .unwrap();
    assert_eq!(found(&store), expected);
    store.shutdown().await;
    for store in cluster.stores.values() {
        store.shutdown().await;
    }
}
