//! The order of a pod's containers: init containers one by one, sidecars stay, then all the others.
//!
//! Pure. Follows pkg/kubelet/kuberuntime's computePodActions.

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

use super::observed::Observed;

/// What a container is to its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Runs to its end before the next one.
    Init,
    /// An init container that stays (restartPolicy Always).
    Sidecar,
    Main,
}

/// Every container of the pod with its role, in order of their start.
pub(crate) fn containers(spec: &PodSpec) -> impl Iterator<Item = (&Container, Role)> {
    let init = spec.init_containers.iter().flatten().map(|c| {
        (
            c,
            if is_sidecar(c) {
                Role::Sidecar
            } else {
                Role::Init
            },
        )
    });
    init.chain(spec.containers.iter().map(|c| (c, Role::Main)))
}

pub(crate) fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// Whether every init container has done its part: ended well, or, of a sidecar, started.
pub(crate) fn initialized(pod: &Pod, seen: &Observed) -> bool {
    incomplete(pod, seen).is_empty()
}

/// Names of the init containers that have not done their part.
pub(crate) fn incomplete(pod: &Pod, seen: &Observed) -> Vec<String> {
    let Some(spec) = &pod.spec else {
        return Vec::new();
    };
    // Once a main container has been started the init containers were complete, whatever became of their records.
    if spec
        .containers
        .iter()
        .any(|c| seen.attempts.get(&c.name).is_some_and(|a| !a.is_empty()))
    {
        return Vec::new();
    }
    spec.init_containers
        .iter()
        .flatten()
        .filter(|c| !done(c, seen))
        .map(|c| c.name.clone())
        .collect()
}

/// Whether this init container has done its part.
pub(crate) fn done(container: &Container, seen: &Observed) -> bool {
    let Some(last) = seen.attempts.get(&container.name).and_then(|a| a.last()) else {
        return false;
    };
    if is_sidecar(container) {
        last.running()
            && seen
                .probes
                .get(&last.id)
                .is_some_and(|p| p.started && p.hooked)
    } else {
        last.exit().is_some_and(|exit| exit.code == 0)
    }
}
