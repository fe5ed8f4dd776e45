//! What is wrong, from what was seen, and what to do about it. Pure.

use super::facts::{Facts, NodeFacts, Server};
use crate::certificate::Span;
use caravel_rpc::cluster::v1::alarm::Kind;
use caravel_rpc::cluster::v1::member::Role;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// A certificate that ends this soon should have been renewed: seconds, and a share of its whole life (one in).
const SOON: i64 = 30 * 86_400;
const LAST_PART: i64 = 5;
/// Clocks may differ by this much: milliseconds.
const SKEW: i64 = 1_000;
/// A node renews its lease every ten seconds; one that is Ready and seems this late has a clock that is behind.
const RENEWED: i64 = 60_000;
/// A backup should be younger than this: seconds.
const BACKUP: u64 = 2 * 86_400;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Problem,
    Notice,
}

#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    pub severity: Severity,
    /// For programs.
    pub code: &'static str,
    /// Whom it concerns.
    pub subject: String,
    pub message: String,
    /// What to do.
    pub remedy: String,
}

/// Problems first, each kind in the order of this list.
pub fn findings(facts: &Facts) -> Vec<Finding> {
    let mut found = Found(Vec::new());
    quorum(facts, &mut found);
    servers(facts, &mut found);
    clocks(facts, &mut found);
    versions(facts, &mut found);
    nodes(facts, &mut found);
    certificates(facts, &mut found);
    backups(facts, &mut found);
    for (name, remedy) in &facts.lacking {
        found.problem(
            "machine",
            name,
            format!("this machine lacks {name}"),
            remedy.clone(),
        );
    }
    found.0.sort_by_key(|finding| finding.severity);
    found.0
}

struct Found(Vec<Finding>);

impl Found {
    fn problem(
        &mut self,
        code: &'static str,
        subject: impl Into<String>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.add(Severity::Problem, code, subject, message, remedy);
    }

    fn add(
        &mut self,
        severity: Severity,
        code: &'static str,
        subject: impl Into<String>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.0.push(Finding {
            severity,
            code,
            subject: subject.into(),
            message: message.into(),
            remedy: remedy.into(),
        });
    }
}

fn quorum(facts: &Facts, found: &mut Found) {
    if let Err(why) = &facts.members {
        found.problem(
            "no-server",
            "",
            format!("no server tells of the cluster: {why}"),
            "look at `systemctl status caravel-server` (caravel for `caravel up`) and its journal on the servers; check the address in the kubeconfig",
        );
        return;
    }
    let voters: Vec<&Server> = facts
        .servers
        .iter()
        .filter(|server| server.member.role() == Role::Voter)
        .collect();
    let living = voters
        .iter()
        .filter(|server| server.health.is_ok() && successor(facts, server).is_none())
        .count();
    let leaders: BTreeSet<u64> = facts
        .servers
        .iter()
        .filter_map(|server| Some(server.health.as_ref().ok()?.leader))
        .filter(|leader| *leader != 0)
        .collect();
    let needed = voters.len() / 2 + 1;
    if living < needed {
        found.problem(
            "no-quorum",
            "",
            format!("{living} of {} voters answer, {needed} must: nothing can be written", voters.len()),
            "start the servers that do not answer. If their disks are lost: restore a backup (`caravel snapshot restore`)",
        );
    } else if leaders.is_empty() {
        found.problem(
            "no-leader",
            "",
            "a majority of the servers answers, and none of them leads",
            "the servers do not reach each other: is the peers' port (2380) open between them?",
        );
    } else if leaders.len() > 1 {
        let all: Vec<String> = leaders.iter().map(u64::to_string).collect();
        found.problem(
            "leaders-differ",
            "",
            format!("the servers follow different leaders ({}): one of them lags behind an election, or is cut off", all.join(", ")),
            "ask again in a few seconds; if it stays so, is the peers' port (2380) open between all servers?",
        );
    }
    if voters.len() == 1 && living == 1 {
        found.add(
            Severity::Notice,
            "one-server",
            "",
            "the cluster has one server: it stops with that machine",
            "`caravel member add` prints what to run on two more",
        );
    }
}

/// Who is at the address of a server that lost its disk and joined again. Numbers only grow, and nobody else answers there.
fn successor(facts: &Facts, server: &Server) -> Option<u64> {
    let later = facts.servers.iter().map(|other| &other.member);
    later
        .filter(|other| other.api_url == server.member.api_url && other.id > server.member.id)
        .map(|other| other.id)
        .max()
}

