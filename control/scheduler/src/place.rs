//! Where a pod goes, or why nowhere. Pure.

use std::collections::BTreeMap;

use crate::cluster::{Cluster, NodeView};
use crate::plugins::{PLUGINS, Scale, Verdict};
use crate::pod::PodView;

/// With many nodes only some of those that fit are compared: at least this many, as upstream has it.
const LEAST_COMPARED: usize = 100;

/// A pod that fits nowhere, in the words of upstream's event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfit(pub String);

/// The node that suits the pod best. `turn` is any number that grows: it decides between equals and where the search
/// begins, so that load spreads.
///
/// # Errors
/// Why no node will do.
pub fn place<'a>(pod: &PodView, cluster: &'a Cluster, turn: usize) -> Result<&'a NodeView, Unfit> {
    let count = cluster.len();
    if count == 0 {
        return Err(Unfit("no nodes available to schedule pods".into()));
    }
    let filters: Vec<_> = PLUGINS.iter().filter_map(|p| p.filter.and_then(|f| f(pod, cluster))).collect();
    let enough = compared(count);
    let mut fitting: Vec<&NodeView> = Vec::new();
    let mut refused: Vec<Verdict> = Vec::new();
    let start = turn % count;
    let nodes = cluster.nodes().skip(start).chain(cluster.nodes().take(start));
    for node in nodes {
        match filters.iter().map(|f| f(node)).find(|v| *v != Verdict::Fits) {
            None => fitting.push(node),
            Some(verdict) => refused.push(verdict),
        }
        if fitting.len() >= enough {
            break;
        }
    }
    match fitting[..] {
        [] => Err(Unfit(explain(count, &refused))),
        [only] => Ok(only),
        _ => Ok(best(pod, cluster, &fitting)),
    }
}

/// Upstream's `numFeasibleNodesToFind`.
fn compared(nodes: usize) -> usize {
    let percent = 50_usize.saturating_sub(nodes / 125).max(5);
    (nodes * percent / 100).max(LEAST_COMPARED)
}

fn best<'a>(pod: &PodView, cluster: &Cluster, nodes: &[&'a NodeView]) -> &'a NodeView {
    let mut sums = vec![0_i64; nodes.len()];
    for plugin in PLUGINS {
        let Some((weight, scale, prepare)) = plugin.score else { continue };
        let Some(score) = prepare(pod, cluster) else { continue };
        let raw: Vec<i64> = nodes.iter().map(|node| score(node)).collect();
        let most = raw.iter().copied().max().unwrap_or(0);
        for (sum, raw) in sums.iter_mut().zip(raw) {
            *sum += weight
                * match scale {
                    Scale::Percent => raw,
                    Scale::Most if most > 0 => raw * 100 / most,
                    Scale::Most => 0,
                    Scale::Least if most > 0 => 100 - raw * 100 / most,
                    Scale::Least => 100,
                };
        }
    }
    let mut winner = 0;
    for (i, sum) in sums.iter().enumerate() {
        if *sum > sums[winner] {
            winner = i;
        }
    }
    nodes[winner]
}

