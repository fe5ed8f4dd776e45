//! Deleting an object: at once, after its grace, or when its finalizers are gone.
//! Upstream: registry/rest/delete.go, registry/generic/registry/store.go (`Delete`, `deletionFinalizersForGarbageCollection`).

use super::{ATTEMPTS, Proposed, Target, Writer, Written};
use crate::admission::Operation;
use crate::options::{dry_run_list, refuse};
use crate::query::Query;
use caravel_api::{ApiError, FieldError, Path, Revision, time};
use caravel_registry::{Grace, Object};
use caravel_store::{Change, Expect, Snapshot, Txn};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// What becomes of an object's dependents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Propagation {
    /// They lose their owner and stay.
    Orphan,
    /// They go after it.
    Background,
    /// They go before it.
    Foreground,
}

/// The body of a deletion.
#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    /// Seconds; `None` is the kind's default.
    pub grace: Option<i64>,
    /// Only the object with this uid.
    pub uid: Option<String>,
    /// Only at this revision.
    pub revision: Option<String>,
    /// What becomes of dependents; `None` is what its finalizers say, else background.
    pub propagation: Option<Propagation>,
    /// Decide, but change nothing.
    pub dry_run: bool,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Wire {
    grace_period_seconds: Option<i64>,
    preconditions: Option<Preconditions>,
    orphan_dependents: Option<bool>,
    propagation_policy: Option<String>,
    dry_run: Option<Vec<String>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Preconditions {
    uid: Option<String>,
    resource_version: Option<String>,
}

impl DeleteOptions {
    /// From the body (JSON) and, where that is empty, the query.
    pub(crate) fn parse(body: &[u8], query: &Query) -> Result<Self, ApiError> {
        let wire: Wire = if body.is_empty() {
            let grace = query.number("gracePeriodSeconds");
            Wire {
                grace_period_seconds: grace.map_err(|text| {
                    ApiError::bad_request(format!(
                        "strconv.ParseInt: parsing {text:?}: invalid syntax"
                    ))
                })?,
                orphan_dependents: query
                    .get("orphanDependents")
                    .map(|_| query.flag("orphanDependents")),
                propagation_policy: query.text("propagationPolicy").map(str::to_owned),
                dry_run: Some(query.all("dryRun").map(str::to_owned).collect()),
                preconditions: None,
            }
        } else {
            serde_json::from_slice(body).map_err(|error| {
                ApiError::bad_request(format!("couldn't decode DeleteOptions: {error}"))
            })?
        };
        Self::from_wire(wire, query)
    }

    fn from_wire(wire: Wire, query: &Query) -> Result<Self, ApiError> {
        let mut errors = Vec::new();
        let policy_path = Path::new("propagationPolicy");
        if wire.orphan_dependents.is_some() && wire.propagation_policy.is_some() {
            let why = "orphanDependents and deletionPropagation cannot be both set";
            errors.push(FieldError::invalid(
                &policy_path,
                wire.propagation_policy.clone().unwrap_or_default(),
                why,
            ));
        }
        let propagation = match (wire.propagation_policy.as_deref(), wire.orphan_dependents) {
            (Some("Orphan"), _) | (None, Some(true)) => Some(Propagation::Orphan),
            (Some("Background"), _) | (None, Some(false)) => Some(Propagation::Background),
            (Some("Foreground"), _) => Some(Propagation::Foreground),
            (None | Some(""), _) => None,
            (Some(other), _) => {
                errors.push(FieldError::not_supported(
                    &policy_path,
                    other,
                    &["Background", "Foreground", "Orphan"],
                ));
                None
            }
        };
        refuse("DeleteOptions", errors)?;
        let mut dry = wire.dry_run.unwrap_or_default();
        dry.extend(query.all("dryRun").map(str::to_owned));
        let preconditions = wire.preconditions.unwrap_or_default();
        Ok(Self {
            grace: wire.grace_period_seconds,
            uid: preconditions.uid.filter(|uid| !uid.is_empty()),
            revision: preconditions
                .resource_version
                .filter(|version| !version.is_empty()),
            propagation,
            dry_run: dry_run_list(&dry, "DeleteOptions")?,
        })
    }
}

impl Writer<'_> {
    /// Deletes one object, or begins to.
    pub(crate) async fn delete(
        &self,
        target: &Target,
        options: &DeleteOptions,
    ) -> Result<Written, ApiError> {
        let mut snapshot = self.api.store.snapshot();
        let mut looked = false;
        for _ in 0..ATTEMPTS {
            let tried = self.delete_on(&snapshot, target, options).await;
            let decided = match &tried {
                Ok(done) => Ok(done.as_ref().ok().map(|written| written.revision)),
                Err(refusal) => Err(refusal.clone()),
            };
            if let Some(fresh) = self
                .second_look(&mut looked, &decided, snapshot.revision())
                .await?
            {
                snapshot = fresh;
                continue;
            }
            match tried? {
                Ok(written) => return Ok(written),
                Err(found) => snapshot = self.newer(found).await?,
            }
        }
        Err(ApiError::stale(target.row, &target.name))
    }

    async fn delete_on(
        &self,
        snapshot: &Snapshot,
        target: &Target,
        options: &DeleteOptions,
    ) -> Result<Result<Written, Revision>, ApiError> {
        let (row, resource) = (target.row, target.resource());
        let key = target.key();
        let entry = snapshot
            .entry(&key)
            .ok_or_else(|| ApiError::not_found(row, &target.name))?;
        preconditions(target, options, &entry.meta.uid, entry.revision)?;
        let old = resource
            .decode_stored(&entry.json)
            .map_err(ApiError::internal)?;
        let admitted = self.admit(snapshot, target, Operation::Delete, None, Some(&*old))?;
        let grace = resource.grace(&*old, options.grace);
        let written = |json, revision, deleted| Written {
            json,
            name: target.name.clone(),
            revision,
            created: false,
            deleted,
            warnings: admitted.warnings.clone(),
        };

        let mut new = old.clone_object();
        finalizers(new.meta_mut(), options.propagation);
        let held = resource.held(&*new);
        let step = mark(&mut *new, grace, held);
        if step != Step::Remove && new.meta().deletion_timestamp != old.meta().deletion_timestamp {
            resource.begin_deletion(&mut *new);
        }
        let change = match step {
            Step::Remove => Change::Delete {
                key: key.clone(),
                expect: Expect::At(entry.revision),
            },
            Step::Keep if resource.same(&*new, &*old) => {
                return Ok(Ok(written(entry.json.clone(), entry.revision, false)));
            }
            Step::Keep => {
                let object = self.finish(target, &mut *new, Some(&*old), false)?;
                Change::Put {
                    key: key.clone(),
                    expect: Expect::At(entry.revision),
                    object,
                }
            }
        };
        let encoded = match &change {
            Change::Put { object, .. } => Some(object.clone()),
            _ => None,
        };
        let mut txn = Txn::new().with(change).with_all(admitted.changes);
        if step == Step::Remove {
            txn = txn.with_all(crate::allocate::released(&*old));
        }
        match self.propose(txn).await? {
            Proposed::Done(committed) => {
                let revision = committed
                    .revisions
                    .first()
                    .copied()
                    .unwrap_or(committed.revision);
                let json = match encoded {
                    Some(encoded) if !self.options.dry_run => encoded.at(revision),
                    Some(encoded) => encoded.json,
                    None => entry.encoded().at(revision),
                };
                Ok(Ok(written(json, revision, step == Step::Remove)))
            }
            Proposed::Conflict(_, found) => Ok(Err(found)),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Take it away now.
    Remove,
    /// Store it, marked.
    Keep,
}

/// Marks an object as being deleted, or says that it goes now. A grace that runs already is only ever shortened.
fn mark(object: &mut dyn Object, grace: Grace, held: bool) -> Step {
    let now = time::now();
    let meta = object.meta_mut();
    let asked = match grace {
        Grace::After(seconds) if seconds > 0 => seconds,
        _ => 0,
    };
    match (&meta.deletion_timestamp, asked) {
        (None, seconds) if seconds > 0 => {
            meta.deletion_timestamp = Some(time::time(time::after(now, seconds)));
            meta.deletion_grace_period_seconds = Some(seconds);
            generation(meta);
            Step::Keep
        }
        (Some(at), seconds) if seconds > 0 => {
            let running = meta.deletion_grace_period_seconds.unwrap_or(0);
            if running == 0 && !held {
                return Step::Remove;
            }
            if seconds < running {
                meta.deletion_timestamp = Some(time::time(time::after(at.0, seconds - running)));
                meta.deletion_grace_period_seconds = Some(seconds);
                generation(meta);
            }
            Step::Keep
        }
        (_, _) if !held => Step::Remove,
        (None, _) => {
            meta.deletion_timestamp = Some(time::time(now));
            meta.deletion_grace_period_seconds = Some(0);
            generation(meta);
            Step::Keep
        }
        (Some(_), _) => {
            if meta.deletion_grace_period_seconds != Some(0) {
                meta.deletion_timestamp = Some(time::time(now));
                meta.deletion_grace_period_seconds = Some(0);
            }
            Step::Keep
        }
    }
}

/// Upstream counts the mark of deletion as a change of what is wanted.
fn generation(meta: &mut ObjectMeta) {
    if let Some(generation) = meta
        .generation
        .as_mut()
        .filter(|generation| **generation > 0)
    {
        *generation += 1;
    }
}

/// The finalizers by which the garbage collector learns what to do with dependents.
fn finalizers(meta: &mut ObjectMeta, propagation: Option<Propagation>) {
    let Some(propagation) = propagation else {
        return;
    };
    let mut finalizers = meta.finalizers.take().unwrap_or_default();
    finalizers.retain(|finalizer| finalizer != ORPHAN && finalizer != FOREGROUND);
    match propagation {
        Propagation::Orphan => finalizers.push(ORPHAN.to_owned()),
        Propagation::Foreground => finalizers.push(FOREGROUND.to_owned()),
        Propagation::Background => {}
    }
    meta.finalizers = (!finalizers.is_empty()).then_some(finalizers);
}

fn preconditions(
    target: &Target,
    options: &DeleteOptions,
    uid: &str,
    revision: Revision,
) -> Result<(), ApiError> {
    if let Some(wanted) = options.uid.as_deref().filter(|wanted| *wanted != uid) {
        let why = format!(
            "Precondition failed: UID in precondition: {wanted}, UID in object meta: {uid}"
        );
        return Err(ApiError::conflict(target.row, &target.name, why));
    }
    if let Some(wanted) = options
        .revision
        .as_deref()
        .filter(|wanted| *wanted != revision.to_string())
    {
        let why = format!(
            "Precondition failed: ResourceVersion in precondition: {wanted}, ResourceVersion in object meta: {revision}"
        );
        return Err(ApiError::conflict(target.row, &target.name, why));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options() {
        let parse = |body: &str, query: &str| {
            DeleteOptions::parse(body.as_bytes(), &Query::parse(Some(query)))
        };
        let options = parse(r#"{"gracePeriodSeconds":0,"propagationPolicy":"Foreground","preconditions":{"uid":"u"}}"#, "").unwrap();
        assert_eq!(
            (options.grace, options.propagation, options.uid.as_deref()),
            (Some(0), Some(Propagation::Foreground), Some("u"))
        );
        let options = parse(
            "",
            "gracePeriodSeconds=5&propagationPolicy=Orphan&dryRun=All",
        )
        .unwrap();
        assert_eq!(
            (options.grace, options.propagation, options.dry_run),
            (Some(5), Some(Propagation::Orphan), true)
        );
        assert_eq!(
            parse(r#"{"propagationPolicy":"X"}"#, "").unwrap_err().code,
            422
        );
        assert_eq!(parse("{", "").unwrap_err().code, 400);
    }
}
