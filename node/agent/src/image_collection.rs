//! Which images leave this machine when its image file system fills up, and taking them away.
//!
//! The decision is pure. Never an image that a container stands on or a pod of this node names, never one that came
//! with the machine's image directories. Follows pkg/kubelet/images/image_gc_manager.go.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use caravel_images::Image;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::time::Instant;

use crate::events::Kind;
use crate::machine::{self, Disk};
use crate::pod::order;
use crate::tasks::blocking;
use crate::world::World;

/// How often it is looked.
const PERIOD: Duration = Duration::from_secs(300);
/// An image stays at least this long after it came.
const MIN_AGE: SignedDuration = SignedDuration::from_secs(120);

/// Percent of the image file system in use: above `high` images are taken away until it is `low`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageThresholds {
    pub high: u8,
    pub low: u8,
}

impl Default for ImageThresholds {
    fn default() -> Self {
        Self { high: 85, low: 80 }
    }
}

/// One image as the decision needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    id: String,
    size: u64,
    pinned: bool,
    in_use: bool,
    /// Absent: it was here, or was used, before this daemon began to look.
    first: Option<Timestamp>,
    used: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Plan {
    wanted: u64,
    /// In the order of their last use.
    images: Vec<String>,
    eligible: u64,
}

/// `None` while the file system is below the high threshold.
fn plan(
    disk: Disk,
    limits: ImageThresholds,
    mut images: Vec<Seen>,
    now: Timestamp,
) -> Option<Plan> {
    let (total, free) = (i128::from(disk.total), i128::from(disk.free));
    if total <= 0 || 100 - free * 100 / total < i128::from(limits.high) {
        return None;
    }
    let wanted = total * (100 - i128::from(limits.low)) / 100 - free;
    let wanted = u64::try_from(wanted).unwrap_or(0);
    images.retain(|image| {
        let old = image
            .first
            .is_none_or(|at| now.duration_since(at) >= MIN_AGE);
        old && !image.pinned && !image.in_use
    });
    images.sort_by(|a, b| (a.used, a.first, &a.id).cmp(&(b.used, b.first, &b.id)));
    let mut plan = Plan {
        wanted,
        images: Vec::new(),
        eligible: 0,
    };
    for image in images {
        if plan.eligible >= wanted {
            break;
        }
        plan.eligible += image.size;
        plan.images.push(image.id);
    }
    Some(plan)
}

/// When images came and when they were last used, as far as this daemon saw it.
#[derive(Default)]
struct Records {
    begun: bool,
    images: BTreeMap<String, (Option<Timestamp>, Option<Timestamp>)>,
}

impl Records {
    fn look(
        &mut self,
        found: &[Image],
        used: &dyn Fn(&Image) -> bool,
        pinned: &BTreeSet<String>,
        now: Timestamp,
    ) -> Vec<Seen> {
        let first = self.begun.then_some(now);
        self.begun = true;
        self.images
            .retain(|id, _| found.iter().any(|image| image.id == *id));
        let one = |image: &Image| {
            let in_use = used(image);
            let record = self.images.entry(image.id.clone()).or_insert((first, None));
            if in_use {
                record.1 = Some(now);
            }
            Seen {
                id: image.id.clone(),
                size: image.size,
                pinned: pinned.contains(&image.id),
                in_use,
                first: record.0,
                used: record.1,
            }
        };
        found.iter().map(one).collect()
    }
}

/// Until the daemon ends.
pub(crate) async fn keep(world: Arc<World>) {
    let mut records = Records::default();
    // Not at once: the pods of this node are not known yet.
    let mut tick = tokio::time::interval_at(Instant::now() + PERIOD, PERIOD);
    loop {
        tokio::select! {
            () = world.shutdown.cancelled() => return,
            _ = tick.tick() => {}
        }
        if let Err(message) = once(&world, &mut records).await {
            tracing::warn!(message, "images not collected");
            tell(&world, "ImageGCFailed", message);
        }
    }
}

