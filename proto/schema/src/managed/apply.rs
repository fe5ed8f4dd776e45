//! Server-side apply: the manager says all that it wants, and the server works out what that changes, takes away and
//! collides with.
//!
//! Upstream: `structured-merge-diff/v6/merge/update.go` (`Apply`, `prune`), `managedfields/internal/conflict.go`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::entries::{self, Entry};
use super::set::Set;
use super::{ApplyError, ConflictCause, Writer, track, walk};
use crate::tree::TypeRef;

/// Upstream's name of the owner of everything that was there before ownership was kept.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// See [`super::apply`].
pub(super) fn apply(
    live: Option<&Value>,
    applied: &Value,
    ty: TypeRef<'_>,
    writer: &Writer<'_>,
    force: bool,
) -> Result<Value, ApplyError> {
    if entries::of(applied).is_some_and(|list| !list.is_null()) {
        return Err(ApplyError::Malformed(
            "metadata.managedFields must be nil".into(),
        ));
    }
    let empty = json!({});
    let base = live.unwrap_or(&empty);
    let before = managers(live, ty, writer);

    let mut fields = walk::field_set(applied, ty);
    track::strip(&mut fields, writer.subresource);
    let mine = Entry::new(writer, true, fields);
    let mut others = before.clone();
    let last = others
        .iter()
        .position(|entry| entry.belongs_to(&mine))
        .map(|index| others.remove(index));

    let mut result = walk::merge(base, applied, ty);
    keep_servers_own(&mut result, base, applied);
    if let Some(last) = &last {
        result = prune(result, &last.fields, &mine.fields, &others, ty);
    }
    entries::put(&mut result, None);

    let difference = track::difference(live, &result, ty, writer.subresource);
    let mut changed = difference.added.clone();
    changed.union(&difference.modified);
    let conflicts: Vec<(usize, Set)> = others
        .iter()
        .enumerate()
        .map(|(index, other)| (index, other.fields.intersection(&changed)))
        .filter(|(_, taken)| !taken.is_empty())
        .collect();
    if !conflicts.is_empty() && !force {
        return Err(refuse(&others, &conflicts));
    }
    for (index, taken) in &conflicts {
        others[*index].fields.subtract(taken);
    }
    for other in &mut others {
        other.fields.subtract(&difference.removed);
    }
    if live.is_some()
        && difference.is_empty()
        && last.as_ref().is_some_and(|last| unchanged(last, &mine))
    {
        // Nothing changed and nobody gained: the object stays as it is, time included.
        return Ok(base.clone());
    }
    others.push(mine);
    entries::store(&mut result, others);
    Ok(result)
}

/// `creationTimestamp: null`, as kubectl prints it, takes nothing away.
fn keep_servers_own(result: &mut Value, base: &Value, applied: &Value) {
    let Some(metadata) = result.get_mut("metadata").and_then(Value::as_object_mut) else {
        return;
    };
    for key in track::SERVERS_OWN {
        if applied["metadata"].get(key).is_some_and(Value::is_null) {
            match base["metadata"].get(key) {
                Some(live) => metadata.insert((*key).to_owned(), live.clone()),
                None => metadata.remove(*key),
            };
        }
    }
}

fn unchanged(last: &Entry, mine: &Entry) -> bool {
    last.fields == mine.fields && last.api_version == mine.api_version
}

/// The entries of the live object; one that was never tracked belongs to "before-first-apply".
fn managers(live: Option<&Value>, ty: TypeRef<'_>, writer: &Writer<'_>) -> Vec<Entry> {
    let Some(live) = live else { return Vec::new() };
    let managers = entries::decode(entries::of(live)).unwrap_or_default();
    if !managers.is_empty() {
        return managers;
    }
    let mut fields = walk::field_set(live, ty);
    track::strip(&mut fields, writer.subresource);
    vec![Entry::new(
        &Writer {
            manager: BEFORE_FIRST_APPLY,
            ..*writer
        },
        false,
        fields,
    )]
}

/// Takes away what the manager applied last time, no longer applies, and nobody else owns.
fn prune(merged: Value, last: &Set, mine: &Set, others: &[Entry], ty: TypeRef<'_>) -> Value {
    if last.clone().minus(mine).is_empty() {
        return merged;
    }
    let named = |set: &Set| walk::with_named(set, ty);
    let fields = |value: &Value| named(&walk::field_set(value, ty));
    let without = |gone: &Set| walk::remove(&merged, gone, ty).unwrap_or_else(|| json!({}));

    let merged_fields = fields(&merged);
    let last = named(last);
    let mut owned = mine.clone();
    for other in others {
        owned.union(&other.fields);
    }
    // First everything of last time goes, then what somebody owns comes back, then what only hung below it.
    let pruned = without(&last);
    let pruned = without(
        &merged_fields
            .clone()
            .minus(&fields(&pruned))
            .minus(&named(&owned)),
    );
    without(&merged_fields.minus(&fields(&pruned)).intersection(&last))
}

fn refuse(others: &[Entry], conflicts: &[(usize, Set)]) -> ApplyError {
    let mut by_manager: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (index, taken) in conflicts {
        by_manager
            .entry(name(&others[*index]))
            .or_default()
            .extend(taken.paths());
    }
    let causes: Vec<ConflictCause> = by_manager
        .iter()
        .flat_map(|(manager, fields)| {
            fields.iter().map(move |field| ConflictCause {
                message: format!("conflict with {manager}"),
                field: field.clone(),
            })
        })
        .collect();
    let message = match causes.as_slice() {
        [only] => format!(
            "Apply failed with 1 conflict: {}: {}",
            only.message, only.field
        ),
        many => {
            let mut lines = Vec::new();
            for (manager, fields) in &by_manager {
                lines.push(format!("conflicts with {manager}:"));
                lines.extend(fields.iter().map(|field| format!("- {field}")));
            }
            format!(
                "Apply failed with {} conflicts: {}",
                many.len(),
                lines.join("\n")
            )
        }
    };
    ApplyError::Conflict { message, causes }
}

/// `"one" with subresource "status" using v1`
fn name(entry: &Entry) -> String {
    let mut name = format!("{:?}", entry.manager);
    if !entry.subresource.is_empty() {
        name.push_str(&format!(" with subresource {:?}", entry.subresource));
    }
    if !entry.apply {
        name.push_str(&format!(" using {}", entry.api_version));
    }
    name
}
