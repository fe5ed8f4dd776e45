//! Carries out controllers' and the scheduler's actions by the API's own verbs, each under its own identity and its leader's epoch.

use async_trait::async_trait;
use caravel_api::ApiError;
use caravel_apiserver::{ApiServer, DeleteOptions, Internal, Propagation};
use caravel_auth::UserInfo;
use caravel_controllers::{Action, Applied, Deletion, Hand};
use caravel_store::Epoch;
use std::sync::Arc;

/// The real hand.
pub(crate) struct ApiHand {
    pub api: Arc<ApiServer>,
}

impl ApiHand {
    fn verbs(&self, epoch: Epoch, identity: &str) -> Internal {
        match identity {
            "kube-scheduler" | "scheduler" | "default-scheduler" | "system:kube-scheduler" => self
                .api
                .internal(UserInfo::component("system:kube-scheduler"), Some(epoch))
                .manager("kube-scheduler"),
            controller => self
                .api
                .internal(UserInfo::controller(controller), Some(epoch))
                .manager("kube-controller-manager"),
        }
    }
}

fn options(how: &Deletion) -> DeleteOptions {
    DeleteOptions {
        grace: how.grace_seconds,
        uid: (!how.uid.is_empty()).then(|| how.uid.to_string()),
        revision: how.revision.map(|revision| revision.to_string()),
        propagation: how.propagation.map(|propagation| match propagation {
            caravel_controllers::Propagation::Background => Propagation::Background,
            caravel_controllers::Propagation::Foreground => Propagation::Foreground,
            caravel_controllers::Propagation::Orphan => Propagation::Orphan,
        }),
        dry_run: false,
    }
}

#[async_trait]
impl Hand for ApiHand {
    async fn apply(
        &self,
        epoch: Epoch,
        identity: &str,
        action: Action,
    ) -> Result<Applied, ApiError> {
        let verbs = self.verbs(epoch, identity);
        let written = match action {
            Action::Create {
                row,
                namespace,
                object,
                ..
            } => verbs.create(row, &namespace, object).await?,
            Action::Update { row, name, object } => {
                verbs.update(row, &name.namespace, object).await?
            }
            Action::UpdateStatus { row, name, object } => {
                verbs.update_status(row, &name.namespace, object).await?
            }
            Action::Delete { row, name, how, .. } => {
                verbs
                    .delete(row, &name.namespace, &name.name, &options(&how))
                    .await?
            }
            Action::Finalize { object, .. } => {
                let namespace = serde_json::from_value(object).map_err(ApiError::internal)?;
                verbs.finalize(&namespace).await?
            }
            Action::Bind { pod, uid, node } => {
                let uid = (!uid.is_empty()).then_some(uid.as_str());
                verbs
                    .bind(&pod.namespace, &pod.name, uid, node.as_str())
                    .await?
            }
            Action::Emit(_) => {
                return Err(ApiError::internal(
                    "events are written by the recorder, not by a hand",
                ));
            }
        };
        Ok(Applied {
            revision: written.revision,
            name: written.name,
        })
    }
}