async fn once(world: &World, records: &mut Records) -> Result<(), String> {
    let containers = world.runtime.list().await.map_err(|e| e.to_string())?;
    let layers: BTreeSet<PathBuf> = containers
        .iter()
        .flat_map(|c| c.spec.lower.iter().cloned())
        .collect();
    let names: BTreeSet<String> = world
        .pods
        .list()
        .iter()
        .flat_map(|view| names(&view.pod))
        .collect();
    let store = world.images.clone();
    let (found, named, pinned) = blocking(move || {
        let found = store.list().map_err(|e| e.to_string())?;
        let named: BTreeSet<String> = names
            .iter()
            .filter_map(|name| Some(store.get(name).ok()??.id))
            .collect();
        Ok::<_, String>((found, named, store.pinned()))
    })
    .await?;
    let used = |image: &Image| {
        named.contains(&image.id) || image.layers.first().is_some_and(|top| layers.contains(top))
    };
    let seen = records.look(&found, &used, &pinned, caravel_api::time::now());
    let disk =
        machine::disk(&world.config.data_dir).ok_or("the image file system cannot be read")?;
    let Some(plan) = plan(
        disk,
        world.config.image_thresholds,
        seen,
        caravel_api::time::now(),
    ) else {
        return Ok(());
    };
    let references: Vec<String> = found
        .into_iter()
        .filter(|image| plan.images.contains(&image.id))
        .flat_map(|image| image.references)
        .collect();
    tracing::info!(wanted = plan.wanted, images = ?references, "the image file system is above its high threshold: images are taken away");
    let store = world.images.clone();
    let freed = blocking(move || {
        for reference in &references {
            store.remove(reference).map_err(|e| e.to_string())?;
        }
        store.gc(&layers).map_err(|e| e.to_string())
    })
    .await?;
    tracing::info!(freed, "images taken away");
    if freed < plan.wanted {
        let message = format!(
            "Failed to garbage collect required amount of images. Attempted to free {} bytes, but only found {} bytes eligible to free.",
            plan.wanted, plan.eligible
        );
        tell(world, "FreeDiskSpaceFailed", message);
    }
    Ok(())
}

/// What the pod's containers are or will be started from. An ended pod needs no image.
fn names(pod: &Pod) -> Vec<String> {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    if matches!(phase, Some("Succeeded" | "Failed")) {
        return Vec::new();
    }
    let containers = pod.spec.iter().flat_map(order::containers);
    containers.filter_map(|(c, _)| c.image.clone()).collect()
}

fn tell(world: &World, reason: &str, message: String) {
    let node = Node {
        metadata: ObjectMeta {
            name: Some(world.config.name.clone()),
            ..ObjectMeta::default()
        },
        ..Node::default()
    };
    world.events.node(&node, Kind::Warning, reason, message);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn seen(id: &str, first: Option<i64>, used: Option<i64>) -> Seen {
        Seen {
            id: id.into(),
            size: 10,
            pinned: false,
            in_use: false,
            first: first.map(at),
            used: used.map(at),
        }
    }

    fn planned(free: i64, images: Vec<Seen>) -> Option<Vec<String>> {
        let disk = Disk {
            total: 1000,
            free,
            ..Disk::default()
        };
        plan(disk, ImageThresholds::default(), images, at(1000)).map(|plan| plan.images)
    }

    #[test]
    fn thresholds() {
        let images = || {
            (0..9)
                .map(|n| seen(&n.to_string(), None, None))
                .collect::<Vec<_>>()
        };
        for (free, taken) in [
            (1000, None),
            (160, None),
            (159, Some(5)), // whole percents, as upstream counts
            (150, Some(5)),
            (145, Some(6)),
            (0, Some(9)),
        ] {
            assert_eq!(planned(free, images()).map(|i| i.len()), taken, "{free}");
        }
    }

    #[test]
    fn who_goes_first_and_who_never() {
        let mut pinned = seen("pinned", None, None);
        pinned.pinned = true;
        let mut in_use = seen("in use", None, Some(999));
        in_use.in_use = true;
        let images = vec![
            seen("used late", None, Some(900)),
            seen("young", Some(900), None),
            seen("came late", Some(500), None),
            in_use,
            seen("old", None, None),
            pinned,
            seen("used early", Some(100), Some(200)),
        ];
        let everything = ["old", "came late", "used early", "used late"];
        assert_eq!(planned(0, images.clone()).unwrap(), everything);
        assert_eq!(
            planned(150, images).unwrap().len(),
            4,
            "50 bytes are wanted and 40 are there"
        );
    }

    #[test]
    fn what_was_here_at_the_start_is_old() {
        let image = |id: &str| Image {
            id: id.into(),
            references: vec![],
            size: 1,
            config: Default::default(),
            layers: vec![],
        };
        let mut records = Records::default();
        let none = BTreeSet::new();
        let first = records.look(&[image("a")], &|_| false, &none, at(0));
        assert_eq!((first[0].first, first[0].used), (None, None));
        let second = records.look(&[image("a"), image("b")], &|i| i.id == "a", &none, at(5));
        assert_eq!((second[0].first, second[0].used), (None, Some(at(5))));
        assert_eq!((second[1].first, second[1].used), (Some(at(5)), None));
    }
}
