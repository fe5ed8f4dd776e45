//! openraft's own storage suite, on the real disk and on its fake.

use std::sync::Arc;

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use tokio::sync::oneshot;

use super::TypeConfig;
use super::log::LogStore;
use super::machine::{Machine, Served};
use crate::backend::memory::MemoryDisk;
use crate::config::StoreConfig;
use crate::io::IoHandle;
use crate::open::{Found, open, open_memory};
use crate::seal::KeyRing;
use crate::tasks;
use crate::watch::Hub;

type Parts = (LogStore, Machine);

fn parts(found: Found, disk: impl FnOnce(crate::io::Writer) -> IoHandle) -> Parts {
    let Found {
        writer,
        tail,
        state,
        applied,
        membership,
        ..
    } = found;
    let io = disk(writer);
    let config = StoreConfig::memory();
    let hub = Hub::new(Default::default(), state.revision());
    let served = Arc::new(Served::new(state, hub, applied));
    (
        LogStore::new(tail, io.clone(), config.supports),
        Machine::new(served, applied, membership, io, &config),
    )
}

struct OnSled;

impl StoreBuilder<TypeConfig, LogStore, Machine, (tempfile::TempDir, oneshot::Receiver<()>)>
    for OnSled
{
    async fn build(
        &self,
    ) -> Result<
        (
            (tempfile::TempDir, oneshot::Receiver<()>),
            LogStore,
            Machine,
        ),
        StorageError<TypeConfig>,
    > {
        let dir = tempfile::tempdir().unwrap();
        let config = StoreConfig::single(dir.path().join("data"), dir.path().join("keys"));
        let mut ended = None;
        let (log, machine) = parts(open(&config).unwrap(), |writer| {
            let (io, end) = tasks::start_disk(writer).unwrap();
            ended = Some(end);
            io
        });
        Ok(((dir, ended.unwrap()), log, machine))
    }
}

struct InMemory;

impl StoreBuilder<TypeConfig, LogStore, Machine, ()> for InMemory {
    async fn build(&self) -> Result<((), LogStore, Machine), StorageError<TypeConfig>> {
        let found = open_memory(
            &StoreConfig::memory(),
            MemoryDisk::default(),
            KeyRing::ephemeral(),
        )
        .unwrap();
        let (log, machine) = parts(found, |writer| {
            IoHandle::Inline(Arc::new(parking_lot::Mutex::new(writer)))
        });
        Ok(((), log, machine))
    }
}

#[tokio::test]
async fn openraft_is_content_with_the_fake() {
    Suite::test_all(InMemory).await.unwrap();
}

#[tokio::test]
async fn openraft_is_content_with_the_disk() {
    Suite::test_all(OnSled).await.unwrap();
}
