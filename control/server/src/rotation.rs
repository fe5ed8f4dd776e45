//! Replacing the key that everything durable is sealed with, by all servers together.
//!
//! What is agreed on is a record in the state: the key in use and, during a rotation, the next one, by number and
//! fingerprint; never a key itself. Whoever leads hands the next key to every member over the peers' port, and only when
//! all of them hold it on their disks does it become the one in use. Each server then follows by itself: it uses the
//! key, seals again what the old one sealed, and puts the old one aside. Each step can be repeated; a leader that dies
//! leaves the rotation to the next one.

use anyhow::{Context as _, Result};
use caravel_api::{Encoded, Key, KeyRange, Revision};
use caravel_peers::membership::Membership;
use caravel_store::keys::{fingerprint, random};
use caravel_store::{
    Change, CommitError, Epoch, Expect, KeyError, Sealing, Snapshot, Store, Target, Txn,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::time::Duration;
use tonic::Code;

/// No kind lies here, so that no API request ever reads it.
const PREFIX: &str = "/registry/caravel/sealing/";
const KEY: &str = "/registry/caravel/sealing/keys";
/// How often it is looked whether there is anything to do.
const LOOK: Duration = Duration::from_secs(1);

/// Where it lies: what a restored cluster must not take over.
pub(crate) fn range() -> KeyRange {
    KeyRange::prefix(PREFIX)
}

/// A key, told apart from others of its number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Named {
    pub id: u32,
    pub fingerprint: String,
}

/// What the servers have agreed on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Agreed {
    pub current: Named,
    pub next: Option<Named>,
}

/// Why no rotation was begun.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BeginError {
    #[error(
        "key {0} is being handed round already; `caravel certificate keys` shows whom it waits for"
    )]
    UnderWay(u32),
    #[error("{0:#}")]
    Failed(anyhow::Error),
}

/// What is agreed on as this snapshot has it.
pub(crate) fn agreed(snapshot: &Snapshot) -> Result<Option<(Agreed, Revision)>> {
    let Some(entry) = snapshot.entry(&Key::from(KEY)) else {
        return Ok(None);
    };
    let agreed = serde_json::from_slice(&entry.json)
        .context("the record of the cluster's sealing keys cannot be read")?;
    Ok(Some((agreed, entry.revision)))
}

fn write(agreed: &Agreed, expect: Expect) -> Result<Txn> {
    let mut record = serde_json::to_value(agreed)?;
    if let Value::Object(members) = &mut record {
        members.insert("metadata".to_owned(), json!({ "name": "keys" }));
    }
    Ok(Txn::new().with(Change::Put {
        key: Key::from(KEY),
        expect,
        object: Encoded::new(record.to_string())?,
    }))
}

/// Begins a rotation: makes a key, holds it here, and has the servers agree that it is the next one.
pub(crate) async fn begin(store: &Store) -> Result<u32, BeginError> {
    let failed = |error: anyhow::Error| BeginError::Failed(error);
    let snapshot = store
        .fresh_snapshot()
        .await
        .map_err(|error| failed(error.into()))?;
    let known = agreed(&snapshot).map_err(failed)?;
    let (current, expect, least) = match known {
        Some((
            Agreed {
                next: Some(next), ..
            },
            _,
        )) => return Err(BeginError::UnderWay(next.id)),
        Some((agreed, revision)) => {
            let least = agreed.current.id + 1;
            (agreed.current, Expect::At(revision), least)
        }
        None => {
            let (keys, current) = store.keys();
            let key = keys.get(&current).context("the key in use is not held");
            let fingerprint = fingerprint(key.map_err(failed)?);
            let named = Named {
                id: current,
                fingerprint,
            };
            (named, Expect::Absent, current + 1)
        }
    };
    let next = new_key(store, least).await.map_err(failed)?;
    let id = next.id;
    let agreed = Agreed {
        current,
        next: Some(next),
    };
    let txn = write(&agreed, expect).map_err(failed)?;
    match store.commit(txn).await {
        Ok(_) => Ok(id),
        // Its key stays here unused, and is put aside with the one in use.
        Err(CommitError::Conflict(..)) => Err(BeginError::UnderWay(id)),
        Err(error) => Err(failed(error.into())),
    }
}

