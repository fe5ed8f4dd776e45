//! What a restore from a backup changes in what must hold: two lives of one cluster, each right by itself, and the second
//! begins with what the first had written up to the backup.

use crate::history::{Action, Final, History, Operation, Outcome, Restored};
use crate::watchers::Seen;
use std::collections::BTreeMap;

/// The history of each life. What the backup held is the end of the first and the beginning of the second.
pub fn apart(history: &History, restored: &Restored) -> (History, History) {
    let is_later = |one: &&Operation| match one.outcome {
        // Whatever has a revision says itself which life it is of.
        Outcome::Done { revision, .. } if one.acknowledged().is_some() => {
            revision >= restored.since
        }
        _ => one.invoked >= restored.at,
    };
    let (after, before): (Vec<_>, Vec<_>) = history.operations.iter().partition(is_later);
    let backup = restored.objects.iter().filter_map(|object| {
        let value = object.values.last()?.clone();
        Some(Operation {
            server: "backup".to_owned(),
            key: object.key.clone(),
            action: Action::Create {
                value: value.clone(),
            },
            invoked: restored.at,
            returned: restored.at,
            outcome: Outcome::Done {
                value,
                revision: object.revision,
            },
        })
    });
    let end = restored.objects.iter().map(|object| Final {
        key: object.key.clone(),
        values: object.values.clone(),
    });
    let first = History {
        operations: before.into_iter().cloned().collect(),
        end: end.collect(),
        ..History::default()
    };
    let second = History {
        operations: backup.chain(after.into_iter().cloned()).collect(),
        end: history.end.clone(),
        ..History::default()
    };
    (first, second)
}

/// What the backup brought back is there at the end as it was, and more may have been appended. And it is no newer than
/// the backup.
pub fn kept(end: &[Final], restored: &Restored, wrong: &mut Vec<String>) {
    let end: BTreeMap<&str, &[String]> = end
        .iter()
        .map(|object| (object.key.as_str(), &object.values[..]))
        .collect();
    for object in &restored.objects {
        if object.revision > restored.revision {
            wrong.push(format!(
                "{} came back with revision {}, later than the backup's {}",
                object.key, object.revision, restored.revision
            ));
        }
        let now = end.get(object.key.as_str()).copied().unwrap_or_default();
        if !now.starts_with(&object.values) {
            wrong.push(format!(
                "{} came back as {:?} and is {now:?} at the end",
                object.key, object.values
            ));
        }
    }
}

/// Nobody watches on over a restore: between what was seen of the first life and what is seen of the second lies a list.
pub fn told(seen: &[Seen], restored: &Restored) -> Result<(), String> {
    let at = |one: &Seen| match *one {
        Seen::Listed(at) | Seen::Change(at) | Seen::Bookmark(at) => at,
    };
    match seen.iter().find(|one| at(one) >= restored.since) {
        Some(Seen::Listed(_)) => Ok(()),
        Some(other) => Err(format!("it watched on over the restore, and saw {other:?}")),
        None => Err("it never came back after the restore".to_owned()),
    }
}
