//! A hand over a memory store, precise enough to be trusted by tests: names are generated, uids and preconditions
//! hold, stale updates conflict, status and spec are written apart, finalizers delay a deletion.
//!
//! Knows no admission and no validation; those belong to the API server.

use async_trait::async_trait;
use caravel_api::{ApiError, Encoded, Key, ObjectName, Revision, Row, generate, time};
use caravel_store::{Change, CommitError, Entry, Epoch, Expect, Store, Txn};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::sync::Arc;

use crate::action::{Action, Deletion, Propagation};
use crate::hand::{Applied, Hand};

pub struct FakeHand {
    store: Store,
    /// Every action's line, in order.
    pub log: Mutex<Vec<String>>,
    /// Actions whose line begins so are refused with this error.
    pub refuse: Mutex<Option<(String, ApiError)>>,
}

impl FakeHand {
    pub fn new(store: Store) -> Self {
        FakeHand {
            store,
            log: Mutex::new(Vec::new()),
            refuse: Mutex::new(None),
        }
    }

    /// Stores an object as it is given (a test's setting).
    pub async fn put(&self, object: &Value) -> Result<Revision, ApiError> {
        let (api_version, kind) = (
            object["apiVersion"].as_str().unwrap_or_default(),
            object["kind"].as_str().unwrap_or_default(),
        );
        let row = caravel_api::kinds::by_api_version(api_version, kind)
            .ok_or_else(|| ApiError::bad_request(format!("no kind {api_version} {kind}")))?;
        let metadata = &object["metadata"];
        let key = row.key(
            metadata["namespace"].as_str().unwrap_or_default(),
            metadata["name"].as_str().unwrap_or_default(),
        );
        self.commit(
            Change::Put {
                key,
                expect: Expect::Any,
                object: encode(object)?,
            },
            row,
            "",
        )
        .await
    }

    async fn commit(&self, change: Change, row: &Row, name: &str) -> Result<Revision, ApiError> {
        match self.store.commit(Txn::new().with(change.clone())).await {
            Ok(committed) => Ok(committed.revision),
            Err(CommitError::Conflict(..)) if change.expect() == Expect::Absent => {
                Err(ApiError::already_exists(row, name))
            }
            Err(CommitError::Conflict(..)) => Err(ApiError::stale(row, name)),
            Err(other) => Err(ApiError::unavailable(other.to_string())),
        }
    }

    fn entry(&self, key: &Key, row: &Row, name: &str) -> Result<Arc<Entry>, ApiError> {
        self.store
            .snapshot()
            .entry(key)
            .ok_or_else(|| ApiError::not_found(row, name))
    }

    async fn replace(
        &self,
        row: &'static Row,
        name: &ObjectName,
        mut object: Value,
        status_only: bool,
    ) -> Result<Applied, ApiError> {
        let key = row.key(&name.namespace, &name.name);
        let entry = self.entry(&key, row, &name.name)?;
        let old = decode(&entry.json)?;
        let expect = match object["metadata"]["resourceVersion"]
            .as_str()
            .map(str::parse)
        {
            Some(Ok(revision)) => Expect::At(revision),
            _ => Expect::At(entry.revision),
        };
        if status_only {
            // As the real verbs: annotations travel with a status.
            let (status, annotations) = (
                object["status"].take(),
                object["metadata"]["annotations"].take(),
            );
            object = old;
            object["status"] = status;
            if !annotations.is_null() {
                object["metadata"]["annotations"] = annotations;
            }
        } else {
            if row.subresource("status").is_some() {
                object["status"] = old["status"].clone();
            }
            if object["spec"] != old["spec"] && entry.meta.generation > 0 {
                object["metadata"]["generation"] = (entry.meta.generation + 1).into();
            }
            if entry.meta.is_terminating() && is_free(&object) {
                let change = Change::Delete { key, expect };
                return Ok(Applied {
                    revision: self.commit(change, row, &name.name).await?,
                    name: name.name.clone(),
                });
            }
        }
        drop_null_status(&mut object);
        let change = Change::Put {
            key,
            expect,
            object: encode(&object)?,
        };
        Ok(Applied {
            revision: self.commit(change, row, &name.name).await?,
            name: name.name.clone(),
        })
    }

