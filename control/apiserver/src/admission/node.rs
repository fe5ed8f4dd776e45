//! What nodes may write, and the taint a new node starts with.
//! Upstream: plugin/pkg/admission/{noderestriction,nodetaint}.

use super::{Admission, Operation};
use caravel_api::ApiError;
use caravel_auth::node_restriction;
use caravel_registry::Object;
use k8s_openapi::api::core::v1::{Node, Taint};

const NOT_READY: &str = "node.kubernetes.io/not-ready";

pub(super) fn restriction(
    write: &mut Admission<'_>,
    object: &mut Option<&mut dyn Object>,
    old: Option<&dyn Object>,
) -> Result<(), ApiError> {
    if write.user.as_node().is_none() {
        return Ok(());
    }
    let target = write.target;
    let change = node_restriction::Change {
        user: write.user,
        operation: match write.operation {
            Operation::Create => node_restriction::Operation::Create,
            Operation::Update => node_restriction::Operation::Update,
            Operation::Delete => node_restriction::Operation::Delete,
        },
        group: target.row.group,
        resource: target.row.plural,
        subresource: target.subresource,
        namespace: &target.namespace,
        name: &target.name,
        object: object.as_deref().map(Object::as_any),
        old: old.map(Object::as_any),
    };
    node_restriction::admit(&change, &write.view()).map_err(|why| write.forbidden(why))
}

/// A node is not ready until it says so, and nothing is scheduled to it before.
pub(super) fn taint(
    write: &mut Admission<'_>,
    object: &mut Option<&mut dyn Object>,
    _: Option<&dyn Object>,
) -> Result<(), ApiError> {
    if write.operation != Operation::Create {
        return Ok(());
    }
    let Some(node) = object
        .as_deref_mut()
        .and_then(|object| object.typed_mut::<Node>())
    else {
        return Ok(());
    };
    let taints = node
        .spec
        .get_or_insert_default()
        .taints
        .get_or_insert_default();
    if !taints
        .iter()
        .any(|taint| taint.key == NOT_READY && taint.effect == "NoSchedule")
    {
        taints.push(Taint {
            key: NOT_READY.to_owned(),
            effect: "NoSchedule".to_owned(),
            ..Taint::default()
        });
    }
    Ok(())
}
