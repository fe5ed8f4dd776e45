//! Services in, rules out; and one suite for the fake firewall and the kernel's.

use std::sync::Arc;

use serde_json::json;

use super::super::{
    FakeFirewall, Firewall, HostPort, Nft, RuleSet, ServiceProxy, ServiceSet, compile, diff,
};

fn service(name: &str, spec: serde_json::Value) -> serde_json::Value {
    json!({"metadata": {"namespace": "ns", "name": name}, "spec": spec})
}

fn slice(service: &str, endpoints: &[(&str, &str, bool)]) -> serde_json::Value {
    let endpoints: Vec<_> = endpoints
        .iter()
        .map(|(ip, node, ready)| json!({"addresses": [ip], "nodeName": node, "conditions": {"ready": ready, "serving": ready, "terminating": !ready}}))
        .collect();
    json!({"metadata": {"namespace": "ns", "name": service, "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "ports": [{"name": "", "port": 8080, "protocol": "TCP"}], "endpoints": endpoints})
}

fn cluster(services: &[serde_json::Value], slices: &[serde_json::Value]) -> ServiceSet {
    ServiceSet {
        services: services
            .iter()
            .map(|v| Arc::new(serde_json::from_value(v.clone()).unwrap()))
            .collect(),
        slices: slices
            .iter()
            .map(|v| Arc::new(serde_json::from_value(v.clone()).unwrap()))
            .collect(),
        host_ports: vec![],
        node: "one".into(),
        cluster_cidr: "10.42.0.0/16".parse().unwrap(),
        dns_ip: "10.43.0.10".parse().unwrap(),
    }
}

fn text(rules: &RuleSet) -> String {
    let mut lines = Vec::new();
    for (map, elements) in rules.maps() {
        lines.extend(
            elements
                .iter()
                .map(|(key, verdict)| format!("{map}: {key} -> {verdict}")),
        );
    }
    for (chain, rules) in &rules.chains {
        lines.extend(rules.iter().map(|rule| format!("{chain}: {rule}")));
    }
    lines.extend(
        rules
            .sets
            .iter()
            .map(|(name, set)| format!("set {name} {}s", set.timeout)),
    );
    lines.join("\n")
}

fn web() -> ServiceSet {
    cluster(
        &[service(
            "web",
            json!({"clusterIP": "10.43.0.5", "type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]}),
        )],
        &[slice(
            "web",
            &[
                ("10.42.1.2", "one", true),
                ("10.42.2.2", "two", true),
                ("10.42.2.3", "two", false),
            ],
        )],
    )
}

#[test]
fn cluster_ip_and_node_port_spread_over_the_ready_endpoints() {
    assert_eq!(
        text(&compile(&web())),
        "\
services: tcp . 10.43.0.5 . 80 -> goto svc/ns/web/tcp/80
nodeports: tcp . 30080 -> goto ext/ns/web/tcp/80
ep/ns/web/tcp/80/10.42.1.2/8080: ip saddr 10.42.1.2 jump to-masquerade
ep/ns/web/tcp/80/10.42.1.2/8080: meta l4proto tcp dnat to 10.42.1.2:8080
ep/ns/web/tcp/80/10.42.2.2/8080: ip saddr 10.42.2.2 jump to-masquerade
ep/ns/web/tcp/80/10.42.2.2/8080: meta l4proto tcp dnat to 10.42.2.2:8080
ext/ns/web/tcp/80: jump to-masquerade
ext/ns/web/tcp/80: numgen random mod 2 vmap { 0 : goto ep/ns/web/tcp/80/10.42.1.2/8080, 1 : goto ep/ns/web/tcp/80/10.42.2.2/8080 }
svc/ns/web/tcp/80: ip saddr != 10.42.0.0/16 jump to-masquerade
svc/ns/web/tcp/80: numgen random mod 2 vmap { 0 : goto ep/ns/web/tcp/80/10.42.1.2/8080, 1 : goto ep/ns/web/tcp/80/10.42.2.2/8080 }"
    );
}

#[test]
fn the_special_cases() {
    let ports = json!([{"port": 80}]);
    let cases = [
        (
            "no endpoint is refused",
            cluster(
                &[service(
                    "a",
                    json!({"clusterIP": "10.43.0.5", "ports": ports}),
                )],
                &[],
            ),
            "refused: tcp . 10.43.0.5 . 80 -> goto no-endpoint",
        ),
        (
            "headless has no rules",
            cluster(
                &[service("a", json!({"clusterIP": "None", "ports": ports}))],
                &[],
            ),
            "",
        ),
        (
            "an external name has no rules",
            cluster(
                &[service(
                    "a",
                    json!({"type": "ExternalName", "externalName": "x.y"}),
                )],
                &[],
            ),
            "",
        ),
        (
            "DNS is answered here",
            cluster(
                &[service(
                    "a",
                    json!({"clusterIP": "10.43.0.10", "ports": ports}),
                )],
                &[],
            ),
            "",
        ),
        (
            "only ending endpoints serve on",
            cluster(
                &[service(
                    "a",
                    json!({"clusterIP": "10.43.0.5", "ports": ports}),
                )],
                &[slice("a", &[("10.42.2.3", "two", false)])],
            )
            .tap(|c| {
                Arc::make_mut(&mut c.slices[0])
                    .endpoints
                    .iter_mut()
                    .flatten()
                    .for_each(|e| e.conditions.as_mut().unwrap().serving = Some(true))
            }),
            "\
services: tcp . 10.43.0.5 . 80 -> goto svc/ns/a/tcp/80
ep/ns/a/tcp/80/10.42.2.3/8080: ip saddr 10.42.2.3 jump to-masquerade
ep/ns/a/tcp/80/10.42.2.3/8080: meta l4proto tcp dnat to 10.42.2.3:8080
svc/ns/a/tcp/80: ip saddr != 10.42.0.0/16 jump to-masquerade
svc/ns/a/tcp/80: goto ep/ns/a/tcp/80/10.42.2.3/8080",
        ),
        (
            "session affinity remembers the client",
            cluster(
                &[service(
                    "a",
                    json!({"clusterIP": "10.43.0.5", "ports": ports, "sessionAffinity": "ClientIP"}),
                )],
                &[slice("a", &[("10.42.1.2", "one", true)])],
            ),
            "\
services: tcp . 10.43.0.5 . 80 -> goto svc/ns/a/tcp/80
ep/ns/a/tcp/80/10.42.1.2/8080: ip saddr 10.42.1.2 jump to-masquerade
ep/ns/a/tcp/80/10.42.1.2/8080: update @aff/ns/a/tcp/80/10.42.1.2/8080 { ip saddr }
ep/ns/a/tcp/80/10.42.1.2/8080: meta l4proto tcp dnat to 10.42.1.2:8080
svc/ns/a/tcp/80: ip saddr != 10.42.0.0/16 jump to-masquerade
svc/ns/a/tcp/80: ip saddr @aff/ns/a/tcp/80/10.42.1.2/8080 goto ep/ns/a/tcp/80/10.42.1.2/8080
svc/ns/a/tcp/80: goto ep/ns/a/tcp/80/10.42.1.2/8080
set aff/ns/a/tcp/80/10.42.1.2/8080 10800s",
        ),
        (
            "a host port",
            cluster(&[], &[]).tap(|c| {
                c.host_ports.push(HostPort {
                    protocol: "TCP".into(),
                    host_ip: None,
                    host_port: 8081,
                    pod_ip: "10.42.1.9".parse().unwrap(),
                    container_port: 80,
                })
            }),
            "\
nodeports: tcp . 8081 -> goto host/tcp/8081/10.42.1.9
host/tcp/8081/10.42.1.9: ip saddr 10.42.1.9 jump to-masquerade
host/tcp/8081/10.42.1.9: meta l4proto tcp dnat to 10.42.1.9:80",
        ),
        (
            "external policy Local takes no remote endpoint",
            cluster(
                &[service(
                    "a",
                    json!({"clusterIP": "10.43.0.5", "type": "NodePort", "externalTrafficPolicy": "Local", "internalTrafficPolicy": "Local",
                "ports": [{"port": 80, "nodePort": 30080}]}),
                )],
                &[slice("a", &[("10.42.2.2", "two", true)])],
            ),
            "refused: tcp . 10.43.0.5 . 80 -> goto no-endpoint\nrefusedports: tcp . 30080 -> goto no-endpoint",
        ),
    ];
    for (what, cluster, expected) in cases {
        assert_eq!(text(&compile(&cluster)), expected, "{what}");
    }
}

trait Tap: Sized {
    fn tap(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }
}
impl Tap for ServiceSet {}

/// From nothing to a busy table, to a changed one, to an empty one, and after somebody flushed it.
fn suite(mut firewall: impl Firewall) {
    let mut affine = web();
    for service in &mut affine.services {
        Arc::make_mut(service)
            .spec
            .as_mut()
            .unwrap()
            .session_affinity = Some("ClientIP".into());
    }
    let fewer = web().tap(|c| {
        Arc::make_mut(&mut c.slices[0])
            .endpoints
            .as_mut()
            .unwrap()
            .truncate(1)
    });
    let stages = [
        cluster(&[], &[]),
        web(),
        affine.clone(),
        fewer,
        affine,
        cluster(&[], &[]),
    ];
    let mut last: Option<RuleSet> = None;
    for (i, stage) in stages.iter().enumerate() {
        let wanted = compile(stage);
        let change = diff(last.as_ref(), &wanted);
        assert!(!change.is_empty());
        firewall
            .apply(&change)
            .unwrap_or_else(|e| panic!("stage {i}: {e}\n{}", change.script));
        assert!(diff(Some(&wanted), &wanted).is_empty());
        last = Some(wanted);
    }
    assert!(firewall.present().unwrap());
    // A broken change is refused whole.
    let mut broken = compile(&web());
    broken
        .services
        .insert("tcp . 10.43.9.9 . 1".into(), "goto nowhere".into());
    assert!(firewall.apply(&diff(last.as_ref(), &broken)).is_err());
    firewall
        .apply(&diff(last.as_ref(), &compile(&web())))
        .unwrap();
}

#[test]
fn suite_on_the_fake() {
    suite(FakeFirewall::default());
}

#[test]
fn suite_on_the_kernel() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        suite(Nft);
    })
    .join()
    .unwrap();
}

#[test]
fn a_flushed_table_comes_back() {
    let mut proxy = ServiceProxy::new(FakeFirewall::default());
    assert!(proxy.sync(compile(&web())).unwrap());
    assert!(!proxy.sync(compile(&web())).unwrap());
    proxy.check().unwrap();
    assert!(!proxy.sync(compile(&web())).unwrap());
}