fn servers(facts: &Facts, found: &mut Found) {
    let named = |server: &Server| format!("server {} ({})", server.member.id, server.member.name);
    let mut silent = BTreeSet::new();
    for server in &facts.servers {
        if let Some(now) = successor(facts, server) {
            silent.insert(server.member.id);
            let counts = match server.member.role() {
                Role::Voter => ", and still counts as a voter that never answers",
                _ => "",
            };
            found.problem(
                "server-replaced",
                &server.member.name,
                format!(
                    "{} is gone: its machine joined again as server {now}. The old number stays a member{counts}",
                    named(server)
                ),
                format!("`caravel member remove {}`", server.member.id),
            );
        } else if let Err(why) = &server.health {
            silent.insert(server.member.id);
            found.problem(
                "server-down",
                &server.member.name,
                format!(
                    "{} does not answer at {}: {why}",
                    named(server),
                    server.member.api_url
                ),
                format!(
                    "start it again (`systemctl start caravel-server` there, or caravel for `caravel up`); if it is gone for ever: `caravel member remove {}`, and add another",
                    server.member.id
                ),
            );
        }
    }
    // Each server tells what it sees; the same thing is said once.
    let mut alarms = BTreeMap::new();
    for server in &facts.servers {
        for alarm in server.health.iter().flat_map(|health| &health.alarms) {
            alarms
                .entry((alarm.kind, alarm.member))
                .or_insert_with(|| alarm.clone());
        }
    }
    for ((_, member), alarm) in alarms {
        let subject = match member {
            0 => String::new(),
            member => facts
                .servers
                .iter()
                .find(|server| server.member.id == member)
                .map_or_else(|| member.to_string(), |server| server.member.name.clone()),
        };
        let (severity, code, remedy) = match alarm.kind() {
            // Said above, with more.
            Kind::NoQuorum => continue,
            Kind::MemberSilent if silent.contains(&member) => continue,
            Kind::MemberSilent => (
                Severity::Problem,
                "server-silent",
                "it answers here and not the leader: is the peers' port (2380) open between the servers?",
            ),
            Kind::MemberLags => (
                Severity::Problem,
                "server-lags",
                "it is catching up, or its disk or network is too slow: look again in a minute",
            ),
            Kind::MemberWithoutVote => (
                Severity::Problem,
                "server-without-vote",
                "it gets its vote when it has caught up; `caravel member promote` gives it one now",
            ),
            Kind::StoreStopped => (
                Severity::Problem,
                "store-stopped",
                "look at its journal: a disk error stops a server. Restart it; if it refuses, join it as a new one",
            ),
            Kind::DiskSlow => (
                Severity::Problem,
                "disk-slow",
                "every write waits for this disk: give the server's data a faster one, with nothing else busy on it",
            ),
            Kind::DiskNearlyFull => (
                Severity::Problem,
                "disk-nearly-full",
                "make room on the file system of --server-data-dir: writes are refused when it is full",
            ),
            Kind::RotationWaits => (
                Severity::Problem,
                "rotation-waits",
                "start that server, or remove it (`caravel member remove`): the key is used once all hold it",
            ),
            Kind::EvenVoters => (
                Severity::Notice,
                "even-voters",
                "`caravel member add` prints what to run on one more machine",
            ),
            Kind::Unspecified => (Severity::Problem, "alarm", "see the server's journal"),
        };
        found.add(severity, code, subject, alarm.message, remedy);
    }
}

fn clocks(facts: &Facts, found: &mut Found) {
    let remedy = "let a time service set its clock (systemd-timesyncd or chrony); certificates, tokens and leases depend on it";
    for server in &facts.servers {
        let Some((ahead, unsure)) = server.skew else {
            continue;
        };
        if ahead.abs() - unsure > SKEW {
            found.problem(
                "clock-skew",
                &server.member.name,
                format!(
                    "the clock of server {} is {} this machine's",
                    server.member.name,
                    distance(ahead)
                ),
                remedy,
            );
        }
    }
    for node in facts.nodes.iter().flatten() {
        let ready = is_ready(node);
        match node.renewed_ms {
            Some(ago) if ago < -SKEW => found.problem(
                "clock-skew",
                &node.name,
                format!("the clock of node {} is {} this machine's", node.name, distance(-ago)),
                remedy,
            ),
            Some(ago) if ready && ago > RENEWED => found.problem(
                "clock-skew",
                &node.name,
                format!(
                    "node {} is Ready, and by its own clock renewed its lease {} s ago: its clock is behind",
                    node.name,
                    ago / 1000
                ),
                remedy,
            ),
            _ => {}
        }
    }
}

fn distance(ahead_ms: i64) -> String {
    let seconds = ahead_ms.abs() as f64 / 1000.0;
    match ahead_ms > 0 {
        true => format!("{seconds:.1} s ahead of"),
        false => format!("{seconds:.1} s behind"),
    }
}

fn is_ready(node: &NodeFacts) -> bool {
    node.ready
        .as_ref()
        .is_some_and(|(status, ..)| status == "True")
}

