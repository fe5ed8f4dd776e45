//! What every actor of this node shares: the edges of the world, and what is known of the machine and the cluster.
//!
//! Holds no pod's state.

use std::net::IpAddr;
use std::sync::Arc;

use caravel_images::ImageStore;
use caravel_network::PodNetwork;
use caravel_runtime::Runtime;
use caravel_volumes::Facts;
use k8s_openapi::api::core::v1::Service;
use kube::runtime::reflector::Store;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::api::Api;
use crate::events::Events;
use crate::hosts::Surroundings;
use crate::machine::Machine;
use crate::objects::ObjectCache;
use crate::{NodeConfig, Pods};

pub(crate) struct World {
    pub config: NodeConfig,
    pub machine: Machine,
    pub runtime: Arc<dyn Runtime>,
    pub images: ImageStore,
    /// Whether the archives that the node began with are imported.
    pub imported: watch::Receiver<bool>,
    pub api: Api,
    pub events: Events,
    pub objects: ObjectCache,
    pub pods: Pods,
    /// Absent until the node has a pod range.
    pub network: watch::Receiver<Option<Arc<PodNetwork>>>,
    pub services: Store<Service>,
    /// True once all Services are known: before that a container would miss variables.
    pub services_known: watch::Receiver<bool>,
    /// Host ports and the like are compiled from the pods: this asks for it.
    pub rules_changed: Arc<tokio::sync::Notify>,
    pub shutdown: CancellationToken,
}

impl World {
    pub fn facts(&self, ip: Option<IpAddr>) -> Facts {
        Facts {
            node: self.config.name.clone(),
            host_ips: vec![self.config.node_ip.to_string()],
            pod_ips: ip.into_iter().map(|ip| ip.to_string()).collect(),
            allocatable_cpu_milli: self.machine.cpu_milli - self.config.reserved_cpu_milli,
            allocatable_memory: self.machine.memory - self.config.reserved_memory,
        }
    }

    /// The machine's files, read anew each time: people change them.
    pub fn machine_files(&self) -> MachineFiles {
        let read = |path: &std::path::Path| std::fs::read_to_string(path).unwrap_or_default();
        MachineFiles {
            resolv: read(&self.config.resolv_conf),
            hosts: read(std::path::Path::new("/etc/hosts")),
        }
    }

    pub fn surroundings<'a>(&'a self, files: &'a MachineFiles) -> Surroundings<'a> {
        Surroundings {
            cluster_domain: &self.config.cluster_domain,
            cluster_dns: IpAddr::V4(self.config.cluster_dns),
            host_resolv: &files.resolv,
            host_hosts: &files.hosts,
            host_name: &self.machine.hostname,
        }
    }
}

pub(crate) struct MachineFiles {
    resolv: String,
    hosts: String,
}
