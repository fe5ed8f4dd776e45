//! Sick clusters, and what is said of each.

use super::*;
use caravel_rpc::cluster::v1::{Alarm, HealthResponse, Member, SavedSnapshot};

const NOW: i64 = 1_800_000_000;
const YEAR: i64 = 365 * 86_400;

fn fresh() -> Result<Span, String> {
    Ok(Span {
        from: NOW - 86_400,
        until: NOW + YEAR - 86_400,
    })
}

fn server(id: u64) -> Server {
    Server {
        member: Member {
            id,
            name: format!("s{id}"),
            role: Role::Voter.into(),
            api_url: format!("https://192.0.2.{id}:6443"),
            ..Member::default()
        },
        health: Ok(HealthResponse {
            id,
            leader: 1,
            version: "1".into(),
            last_snapshot: Some(SavedSnapshot {
                created: NOW as u64 - 60,
                ..SavedSnapshot::default()
            }),
            ..HealthResponse::default()
        }),
        skew: Some((3, 5)),
        certificate: fresh(),
    }
}

fn node(name: &str) -> NodeFacts {
    NodeFacts {
        name: name.into(),
        ready: Some(("True".into(), "KubeletReady".into(), String::new())),
        pressures: vec![],
        version: "v1".into(),
        renewed_ms: Some(4_000),
        certificate: fresh(),
    }
}

fn healthy() -> Facts {
    Facts {
        now: NOW,
        members: Ok(vec![]),
        servers: vec![server(1), server(2), server(3)],
        nodes: Ok(vec![node("a"), node("b")]),
        certificates: vec![("user admin".into(), fresh())],
        lacking: vec![],
    }
}

fn alarm(kind: Kind, member: u64) -> Alarm {
    Alarm {
        kind: kind.into(),
        member,
        message: format!("{kind:?}"),
    }
}

#[test]
fn each_illness_is_named_once() {
    type Sicken = fn(&mut Facts);
    let cases: &[(&str, Sicken, &[&str])] = &[
        ("healthy", |_| {}, &[]),
        (
            "nobody answers",
            |facts| facts.members = Err("refused".into()),
            &["no-server"],
        ),
        (
            "one server is down, as the leader says too",
            |facts| {
                facts.servers[1].health = Err("refused".into());
                facts.servers[1].certificate = Err("refused".into());
                for at in [0, 2] {
                    let health = facts.servers[at].health.as_mut().unwrap();
                    health.alarms = vec![alarm(Kind::MemberSilent, 2)];
                }
            },
            &["server-down"],
        ),
        (
            "one lost its disk and joined again under a new number, and the old one is still a member",
            |facts| {
                let mut again = server(4);
                again.member.api_url = facts.servers[2].member.api_url.clone();
                facts.servers.push(again);
                // Whoever is there now answers for both.
                for at in [0, 2, 3] {
                    let health = facts.servers[at].health.as_mut().unwrap();
                    health.alarms = vec![alarm(Kind::MemberSilent, 3)];
                }
            },
            &["server-replaced"],
        ),
        (
            "and another is down: three of four voters must answer",
            |facts| {
                let mut again = server(4);
                again.member.api_url = facts.servers[2].member.api_url.clone();
                facts.servers.push(again);
                facts.servers[1].health = Err("refused".into());
                facts.servers[1].certificate = Err("refused".into());
            },
            &["no-quorum", "server-down", "server-replaced"],
        ),
        (
            "two of three are down",
            |facts| {
                for at in [1, 2] {
                    facts.servers[at].health = Err("refused".into());
                }
                facts.servers[0].health.as_mut().unwrap().leader = 0;
                facts.servers[0].health.as_mut().unwrap().alarms = vec![alarm(Kind::NoQuorum, 0)];
                facts.nodes = Err("503".into());
            },
            &["no-quorum", "server-down", "server-down", "nodes-unknown"],
        ),
        (
            "they do not reach each other",
            |facts| {
                for server in &mut facts.servers {
                    server.health.as_mut().unwrap().leader = 0;
                }
            },
            &["no-leader"],
        ),
        (
            "a slow disk, a full one, and one that lags, each told by several",
            |facts| {
                for server in &mut facts.servers {
                    server.health.as_mut().unwrap().alarms = vec![
                        alarm(Kind::MemberLags, 3),
                        alarm(Kind::DiskSlow, server.member.id),
                    ];
                }
                facts.servers[0]
                    .health
                    .as_mut()
                    .unwrap()
                    .alarms
                    .push(alarm(Kind::DiskNearlyFull, 1));
            },
            &[
                "server-lags",
                "disk-slow",
                "disk-slow",
                "disk-slow",
                "disk-nearly-full",
            ],
        ),
        (
            "a server's clock",
            |facts| facts.servers[2].skew = Some((-3_600_000, 20)),
            &["clock-skew"],
        ),
        (
            "a slow answer is no skew",
            |facts| facts.servers[2].skew = Some((1_500, 800)),
            &[],
        ),
        (
            "nodes' clocks",
            |facts| {
                let nodes = facts.nodes.as_mut().unwrap();
                nodes[0].renewed_ms = Some(-30_000);
                nodes[1].renewed_ms = Some(3_600_000);
            },
            &["clock-skew", "clock-skew"],
        ),
        (
            "a node is silent, another's disk fills",
            |facts| {
                let nodes = facts.nodes.as_mut().unwrap();
                nodes[0].ready =
                    Some(("Unknown".into(), "NodeStatusUnknown".into(), String::new()));
                nodes[0].renewed_ms = Some(500_000);
                nodes[0].certificate = Err("refused".into());
                nodes[1].pressures = vec!["DiskPressure".into()];
            },
            &["node-not-ready", "node-pressure"],
        ),
        (
            "certificates near their end",
            |facts| {
                let ending = || {
                    Ok(Span {
                        from: NOW - YEAR,
                        until: NOW + 86_400,
                    })
                };
                facts.certificates[0].1 = ending();
                facts.servers[0].certificate = ending();
                facts.nodes.as_mut().unwrap()[0].certificate = ending();
                // Short-lived ones are renewed late.
                facts.nodes.as_mut().unwrap()[1].certificate = Ok(Span {
                    from: NOW - 3_600,
                    until: NOW + 3_600,
                });
            },
            &["certificate-ends", "certificate-ends", "certificate-ends"],
        ),
        (
            "a stranger's certificate",
            |facts| facts.servers[1].certificate = Err("UnknownIssuer".into()),
            &["certificate-unseen"],
        ),
        (
            "releases",
            |facts| facts.servers[1].health.as_mut().unwrap().version = "2".into(),
            &["version-skew"],
        ),
        (
            "this machine",
            |facts| facts.lacking = vec![("nft".into(), "install it".into())],
            &["machine"],
        ),
        (
            "no backup is a notice, and so is one server",
            |facts| {
                facts.servers.truncate(1);
                facts.servers[0].health.as_mut().unwrap().last_snapshot = None;
            },
            &["one-server", "no-backup"],
        ),
    ];
    for (name, sicken, expected) in cases {
        let mut facts = healthy();
        sicken(&mut facts);
        let found = findings(&facts);
        let codes: Vec<&str> = found.iter().map(|finding| finding.code).collect();
        assert_eq!(&codes, expected, "{name}: {found:#?}");
        assert!(
            found.iter().all(|finding| !finding.remedy.is_empty()),
            "{name}"
        );
    }
}