/// Upstream's FitError with the message of its preemption plug-in. Preempting is not done yet, and there is nothing to
/// preempt while all pods have one priority.
fn explain(count: usize, refused: &[Verdict]) -> String {
    let mut histogram: BTreeMap<&str, usize> = BTreeMap::new();
    let mut hopeless = 0;
    for verdict in refused {
        if let Verdict::Unfit { reasons, evicting_helps } = verdict {
            reasons.iter().for_each(|reason| *histogram.entry(reason).or_default() += 1);
            hopeless += usize::from(!evicting_helps);
        }
    }
    let sentence = |parts: &mut Vec<String>| {
        parts.sort();
        parts.join(", ")
    };
    let mut reasons: Vec<String> = histogram.iter().map(|(reason, n)| format!("{n} {reason}")).collect();
    let mut preemption = Vec::new();
    if count > hopeless {
        preemption.push(format!("{} No preemption victims found for incoming pod", count - hopeless));
    }
    if hopeless > 0 {
        preemption.push(format!("{hopeless} Preemption is not helpful for scheduling"));
    }
    format!(
        "0/{count} nodes are available: {}. preemption: 0/{count} nodes are available: {}.",
        sentence(&mut reasons),
        sentence(&mut preemption)
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;

    fn cluster(nodes: &[Value]) -> Cluster {
        let mut cluster = Cluster::default();
        for (i, extra) in nodes.iter().enumerate() {
            let mut node = json!({"metadata": {"name": format!("n{i}"), "labels": {"kubernetes.io/hostname": format!("n{i}")}}, "spec": {},
                "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "10"}}});
            for (key, value) in extra.as_object().unwrap() {
                match key.as_str() {
                    "labels" => node["metadata"]["labels"].as_object_mut().unwrap().extend(value.as_object().unwrap().clone()),
                    "cpu" | "pods" => node["status"]["allocatable"][key] = value.clone(),
                    _ => node["spec"][key] = value.clone(),
                }
            }
            cluster.put_node(&serde_json::from_value(node).unwrap());
        }
        cluster
    }

    fn pod(name: &str, spec: Value) -> Arc<PodView> {
        let mut spec = spec;
        if spec.get("containers").is_none() {
            spec["containers"] = json!([{"name": "c", "resources": {"requests": spec.get("requests").cloned().unwrap_or(json!({}))}}]);
        }
        let pod = json!({"metadata": {"name": name, "uid": name, "namespace": "ns", "labels": spec.get("labels").cloned().unwrap_or(json!({})),
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "r", "controller": true}]}, "spec": spec});
        Arc::new(PodView::new(Arc::new(serde_json::from_value(pod).unwrap())))
    }

    fn placed(cluster: &Cluster, spec: Value) -> String {
        match place(&pod("p", spec), cluster, 0) {
            Ok(node) => node.name.clone(),
            Err(Unfit(message)) => message,
        }
    }

    #[test]
    fn pods_go_where_they_fit_and_are_told_why_not() {
        let taint = |effect: &str| json!({"taints": [{"key": "k", "value": "v", "effect": effect}]});
        let affine = |operator: &str| json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            {"nodeSelectorTerms": [{"matchExpressions": [{"key": "disk", "operator": operator, "values": ["ssd"]}]}]}}}});
        for (what, nodes, spec, expected) in [
            ("none there", vec![], json!({}), "no nodes available to schedule pods"),
            ("too little", vec![json!({"cpu": "1"}), json!({})], json!({"requests": {"cpu": "1500m"}}), "n1"),
            ("nowhere", vec![json!({}), json!({"unschedulable": true})], json!({"requests": {"cpu": "10"}}),
                "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) were unschedulable. preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."),
            ("tainted", vec![taint("NoSchedule"), json!({})], json!({}), "n1"),
            ("all tainted", vec![taint("NoSchedule")], json!({}),
                "0/1 nodes are available: 1 node(s) had untolerated taint(s). preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."),
            ("tolerated", vec![taint("NoExecute")], json!({"tolerations": [{"key": "k", "operator": "Exists"}]}), "n0"),
            ("put off", vec![taint("PreferNoSchedule"), json!({})], json!({}), "n1"),
            ("put off but alone", vec![taint("PreferNoSchedule")], json!({}), "n0"),
            ("selected", vec![json!({}), json!({"labels": {"disk": "ssd"}})], json!({"nodeSelector": {"disk": "ssd"}}), "n1"),
            ("affine", vec![json!({}), json!({"labels": {"disk": "ssd"}})], affine("In"), "n1"),
            ("anti", vec![json!({"labels": {"disk": "ssd"}})], affine("NotIn"),
                "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."),
            ("preferred", vec![json!({}), json!({"labels": {"disk": "ssd"}})],
                json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution":
                    [{"weight": 100, "preference": {"matchExpressions": [{"key": "disk", "operator": "Exists"}]}}]}}}), "n1"),
            ("full of pods", vec![json!({"pods": "0"})], json!({}),
                "0/1 nodes are available: 1 Too many pods. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."),
        ] {
            assert_eq!(placed(&cluster(&nodes), spec), expected, "{what}");
        }
    }

    #[test]
    fn pods_of_one_controller_spread_and_ports_collide() {
        let mut cluster = cluster(&[json!({}), json!({}), json!({})]);
        let port = json!({"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 8080}]}]});
        let mut seen = Vec::new();
        for i in 0..3 {
            let pod = pod(&format!("p{i}"), port.clone());
            let node = place(&pod, &cluster, i).unwrap().name.clone();
            cluster.put_pod(pod, &node);
            seen.push(node);
        }
        seen.sort();
        assert_eq!(seen, ["n0", "n1", "n2"]);
        assert!(placed(&cluster, port).starts_with("0/3 nodes are available: 3 node(s) didn't have free ports for the requested pod ports."));
    }

    #[test]
    fn pods_keep_to_and_from_others() {
        let mut cluster = cluster(&[json!({}), json!({})]);
        cluster.put_pod(pod("db", json!({"labels": {"app": "db"}})), "n1");
        let term = json!([{"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "db"}}}]);
        let near = json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term}}});
        let away = json!({"labels": {"app": "db"}, "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term}}});
        assert_eq!(placed(&cluster, near), "n1");
        assert_eq!(placed(&cluster, away.clone()), "n0");
        cluster.put_pod(pod("loner", away.clone()), "n0");
        assert!(placed(&cluster, away).contains("2 node(s) didn't match pod anti-affinity rules"));
        assert!(placed(&cluster, json!({"labels": {"app": "db"}})).contains("n1"), "it may not join the loner");
        let spread = json!({"labels": {"app": "w"}, "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "w"}}}]});
        cluster.put_pod(pod("w", json!({"labels": {"app": "w"}})), "n0");
        assert_eq!(placed(&cluster, spread), "n1");
    }
}
