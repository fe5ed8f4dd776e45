//! A cordoned node takes no pods but those that tolerate it.

use k8s_openapi::api::core::v1::Taint;

use super::{Filter, Verdict, taints::tolerated};
use crate::cluster::{Cluster, NodeView};
use crate::pod::PodView;

pub fn filter<'a>(pod: &'a PodView, _: &'a Cluster) -> Option<Filter<'a>> {
    let taint = Taint { key: "node.kubernetes.io/unschedulable".into(), effect: "NoSchedule".into(), ..Taint::default() };
    let tolerates = tolerated(&taint, pod);
    (!tolerates).then(|| -> Filter<'a> {
        Box::new(|node: &NodeView| Verdict::check(!node.unschedulable, "node(s) were unschedulable"))
    })
}
