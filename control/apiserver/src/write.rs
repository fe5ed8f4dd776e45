//! The recipes of writing, once for every kind: create, change, delete. HTTP verbs and in-process callers both end here.
//!
//! Each recipe decides on one snapshot and commits with everything it relied on as a `Check`; a conflict runs it again on a
//! newer snapshot, a bounded number of times. A refusal, or that nothing needs to be written, stands only if it was decided on a
//! snapshot that is current: a replica that lags decides again on a fresh one. "May have committed" is 504 and never retried. Upstream: apiserver/pkg/registry/generic/registry/store.go.

mod create;
mod delete;
mod update;

pub(crate) use update::{Current, Edited, Part};

use crate::admission::{Admission, Operation};
use crate::freshness;
use crate::options::WriteOptions;
use crate::server::ApiServer;
use bytes::Bytes;
use caravel_api::{ApiError, Encoded, Key, Revision, Row};
use caravel_auth::UserInfo;
use caravel_registry::{Object, Resource};
use caravel_schema::managed::{Writer as ManagedWriter, track_update};
use caravel_store::{CommitError, Committed, Epoch, NoQuorum, Snapshot, Txn};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use serde::Deserialize;
use serde_json::Value;

pub use delete::{DeleteOptions, Propagation};

/// How often a recipe runs before the conflict is the client's.
pub(crate) const ATTEMPTS: usize = 8;

/// Who writes and how.
#[derive(Clone)]
pub(crate) struct Writer<'a> {
    pub api: &'a ApiServer,
    pub user: &'a UserInfo,
    /// A leader's write, refused once its reign is over.
    pub epoch: Option<Epoch>,
    pub options: WriteOptions,
}

/// Which object.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub row: &'static Row,
    pub namespace: String,
    pub name: String,
    pub subresource: &'static str,
}

impl Target {
    pub(crate) fn key(&self) -> Key {
        self.row.key(&self.namespace, &self.name)
    }

    pub(crate) fn resource(&self) -> &'static dyn Resource {
        caravel_registry::resource(self.row)
    }
}

/// What a write left behind.
#[derive(Clone, Debug)]
pub struct Written {
    /// The object in its storage version, with its resourceVersion; for a deletion the last object.
    pub json: Bytes,
    /// Its name, which the server may have made up.
    pub name: String,
    /// Its revision.
    pub revision: Revision,
    /// Whether it is new.
    pub created: bool,
    /// Whether it is gone.
    pub deleted: bool,
    /// What the client should know.
    pub warnings: Vec<String>,
}

/// What became of a proposal.
pub(crate) enum Proposed {
    Done(Committed),
    /// An expectation did not hold: this key is at this revision (0: absent).
    Conflict(Key, Revision),
}

impl Writer<'_> {
    /// Proposes a transaction, or asks whether it would do for a dry run.
    pub(crate) async fn propose(&self, txn: Txn) -> Result<Proposed, ApiError> {
        let store = &self.api.store;
        if self.options.dry_run {
            return Ok(match store.check(&txn) {
                Ok(()) => {
                    let revision = store.snapshot().revision();
                    let revisions = vec![revision; txn.changes.len()];
                    Proposed::Done(Committed {
                        revision,
                        revisions,
                    })
                }
                Err(conflict) => Proposed::Conflict(conflict.key, conflict.revision),
            });
        }
        let outcome = match self.epoch {
            Some(epoch) => store.commit_under(epoch, txn).await,
            None => store.commit(txn).await,
        };
        match outcome {
            Ok(committed) => Ok(Proposed::Done(committed)),
            Err(CommitError::Conflict(key, revision)) => Ok(Proposed::Conflict(key, revision)),
            Err(CommitError::Unknown) => Err(ApiError::timeout_unknown()),
            Err(CommitError::NoQuorum) => Err(freshness::no_quorum(NoQuorum)),
            Err(CommitError::Busy) => Err(ApiError::too_many_requests(
                "Too many writes are under way, please try again later.",
                1,
            )),
            Err(CommitError::Full(why)) => Err(ApiError::insufficient_storage(why)),
            Err(error @ CommitError::TooLarge) => Err(ApiError::too_large(error)),
            Err(error @ CommitError::Deposed) => Err(ApiError::unavailable(error.to_string())),
        }
    }

    /// A snapshot on which to decide again, if what was decided on an old one may be wrong. Once only: what is decided on a
    /// snapshot that is fresh for this request stands, however much is written meanwhile.
    pub(crate) async fn second_look(
        &self,
        looked: &mut bool,
        decided: &Result<Option<Revision>, ApiError>,
        on: Revision,
    ) -> Result<Option<Snapshot>, ApiError> {
        let doubtful = match decided {
            // Found as it shall be: nothing was written.
            Ok(written) => written.is_some_and(|revision| revision <= on),
            Err(refusal) => matches!(refusal.code, 403 | 404 | 409 | 422),
        };
        if !doubtful || std::mem::replace(looked, true) {
            return Ok(None);
        }
        let fresh = freshness::current(&self.api.store).await?;
        Ok((fresh.revision() > on).then_some(fresh))
    }

    /// A snapshot on which the next attempt can do better.
    pub(crate) async fn newer(&self, found: Revision) -> Result<Snapshot, ApiError> {
        let store = &self.api.store;
        if found == Revision(0) {
            return freshness::current(store).await;
        }
        freshness::at_least(store, found).await
    }

    /// Runs the admission list on a write.
    pub(crate) fn admit(
        &self,
        snapshot: &Snapshot,
        target: &Target,
        operation: Operation,
        object: Option<&mut dyn Object>,
        old: Option<&dyn Object>,
    ) -> Result<Admitted, ApiError> {
        let mut admission = Admission::new(self.api, self.user, snapshot, target, operation);
        admission.run(object, old)?;
        Ok(Admitted {
            changes: admission.changes,
            warnings: admission.warnings,
        })
    }

    /// Notes the writer in managedFields and gives the bytes to store.
    pub(crate) fn finish(
        &self,
        target: &Target,
        object: &mut dyn Object,
        old: Option<&dyn Object>,
        tracked: bool,
    ) -> Result<Encoded, ApiError> {
        let resource = target.resource();
        let mut value = None;
        if tracked {
            let mut new = object.to_value();
            let old = old.map(Object::to_value);
            let writer = ManagedWriter {
                manager: &self.options.manager,
                api_version: &target.row.api_version(),
                subresource: target.subresource,
                now: caravel_api::time::now(),
            };
            track_update(
                old.as_ref(),
                &mut new,
                self.api.schema.of(target.row.definition),
                &writer,
            );
            object.meta_mut().managed_fields = managed_fields(&new)?;
            value = Some(new);
        }
        let json = match value {
            Some(value) if target.row.is_storage_version() => {
                serde_json::to_vec(&value).map_err(ApiError::internal)?
            }
            _ => resource.encode_stored(object),
        };
        Encoded::new(json).map_err(ApiError::internal)
    }
}

/// What admission added to a write.
pub(crate) struct Admitted {
    pub changes: Vec<caravel_store::Change>,
    pub warnings: Vec<String>,
}

fn managed_fields(value: &Value) -> Result<Option<Vec<ManagedFieldsEntry>>, ApiError> {
    value
        .pointer("/metadata/managedFields")
        .map(Vec::<ManagedFieldsEntry>::deserialize)
        .transpose()
        .map_err(ApiError::internal)
}

/// A conflict that did not go away.
pub(crate) fn still_in_conflict(row: &Row, name: &str) -> ApiError {
    ApiError::stale(row, name)
}