    async fn delete(
        &self,
        row: &'static Row,
        name: &ObjectName,
        how: &Deletion,
    ) -> Result<Applied, ApiError> {
        let key = row.key(&name.namespace, &name.name);
        let entry = self.entry(&key, row, &name.name)?;
        if (!how.uid.is_empty() && how.uid != entry.meta.uid)
            || how
                .revision
                .is_some_and(|revision| revision != entry.revision)
        {
            return Err(ApiError::conflict(row, &name.name, "Precondition failed"));
        }
        let mut object = decode(&entry.json)?;
        let finalizer = match how.propagation {
            Some(Propagation::Foreground) => Some("foregroundDeletion"),
            Some(Propagation::Orphan) => Some("orphan"),
            _ => None,
        };
        if let Some(finalizer) = finalizer
            && !entry
                .meta
                .finalizers
                .iter()
                .any(|present| present == finalizer)
        {
            match &mut object["metadata"]["finalizers"] {
                Value::Array(finalizers) => finalizers.push(finalizer.into()),
                other => *other = json!([finalizer]),
            }
        }
        let change = if is_free(&object) {
            Change::Delete {
                key,
                expect: Expect::At(entry.revision),
            }
        } else {
            object["metadata"]["deletionTimestamp"] = time::rfc3339(time::now()).into();
            if row.kind == "Namespace" {
                object["status"]["phase"] = "Terminating".into();
            }
            Change::Put {
                key,
                expect: Expect::At(entry.revision),
                object: encode(&object)?,
            }
        };
        Ok(Applied {
            revision: self.commit(change, row, &name.name).await?,
            name: name.name.clone(),
        })
    }
}

fn decode(json: &[u8]) -> Result<Value, ApiError> {
    serde_json::from_slice(json).map_err(ApiError::internal)
}

fn encode(object: &Value) -> Result<Encoded, ApiError> {
    Encoded::new(object.to_string()).map_err(|error| ApiError::bad_request(error.to_string()))
}

fn drop_null_status(object: &mut Value) {
    if object["status"].is_null()
        && let Value::Object(members) = object
    {
        members.remove("status");
    }
}

/// Does nothing hold the object back from going?
fn is_free(object: &Value) -> bool {
    let empty = |list: &Value| list.as_array().is_none_or(Vec::is_empty);
    empty(&object["metadata"]["finalizers"])
        && (object["kind"] != "Namespace" || empty(&object["spec"]["finalizers"]))
}

#[async_trait]
impl Hand for FakeHand {
    async fn apply(
        &self,
        _epoch: Epoch,
        _identity: &str,
        action: Action,
    ) -> Result<Applied, ApiError> {
        let line = action.to_string();
        self.log.lock().push(line.clone());
        if let Some((refused, error)) = &*self.refuse.lock()
            && line.starts_with(refused.as_str())
        {
            return Err(error.clone());
        }
        match action {
            Action::Create {
                row,
                namespace,
                mut object,
                ..
            } => {
                let metadata = &mut object["metadata"];
                let name = match (metadata["name"].as_str(), metadata["generateName"].as_str()) {
                    (Some(name), _) => name.to_owned(),
                    (None, base) => generate::name(base.unwrap_or_default()),
                };
                metadata["name"] = name.clone().into();
                metadata["uid"] = generate::uid().to_string().into();
                metadata["creationTimestamp"] = time::rfc3339(time::now()).into();
                metadata["generation"] = 1.into();
                let change = Change::Put {
                    key: row.key(&namespace, &name),
                    expect: Expect::Absent,
                    object: encode(&object)?,
                };
                Ok(Applied {
                    revision: self.commit(change, row, &name).await?,
                    name,
                })
            }
            Action::Update { row, name, object } => self.replace(row, &name, object, false).await,
            Action::UpdateStatus { row, name, object } => {
                self.replace(row, &name, object, true).await
            }
            Action::Finalize { namespace, object } => {
                let row = caravel_api::kinds::by_kind("", "v1", "Namespace")
                    .ok_or_else(ApiError::no_such_resource)?;
                self.replace(row, &ObjectName::cluster(namespace), object, false)
                    .await
            }
            Action::Delete { row, name, how, .. } => self.delete(row, &name, &how).await,
            Action::Bind { pod, node, .. } => {
                let row = caravel_api::kinds::by_kind("", "v1", "Pod")
                    .ok_or_else(ApiError::no_such_resource)?;
                let mut object = decode(
                    &self
                        .entry(&row.key(&pod.namespace, &pod.name), row, &pod.name)?
                        .json,
                )?;
                object["spec"]["nodeName"] = node.as_str().into();
                self.replace(row, &pod, object, false).await
            }
            Action::Emit(_) => Err(ApiError::internal("the recorder writes events")),
        }
    }
}
