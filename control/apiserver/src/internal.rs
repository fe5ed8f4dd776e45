//! The verbs for callers in this process: controllers, scheduler, start-up. The same recipes as over HTTP (defaults, admission,
//! validation, managed fields), without a socket, a body or authorization: who may call is decided by who holds the value.

use crate::options::{Validation, WriteOptions};
use crate::server::ApiServer;
use crate::subresource;
use crate::verbs::patch::{Form, Patch};
use crate::write::{Current, DeleteOptions, Part, Target, Writer, Written};
use caravel_api::{ApiError, Row};
use caravel_auth::UserInfo;
use caravel_registry::Object;
use caravel_store::Epoch;
use k8s_openapi::api::core::v1::Namespace;
use serde_json::Value;
use std::sync::Arc;

/// In-process verbs under one identity.
#[derive(Clone)]
pub struct Internal {
    api: Arc<ApiServer>,
    user: UserInfo,
    epoch: Option<Epoch>,
    manager: String,
}

impl Internal {
    pub(crate) fn new(api: Arc<ApiServer>, user: UserInfo, epoch: Option<Epoch>) -> Self {
        let manager = match user.as_service_account() {
            // Upstream's controllers are one process, and one manager.
            Some(("kube-system", _)) => "kube-controller-manager".to_owned(),
            _ => user.name.rsplit(':').next().unwrap_or_default().to_owned(),
        };
        Self {
            api,
            user,
            epoch,
            manager,
        }
    }

    /// Under another name in managedFields.
    #[must_use]
    pub fn manager(mut self, manager: &str) -> Self {
        manager.clone_into(&mut self.manager);
        self
    }

    fn writer(&self) -> Writer<'_> {
        let options = WriteOptions {
            validation: Validation::Ignore,
            manager: self.manager.clone(),
            ..WriteOptions::default()
        };
        Writer {
            api: &self.api,
            user: &self.user,
            epoch: self.epoch,
            options,
        }
    }

    fn decode(row: &'static Row, object: Value) -> Result<Box<dyn Object>, ApiError> {
        caravel_registry::resource(row)
            .from_value(object)
            .map_err(|error| ApiError::bad_request(error.to_string()))
    }

    /// Creates an object; `generateName` works.
    ///
    /// # Errors
    /// Whatever the same request over HTTP would be refused with.
    pub async fn create(
        &self,
        row: &'static Row,
        namespace: &str,
        object: Value,
    ) -> Result<Written, ApiError> {
        let object = Self::decode(row, object)?;
        let target = target(
            row,
            namespace,
            object.meta().name.as_deref().unwrap_or_default(),
            "",
        );
        self.writer().create(target, object, true).await
    }

    /// Replaces an object; its resourceVersion, where it has one, is the condition.
    ///
    /// # Errors
    /// As [`create`](Self::create); 409 on a stale revision.
    pub async fn update(
        &self,
        row: &'static Row,
        namespace: &str,
        object: Value,
    ) -> Result<Written, ApiError> {
        self.replace(row, namespace, object, "", Part::Main).await
    }

    /// Replaces an object's status.
    ///
    /// # Errors
    /// As [`update`](Self::update).
    pub async fn update_status(
        &self,
        row: &'static Row,
        namespace: &str,
        object: Value,
    ) -> Result<Written, ApiError> {
        self.replace(row, namespace, object, "status", Part::Status)
            .await
    }

    async fn replace(
        &self,
        row: &'static Row,
        namespace: &str,
        object: Value,
        subresource: &'static str,
        part: Part,
    ) -> Result<Written, ApiError> {
        let object = Self::decode(row, object)?;
        let target = target(
            row,
            namespace,
            object.meta().name.as_deref().unwrap_or_default(),
            subresource,
        );
        self.writer()
            .update(&target, part, |_: &Current<'_>| Ok(object.clone_object()))
            .await
    }

    /// Applies a JSON merge patch to an object (`subresource` empty) or its status.
    ///
    /// # Errors
    /// As [`update`](Self::update).
    pub async fn merge(
        &self,
        row: &'static Row,
        namespace: &str,
        name: &str,
        subresource: &str,
        patch: &Value,
    ) -> Result<Written, ApiError> {
        let (subresource, part) = if subresource == "status" {
            ("status", Part::Status)
        } else {
            ("", Part::Main)
        };
        let patch = Patch::parse(Form::Merge, patch.to_string().into())?;
        let target = target(row, namespace, name, subresource);
        let ty = self.api.schema.of(row.definition);
        self.writer()
            .update(&target, part, |current: &Current<'_>| {
                Self::decode(row, patch.apply(&current.old.to_value(), ty)?)
            })
            .await
    }

    /// Deletes an object, or begins to.
    ///
    /// # Errors
    /// 404, or 409 where a precondition does not hold.
    pub async fn delete(
        &self,
        row: &'static Row,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Written, ApiError> {
        let mut writer = self.writer();
        writer.options.dry_run = options.dry_run;
        writer
            .delete(&target(row, namespace, name, ""), options)
            .await
    }

    /// Binds a pod to a node. `uid`, where given, is a condition.
    ///
    /// # Errors
    /// 409 when it is bound already or going.
    pub async fn bind(
        &self,
        namespace: &str,
        pod: &str,
        uid: Option<&str>,
        node: &str,
    ) -> Result<Written, ApiError> {
        let target = target(subresource::pods(), namespace, pod, "binding");
        subresource::bind(&self.writer(), &target, &subresource::binding_to(node, uid)).await
    }

    /// Replaces a namespace's `spec.finalizers`.
    ///
    /// # Errors
    /// 404, 409.
    pub async fn finalize(&self, namespace: &Namespace) -> Result<Written, ApiError> {
        let name = namespace.metadata.name.as_deref().unwrap_or_default();
        let target = target(
            <Namespace as caravel_api::Kind>::row(),
            "",
            name,
            "finalize",
        );
        subresource::finalize_to(&self.writer(), &target, namespace).await
    }
}

fn target(row: &'static Row, namespace: &str, name: &str, subresource: &'static str) -> Target {
    let namespace = if row.is_namespaced() {
        namespace.to_owned()
    } else {
        String::new()
    };
    Target {
        row,
        namespace,
        name: name.to_owned(),
        subresource,
    }
}
