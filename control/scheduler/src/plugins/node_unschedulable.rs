//! A pod does not go to a node that was cordoned, unless it tolerates the taint that cordoning sets.

use k8s_openapi::api::core::v1::Taint;

use super::taint_toleration::is_tolerated;
use super::{Filter, Verdict};
use crate::cluster::Cluster;
use crate::pod::PodView;

pub fn filter<'a>(pod: &'a PodView, _: &'a Cluster) -> Option<Filter<'a>> {
    let taint = Taint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    };
    let tolerated = is_tolerated(&taint, &pod.tolerations);
    Some(Box::new(move |node| {
        if node.unschedulable && !tolerated {
            Verdict::never("node(s) were unschedulable")
        } else {
            Verdict::Fits
        }
    }))
}
