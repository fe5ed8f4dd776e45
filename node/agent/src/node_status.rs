//! What the node says of itself: size, versions, addresses, images, conditions. Pure.
//!
//! Reasons and messages follow pkg/kubelet/nodestatus/setters.go.

use std::collections::BTreeMap;

use caravel_api::{Quantity, time};
use caravel_images::Image;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints,
    NodeStatus, NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

use crate::NodeConfig;
use crate::machine::Machine;
use crate::pressure::Pressures;

pub(crate) const KUBELET: &str = concat!("v1.37.0+caravel-", env!("CARGO_PKG_VERSION"));
const RUNTIME: &str = concat!("caravel://", env!("CARGO_PKG_VERSION"));
/// Images told of, largest first, as upstream.
const MAX_IMAGES: usize = 50;

/// What is looked at for the conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Health {
    pub network: bool,
    pub pressures: Pressures,
}

/// Labels that every node carries.
pub(crate) fn labels(config: &NodeConfig) -> BTreeMap<String, String> {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let own = [
        ("kubernetes.io/hostname", config.name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", arch),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", arch),
    ];
    own.into_iter()
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .chain(config.labels.clone())
        .collect()
}

pub(crate) fn status(
    config: &NodeConfig,
    machine: &Machine,
    images: &[Image],
    health: Health,
    known: &Node,
    now: Timestamp,
) -> NodeStatus {
    let kib = |bytes: i64| Text(format!("{}Ki", bytes.max(0) / 1024));
    let amounts = |cpu: i64, memory: i64, storage: i64| -> BTreeMap<String, Text> {
        [
            ("cpu", Text(Quantity::from_milli(cpu).canonical())),
            ("memory", kib(memory)),
            ("ephemeral-storage", kib(storage)),
            ("pods", Text(config.max_pods.to_string())),
        ]
        .into_iter()
        .map(|(name, amount)| (name.to_owned(), amount))
        .collect()
    };
    let address = |kind: &str, address: String| NodeAddress {
        type_: kind.into(),
        address,
    };
    let mut shown: Vec<&Image> = images.iter().collect();
    shown.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.id.cmp(&b.id)));
    NodeStatus {
        capacity: Some(amounts(machine.cpu_milli, machine.memory, machine.storage)),
        allocatable: Some(amounts(
            machine.cpu_milli - config.reserved_cpu_milli,
            machine.memory - config.reserved_memory,
            machine.storage / 10 * 9,
        )),
        addresses: Some(vec![
            address("InternalIP", config.node_ip.to_string()),
            address("Hostname", config.name.clone()),
        ]),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint {
                port: i32::from(config.listen.port()),
            }),
        }),
        node_info: Some(NodeSystemInfo {
            machine_id: machine.machine_id.clone(),
            system_uuid: machine.system_uuid.clone(),
            boot_id: machine.boot_id.clone(),
            kernel_version: machine.kernel.clone(),
            os_image: machine.os_image.clone(),
            container_runtime_version: RUNTIME.into(),
            kubelet_version: KUBELET.into(),
            operating_system: "linux".into(),
            architecture: labels(config)
                .remove("kubernetes.io/arch")
                .unwrap_or_default(),
            ..NodeSystemInfo::default()
        }),
        images: Some(
            shown
                .into_iter()
                .take(MAX_IMAGES)
                .map(|i| ContainerImage {
                    names: Some(i.references.clone()),
                    size_bytes: i64::try_from(i.size).ok(),
                })
                .collect(),
        ),
        conditions: Some(conditions(health, known, now)),
        ..NodeStatus::default()
    }
}

fn conditions(health: Health, known: &Node, now: Timestamp) -> Vec<NodeCondition> {
    let pressure =
        |kind: &'static str, bad: bool, good: [&'static str; 2], ill: [&'static str; 2]| {
            (kind, bad, if bad { ill } else { good })
        };
    let verdicts = [
        pressure(
            "MemoryPressure",
            health.pressures.memory,
            [
                "KubeletHasSufficientMemory",
                "kubelet has sufficient memory available",
            ],
            [
                "KubeletHasInsufficientMemory",
                "kubelet has insufficient memory available",
            ],
        ),
        pressure(
            "DiskPressure",
            health.pressures.disk,
            ["KubeletHasNoDiskPressure", "kubelet has no disk pressure"],
            ["KubeletHasDiskPressure", "kubelet has disk pressure"],
        ),
        pressure(
            "PIDPressure",
            health.pressures.pids,
            [
                "KubeletHasSufficientPID",
                "kubelet has sufficient PID available",
            ],
            [
                "KubeletHasInsufficientPID",
                "kubelet has insufficient PID available",
            ],
        ),
        if health.network {
            (
                "Ready",
                true,
                ["KubeletReady", "kubelet is posting ready status"],
            )
        } else {
            (
                "Ready",
                false,
                [
                    "KubeletNotReady",
                    "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:the node has no pod range yet",
                ],
            )
        },
    ];
    let before = known.status.as_ref().and_then(|s| s.conditions.as_ref());
    let one = |(kind, is, [reason, message]): (&str, bool, [&str; 2])| {
        let status = if is { "True" } else { "False" };
        let same = before.and_then(|c| c.iter().find(|c| c.type_ == kind && c.status == status));
        NodeCondition {
            type_: kind.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_heartbeat_time: Some(time::time(now)),
            last_transition_time: Some(
                same.and_then(|c| c.last_transition_time.clone())
                    .unwrap_or_else(|| time::time(now)),
            ),
        }
    };
    verdicts.into_iter().map(one).collect()
}