fn versions(facts: &Facts, found: &mut Found) {
    let releases: BTreeSet<&str> = facts
        .servers
        .iter()
        .filter_map(|server| Some(server.health.as_ref().ok()?.version.as_str()))
        .collect();
    if releases.len() > 1 {
        found.problem(
            "version-skew",
            "",
            format!("the servers run different releases: {}", list(&releases)),
            "bring all servers to one release: the level of the cluster's log entries rises by itself once all support it",
        );
    }
    let kubelets: BTreeSet<&str> = facts
        .nodes
        .iter()
        .flatten()
        .map(|node| node.version.as_str())
        .collect();
    if kubelets.len() > 1 {
        found.add(
            Severity::Notice,
            "version-skew",
            "",
            format!("the nodes run different releases: {}", list(&kubelets)),
            "bring all nodes to the servers' release",
        );
    }
}

fn list(all: &BTreeSet<&str>) -> String {
    all.iter().copied().collect::<Vec<_>>().join(", ")
}

fn nodes(facts: &Facts, found: &mut Found) {
    let nodes = match &facts.nodes {
        Ok(nodes) => nodes,
        Err(why) => {
            if facts.members.is_ok() {
                found.problem(
                    "nodes-unknown",
                    "",
                    format!("the nodes cannot be listed: {why}"),
                    "mend the servers first",
                );
            }
            return;
        }
    };
    for node in nodes {
        if !is_ready(node) {
            let (status, reason, message) = node.ready.clone().unwrap_or_default();
            let word = match status.as_str() {
                "Unknown" => "does not report",
                _ => "is not ready",
            };
            found.problem(
                "node-not-ready",
                &node.name,
                format!("node {} {word}: {reason} {message}", node.name),
                "look at `systemctl status caravel-node` (caravel for `caravel up`) and `caravel check` there",
            );
        }
        for pressure in &node.pressures {
            let remedy = match pressure.as_str() {
                "DiskPressure" => {
                    "make room on the node's disk: `caravel image list` shows what it holds"
                }
                "MemoryPressure" => "give pods limits, or the node fewer of them",
                _ => "see `kubectl describe node`",
            };
            found.problem(
                "node-pressure",
                &node.name,
                format!("node {} reports {pressure}", node.name),
                remedy,
            );
        }
    }
}

fn certificates(facts: &Facts, found: &mut Found) {
    let own = facts.certificates.iter().map(|(whose, span)| {
        (
            whose.clone(),
            span,
            "make a new kubeconfig: restart the server, and take its `kubeconfig.yaml`",
        )
    });
    let servers = facts
        .servers
        .iter()
        .filter(|server| server.health.is_ok())
        .map(|server| {
            let whose = format!("server {}", server.member.name);
            (
                whose,
                &server.certificate,
                "restart it: each start makes a new one",
            )
        });
    let nodes = facts.nodes.iter().flatten().filter(|node| is_ready(node));
    let nodes = nodes.map(|node| {
        let whose = format!("node {}", node.name);
        (
            whose,
            &node.certificate,
            "a node renews its own in time: look at its journal, and restart it",
        )
    });
    for (whose, span, remedy) in own.chain(servers).chain(nodes) {
        match span {
            Ok(span) if is_ending(span, facts.now) => {
                let days = (span.until - facts.now).div_euclid(86_400);
                let word = match days < 0 {
                    true => "has ended".to_owned(),
                    false => format!("ends in {days} days"),
                };
                found.problem(
                    "certificate-ends",
                    &whose,
                    format!("the certificate of {whose} {word}"),
                    remedy,
                );
            }
            Ok(_) => {}
            Err(why) => found.problem(
                "certificate-unseen",
                &whose,
                format!("the certificate of {whose} cannot be seen or is not the cluster's: {why}"),
                "is its port reachable from here? Then restart it",
            ),
        }
    }
}

fn is_ending(span: &Span, now: i64) -> bool {
    let left = span.until - now;
    left < SOON && left < (span.until - span.from) / LAST_PART
}

fn backups(facts: &Facts, found: &mut Found) {
    let mut seen = facts
        .servers
        .iter()
        .filter_map(|server| server.health.as_ref().ok());
    let Some(health) = seen.next() else { return };
    let now = u64::try_from(facts.now).unwrap_or(0);
    let message = match &health.last_snapshot {
        None => "no backup was saved yet".to_owned(),
        Some(saved) if now.saturating_sub(saved.created) > BACKUP => format!(
            "the newest backup is {} days old",
            now.saturating_sub(saved.created) / 86_400
        ),
        Some(_) => return,
    };
    found.add(
        Severity::Notice,
        "no-backup",
        "",
        message,
        "`caravel snapshot save FILE`, and keep the file and the keys somewhere else; servers save one every --snapshot-interval",
    );
}

#[cfg(test)]
mod tests;
