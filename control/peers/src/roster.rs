//! Every server that ever belonged to the cluster, kept in its state: a number is given once, and a disk is known again.
//!
//! openraft does not stop a wiped disk from voting. So each number goes with the incarnation of one disk, and a server
//! that was removed stays on the roster as removed. No kind lies under this prefix: no API request reads it.

use caravel_api::{Encoded, Key, KeyRange};
use caravel_store::{Change, CommitError, Expect, Level, NoQuorum, Snapshot, Store, Txn};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

const PREFIX: &str = "/registry/caravel/servers/";
/// Attempts at a number while other servers join at the same time.
const ATTEMPTS: usize = 16;

/// One server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    pub id: u64,
    pub name: String,
    /// IP:PORT of the peers' port.
    pub peer_address: String,
    /// https://IP:PORT of its API.
    pub api_url: String,
    /// Of its disk; 0 until it has one.
    pub incarnation: u64,
    pub removed: bool,
    /// The highest level of log entries that it supports, as it said at its last start; 0: a release of before levels.
    #[serde(default)]
    pub supports: u32,
}

impl Member {
    /// What it supports.
    #[must_use]
    pub fn supports(&self) -> Level {
        Level::told(self.supports)
    }
}

/// Why the roster was not read or changed.
#[derive(Debug, thiserror::Error)]
pub enum RosterError {
    #[error("the roster's record of server {0} cannot be read")]
    Unreadable(u64),
    #[error("server {0} was removed from the cluster. Join again as a new server, with a token")]
    Removed(u64),
    #[error(
        "server {0} is known with another disk. A server whose disk was lost must join again as a new one, with a token"
    )]
    OtherDisk(u64),
    #[error("there is no server {0} on the roster")]
    Unknown(u64),
    #[error("too many servers join at once; try again")]
    Busy,
    #[error(transparent)]
    NoQuorum(#[from] NoQuorum),
    #[error(transparent)]
    Commit(#[from] CommitError),
    #[error("the record cannot be written: {0}")]
    Encode(String),
}

/// Where the roster lies: what a restored cluster must not take over.
#[must_use]
pub fn range() -> KeyRange {
    KeyRange::prefix(PREFIX)
}

fn key(id: u64) -> Key {
    Key::from(format!("{PREFIX}{id:020}"))
}

/// Every server on the roster, in order of numbers, those removed too.
///
/// # Errors
/// A record that cannot be read.
pub fn all(snapshot: &Snapshot) -> Result<Vec<Member>, RosterError> {
    let members = snapshot.list(&KeyRange::prefix(PREFIX)).map(|entry| {
        let id = entry.key.as_str().rsplit('/').next().unwrap_or_default();
        serde_json::from_slice(&entry.json)
            .map_err(|_| RosterError::Unreadable(id.parse().unwrap_or(0)))
    });
    members.collect()
}

/// Servers that were admitted and not removed.
///
/// # Errors
/// A record that cannot be read.
pub fn living(snapshot: &Snapshot) -> Result<Vec<Member>, RosterError> {
    let mut members = all(snapshot)?;
    members.retain(|member| !member.removed && member.incarnation != 0);
    Ok(members)
}

/// What is known of server `id`.
///
/// # Errors
/// A record that cannot be read.
pub fn find(snapshot: &Snapshot, id: u64) -> Result<Option<Member>, RosterError> {
    match snapshot.entry(&key(id)) {
        None => Ok(None),
        Some(entry) => serde_json::from_slice(&entry.json)
            .map(Some)
            .map_err(|_| RosterError::Unreadable(id)),
    }
}

/// May server `id` with this disk speak? A server that the roster does not have yet may: a replica that is new itself
/// knows nobody.
///
/// # Errors
/// It was removed, or its disk is another one.
pub fn admits(snapshot: &Snapshot, id: u64, incarnation: u64) -> Result<(), RosterError> {
    match find(snapshot, id)? {
        Some(member) if member.removed => Err(RosterError::Removed(id)),
        Some(member) if member.incarnation != 0 && member.incarnation != incarnation => {
            Err(RosterError::OtherDisk(id))
        }
        _ => Ok(()),
    }
}

/// A number nobody ever had, for a server of this name that is about to join.
///
/// # Errors
/// See [`RosterError`].
pub async fn invite(store: &Store, name: &str) -> Result<u64, RosterError> {
    for _ in 0..ATTEMPTS {
        let snapshot = store.fresh_snapshot().await?;
        let id = 1 + all(&snapshot)?
            .last()
            .map_or(0, |member| member.id)
            .max(store.identity().node);
        let member = Member {
            id,
            name: name.to_owned(),
            ..Member::default()
        };
        match store.commit(Txn::create(key(id), encoded(&member)?)).await {
            Ok(_) => return Ok(id),
            Err(CommitError::Conflict(..)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(RosterError::Busy)
}

/// Writes down a server with its disk and addresses. Its number must have been given, or be the caller's own.
///
/// # Errors
/// See [`RosterError`].
pub async fn write(store: &Store, member: &Member) -> Result<(), RosterError> {
    for _ in 0..ATTEMPTS {
        let snapshot = store.fresh_snapshot().await?;
        if !member.removed {
            admits(&snapshot, member.id, member.incarnation)?;
        }
        let expect = match snapshot.entry(&key(member.id)) {
            None => Expect::Absent,
            Some(entry) => {
                if find(&snapshot, member.id)?.as_ref() == Some(member) {
                    return Ok(());
                }
                Expect::At(entry.revision)
            }
        };
        let txn = Txn::new().with(Change::Put {
            key: key(member.id),
            expect,
            object: encoded(member)?,
        });
        match store.commit(txn).await {
            Ok(_) => return Ok(()),
            Err(CommitError::Conflict(..)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(RosterError::Busy)
}

/// Marks a server as removed: from now on nobody of the cluster hears it.
///
/// # Errors
/// See [`RosterError`].
pub async fn remove(store: &Store, id: u64) -> Result<(), RosterError> {
    let snapshot = store.fresh_snapshot().await?;
    let mut member = find(&snapshot, id)?.ok_or(RosterError::Unknown(id))?;
    member.removed = true;
    write(store, &member).await
}

fn encoded(member: &Member) -> Result<Encoded, RosterError> {
    let failed = |error: &dyn std::fmt::Display| RosterError::Encode(error.to_string());
    let mut record = serde_json::to_value(member).map_err(|error| failed(&error))?;
    if let Value::Object(fields) = &mut record {
        fields.insert("metadata".into(), json!({ "name": member.id.to_string() }));
    }
    Encoded::new(record.to_string()).map_err(|error| failed(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_number_is_given_once_and_goes_with_one_disk() {
        let store = Store::memory().await.unwrap();
        let me = store.identity();
        let own = Member {
            id: me.node,
            name: "a".into(),
            incarnation: me.incarnation,
            ..Member::default()
        };
        write(&store, &own).await.unwrap();
        let second = invite(&store, "b").await.unwrap();
        assert_eq!(second, 2);
        assert_eq!(living(&store.snapshot()).unwrap().len(), 1);
        let mut member = find(&store.snapshot(), second).unwrap().unwrap();
        member.incarnation = 77;
        write(&store, &member).await.unwrap();
        assert!(admits(&store.snapshot(), second, 77).is_ok());
        assert!(matches!(
            admits(&store.snapshot(), second, 78),
            Err(RosterError::OtherDisk(2))
        ));
        remove(&store, second).await.unwrap();
        assert!(matches!(
            admits(&store.snapshot(), second, 77),
            Err(RosterError::Removed(2))
        ));
        assert_eq!(invite(&store, "b").await.unwrap(), 3);
        assert!(admits(&store.snapshot(), 99, 5).is_ok());
    }
}
