//! A pod that names its node goes there only.

use super::{Filter, Verdict};
use crate::cluster::Cluster;
use crate::pod::PodView;

pub fn filter<'a>(pod: &'a PodView, _: &'a Cluster) -> Option<Filter<'a>> {
    let wanted = pod.node.as_deref()?;
    Some(Box::new(move |node| {
        if node.name == wanted {
            Verdict::Fits
        } else {
            Verdict::never("node(s) didn't match the requested node name")
        }
    }))
}
