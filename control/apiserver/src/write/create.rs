//! Creating an object. Upstream: registry/rest/create.go, registry/generic/registry/store.go.

use super::{ATTEMPTS, Proposed, Target, Writer, Written, still_in_conflict};
use crate::admission::Operation;
use caravel_api::{ApiError, Revision, generate, time};
use caravel_registry::Object;
use caravel_store::{Snapshot, Txn};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

impl Writer<'_> {
    /// Creates `object`. `tracked` is false when ownership was noted already (server-side apply).
    pub(crate) async fn create(
        &self,
        target: Target,
        mut object: Box<dyn Object>,
        tracked: bool,
    ) -> Result<Written, ApiError> {
        stamp(object.meta_mut(), &target)?;
        let mut snapshot = self.api.store.snapshot();
        let (mut attempt, mut looked) = (0, false);
        loop {
            attempt += 1;
            // The last attempt needs no copy to fall back on; nearly always the first one is it.
            let tried = self
                .create_on(&snapshot, target.clone(), object.clone_object(), tracked)
                .await;
            if let Err(refusal) = &tried
                && attempt < ATTEMPTS
                && let Some(fresh) = self
                    .second_look(&mut looked, &Err(refusal.clone()), snapshot.revision())
                    .await?
            {
                snapshot = fresh;
                continue;
            }
            let (key, found) = match tried? {
                Tried::Written(written) => return Ok(written),
                Tried::Conflict { key, own, found } if key == own => {
                    let meta = object.meta();
                    let generated = meta
                        .generate_name
                        .as_deref()
                        .is_some_and(|base| !base.is_empty());
                    let given = meta.name.as_deref().is_some_and(|name| !name.is_empty());
                    if given || !generated || attempt >= ATTEMPTS {
                        return Err(ApiError::already_exists(target.row, &own.object().name));
                    }
                    (key, found)
                }
                Tried::Conflict { key, found, .. } => (key, found),
            };
            if attempt >= ATTEMPTS {
                return Err(still_in_conflict(target.row, &key.object().name));
            }
            snapshot = self.newer(found).await?;
        }
    }

    async fn create_on(
        &self,
        snapshot: &Snapshot,
        mut target: Target,
        mut object: Box<dyn Object>,
        tracked: bool,
    ) -> Result<Tried, ApiError> {
        let resource = target.resource();
        name(object.meta_mut());
        target.name = object.meta().name.clone().unwrap_or_default();
        resource.apply_defaults(&mut *object);
        resource.prepare_create(&mut *object);
        let admitted = self.admit(
            snapshot,
            &target,
            Operation::Create,
            Some(&mut *object),
            None,
        )?;
        resource.apply_defaults(&mut *object);
        let errors = resource.validate(&*object);
        if !errors.is_empty() {
            return Err(ApiError::invalid(target.row, &target.name, &errors));
        }
        let mut warnings = resource.warnings(&*object, None);
        warnings.extend(admitted.warnings);
        let encoded = self.finish(&target, &mut *object, None, tracked)?;
        let key = target.key();
        let txn = Txn::create(key.clone(), encoded.clone()).with_all(admitted.changes);
        Ok(match self.propose(txn).await? {
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
                Tried::Written(Written {
                    json,
                    name: target.name,
                    revision,
                    created: true,
                    deleted: false,
                    warnings,
                })
            }
            Proposed::Conflict(found_key, found) => Tried::Conflict {
                own: key,
                key: found_key,
                found,
            },
        })
    }
}

enum Tried {
    Written(Written),
    Conflict {
        own: caravel_api::Key,
        key: caravel_api::Key,
        found: Revision,
    },
}

/// What the server says about a new object, and what a client may not say.
fn stamp(meta: &mut ObjectMeta, target: &Target) -> Result<(), ApiError> {
    if meta
        .resource_version
        .as_deref()
        .is_some_and(|version| !version.is_empty())
    {
        return Err(ApiError::new(
            500,
            "",
            "resourceVersion should not be set on objects to be created",
        ));
    }
    match meta.namespace.as_deref().unwrap_or_default() {
        "" => meta.namespace = (!target.namespace.is_empty()).then(|| target.namespace.clone()),
        namespace if namespace == target.namespace => {}
        _ => {
            return Err(ApiError::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
    }
    meta.resource_version = None;
    meta.self_link = None;
    meta.deletion_timestamp = None;
    meta.deletion_grace_period_seconds = None;
    meta.uid = Some(generate::uid().to_string());
    meta.creation_timestamp = Some(time::time(time::now()));
    Ok(())
}

fn name(meta: &mut ObjectMeta) {
    if meta.name.as_deref().is_none_or(str::is_empty)
        && let Some(base) = meta
            .generate_name
            .as_deref()
            .filter(|base| !base.is_empty())
    {
        meta.name = Some(generate::name(base));
    }
}
