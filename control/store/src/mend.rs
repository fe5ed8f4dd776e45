//! A replica whose objects cannot be read, while its log, its vote and its identity can.
//!
//! What it promised to others lies in log and vote, so it may go on under its number: with the objects as its whole log makes
//! them, or as another replica has them. Damaged objects are dropped only when whole ones are there: if all replicas found
//! theirs damaged at once (a release that cannot read what a newer one wrote), nothing must be lost. A database with pages that
//! cannot be read is written anew, because sled fails at them for ever.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use openraft::BasicNode;
use openraft::alias::SnapshotMetaOf;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use tokio::sync::oneshot;

use crate::backend::Backend as _;
use crate::backend::sled::SledBackend;
use crate::io::{Job, Resume, Writer};
use crate::raft::machine::Image;
use crate::raft::transport::Target;
use crate::raft::{LogId, TypeConfig};
use crate::record::{Applied, Identity, names};

/// Log records written at once.
const TOGETHER: usize = 512;

/// What is known of a replica that needs another's objects.
#[derive(Debug)]
pub struct Lost {
    pub file: PathBuf,
    pub what: String,
    pub identity: Identity,
    /// The other replicas, as this one last knew them.
    pub members: Vec<Target>,
    /// Objects older than this are of no use: the log goes on from here.
    pub(crate) since: Option<LogId>,
}

/// Another replica's state, as far as it had applied the log.
#[derive(Clone)]
pub struct Received {
    pub meta: SnapshotMetaOf<TypeConfig>,
    pub image: Image,
}

impl Received {
    pub(crate) fn serves(&self, lost: &Lost) -> bool {
        self.meta.last_log_id >= lost.since
    }
}

pub(crate) fn others<'a>(
    nodes: impl Iterator<Item = (&'a u64, &'a BasicNode)>,
    me: u64,
) -> Vec<Target> {
    nodes
        .filter(|(id, _)| **id != me)
        .map(|(id, node)| Target {
            id: *id,
            address: node.addr.clone(),
        })
        .collect()
}

/// Writes log and identity of a database to a new one, with `received` as its objects or with none, and puts that in its place
/// in one step.
pub(crate) fn write_anew(
    database: &Path,
    writer: Writer,
    cache_bytes: u64,
    received: Option<Received>,
) -> io::Result<()> {
    let (mut damaged, sealer) = writer.into_parts();
    let new = database.with_extension("new");
    if new.exists() {
        fs::remove_dir_all(&new)?;
    }
    let mut backend = SledBackend::open(&new, cache_bytes)?;
    let mut records = Vec::new();
    damaged.scan_log(&mut |index, record| {
        records.push((index, record));
        if records.len() >= TOGETHER {
            backend.append(std::mem::take(&mut records))?;
        }
        Ok(())
    })?;
    backend.append(records)?;
    // What was being written over the old objects is of no use to the new ones.
    for (name, record) in damaged.meta()? {
        if name != names::REDO {
            backend.put_meta(&name, &record)?;
        }
    }
    backend.flush()?;
    let mut writer = Writer::new(Box::new(backend), sealer, None, Resume::default());
    if let Some(received) = received {
        install(&mut writer, received)?;
    }
    // Both must let go of their files before these are moved.
    drop((writer, damaged));
    renameat_with(CWD, &new, CWD, database, RenameFlags::EXCHANGE)?;
    if let Some(dir) = database.parent() {
        File::open(dir)?.sync_all()?;
    }
    fs::remove_dir_all(&new)
}

