//! Two levels in one cluster: three replicas of which one plays an older release, the same state on all of them after
//! every entry, the raise once the old one is replaced, and what happens to whoever does not support it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use caravel_api::{Encoded, Key, KeyRange, Revision};
use caravel_store::simulation::Digests;
use caravel_store::{
    BackendKind, Change, CommitError, Expect, Level, Links, MemberError, OpenError, RaiseError,
    Store, StoreConfig, Timing, Txn, backup,
};
use tokio::time::{Instant, sleep, timeout};

const OLD: Level = Level::FIRST;
const NEW: Level = Level::SPLICES;
const WITHIN: Duration = Duration::from_secs(30);

struct Cluster {
    dir: tempfile::TempDir,
    links: Links,
    stores: BTreeMap<u64, Store>,
    digests: BTreeMap<u64, Digests>,
}

fn config(dir: &Path, id: u64, supports: Level, digests: &Digests) -> StoreConfig {
    let own = dir.join(id.to_string());
    StoreConfig {
        node_id: id,
        cluster: Some(7),
        bootstrap: false,
        backend: BackendKind::Sled,
        supports,
        digests: Some(digests.clone()),
        timing: Timing {
            heartbeat: Duration::from_millis(50),
            election_min: Duration::from_millis(300),
            election_max: Duration::from_millis(600),
            commit: Duration::from_secs(5),
            ..Timing::default()
        },
        ..StoreConfig::single(own.join("data"), own.join("keys"))
    }
}

fn key(n: u64) -> Key {
    Key::from(format!("/registry/core/configmaps/default/n{n}"))
}

