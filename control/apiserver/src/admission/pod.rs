//! What every new pod is given: a priority, and patience with nodes that fail.
//! Upstream: plugin/pkg/admission/{priority,defaulttolerationseconds}.

use super::{Admission, Operation};
use caravel_api::ApiError;
use caravel_registry::Object;
use k8s_openapi::api::core::v1::{Pod, Toleration};

/// Seconds that a pod stays on a node that is not ready or unreachable.
const PATIENCE: i64 = 300;
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

/// The built-in classes, as long as PriorityClass is no kind of ours.
const CLASSES: &[(&str, i32)] = &[
    ("system-cluster-critical", 2_000_000_000),
    ("system-node-critical", 2_000_001_000),
];

fn new_pod<'o>(
    write: &Admission<'_>,
    object: &'o mut Option<&mut dyn Object>,
) -> Option<&'o mut Pod> {
    if write.operation != Operation::Create || !write.is("", "pods") {
        return None;
    }
    object
        .as_deref_mut()
        .and_then(|object| object.typed_mut::<Pod>())
}

pub(super) fn priority(
    write: &mut Admission<'_>,
    object: &mut Option<&mut dyn Object>,
    _: Option<&dyn Object>,
) -> Result<(), ApiError> {
    let Some(pod) = new_pod(write, object) else {
        return Ok(());
    };
    let spec = pod.spec.get_or_insert_default();
    let class = spec.priority_class_name.as_deref().unwrap_or_default();
    let value = match CLASSES.iter().find(|(name, _)| *name == class) {
        Some((_, value)) => *value,
        None if class.is_empty() => 0,
        None => {
            return Err(write.forbidden(format!("no PriorityClass with name {class} was found")));
        }
    };
    if spec.priority.is_some_and(|given| given != value) {
        return Err(write.forbidden(format!(
            "the integer value of priority ({}) must not be provided in pod spec; priority admission controller computed {value} from the given PriorityClass name",
            spec.priority.unwrap_or_default()
        )));
    }
    spec.priority = Some(value);
    spec.preemption_policy
        .get_or_insert_with(|| "PreemptLowerPriority".to_owned());
    Ok(())
}

pub(super) fn tolerations(
    write: &mut Admission<'_>,
    object: &mut Option<&mut dyn Object>,
    _: Option<&dyn Object>,
) -> Result<(), ApiError> {
    let Some(pod) = new_pod(write, object) else {
        return Ok(());
    };
    let tolerations = pod
        .spec
        .get_or_insert_default()
        .tolerations
        .get_or_insert_default();
    for key in [NOT_READY, UNREACHABLE] {
        let tolerated = tolerations.iter().any(|toleration| {
            let effect = toleration.effect.as_deref().unwrap_or_default();
            let of = toleration.key.as_deref().unwrap_or_default();
            (of == key || of.is_empty()) && (effect == "NoExecute" || effect.is_empty())
        });
        if !tolerated {
            tolerations.push(Toleration {
                key: Some(key.to_owned()),
                operator: Some("Exists".to_owned()),
                effect: Some("NoExecute".to_owned()),
                toleration_seconds: Some(PATIENCE),
                ..Toleration::default()
            });
        }
    }
    Ok(())
}
