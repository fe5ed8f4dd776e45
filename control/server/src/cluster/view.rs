//! How the cluster is, as one server sees it: members, leader, and what is wrong. Pure.

use caravel_peers::Member as Known;
use caravel_rpc::cluster::v1::alarm::Kind;
use caravel_rpc::cluster::v1::member::Role;
use caravel_rpc::cluster::v1::{Alarm, Member, Replication, SavedSnapshot};
use caravel_store::Replica;
use std::time::Duration;

/// A server that lacks more entries than this is far behind.
const FAR: u64 = 10_000;
/// A server that has been silent this long is down.
const SILENT: Duration = Duration::from_secs(3);
/// A disk whose flushes take this long on average holds everybody up.
const SLOW: Duration = Duration::from_millis(100);
/// A file system with less than this left, or less than one part in [`PART`], is nearly full.
const LITTLE: u64 = 1 << 30;
const PART: u64 = 50;

/// Everything that is told of, at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct View {
    /// 0: none is known.
    pub leader: u64,
    pub term: u64,
    pub members: Vec<Member>,
    pub alarms: Vec<Alarm>,
    pub snapshots: Vec<SavedSnapshot>,
    /// The sealing key agreed on.
    pub key: u32,
}

/// What one server knows of itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Own {
    pub id: u64,
    pub stopped: bool,
    /// Writes are refused for want of room on the disk; why.
    pub full: Option<String>,
    pub leader: u64,
    /// The mean of recent flushes, if there were enough of them.
    pub flush: Option<Duration>,
    pub disk_bytes: u64,
    pub disk_free: u64,
    /// The sealing key that is being handed round.
    pub next_key: Option<u32>,
}

/// Roster and membership, put together.
pub(crate) fn members(
    known: Vec<Known>,
    replicas: &[Replica],
    lags: &[Replication],
) -> Vec<Member> {
    known
        .into_iter()
        .map(|known| {
            let replica = replicas.iter().find(|replica| replica.id == known.id);
            let lag = lags.iter().find(|lag| lag.id == known.id);
            let role = match replica {
                Some(replica) if replica.voter => Role::Voter,
                Some(_) => Role::Learner,
                None if known.removed => Role::Removed,
                None => Role::Invited,
            };
            Member {
                id: known.id,
                supports: known.supports().0,
                name: known.name,
                role: role.into(),
                peer_address: known.peer_address,
                api_url: known.api_url,
                lag: lag.and_then(|lag| lag.lag),
                silent_ms: lag.and_then(|lag| lag.silent_ms),
            }
        })
        .collect()
}

/// What is wrong.
pub(crate) fn alarms(members: &[Member], own: &Own) -> Vec<Alarm> {
    let mut alarms = Vec::new();
    let mut raise = |kind: Kind, member: u64, message: String| {
        alarms.push(Alarm {
            kind: kind.into(),
            member,
            message,
        });
    };
    if own.stopped {
        raise(
            Kind::StoreStopped,
            own.id,
            "this server's store has stopped".into(),
        );
    }
    if own.leader == 0 {
        let message = "no server leads with a majority: writes are refused";
        raise(Kind::NoQuorum, 0, message.into());
    }
    if let Some(mean) = own.flush.filter(|mean| *mean >= SLOW) {
        let message = format!(
            "server {}: a flush of its disk takes {} ms on average",
            own.id,
            mean.as_millis()
        );
        raise(Kind::DiskSlow, own.id, message);
    }
    if let Some(why) = &own.full {
        raise(
            Kind::DiskNearlyFull,
            own.id,
            format!("server {}: {why}", own.id),
        );
    } else if own.disk_bytes > 0 && own.disk_free < LITTLE.max(own.disk_bytes / PART) {
        let message = format!(
            "server {}: {} MiB are left where its data lies",
            own.id,
            own.disk_free >> 20
        );
        raise(Kind::DiskNearlyFull, own.id, message);
    }
    for member in members {
        let (id, name) = (member.id, &member.name);
        let silent = member.silent_ms.map(Duration::from_millis);
        if let Some(silent) = silent.filter(|silent| *silent > SILENT) {
            let seconds = silent.as_secs();
            let message = format!("server {id} ({name}) has not answered for {seconds} s");
            raise(Kind::MemberSilent, id, message);
            if let Some(key) = own.next_key {
                let message = format!("the new sealing key {key} waits for server {id} ({name})");
                raise(Kind::RotationWaits, id, message);
            }
        } else if let Some(lag) = member.lag.filter(|lag| *lag > FAR) {
            let message = format!("server {id} ({name}) lacks {lag} entries of the log");
            raise(Kind::MemberLags, id, message);
        }
        if member.role() == Role::Learner {
            let message = format!("server {id} ({name}) has no vote yet");
            raise(Kind::MemberWithoutVote, id, message);
        }
    }
    let voters = members
        .iter()
        .filter(|member| member.role() == Role::Voter)
        .count();
    if voters > 1 && voters % 2 == 0 {
        let message = format!(
            "{voters} voters bear no more failures than {}: add one or remove one",
            voters - 1
        );
        raise(Kind::EvenVoters, 0, message);
    }
    alarms
}

#[cfg(test)]
mod tests {
    use super::*;

    fn healthy() -> Own {
        Own {
            id: 1,
            leader: 1,
            flush: Some(Duration::from_millis(2)),
            disk_bytes: 100 << 30,
            disk_free: 50 << 30,
            ..Own::default()
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let known = |id: u64, removed: bool| Known {
            id,
            name: format!("s{id}"),
            incarnation: 1,
            removed,
            ..Known::default()
        };
        let replica = |id: u64, voter: bool| Replica {
            id,
            address: String::new(),
            voter,
            matched: None,
            silent: None,
        };
        let lag = |id: u64, lag: u64, silent_ms: u64| Replication {
            id,
            lag: Some(lag),
            silent_ms: Some(silent_ms),
        };
        let members = members(
            vec![
                known(1, false),
                known(2, false),
                known(3, false),
                known(4, true),
                known(5, false),
            ],
            &[replica(1, true), replica(2, true), replica(3, false)],
            &[lag(1, 0, 0), lag(2, 10, 9_000), lag(3, 20_000, 0)],
        );
        let roles: Vec<Role> = members.iter().map(|member| member.role()).collect();
        assert_eq!(
            roles,
            [
                Role::Voter,
                Role::Voter,
                Role::Learner,
                Role::Removed,
                Role::Invited
            ]
        );
        assert_eq!(members[1].lag, Some(10));
        let own = Own {
            leader: 0,
            flush: Some(Duration::from_millis(210)),
            disk_free: 100 << 20,
            next_key: Some(2),
            ..healthy()
        };
        let said = alarms(&members, &own);
        for (kind, expected) in [
            (Kind::NoQuorum, "no server leads"),
            (Kind::MemberSilent, "server 2 (s2) has not answered for 9 s"),
            (Kind::RotationWaits, "key 2 waits for server 2 (s2)"),
            (Kind::MemberLags, "server 3 (s3) lacks 20000 entries"),
            (Kind::MemberWithoutVote, "server 3 (s3) has no vote"),
            (Kind::EvenVoters, "2 voters"),
            (Kind::DiskSlow, "takes 210 ms"),
            (Kind::DiskNearlyFull, "100 MiB are left"),
        ] {
            assert!(
                said.iter()
                    .any(|alarm| alarm.kind() == kind && alarm.message.contains(expected)),
                "{expected}: {said:?}"
            );
        }
        assert!(alarms(&members[..1], &healthy()).is_empty());
    }
}
