//! Which node, and in which words none: nodes and pods in, a line out.

use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};

use super::*;
use crate::explain::explain;
use crate::preemption::preempt;

fn merged(mut base: Value, over: &Value) -> Value {
    if let (Some(base), Some(over)) = (base.as_object_mut(), over.as_object()) {
        for (key, value) in over {
            let merged = merged(base.remove(key).unwrap_or(Value::Null), value);
            base.insert(key.clone(), merged);
        }
        return Value::Object(base.clone());
    }
    over.clone()
}

fn node(name: &str, over: Value) -> Node {
    let base = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "10"}},
    });
    serde_json::from_value(merged(base, &over)).unwrap()
}

fn pod(name: &str, over: Value) -> PodView {
    let base = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "ns", "uid": name, "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c"}]},
    });
    PodView::read(&serde_json::from_value::<Pod>(merged(base, &over)).unwrap())
}

fn cpu(cpu: &str) -> Value {
    json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}})
}

fn cluster(nodes: &[Node], placed: &[PodView]) -> Cluster {
    let mut cluster = Cluster::default();
    for node in nodes {
        cluster.set_node(node);
    }
    for pod in placed {
        cluster.set_pod(pod.clone());
    }
    cluster
}

fn decided(pod: &PodView, cluster: &Cluster) -> String {
    match decide(pod, cluster, 0, &mut |_| 0) {
        Ok(choice) => choice.node,
        Err(refusal) => match preempt(pod, cluster, &refusal) {
            Ok(victims) => {
                let names: Vec<&str> = victims.pods.iter().map(|name| name.name.as_str()).collect();
                format!(
                    "{} (preempts {} on {})",
                    explain(&refusal, ""),
                    names.join(" "),
                    victims.node
                )
            }
            Err(why) => explain(&refusal, &why),
        },
    }
}

