//! Asks the API server about callers that it did not vouch for itself: TokenReview, SubjectAccessReview.
//! Answers are not kept: such callers (metrics scrapers) are few.

use std::collections::BTreeMap;

use async_trait::async_trait;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::api::PostParams;

use super::attributes::Attributes;
use super::identity::Caller;
use crate::api::Api;

#[derive(Debug, thiserror::Error)]
pub(crate) enum AccessError {
    #[error("ask the API server about a token: {0}")]
    Token(#[source] kube::Error),
    #[error("ask the API server about access: {0}")]
    Subject(#[source] kube::Error),
}

#[async_trait]
pub(crate) trait Access: Send + Sync + 'static {
    /// None for a token that is not valid.
    async fn authenticate(&self, token: &str) -> Result<Option<Caller>, AccessError>;
    async fn authorize(
        &self,
        caller: &Caller,
        attributes: &Attributes,
    ) -> Result<bool, AccessError>;
}

#[async_trait]
impl Access for Api {
    async fn authenticate(&self, token: &str) -> Result<Option<Caller>, AccessError> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: token.to_owned(),
                ..TokenReviewSpec::default()
            },
            ..TokenReview::default()
        };
        let reviews = kube::Api::<TokenReview>::all(self.client());
        let answer = self
            .request(reviews.create(&PostParams::default(), &review))
            .await
            .map_err(AccessError::Token)?;
        let status = answer.status.unwrap_or_default();
        if status.authenticated != Some(true) {
            return Ok(None);
        }
        let user = status.user.unwrap_or_default();
        Ok(Some(Caller {
            name: user.username.unwrap_or_default(),
            uid: user.uid.unwrap_or_default(),
            groups: user.groups.unwrap_or_default(),
            extra: user.extra.unwrap_or_default().into_iter().collect(),
        }))
    }

    async fn authorize(
        &self,
        caller: &Caller,
        attributes: &Attributes,
    ) -> Result<bool, AccessError> {
        let extra: BTreeMap<_, _> = caller.extra.clone();
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(caller.name.clone()),
                uid: Some(caller.uid.clone()).filter(|uid| !uid.is_empty()),
                groups: Some(caller.groups.clone()),
                extra: (!extra.is_empty()).then_some(extra),
                resource_attributes: Some(ResourceAttributes {
                    verb: Some(attributes.verb.into()),
                    version: Some("v1".into()),
                    resource: Some("nodes".into()),
                    subresource: Some(attributes.subresource.into()),
                    name: Some(attributes.node.clone()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let reviews = kube::Api::<SubjectAccessReview>::all(self.client());
        let answer = self
            .request(reviews.create(&PostParams::default(), &review))
            .await
            .map_err(AccessError::Subject)?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }
}
