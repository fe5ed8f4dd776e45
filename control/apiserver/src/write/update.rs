//! Changing an object that is there: replace, patch, and the subresources that write into it.
//! Upstream: registry/rest/update.go, registry/generic/registry/store.go (`Update`).

use super::{ATTEMPTS, Proposed, Target, Writer, Written};
use crate::admission::Operation;
use caravel_api::{ApiError, Revision};
use caravel_registry::Object;
use caravel_store::{Change, Entry, Expect, Snapshot, Txn};

/// What part of the object the writer may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// All but the status, where there is one.
    Main,
    /// The status.
    Status,
    /// Exactly what the edit did (binding, finalize): the rules of replace do not apply.
    Raw,
}

/// The object as an edit finds it.
pub(crate) struct Current<'a> {
    pub old: &'a dyn Object,
}

/// What an edit made of it.
pub(crate) struct Edited {
    pub object: Box<dyn Object>,
    /// Ownership was noted already (server-side apply).
    pub tracked: bool,
}

impl From<Box<dyn Object>> for Edited {
    fn from(object: Box<dyn Object>) -> Self {
        Self {
            object,
            tracked: false,
        }
    }
}

impl Writer<'_> {
    /// Applies `edit` to the object and stores the result. A resourceVersion in the result is a condition; without one the edit runs again on a conflict.
    pub(crate) async fn update<E>(
        &self,
        target: &Target,
        part: Part,
        mut edit: impl FnMut(&Current<'_>) -> Result<E, ApiError> + Send,
    ) -> Result<Written, ApiError>
    where
        E: Into<Edited>,
    {
        let mut snapshot = self.api.store.snapshot();
        let mut looked = false;
        for _ in 0..ATTEMPTS {
            let tried = self.update_on(&snapshot, target, part, &mut edit).await;
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

    async fn update_on<E>(
        &self,
        snapshot: &Snapshot,
        target: &Target,
        part: Part,
        edit: &mut (impl FnMut(&Current<'_>) -> Result<E, ApiError> + Send),
    ) -> Result<Result<Written, Revision>, ApiError>
    where
        E: Into<Edited>,
    {
        let (row, resource) = (target.row, target.resource());
        let key = target.key();
        let entry = snapshot
            .entry(&key)
            .ok_or_else(|| ApiError::not_found(row, &target.name))?;
        let old = resource
            .decode_stored(&entry.json)
            .map_err(ApiError::internal)?;
        let Edited {
            object: mut new,
            tracked,
        } = edit(&Current { old: &*old })?.into();
        same_object(&*new, &entry, target)?;
        new.meta_mut()
            .resource_version
            .clone_from(&old.meta().resource_version);
        if part != Part::Raw {
            resource.apply_defaults(&mut *new);
        }
        match part {
            Part::Main => resource.prepare_update(&mut *new, &*old),
            Part::Status => resource.prepare_status(&mut *new, &*old),
            Part::Raw => {}
        }
        let admitted = self.admit(
            snapshot,
            target,
            Operation::Update,
            Some(&mut *new),
            Some(&*old),
        )?;
        let errors = match part {
            Part::Main => resource.validate_update(&*new, &*old),
            Part::Status => resource.validate_status(&*new, &*old),
            Part::Raw => resource.validate_meta_update(&*new, &*old),
        };
        if !errors.is_empty() {
            return Err(ApiError::invalid(row, &target.name, &errors));
        }
        let mut warnings = resource.warnings(&*new, Some(&*old));
        warnings.extend(admitted.warnings);
        let encoded = self.finish(
            target,
            &mut *new,
            Some(&*old),
            !tracked && part != Part::Raw,
        )?;
        let written = |json, revision, deleted| Written {
            json,
            name: target.name.clone(),
            revision,
            created: false,
            deleted,
            warnings: warnings.clone(),
        };
        if resource.same(&*new, &*old) && admitted.changes.is_empty() {
            return Ok(Ok(written(entry.json.clone(), entry.revision, false)));
        }
        let meta = new.meta();
        let finished = meta.deletion_timestamp.is_some()
            && meta.deletion_grace_period_seconds.unwrap_or(0) == 0
            && !resource.held(&*new);
        let txn = if finished {
            Txn::delete(key.clone(), entry.revision).with_all(crate::allocate::released(&*old))
        } else {
            Txn::new().with(Change::Put {
                key: key.clone(),
                expect: Expect::At(entry.revision),
                object: encoded.clone(),
            })
        };
        match self.propose(txn.with_all(admitted.changes)).await? {
            Proposed::Done(committed) => {
                let revision = committed
                    .revisions
                    .first()
                    .copied()
                    .unwrap_or(committed.revision);
                let json = if self.options.dry_run {
                    encoded.json
                } else {
                    encoded.at(revision)
                };
                Ok(Ok(written(json, revision, finished)))
            }
            Proposed::Conflict(_, found) => Ok(Err(found)),
        }
    }
}

/// The result of an edit must be the same object at the revision it was made from.
fn same_object(new: &dyn Object, entry: &Entry, target: &Target) -> Result<(), ApiError> {
    let meta = new.meta();
    if let Some(name) = meta.name.as_deref().filter(|name| !name.is_empty())
        && name != target.name
    {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            target.name
        )));
    }
    if let Some(namespace) = meta
        .namespace
        .as_deref()
        .filter(|namespace| !namespace.is_empty())
        && namespace != target.namespace
    {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    if let Some(version) = meta
        .resource_version
        .as_deref()
        .filter(|version| !version.is_empty())
    {
        match version.parse::<u64>() {
            Ok(0) => {}
            Ok(version) if Revision(version) == entry.revision => {}
            Ok(_) => return Err(ApiError::stale(target.row, &target.name)),
            Err(_) => {
                let errors = caravel_api::FieldErrors(vec![caravel_api::FieldError::invalid(
                    &caravel_api::Path::new("metadata").child("resourceVersion"),
                    version,
                    "must be an unsigned integer",
                )]);
                return Err(ApiError::invalid(target.row, &target.name, &errors));
            }
        }
    }
    if let Some(uid) = meta.uid.as_deref().filter(|uid| !uid.is_empty())
        && *uid != *entry.meta.uid
    {
        return Err(ApiError::conflict(
            target.row,
            &target.name,
            format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                entry.meta.uid
            ),
        ));
    }
    Ok(())
}
