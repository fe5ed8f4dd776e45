//! What pods on a node ask for together is not more than the node has.

use std::borrow::Cow;

use super::{Filter, Verdict};
use crate::cluster::Cluster;
use crate::pod::PodView;

pub fn filter<'a>(pod: &'a PodView, _: &'a Cluster) -> Option<Filter<'a>> {
    Some(Box::new(|node| {
        let mut lack = Lack::default();
        if node.pods.len() as i64 + 1 > node.max_pods {
            lack.reasons.push(Cow::Borrowed("Too many pods"));
        }
        let (wanted, used, has) = (&pod.requests, &node.requested, &node.allocatable);
        lack.check("cpu", wanted.milli_cpu, used.milli_cpu, has.milli_cpu);
        lack.check("memory", wanted.memory, used.memory, has.memory);
        lack.check(
            "ephemeral-storage",
            wanted.ephemeral,
            used.ephemeral,
            has.ephemeral,
        );
        for (name, wanted) in &wanted.extended {
            let of = |amounts: &std::collections::BTreeMap<String, i64>| {
                amounts.get(name).copied().unwrap_or(0)
            };
            lack.check(name, *wanted, of(&used.extended), of(&has.extended));
        }
        lack.verdict()
    }))
}

#[derive(Default)]
struct Lack {
    reasons: Vec<Cow<'static, str>>,
    /// More is asked for than the whole node has.
    helpless: bool,
}

impl Lack {
    fn check(&mut self, name: &str, wanted: i64, used: i64, has: i64) {
        if wanted > 0 && wanted > has - used {
            self.reasons.push(match name {
                "cpu" => Cow::Borrowed("Insufficient cpu"),
                "memory" => Cow::Borrowed("Insufficient memory"),
                _ => Cow::Owned(format!("Insufficient {name}")),
            });
            self.helpless |= wanted > has;
        }
    }

    fn verdict(self) -> Verdict {
        if self.reasons.is_empty() {
            Verdict::Fits
        } else {
            Verdict::Unfit {
                reasons: self.reasons,
                helpless: self.helpless,
            }
        }
    }
}