/// Makes a key that this server holds, numbered `least` or higher.
async fn new_key(store: &Store, least: u32) -> Result<Named> {
    let store = store.clone();
    let made = tokio::task::spawn_blocking(move || -> Result<Named> {
        let (id, key) = (store.unused_key()?.max(least), random());
        store.hold_key(id, key)?;
        Ok(Named {
            id,
            fingerprint: fingerprint(&key),
        })
    });
    made.await.context("make a key")?
}

/// What a server does next about its keys.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Nothing,
    /// Seal with this one, which is held.
    Use(u32),
    /// Get one from another server.
    Fetch(Named),
    /// Hand the next key, which is held, to every member.
    HandRound(Named),
    /// The number of the next key is taken by another one here.
    Replace(Named),
    /// Put one aside.
    Retire(u32),
}

/// What of a named key this server has.
#[derive(Debug, PartialEq, Eq)]
enum Mine {
    Same,
    Other,
    None,
}

fn decide(
    agreed: Option<&Agreed>,
    sealing: &Sealing,
    mine: impl Fn(&Named) -> Mine,
    leads: bool,
) -> Step {
    if let Some(agreed) = agreed {
        // Never back to a lower number: that would be a cluster restored to before this server's key.
        if agreed.current.id > sealing.key {
            return match mine(&agreed.current) {
                Mine::Same => Step::Use(agreed.current.id),
                Mine::None | Mine::Other => Step::Fetch(agreed.current.clone()),
            };
        }
        if let Some(next) = &agreed.next {
            return match mine(next) {
                _ if !leads => Step::Nothing,
                Mine::Same => Step::HandRound(next.clone()),
                Mine::None => Step::Fetch(next.clone()),
                Mine::Other => Step::Replace(next.clone()),
            };
        }
    }
    let old = sealing.holds.iter().find(|id| **id < sealing.key);
    match old {
        Some(old) if !sealing.is_resealing() => Step::Retire(*old),
        _ => Step::Nothing,
    }
}

/// What became of asking every other member for, or to hold, a key.
#[derive(Debug, Default, PartialEq, Eq)]
struct Round {
    /// Did not answer.
    silent: Vec<u64>,
    /// Said no, and will again.
    refused: Vec<u64>,
}

