//! Kinds that are asked and forgotten: who am I, who is this token, may somebody do this.
//! Upstream: pkg/registry/{authentication,authorization}.

use crate::body::Body;
use crate::server::ApiServer;
use crate::stack::Ask;
use crate::subresource::{decoded, shown};
use crate::views::View;
use caravel_api::{ApiError, FieldError, FieldErrors, Path, Row, time};
use caravel_auth::{UserInfo, review};
use http::{Response, StatusCode};
use k8s_openapi::api::authentication::v1::{
    SelfSubjectReview, SelfSubjectReviewStatus, TokenReview, TokenReviewStatus,
    UserInfo as WireUser,
};
use k8s_openapi::api::authorization::v1::{
    LocalSubjectAccessReview, SelfSubjectAccessReview, SelfSubjectRulesReview, SubjectAccessReview,
    SubjectAccessReviewSpec,
};

fn wire(user: &UserInfo) -> WireUser {
    WireUser {
        username: Some(user.name.clone()),
        uid: (!user.uid.is_empty()).then(|| user.uid.clone()),
        groups: (!user.groups.is_empty()).then(|| user.groups.clone()),
        extra: (!user.extra.is_empty()).then(|| user.extra.clone()),
    }
}

fn subject(spec: &SubjectAccessReviewSpec) -> UserInfo {
    UserInfo {
        name: spec.user.clone().unwrap_or_default(),
        uid: spec.uid.clone().unwrap_or_default(),
        groups: spec.groups.clone().unwrap_or_default(),
        extra: spec.extra.clone().unwrap_or_default(),
    }
}

fn one_of(row: &Row, resource: bool, path: bool) -> Result<(), ApiError> {
    let (at, why) = match (resource, path) {
        (true, true) => (
            "nonResourceAttributes",
            "cannot be specified in combination with resourceAttributes",
        ),
        (false, false) => (
            "resourceAttributes",
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        ),
        _ => return Ok(()),
    };
    let errors = FieldErrors(vec![FieldError::invalid(
        &Path::new("spec").child(at),
        serde_json::Value::Null,
        why,
    )]);
    Err(ApiError::invalid(row, "", &errors))
}

fn someone(row: &Row, user: &UserInfo) -> Result<(), ApiError> {
    if !user.name.is_empty() || !user.groups.is_empty() {
        return Ok(());
    }
    let errors = FieldErrors(vec![FieldError::invalid(
        &Path::new("spec").child("user"),
        "",
        "at least one of user or group must be specified",
    )]);
    Err(ApiError::invalid(row, "", &errors))
}

/// Answers a POST of a review.
pub(crate) async fn answer(
    api: &ApiServer,
    ask: &Ask,
    row: &'static Row,
    body: Body,
) -> Result<Response<Body>, ApiError> {
    let snapshot = api.store.snapshot();
    let view = View(&snapshot);
    match row.kind {
        "SelfSubjectReview" => {
            let mut review: SelfSubjectReview = decoded(ask, body, row.kind).await?;
            review.metadata.creation_timestamp = Some(time::time(time::now()));
            review.status = Some(SelfSubjectReviewStatus {
                user_info: Some(wire(&ask.user)),
            });
            shown(ask, StatusCode::CREATED, &review)
        }
        "TokenReview" => {
            let mut review: TokenReview = decoded(ask, body, row.kind).await?;
            let token = review.spec.token.clone();
            if token.is_empty() {
                return Err(ApiError::bad_request(
                    "token is required for TokenReview in authentication",
                ));
            }
            let audiences = review.spec.audiences.clone().unwrap_or_default();
            review.status = Some(
                match api
                    .authenticator
                    .authenticate_token(&token, &audiences, &view)
                {
                    Ok(found) => TokenReviewStatus {
                        authenticated: Some(true),
                        user: Some(wire(&found.user)),
                        audiences: (!found.audiences.is_empty()).then_some(found.audiences),
                        error: None,
                    },
                    Err(error) => TokenReviewStatus {
                        error: Some(error.to_string()),
                        ..TokenReviewStatus::default()
                    },
                },
            );
            shown(ask, StatusCode::CREATED, &review)
        }
        "SubjectAccessReview" => {
            let mut review: SubjectAccessReview = decoded(ask, body, row.kind).await?;
            let user = subject(&review.spec);
            one_of(
                row,
                review.spec.resource_attributes.is_some(),
                review.spec.non_resource_attributes.is_some(),
            )?;
            someone(row, &user)?;
            review.status = Some(review::access(
                &user,
                review.spec.resource_attributes.as_ref(),
                review.spec.non_resource_attributes.as_ref(),
                &view,
            ));
            shown(ask, StatusCode::CREATED, &review)
        }
        "LocalSubjectAccessReview" => {
            let mut review: LocalSubjectAccessReview = decoded(ask, body, row.kind).await?;
            let user = subject(&review.spec);
            someone(row, &user)?;
            let namespace = review
                .spec
                .resource_attributes
                .as_ref()
                .and_then(|resource| resource.namespace.clone())
                .unwrap_or_default();
            if review.spec.resource_attributes.is_none() || namespace != ask.info.namespace {
                return Err(ApiError::bad_request(format!(
                    "spec.resourceAttributes.namespace must match namespace: {}",
                    ask.info.namespace
                )));
            }
            review.metadata.namespace = Some(namespace);
            review.status = Some(review::access(
                &user,
                review.spec.resource_attributes.as_ref(),
                None,
                &view,
            ));
            shown(ask, StatusCode::CREATED, &review)
        }
        "SelfSubjectAccessReview" => {
            let mut review: SelfSubjectAccessReview = decoded(ask, body, row.kind).await?;
            one_of(
                row,
                review.spec.resource_attributes.is_some(),
                review.spec.non_resource_attributes.is_some(),
            )?;
            review.status = Some(review::access(
                &ask.user,
                review.spec.resource_attributes.as_ref(),
                review.spec.non_resource_attributes.as_ref(),
                &view,
            ));
            shown(ask, StatusCode::CREATED, &review)
        }
        "SelfSubjectRulesReview" => {
            let mut review: SelfSubjectRulesReview = decoded(ask, body, row.kind).await?;
            let namespace = review.spec.namespace.clone().unwrap_or_default();
            if namespace.is_empty() {
                return Err(ApiError::bad_request("no namespace on request"));
            }
            review.status = Some(review::rules(&ask.user, &namespace, &view));
            shown(ask, StatusCode::CREATED, &review)
        }
        _ => Err(ApiError::no_such_resource()),
    }
}