#[test]
fn refusals_read_as_upstreams() {
    let cordoned = json!({"spec": {"unschedulable": true, "taints": [{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]}});
    let tainted = json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]}});
    let three = [
        node("a", json!({})),
        node("b", json!({})),
        node("c", json!({})),
    ];
    let ssd = json!({"metadata": {"labels": {"disk": "ssd"}}});
    let on = |name: &str, node: &str, over: Value| {
        pod(name, merged(over, &json!({"spec": {"nodeName": node}})))
    };
    let port = json!({"spec": {"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}]}]}});
    let required = |terms: Value| json!({"spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}}});
    let named = |name: &str| {
        required(
            json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]}]),
        )
    };
    type Case = (&'static str, Vec<Node>, Vec<PodView>, Value, &'static str);
    let cases: Vec<Case> = vec![
        (
            "no nodes",
            vec![],
            vec![],
            json!({}),
            "no nodes available to schedule pods",
        ),
        (
            "nothing has so much",
            three.to_vec(),
            vec![],
            cpu("100"),
            "0/3 nodes are available: 3 Insufficient cpu. preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling.",
        ),
        (
            "full, and nobody to preempt",
            vec![node("a", json!({}))],
            vec![on("x", "a", cpu("3"))],
            cpu("2"),
            "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.",
        ),
        (
            "of every kind",
            vec![
                node("a", cordoned.clone()),
                node("b", tainted),
                node("c", json!({})),
                node("d", ssd.clone()),
            ],
            vec![on("x", "d", cpu("4"))],
            merged(
                cpu("1"),
                &json!({"spec": {"nodeSelector": {"disk": "ssd"}}}),
            ),
            "0/4 nodes are available: 1 Insufficient cpu, 1 node(s) didn't match Pod's node affinity/selector, \
             1 node(s) had untolerated taint(s), 1 node(s) were unschedulable. preemption: 0/4 nodes are available: \
             1 No preemption victims found for incoming pod, 3 Preemption is not helpful for scheduling.",
        ),
        (
            "host ports",
            vec![node("a", json!({}))],
            vec![on("x", "a", port.clone())],
            port,
            "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports. \
             preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.",
        ),
        (
            "a daemon's pod names its node",
            three.to_vec(),
            vec![],
            merged(cpu("100"), &named("b")),
            "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) didn't satisfy plugin(s) [NodeAffinity]. \
             preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling.",
        ),
        (
            "too many pods",
            vec![node("a", json!({"status": {"allocatable": {"pods": "1"}}}))],
            vec![on("x", "a", json!({}))],
            json!({}),
            "0/1 nodes are available: 1 Too many pods. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.",
        ),
        (
            "lower ones may go",
            vec![node("a", json!({}))],
            vec![on("low", "a", cpu("2")), on("lower", "a", cpu("2"))],
            merged(cpu("2"), &json!({"spec": {"priority": 10}})),
            "0/1 nodes are available: 1 Insufficient cpu. (preempts lower on a)",
        ),
        (
            "but not for one that does not want it",
            vec![node("a", json!({}))],
            vec![on("low", "a", cpu("4"))],
            merged(
                cpu("2"),
                &json!({"spec": {"priority": 10, "preemptionPolicy": "Never"}}),
            ),
            "0/1 nodes are available: 1 Insufficient cpu. preemption: not eligible due to preemptionPolicy=Never.",
        ),
        (
            "far from others",
            vec![node("a", json!({}))],
            vec![on("x", "a", json!({}))],
            json!({"spec": {"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
                {"labelSelector": {"matchLabels": {"app": "web"}}, "topologyKey": "kubernetes.io/hostname"}]}}}}),
            "0/1 nodes are available: 1 node(s) didn't match pod anti-affinity rules. \
             preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.",
        ),
        (
            "near to others that are not there",
            vec![node("a", json!({}))],
            vec![],
            json!({"spec": {"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
                {"labelSelector": {"matchLabels": {"app": "cache"}}, "topologyKey": "kubernetes.io/hostname"}]}}}}),
            "0/1 nodes are available: 1 node(s) didn't match pod affinity rules. \
             preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.",
        ),
        (
            "spread evenly",
            vec![
                node("a", json!({})),
                node("b", json!({"spec": {"unschedulable": true}})),
            ],
            vec![on("x", "a", json!({}))],
            json!({"spec": {"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "web"}}}]}}),
            "0/2 nodes are available: 1 node(s) didn't match pod topology spread constraints, 1 node(s) were unschedulable. \
             preemption: 0/2 nodes are available: 1 No preemption victims found for incoming pod, 1 Preemption is not helpful for scheduling.",
        ),
    ];
    for (name, nodes, placed, wanted, expected) in cases {
        assert_eq!(
            decided(&pod("p", wanted), &cluster(&nodes, &placed)),
            expected,
            "{name}"
        );
    }
}

#[test]
fn the_best_node() {
    let labelled = |name: &str, labels: Value| node(name, json!({"metadata": {"labels": labels}}));
    let on = |name: &str, node: &str, over: Value| {
        pod(name, merged(over, &json!({"spec": {"nodeName": node}})))
    };
    let mut with_peers = pod("p", json!({}));
    with_peers.peers = Some(caravel_api::selector::Selector::parse("app=web").unwrap());
    let prefers = json!({"spec": {"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": 1, "preference": {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}}]}}}});
    let near = json!({"spec": {"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"labelSelector": {"matchLabels": {"app": "cache"}}, "topologyKey": "zone"}]}}}});
    let cache = |node: &str| {
        on(
            "cache",
            node,
            json!({"metadata": {"labels": {"app": "cache"}}}),
        )
    };
    let dislikes = json!({"spec": {"taints": [{"key": "k", "effect": "PreferNoSchedule"}]}});
    type Case = (&'static str, Vec<Node>, Vec<PodView>, PodView, &'static str);
    let cases: Vec<Case> = vec![
        (
            "the emptier",
            vec![node("a", json!({})), node("b", json!({}))],
            vec![on("x", "a", cpu("1"))],
            pod("p", cpu("1")),
            "b",
        ),
        (
            "the preferred",
            vec![node("a", json!({})), labelled("b", json!({"disk": "ssd"}))],
            vec![],
            pod("p", prefers),
            "b",
        ),
        (
            "the one without a dislike",
            vec![node("a", dislikes), node("b", json!({}))],
            vec![],
            pod("p", json!({})),
            "b",
        ),
        (
            "the one without a peer",
            vec![node("a", json!({})), node("b", json!({}))],
            vec![
                on("x", "a", json!({})),
                on("y", "b", json!({"metadata": {"labels": {"app": "other"}}})),
            ],
            with_peers,
            "b",
        ),
        (
            "near the cache",
            vec![
                labelled("a", json!({"zone": "1"})),
                labelled("b", json!({"zone": "2"})),
            ],
            vec![cache("b")],
            pod("p", near.clone()),
            "b",
        ),
        (
            "the first of a group that wants to be near itself",
            vec![labelled("a", json!({"zone": "1"}))],
            vec![],
            pod(
                "p",
                merged(near, &json!({"metadata": {"labels": {"app": "cache"}}})),
            ),
            "a",
        ),
    ];
    for (name, nodes, placed, wanted, expected) in cases {
        assert_eq!(
            decided(&wanted, &cluster(&nodes, &placed)),
            expected,
            "{name}"
        );
    }
}

#[test]
fn an_assumed_pod_holds_its_place_until_it_is_seen_or_forgotten() {
    let mut cluster = cluster(&[node("a", json!({}))], &[]);
    let (first, second) = (pod("first", cpu("3")), pod("second", cpu("3")));
    cluster.assume(&first, "a");
    assert!(
        !cluster.set_pod(first.clone()),
        "news of the pod without a node changes nothing"
    );
    assert!(decided(&second, &cluster).contains("Insufficient cpu"));
    cluster.forget(&first.name);
    assert_eq!(decided(&second, &cluster), "a");
}

#[test]
fn room_that_was_promised_is_kept_for_who_matters_as_much() {
    let mut cluster = cluster(&[node("a", json!({}))], &[]);
    let important = pod(
        "important",
        merged(cpu("3"), &json!({"spec": {"priority": 10}})),
    );
    cluster.nominate(&important, "a");
    assert!(decided(&pod("p", cpu("2")), &cluster).contains("Insufficient cpu"));
    assert_eq!(decided(&important, &cluster), "a");
    assert_eq!(
        decided(
            &pod("more", merged(cpu("2"), &json!({"spec": {"priority": 11}}))),
            &cluster
        ),
        "a"
    );
    cluster.forget_nomination(&important.name);
    assert_eq!(decided(&pod("p", cpu("2")), &cluster), "a");
}

#[test]
fn a_part_of_many_nodes_is_enough() {
    let cases = [
        (1, 1),
        (99, 99),
        (100, 100),
        (1000, 420),
        (5000, 500),
        (10000, 500),
    ];
    for (nodes, expected) in cases {
        assert_eq!(enough(nodes), expected, "{nodes}");
    }
}