/// Follows what is agreed on, for ever.
pub(crate) async fn follow(membership: Membership) {
    let mut waits = Vec::new();
    loop {
        match turn(&membership).await {
            Ok(round) => {
                if round.silent != waits && !round.silent.is_empty() {
                    tracing::warn!(servers = ?round.silent, "the next sealing key waits for servers that do not answer");
                }
                waits = round.silent;
            }
            Err(error) => tracing::warn!("replacing the sealing key: {error:#}"),
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn turn(membership: &Membership) -> Result<Round> {
    let store = membership.store();
    let snapshot = store.snapshot();
    let known = agreed(&snapshot)?;
    let agreed = known.as_ref().map(|(agreed, _)| agreed);
    let epoch = *store.leadership().borrow();
    let (held, _) = store.keys();
    let mine = |named: &Named| match held.get(&named.id) {
        Some(key) if fingerprint(key) == named.fingerprint => Mine::Same,
        Some(_) => Mine::Other,
        None => Mine::None,
    };
    let step = decide(agreed, &store.sealing(), mine, epoch.is_some());
    let mut round = Round::default();
    match (step, known, epoch) {
        (Step::Nothing, ..) => {}
        (Step::Use(id), ..) => store.use_key(id).await?,
        (Step::Retire(id), ..) => {
            let store = store.clone();
            tokio::task::spawn_blocking(move || store.retire_key(id)).await??;
            tracing::info!(
                key = id,
                "no record needs this key any more: it is put aside"
            );
        }
        (Step::Fetch(named), known, epoch) => {
            let (found, asked) = fetch(membership, &named).await;
            if let Some(key) = found {
                hold(store, named.id, key).await?;
            } else if asked.silent.is_empty()
                && let (Some((agreed, revision)), Some(epoch)) = (&known, epoch)
                && agreed.next.as_ref() == Some(&named)
            {
                // Whoever made it is gone for ever, and with it the key.
                replace(store, agreed, *revision, epoch).await?;
            }
            round = asked;
        }
        (Step::HandRound(next), Some((agreed, revision)), Some(epoch)) => {
            let key = held
                .get(&next.id)
                .copied()
                .context("the next key is held")?;
            round = hand_round(membership, next.id, key).await;
            if !round.refused.is_empty() {
                replace(store, &agreed, revision, epoch).await?;
            } else if round.silent.is_empty() {
                let settled = Agreed {
                    current: next,
                    next: None,
                };
                let txn = write(&settled, Expect::At(revision))?;
                store.commit_under(epoch, txn).await?;
                tracing::info!(
                    key = settled.current.id,
                    "every server holds the new key: it is used from now on"
                );
            }
        }
        (Step::Replace(_), Some((agreed, revision)), Some(epoch)) => {
            replace(store, &agreed, revision, epoch).await?;
        }
        // Deposed in between.
        (Step::HandRound(_) | Step::Replace(_), ..) => {}
    }
    Ok(round)
}

async fn hold(store: &Store, id: u32, key: [u8; 32]) -> Result<(), KeyError> {
    let store = store.clone();
    let held = tokio::task::spawn_blocking(move || store.hold_key(id, key)).await;
    held.unwrap_or(Err(KeyError::Unknown(id)))
}

/// Another key takes the place of a next one that cannot be had, or whose number is taken somewhere.
async fn replace(store: &Store, agreed: &Agreed, revision: Revision, epoch: Epoch) -> Result<()> {
    let least = agreed.next.as_ref().map_or(0, |next| next.id) + 1;
    let next = new_key(store, least).await?;
    tracing::warn!(
        key = next.id,
        "the next sealing key is replaced by another new one"
    );
    let agreed = Agreed {
        next: Some(next),
        ..agreed.clone()
    };
    let txn = write(&agreed, Expect::At(revision))?;
    store.commit_under(epoch, txn).await?;
    Ok(())
}

fn others(store: &Store) -> Vec<Target> {
    let me = store.identity().node;
    let members = store.members().list().into_iter();
    members
        .filter(|member| member.id != me)
        .map(|member| Target {
            id: member.id,
            address: member.address,
        })
        .collect()
}

async fn hand_round(membership: &Membership, id: u32, key: [u8; 32]) -> Round {
    let mut round = Round::default();
    for target in others(membership.store()) {
        match membership.transport().hold_key(&target, id, key).await {
            Ok(()) => {}
            Err(status) if status.code() == Code::FailedPrecondition => {
                round.refused.push(target.id);
            }
            Err(status) => {
                tracing::debug!(to = target.id, %status, "the next key was not handed over");
                round.silent.push(target.id);
            }
        }
    }
    round
}

/// Looks for a key on every other member.
async fn fetch(membership: &Membership, named: &Named) -> (Option<[u8; 32]>, Round) {
    let mut round = Round::default();
    for target in others(membership.store()) {
        match membership.transport().keys(&target).await {
            Ok((keys, _)) => {
                let found = keys.get(&named.id).copied();
                if found.is_some_and(|key| fingerprint(&key) == named.fingerprint) {
                    return (found, round);
                }
            }
            Err(_) => round.silent.push(target.id),
        }
    }
    (None, round)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(id: u32) -> Named {
        Named {
            id,
            fingerprint: format!("f{id}"),
        }
    }

    #[test]
    fn each_server_follows_and_the_leader_leads() {
        let agreed = |current, next: Option<u32>| Agreed {
            current: named(current),
            next: next.map(named),
        };
        let sealing = |key, holds: &[u32], old_state| Sealing {
            key,
            holds: holds.to_vec(),
            old_log_below: 0,
            old_state,
        };
        let cases = [
            (
                "never rotated",
                None,
                sealing(1, &[1], false),
                Mine::None,
                true,
                Step::Nothing,
            ),
            (
                "a follower waits for the leader",
                Some(agreed(1, Some(2))),
                sealing(1, &[1], false),
                Mine::None,
                false,
                Step::Nothing,
            ),
            (
                "the leader hands round what it holds",
                Some(agreed(1, Some(2))),
                sealing(1, &[1, 2], false),
                Mine::Same,
                true,
                Step::HandRound(named(2)),
            ),
            (
                "and looks for what it does not",
                Some(agreed(1, Some(2))),
                sealing(1, &[1], false),
                Mine::None,
                true,
                Step::Fetch(named(2)),
            ),
            (
                "a number that is taken",
                Some(agreed(1, Some(2))),
                sealing(1, &[1, 2], false),
                Mine::Other,
                true,
                Step::Replace(named(2)),
            ),
            (
                "agreed: used",
                Some(agreed(2, None)),
                sealing(1, &[1, 2], false),
                Mine::Same,
                false,
                Step::Use(2),
            ),
            (
                "agreed while this server was away",
                Some(agreed(2, None)),
                sealing(1, &[1], false),
                Mine::None,
                false,
                Step::Fetch(named(2)),
            ),
            (
                "old records are left",
                Some(agreed(2, None)),
                sealing(2, &[1, 2], true),
                Mine::Same,
                true,
                Step::Nothing,
            ),
            (
                "none are",
                Some(agreed(2, None)),
                sealing(2, &[1, 2], false),
                Mine::Same,
                true,
                Step::Retire(1),
            ),
            (
                "not while the next rotation is under way",
                Some(agreed(2, Some(3))),
                sealing(2, &[1, 2], false),
                Mine::None,
                false,
                Step::Nothing,
            ),
            (
                "an old record never leads back to an old key",
                Some(agreed(1, None)),
                sealing(2, &[2], false),
                Mine::None,
                true,
                Step::Nothing,
            ),
        ];
        for (name, agreed, sealing, mine, leads, expected) in cases {
            let seen = match mine {
                Mine::Same => || Mine::Same,
                Mine::Other => || Mine::Other,
                Mine::None => (|| Mine::None) as fn() -> Mine,
            };
            let step = decide(agreed.as_ref(), &sealing, |_| seen(), leads);
            assert_eq!(step, expected, "{name}");
        }
    }

    #[tokio::test]
    async fn a_lone_server_rotates_by_itself() {
        let store = Store::memory().await.unwrap();
        let membership = Membership::new(store.clone(), caravel_peers::GrpcTransport::new());
        assert_eq!(begin(&store).await.unwrap(), 2);
        assert!(matches!(begin(&store).await, Err(BeginError::UnderWay(2))));
        for _ in 0..4 {
            turn(&membership).await.unwrap();
        }
        assert_eq!(store.sealing().key, 2);
        let (agreed, _) = agreed(&store.snapshot()).unwrap().unwrap();
        assert_eq!((agreed.current.id, agreed.next), (2, None));
        assert_eq!(begin(&store).await.unwrap(), 3);
    }

    /// A backup of in between: the restored cluster uses what its server used, and rotates anew under a number of its own.
    #[tokio::test]
    async fn a_restore_forgets_a_rotation_and_keeps_the_keys() {
        let dir = tempfile::tempdir().unwrap();
        let config = crate::ServerConfig {
            data_dir: dir.path().join("data"),
            etc_dir: dir.path().join("etc"),
            ..crate::ServerConfig::default()
        };
        let (db, keys) = (config.data_dir.join("db"), config.etc_dir.join("keys"));
        let open = || Store::open(caravel_store::StoreConfig::single(&db, &keys));
        let alone =
            |store: &Store| Membership::new(store.clone(), caravel_peers::GrpcTransport::new());
        let settled = async |store: &Store, key: u32| {
            let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
            while store.sealing().holds != [key] {
                assert!(
                    tokio::time::Instant::now() < deadline,
                    "{:?}",
                    store.sealing()
                );
                turn(&alone(store)).await.unwrap();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let object = || Encoded::new(r#"{"metadata":{"name":"a"}}"#).unwrap();
        let at = Key::from("/registry/core/secrets/a/a");
        let store = open().await.unwrap();
        store
            .commit(Txn::create(at.clone(), object()))
            .await
            .unwrap();
        assert_eq!(begin(&store).await.unwrap(), 2);
        let (_, pieces) = store.backup(7).await.unwrap();
        let file = dir.path().join("one.snapshot");
        std::fs::write(&file, pieces.flatten().collect::<Vec<u8>>()).unwrap();
        // It goes on, and the key that sealed the backup is put aside.
        settled(&store, 2).await;
        store.shutdown().await;
        crate::backups::restore(&config, &file, true).unwrap();
        let store = open().await.unwrap();
        assert!(store.snapshot().entry(&at).is_some());
        assert!(agreed(&store.snapshot()).unwrap().is_none());
        assert_eq!(store.sealing().key, 2);
        assert_eq!(begin(&store).await.unwrap(), 3);
        settled(&store, 3).await;
        store.shutdown().await;
    }
}
