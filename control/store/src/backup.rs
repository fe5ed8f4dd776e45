//! Backups: the whole state in one sealed file, and a new store begun from it.
//!
//! A file is a readable head, sealed pieces in order, and a checksum of everything before it, so that damage is found
//! without a key and nothing can be read or forged without one. A restored store is a new cluster of one server: it has
//! a number of its own, so that no server of the old one is heard, and its revisions continue far above the backup's, so
//! that every client lists again.

use std::io::{self, Read};
use std::path::Path;

use bytes::{BufMut, Bytes, BytesMut};
use caravel_api::{KeyRange, Revision};
use openraft::impls::leader_id_adv::LeaderId;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::oneshot;

use crate::config::StoreConfig;
use crate::io::Job;
use crate::keys::{KeyError, KeyRing};
use crate::level::{self, LevelError};
use crate::open::{OpenError, is_begun, open};
use crate::raft::machine::Image;
use crate::raft::{LogId, Membership, Vote};
use crate::record::Applied;
use crate::seal::{SealError, Sealer};
use crate::transfer::{Assembly, TransferError};

const MAGIC: &[u8; 8] = b"CRVBACK\x01";
const TREE: &str = "backup";
/// No piece is longer: a frame of a transfer and its seal.
const LONGEST: u32 = 5 << 20;
/// How far a restored store's revisions lie above the backup's, at the least.
pub const REVISIONS_APART: u64 = 1_000_000_000;

/// What a backup says of itself without a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackupHead {
    /// 32 hexadecimal digits.
    pub cluster: String,
    pub revision: u64,
    pub objects: u64,
    /// Seconds since 1970.
    pub created: u64,
}