/// An object of which every version has most in common with the one before.
fn object(n: u64, version: u64) -> Encoded {
    let rest = format!("rest of {n} ").repeat(60);
    let text = format!(r#"{{"metadata":{{"name":"n{n}"}},"a":"{version}","b":"{rest}"}}"#);
    Encoded::new(text).unwrap()
}

impl Cluster {
    /// Three voters that support these levels.
    async fn new(supports: [Level; 3]) -> Self {
        let mut cluster = Cluster {
            dir: tempfile::tempdir().unwrap(),
            links: Links::default(),
            stores: BTreeMap::new(),
            digests: BTreeMap::new(),
        };
        for (id, supports) in (1..).zip(supports) {
            cluster.start(id, supports).await;
        }
        let members = (1..=3).map(|id| (id, format!("server-{id}"))).collect();
        cluster.stores[&1].form(members).await.unwrap();
        cluster
    }

    async fn start(&mut self, id: u64, supports: Level) {
        let digests = self.digests.entry(id).or_default();
        let config = config(self.dir.path(), id, supports, digests);
        let store = Store::open_with(config, self.links.transport(id)).await;
        let store = store.unwrap();
        self.links.join(id, store.peer());
        self.stores.insert(id, store);
    }

    async fn stop(&mut self, id: u64) {
        self.links.leave(id);
        let store = self.stores.remove(&id).unwrap();
        store.shutdown().await;
    }

    async fn leader(&self) -> &Store {
        let deadline = Instant::now() + WITHIN;
        loop {
            let mut stores = self.stores.values();
            if let Some(store) = stores.find(|store| store.leadership().borrow().is_some()) {
                return store;
            }
            assert!(Instant::now() < deadline, "nobody leads");
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Raises the level as far as the members that are there support it, as a leader does that asks each of them.
    async fn raise(&self) -> Result<Level, RaiseError> {
        let deadline = Instant::now() + WITHIN;
        loop {
            let leader = self.leader().await;
            let reports = self.stores.iter();
            let reports = reports.map(|(id, store)| (*id, store.supports())).collect();
            let epoch = *leader.leadership().borrow();
            let Some(epoch) = epoch else { continue };
            match leader.raise(epoch, &reports).await {
                Err(RaiseError::Deposed | RaiseError::Unknown) if Instant::now() < deadline => {}
                done => return done,
            }
        }
    }

    /// Creates, updates, deletes and conflicts, through every replica that is there.
    async fn write(&self, from: u64, count: u64) {
        let ids: Vec<u64> = self.stores.keys().copied().collect();
        for n in from..from + count {
            let store = &self.stores[&ids[n as usize % ids.len()]];
            let (key, version) = (key(n % 7), object(n % 7, n));
            let deadline = Instant::now() + WITHIN;
            loop {
                // Not of the replica's own copy, which may lag.
                let Ok(snapshot) = store.fresh_snapshot().await else {
                    assert!(Instant::now() < deadline, "no quorum for {n}");
                    continue;
                };
                let known = snapshot.entry(&key).map(|entry| entry.revision);
                let txn = match known {
                    None => Txn::create(key.clone(), version.clone()),
                    Some(at) if n % 11 == 0 => Txn::delete(key.clone(), at),
                    Some(at) if n % 13 == 0 => {
                        Txn::update(key.clone(), at, version.clone()).with(Change::Check {
                            key: key.clone(),
                            expect: Expect::At(Revision(at.0 + 1)),
                        })
                    }
                    Some(at) => Txn::update(key.clone(), at, version.clone()),
                };
                match store.commit(txn).await {
                    Ok(_) => break,
                    Err(CommitError::Conflict(..)) if n % 13 == 0 => break,
                    Err(
                        CommitError::Conflict(..) | CommitError::NoQuorum | CommitError::Unknown,
                    ) => {
                        assert!(Instant::now() < deadline, "{n} was never written");
                    }
                    Err(error) => panic!("{n}: {error}"),
                }
            }
        }
    }

    /// All replicas have applied the same, and had the same state after every entry that each applied.
    async fn same_after_every_entry(&self) -> usize {
        let deadline = Instant::now() + WITHIN;
        let applied = |store: &Store| store.place().applied;
        let newest = applied(self.leader().await);
        while self.stores.values().any(|store| applied(store) < newest) {
            assert!(Instant::now() < deadline, "a replica does not catch up");
            sleep(Duration::from_millis(10)).await;
        }
        let mut known: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
        for (id, digests) in &self.digests {
            for (index, digest) in digests.all() {
                let (first, by) = *known.entry(index).or_insert((digest, *id));
                assert_eq!(
                    first, digest,
                    "replicas {by} and {id} differ after entry {index}"
                );
            }
        }
        // None of them left out an entry.
        for (id, digests) in &self.digests {
            let seen: BTreeSet<u64> = digests.all().into_iter().map(|(index, _)| index).collect();
            let last = self.stores[id].place().applied.map(|applied| applied.index);
            assert!(seen.iter().copied().eq(0..=last.unwrap()), "replica {id}");
        }
        known.len()
    }

    async fn end(mut self) {
        for id in 1..=3 {
            if self.stores.contains_key(&id) {
                self.stop(id).await;
            }
        }
    }
}

fn log_bytes(store: &Store) -> u64 {
    store.status().log_bytes
}

#[tokio::test]
async fn two_levels_in_one_cluster_and_the_raise() {
    let mut cluster = Cluster::new([NEW, NEW, OLD]).await;
    cluster.leader().await;
    cluster.write(0, 60).await;
    let at_level_1 = log_bytes(cluster.leader().await);
    // Nobody may, as long as one could not follow.
    let refused = cluster.raise().await.unwrap_err();
    assert_eq!(
        refused,
        RaiseError::Unsupported {
            server: 3,
            level: OLD
        }
    );
    assert!(refused.to_string().contains("server 3"), "{refused}");
    cluster.write(60, 20).await;
    let entries = cluster.same_after_every_entry().await;
    assert!(entries > 60, "{entries}");
    assert!(cluster.stores.values().all(|store| store.level() == OLD));

    // Nor while one is silent: nobody knows what it supports.
    cluster.stop(3).await;
    assert_eq!(cluster.raise().await, Err(RaiseError::Unheard(3)));
    cluster.start(3, NEW).await;
    assert_eq!(cluster.stores[&3].level(), OLD);
    // One without a vote must be able to follow, too.
    cluster.start(4, OLD).await;
    let leader = cluster.leader().await;
    leader.admit(4, "server-4", OLD).await.unwrap();
    assert_eq!(
        cluster.raise().await,
        Err(RaiseError::Unsupported {
            server: 4,
            level: OLD
        })
    );
    cluster.write(80, 12).await;
    cluster.same_after_every_entry().await;
    let leader = cluster.leader().await;
    leader.members().remove(4).await.unwrap();
    cluster.stop(4).await;
    cluster.digests.remove(&4);
    assert_eq!(cluster.raise().await, Ok(NEW));
    // Asked again, it stays.
    assert_eq!(cluster.raise().await, Ok(NEW));
    let before = log_bytes(cluster.leader().await);
    cluster.write(100, 60).await;
    let at_level_2 = log_bytes(cluster.leader().await) - before;
    cluster.same_after_every_entry().await;
    for (id, store) in &cluster.stores {
        assert_eq!(store.level(), NEW, "{id}");
        let snapshot = store.snapshot();
        for entry in snapshot.list(&KeyRange::all()) {
            let text = std::str::from_utf8(&entry.json).unwrap();
            let n: u64 = entry.meta.name[1..].parse().unwrap();
            let version = text
                .split('"')
                .skip_while(|part| *part != "a")
                .nth(2)
                .unwrap();
            let expected = object(n, version.parse().unwrap()).at(entry.revision);
            assert_eq!(entry.json, expected, "{} on {id}", entry.key);
        }
    }
    // What level 2 is for: an entry carries what changed, not the whole object.
    assert!(
        at_level_2 * 2 < at_level_1,
        "{at_level_1} bytes before, {at_level_2} after"
    );

    // It survives a restart, of one and of all.
    for id in 1..=3 {
        cluster.stop(id).await;
    }
    for id in 1..=3 {
        cluster.start(id, NEW).await;
        assert_eq!(cluster.stores[&id].level(), NEW);
    }
    cluster.write(160, 20).await;
    cluster.same_after_every_entry().await;
    cluster.end().await;
}

#[tokio::test]
async fn who_supports_less_than_the_level_is_refused_and_stops() {
    let mut cluster = Cluster::new([NEW, NEW, NEW]).await;
    assert_eq!(cluster.raise().await, Ok(NEW));
    cluster.write(0, 10).await;
    cluster.same_after_every_entry().await;

    // Its own disk is above it: refused at the start, and it is not called damaged.
    cluster.stop(3).await;
    let older = config(cluster.dir.path(), 3, OLD, &Digests::default());
    let refused = Store::open_with(older, cluster.links.transport(3)).await;
    let refused = refused.err().unwrap();
    assert!(matches!(refused, OpenError::Newer { .. }), "{refused}");
    assert!(
        refused.to_string().contains("supports levels up to 1"),
        "{refused}"
    );
    cluster.start(3, NEW).await;
    cluster.write(10, 5).await;
    cluster.same_after_every_entry().await;

    // A new one that supports less is not admitted.
    let leader = cluster.leader().await;
    let refused = leader.admit(4, "server-4", OLD).await.unwrap_err();
    assert!(matches!(refused, MemberError::Level { id: 4, .. }));
    assert_eq!(
        refused.to_string(),
        "server 4 supports log entries up to level 1, and the cluster is at level 2: start a newer release on it"
    );
    assert_eq!(leader.members().list().len(), 3);

    // One that is fed all the same stops at the first entry that it does not know, and has applied nothing of it.
    let digests = Digests::default();
    let older = config(cluster.dir.path(), 4, OLD, &digests);
    let store = Store::open_with(older, cluster.links.transport(4)).await;
    let store = store.unwrap();
    cluster.links.join(4, store.peer());
    leader.members().add(4, "server-4").await.unwrap();
    let why = timeout(WITHIN, store.failure()).await.unwrap();
    assert!(
        why.contains("is of level 2, and this release supports levels up to 1"),
        "{why}"
    );
    assert!(!store.status().healthy);
    assert_eq!(store.level(), OLD);
    assert!(store.snapshot().list(&KeyRange::all()).next().is_none());
    cluster.links.leave(4);
    store.shutdown().await;
    cluster.end().await;
}

/// A snapshot carries the level: one that joins by it has it, one that does not support it stops.
#[tokio::test]
async fn a_snapshot_and_a_backup_carry_the_level() {
    let dir = tempfile::tempdir().unwrap();
    let digests = Digests::default();
    let alone = StoreConfig {
        bootstrap: true,
        ..config(dir.path(), 1, NEW, &digests)
    };
    let store = Store::open(alone.clone()).await.unwrap();
    let commit = async |store: &Store, n: u64| {
        let txn = Txn::create(key(n), object(n, 0));
        store.commit(txn).await.unwrap();
    };
    commit(&store, 1).await;
    let backup_of =
        async |store: &Store| -> Vec<u8> { store.backup(7).await.unwrap().1.flatten().collect() };
    let before = backup_of(&store).await;
    let epoch = store.leadership().borrow().unwrap();
    let reports = BTreeMap::from([(1, store.supports())]);
    assert_eq!(store.raise(epoch, &reports).await, Ok(NEW));
    commit(&store, 2).await;
    let after = backup_of(&store).await;
    store.shutdown().await;
    drop(store);

    for (name, bytes, level) in [("before", before, OLD), ("after", after, NEW)] {
        let restored = StoreConfig {
            dir: dir.path().join(name),
            cluster: None,
            ..alone.clone()
        };
        let read = || backup::read(&bytes[..], &restored.keys_dir).unwrap();
        let older = StoreConfig {
            supports: OLD,
            ..restored.clone()
        };
        if level == NEW {
            let refused = backup::restore(&older, read(), &[]).unwrap_err();
            assert!(
                refused.to_string().contains("supports levels up to 1"),
                "{refused}"
            );
        }
        backup::restore(&restored, read(), &[]).unwrap();
        let store = Store::open(restored).await.unwrap();
        assert_eq!(store.level(), level, "{name}");
        store.shutdown().await;
    }
}