fn install(writer: &mut Writer, received: Received) -> io::Result<()> {
    let Received { meta, image } = received;
    let state = image.0;
    let applied = Applied {
        log_id: meta.last_log_id,
        membership: meta.last_membership,
        revision: state.revision(),
        level: state.level(),
        count: state.count() as u64,
    };
    let objects = applied.count;
    let (reply, mut installed) = oneshot::channel();
    writer.turn(vec![Job::Install {
        state,
        applied,
        reply,
    }]);
    while writer.step() {}
    installed
        .try_recv()
        .map_err(|_| io::Error::other("the disk did not answer"))??;
    tracing::warn!(objects, "mended: the objects are another server's now");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{BackendKind, Limits, StoreConfig};
    use crate::open::OpenError;
    use crate::peer::Links;
    use crate::store::Store;
    use crate::txn::{Change, Expect, Txn};
    use caravel_api::{Encoded, Key, Revision};
    use openraft::async_runtime::watch::WatchReceiver as _;
    use std::collections::BTreeMap;
    use std::time::Duration;
    use tokio::time::{Instant, sleep};

    fn key(n: usize) -> Key {
        Key::from(format!("/registry/core/configmaps/default/c{n}"))
    }

    fn put(n: usize) -> Txn {
        let object = Encoded::new(format!(r#"{{"metadata":{{"name":"c{n}"}}}}"#)).unwrap();
        Txn::new().with(Change::Put {
            key: key(n),
            expect: Expect::Any,
            object,
        })
    }

    fn config(dir: &Path, id: u64) -> StoreConfig {
        StoreConfig {
            node_id: id,
            cluster: Some(7),
            bootstrap: false,
            backend: BackendKind::Sled,
            ..StoreConfig::single(dir.join(id.to_string()), dir.join("keys"))
        }
    }

    /// What no key can open, where an object was.
    fn spoil(config: &StoreConfig) {
        let mut backend = SledBackend::open(&config.dir.join("sled"), 1 << 20).unwrap();
        let generation = *backend.generations().unwrap().last().unwrap();
        let record = Some(vec![9; 100]);
        backend
            .state(generation, vec![(key(1), record)], None)
            .unwrap();
        backend.flush().unwrap();
    }

    fn all(store: &Store) -> Vec<(Key, Revision)> {
        let snapshot = store.snapshot();
        let entries = snapshot.state().after(None);
        entries
            .map(|entry| (entry.key.clone(), entry.revision))
            .collect()
    }

    #[tokio::test]
    async fn a_whole_log_makes_the_objects_again() {
        let dir = tempfile::tempdir().unwrap();
        let config = StoreConfig {
            bootstrap: true,
            ..config(dir.path(), 1)
        };
        let store = Store::open(config.clone()).await.unwrap();
        for n in 0..20 {
            store.commit(put(n)).await.unwrap();
        }
        let before = all(&store);
        store.shutdown().await;
        spoil(&config);
        let store = Store::open(config.clone()).await.unwrap();
        assert_eq!(all(&store), before);
        store.commit(put(30)).await.unwrap();
        store.shutdown().await;
        let store = Store::open(config).await.unwrap();
        assert_eq!(all(&store).len(), before.len() + 1);
        store.shutdown().await;
    }

    #[tokio::test]
    async fn without_the_whole_log_a_lone_server_refuses_and_one_of_several_asks_another() {
        let dir = tempfile::tempdir().unwrap();
        let short = Limits {
            log_entries: 10,
            snapshot_every: 20,
            ..Limits::default()
        };
        let of = |id| StoreConfig {
            limits: short,
            ..config(dir.path(), id)
        };
        // All keep their keys in one place, which the first makes.
        let links = Links::default();
        let mut stores = BTreeMap::new();
        for id in 1..=3 {
            let opened = Store::open_with(of(id), links.transport(id)).await.unwrap();
            links.join(id, opened.peer());
            stores.insert(id, opened);
        }
        let members = stores.keys().map(|id| (*id, format!("s{id}")));
        stores[&1].form(members.collect()).await.unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        for n in 0..150 {
            while stores[&1].commit(put(n)).await.is_err() {
                assert!(Instant::now() < deadline);
                sleep(Duration::from_millis(10)).await;
            }
        }
        let before = all(&stores[&1]);
        let revision = stores[&1].snapshot().revision();
        stores[&3].at_least(revision, deadline).await.unwrap();
        // Until the log's beginning is gone.
        let raft = stores[&3].members().raft;
        raft.trigger().snapshot().await.unwrap();
        while raft.metrics().borrow_watched().purged.is_none() {
            assert!(Instant::now() < deadline);
            raft.trigger().purge_log(50).await.unwrap();
            sleep(Duration::from_millis(10)).await;
        }
        let third = stores.remove(&3).unwrap();
        links.leave(3);
        third.shutdown().await;
        drop(third);
        spoil(&of(3));
        let lost = match Store::open_with(of(3), links.transport(3)).await {
            Err(OpenError::Lost(lost)) => lost,
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("damaged objects are served"),
        };
        let known: Vec<u64> = lost.members.iter().map(|member| member.id).collect();
        assert_eq!(known, [1, 2]);
        assert!(lost.since.is_some(), "the log was not purged");
        let (head, image) = stores[&1].peer().state().await.unwrap().unwrap();
        let received = Received {
            meta: head.meta,
            image,
        };
        let old = Received {
            meta: SnapshotMetaOf::<TypeConfig> {
                last_log_id: None,
                ..received.meta.clone()
            },
            ..received.clone()
        };
        let refused = Store::open_mended(of(3), links.transport(3), old).await;
        assert!(matches!(refused, Err(OpenError::Lost(_))));
        let third = Store::open_mended(of(3), links.transport(3), received)
            .await
            .unwrap();
        links.join(3, third.peer());
        assert_eq!(all(&third), before);
        let committed = loop {
            if let Ok(committed) = stores[&1].commit(put(200)).await {
                break committed;
            }
            assert!(Instant::now() < deadline);
        };
        third.at_least(committed.revision, deadline).await.unwrap();
        third.shutdown().await;
        drop(third);
        let third = Store::open_with(of(3), links.transport(3)).await.unwrap();
        assert!(all(&third).len() >= before.len());
    }
}