/// Why a backup cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("reading it: {0}")]
    Io(#[from] io::Error),
    #[error("it is no backup, or one of a version this program does not know")]
    Foreign,
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
    #[error(
        "it is sealed with a key that is not here ({0}). Give the keys of the cluster it was taken from"
    )]
    Key(u32),
    #[error(transparent)]
    Keys(#[from] KeyError),
    #[error("it is damaged: {0}")]
    Content(#[from] TransferError),
    #[error("{0} holds a store already. Move it away first")]
    Begun(std::path::PathBuf),
    #[error(transparent)]
    Level(#[from] LevelError),
    #[error(transparent)]
    Open(#[from] OpenError),
}

/// A backup's bytes, piece by piece. Made while the state goes on changing; what it holds is `image` and nothing later.
pub(crate) fn pieces(
    image: Image,
    head: &BackupHead,
    keys: &Path,
) -> Result<impl Iterator<Item = Bytes> + Send + use<>, KeyError> {
    let sealer = Sealer::new(KeyRing::open(keys, false)?);
    let text = serde_json::to_vec(head).expect("a head is numbers and text");
    let mut first = BytesMut::new();
    first.put_slice(MAGIC);
    first.put_u32(text.len() as u32);
    first.put_slice(&text);
    let mut sum = Sha256::new();
    let mut frames = image.frames();
    let mut first = Some(first.freeze());
    let (mut number, mut ended) = (0_u64, false);
    Ok(std::iter::from_fn(move || {
        let piece = if let Some(first) = first.take() {
            first
        } else if let Some(frame) = frames.next() {
            let sealed = sealer.seal(TREE, &number.to_be_bytes(), &frame);
            number += 1;
            let mut piece = BytesMut::with_capacity(4 + sealed.len());
            piece.put_u32(sealed.len() as u32);
            piece.put_slice(&sealed);
            piece.freeze()
        } else if !ended {
            ended = true;
            let mut end = BytesMut::new();
            end.put_u32(0);
            sum.update(&end);
            end.put_slice(&sum.finalize_reset());
            return Some(end.freeze());
        } else {
            return None;
        };
        sum.update(&piece);
        Some(piece)
    }))
}

/// Reads and checks a head.
///
/// # Errors
/// See [`BackupError`].
pub fn head(mut from: impl Read) -> Result<BackupHead, BackupError> {
    read_head(&mut from, &mut Sha256::new())
}

fn read_head(from: &mut impl Read, sum: &mut Sha256) -> Result<BackupHead, BackupError> {
    let mut magic = [0; 8];
    exact(from, &mut magic, sum)?;
    if &magic != MAGIC {
        return Err(BackupError::Foreign);
    }
    let length = length(from, sum)?;
    let mut text = vec![0; length as usize];
    exact(from, &mut text, sum)?;
    serde_json::from_slice(&text).map_err(|_| BackupError::Foreign)
}

fn length(from: &mut impl Read, sum: &mut Sha256) -> Result<u32, BackupError> {
    let mut length = [0; 4];
    exact(from, &mut length, sum)?;
    match u32::from_be_bytes(length) {
        length if length > LONGEST => Err(BackupError::Damaged("a piece is too long")),
        length => Ok(length),
    }
}

fn exact(from: &mut impl Read, into: &mut [u8], sum: &mut Sha256) -> Result<(), BackupError> {
    from.read_exact(into).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => BackupError::Damaged("it ends early"),
        _ => BackupError::Io(error),
    })?;
    sum.update(&*into);
    Ok(())
}

/// A backup that was read whole.
pub struct Backup {
    pub head: BackupHead,
    image: Image,
}

/// Reads a backup and believes nothing that does not fit: every seal, the count of objects, the checksum at the end.
/// `keys` is the directory of the key ring.
///
/// # Errors
/// See [`BackupError`].
pub fn read(mut from: impl Read, keys: &Path) -> Result<Backup, BackupError> {
    let sealer = Sealer::new(KeyRing::open_with_retired(keys)?);
    let mut sum = Sha256::new();
    let head = read_head(&mut from, &mut sum)?;
    let mut assembly = Assembly::new();
    for number in 0_u64.. {
        let length = length(&mut from, &mut sum)?;
        if length == 0 {
            break;
        }
        let mut sealed = vec![0; length as usize];
        exact(&mut from, &mut sealed, &mut sum)?;
        let frame =
            sealer
                .open(TREE, &number.to_be_bytes(), sealed)
                .map_err(|error| match error {
                    SealError::NoKey(id) => BackupError::Key(id),
                    SealError::Version(_) => BackupError::Foreign,
                    SealError::Broken => BackupError::Damaged(
                        "a piece does not match its seal, or the key is another",
                    ),
                })?;
        assembly.push(&frame)?;
    }
    let expected = sum.finalize();
    let mut found = [0; 32];
    exact(&mut from, &mut found, &mut Sha256::new())?;
    if expected.as_slice() != found {
        return Err(BackupError::Damaged("its checksum is another"));
    }
    let image = assembly.finish()?;
    if image.0.count() as u64 != head.objects || image.0.revision().0 != head.revision {
        return Err(BackupError::Damaged("its head belongs to another state"));
    }
    Ok(Backup { head, image })
}

/// Begins a new cluster of one server in `config.dir` from a backup, without what lies in `leave_out` (what concerns the
/// old servers). Blocks for as long as writing everything takes.
///
/// # Errors
/// See [`BackupError`]; a directory that holds a store is left alone.
pub fn restore(
    config: &StoreConfig,
    backup: Backup,
    leave_out: &[KeyRange],
) -> Result<(), BackupError> {
    if is_begun(&config.dir) {
        return Err(BackupError::Begun(config.dir.clone()));
    }
    let mut state = (*backup.image.0).clone();
    level::holdable(state.level(), config.supports)?;
    for range in leave_out {
        state.forget(range);
    }
    state.set_revision(Revision(backup.head.revision + REVISIONS_APART));
    let found = open(config)?;
    let mut writer = found.writer;
    let me = found.identity.node;
    let leader_id = LeaderId {
        term: 1,
        node_id: me,
    };
    // The log begins after an entry that nobody has: who joins later gets the state, never a log without it.
    let log_id = LogId {
        leader_id,
        index: 1,
    };
    let node = openraft::BasicNode {
        addr: config.address.clone(),
    };
    let members = openraft::Membership::new(
        vec![std::collections::BTreeSet::from([me])],
        std::collections::BTreeMap::from([(me, node)]),
    )
    .expect("one voter that is a node is a membership");
    let applied = Applied {
        log_id: Some(log_id),
        membership: Membership::new(Some(log_id), members),
        revision: state.revision(),
        level: state.level(),
        count: state.count() as u64,
    };
    let vote = Vote {
        leader_id,
        committed: true,
    };
    let (installed, mut is_installed) = oneshot::channel();
    let (voted, mut is_voted) = oneshot::channel();
    let (purged, mut is_purged) = oneshot::channel();
    writer.turn(vec![Job::Install {
        state: std::sync::Arc::new(state),
        applied,
        reply: installed,
    }]);
    while writer.step() {}
    answered(&mut is_installed)?;
    writer.turn(vec![
        Job::Vote(vote, voted),
        Job::Purge {
            up_to: log_id,
            reply: purged,
        },
    ]);
    while writer.step() {}
    answered(&mut is_voted)?;
    answered(&mut is_purged)?;
    let (ended, mut is_ended) = oneshot::channel();
    writer.turn(vec![Job::Shutdown { reply: ended }]);
    writer.finish();
    answered(&mut is_ended)
}

fn answered(reply: &mut oneshot::Receiver<io::Result<()>>) -> Result<(), BackupError> {
    reply
        .try_recv()
        .map_err(|_| BackupError::Io(io::Error::other("the disk did not answer")))?
        .map_err(BackupError::Io)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;
    use crate::txn::{Change, Expect, Txn};
    use crate::watch::WatchError;
    use caravel_api::{Encoded, Key};

    async fn filled(dir: &Path) -> Store {
        let config = StoreConfig::single(dir.join("data"), dir.join("keys"));
        let store = Store::open(config).await.unwrap();
        for n in 0..60 {
            let place = if n % 3 == 0 {
                "caravel/servers"
            } else {
                "core/secrets"
            };
            let text = "s3cret".repeat(1 + n * 60);
            let object =
                Encoded::new(format!(r#"{{"metadata":{{"name":"n{n}"}},"x":"{text}"}}"#)).unwrap();
            let txn = Txn::new().with(Change::Put {
                key: Key::from(format!("/registry/{place}/n{n}")),
                expect: Expect::Absent,
                object,
            });
            store.commit(txn).await.unwrap();
        }
        store
    }

    fn contents(store: &Store, range: &KeyRange) -> Vec<(Key, Revision, Bytes)> {
        let snapshot = store.snapshot();
        let entries = snapshot.list(range);
        entries
            .map(|entry| (entry.key.clone(), entry.revision, entry.json.clone()))
            .collect()
    }

    #[tokio::test]
    async fn what_was_saved_comes_back_byte_for_byte_and_far_ahead() {
        let dir = tempfile::tempdir().unwrap();
        let store = filled(dir.path()).await;
        let kept = KeyRange::prefix("/registry/core/");
        let expected = contents(&store, &kept);
        let bytes: Vec<u8> = store.backup(7).await.unwrap().1.flatten().collect();
        let old = store.snapshot().revision();
        let identity = store.identity();
        store.shutdown().await;
        assert_eq!(head(&bytes[..]).unwrap().created, 7);
        assert!(!bytes.windows(6).any(|part| part == b"s3cret"));

        let keys = dir.path().join("keys");
        let config = StoreConfig::single(dir.path().join("again"), &keys);
        let servers = KeyRange::prefix("/registry/caravel/servers/");
        let left_out = [servers.clone()];
        restore(&config, read(&bytes[..], &keys).unwrap(), &left_out).unwrap();
        let again = read(&bytes[..], &keys).unwrap();
        assert!(matches!(
            restore(&config, again, &left_out),
            Err(BackupError::Begun(_))
        ));
        let restored = Store::open(config).await.unwrap();
        assert_eq!(contents(&restored, &kept), expected);
        assert!(contents(&restored, &servers).is_empty());
        assert_ne!(restored.identity().cluster, identity.cluster);
        assert!(restored.snapshot().revision().0 >= old.0 + REVISIONS_APART);
        assert!(matches!(
            restored.watch(kept, old).await,
            Err(WatchError::Gone)
        ));
        let object = Encoded::new(r#"{"metadata":{"name":"new"}}"#).unwrap();
        let txn = Txn::create(Key::from("/registry/core/secrets/new"), object);
        let committed = restored.commit(txn).await.unwrap();
        assert!(committed.revision.0 > old.0 + REVISIONS_APART);
        restored.shutdown().await;
    }

    #[tokio::test]
    async fn damage_and_a_foreign_key_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let store = filled(dir.path()).await;
        let bytes: Vec<u8> = store.backup(7).await.unwrap().1.flatten().collect();
        store.shutdown().await;
        let keys = dir.path().join("keys");
        for at in (0..bytes.len()).step_by(bytes.len() / 23) {
            let mut flipped = bytes.clone();
            flipped[at] ^= 4;
            assert!(read(&flipped[..], &keys).is_err(), "byte {at}");
        }
        for cut in [0, 5, 100, bytes.len() / 2, bytes.len() - 1] {
            assert!(read(&bytes[..cut], &keys).is_err(), "cut at {cut}");
        }
        let other = dir.path().join("other");
        KeyRing::open(&other, true).unwrap();
        assert!(read(&bytes[..], &other).is_err());
    }
}
