//! Objects are made only in namespaces that exist and are not going; a few namespaces never go.
//! Upstream: plugin/pkg/admission/namespace/lifecycle.

use super::{Admission, Operation};
use caravel_api::{ApiError, Kind};
use caravel_registry::Object;
use caravel_store::{Change, Expect};
use k8s_openapi::api::core::v1::Namespace;

const IMMORTAL: &[&str] = &["default", "kube-system", "kube-public"];

pub(super) fn lifecycle(
    write: &mut Admission<'_>,
    _: &mut Option<&mut dyn Object>,
    _: Option<&dyn Object>,
) -> Result<(), ApiError> {
    if write.operation == Operation::Delete
        && write.is("", "namespaces")
        && IMMORTAL.contains(&write.target.name.as_str())
    {
        return Err(write.forbidden("this namespace may not be deleted"));
    }
    if write.operation != Operation::Create || !write.target.row.is_namespaced() {
        return Ok(());
    }
    let row = <Namespace as Kind>::row();
    let name = &write.target.namespace;
    let key = row.key("", name);
    let entry = write
        .snapshot
        .entry(&key)
        .ok_or_else(|| ApiError::not_found(row, name))?;
    if entry.meta.is_terminating() {
        let why = format!(
            "unable to create new content in namespace {name} because it is being terminated"
        );
        let mut error = write.forbidden(why);
        let cause = k8s_openapi::apimachinery::pkg::apis::meta::v1::StatusCause {
            field: Some("metadata.namespace".to_owned()),
            message: Some(format!("namespace {name} is being terminated")),
            reason: Some("NamespaceTerminating".to_owned()),
        };
        error
            .details
            .get_or_insert_default()
            .causes
            .get_or_insert_default()
            .push(cause);
        return Err(error);
    }
    write.changes.push(Change::Check {
        key,
        expect: Expect::At(entry.revision),
    });
    Ok(())
}
