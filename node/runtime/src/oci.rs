//! From our plain values to the OCI runtime specification that libcontainer reads. Pure: everything it
//! must know about the machine and the image arrives in [`Context`].
//! Upstream: containerd `pkg/cri` container_create_linux (defaults, order of mounts).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Capabilities, Capability, Linux, LinuxCapabilitiesBuilder, LinuxCpuBuilder, LinuxDevice,
    LinuxDeviceBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType,
    LinuxHugepageLimitBuilder, LinuxMemoryBuilder, LinuxNamespace, LinuxNamespaceBuilder,
    LinuxNamespaceType, LinuxPidsBuilder, LinuxResources, LinuxResourcesBuilder, LinuxSeccomp,
    PosixRlimitBuilder, PosixRlimitType, Process, ProcessBuilder, RootBuilder, Spec, UserBuilder,
};

use crate::capabilities;
use crate::cgroup::Hierarchy;
use crate::machine::{DeviceNode, Machine};
use crate::seccomp;
use crate::spec::{ContainerSpec, PidMode, Propagation, Resources, Seccomp};
use crate::state::Sandbox;
use crate::user::Identity;

mod mounts;

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// As containerd masks them.
const MASKED: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/interrupts",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READ_ONLY: &[&str] = &[
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

pub struct Context<'a> {
    pub spec: &'a ContainerSpec,
    pub sandbox: &'a Sandbox,
    pub machine: &'a Machine,
    pub identity: &'a Identity,
    pub rootfs: &'a Path,
    /// Absolute, as the controllers' mount points see it.
    pub cgroup: &'a str,
    /// Where each extra device lies on this machine, in the order of `spec.devices`.
    pub devices: &'a [DeviceNode],
    /// `/proc/<pid>/ns/pid` of the container that `PidMode::Container` names.
    pub target_pid: Option<PathBuf>,
    /// Clamped already.
    pub oom_score_adj: Option<i32>,
    /// The profile that `Seccomp::Localhost` names.
    pub profile: Option<LinuxSeccomp>,
}

pub fn build(context: &Context<'_>) -> Result<Spec, OciSpecError> {
    let spec = context.spec;
    let capabilities = capabilities::choose(
        &capabilities::Request {
            privileged: spec.security.privileged,
            add: &spec.security.add_capabilities,
            drop: &spec.security.drop_capabilities,
            no_device_cgroup: matches!(context.machine.hierarchy, Hierarchy::V2 { .. }),
        },
        &context.machine.bounding,
    );
    let mut oci = Spec::default();
    oci.set_version("1.0.2".to_owned());
    oci.set_root(Some(
        RootBuilder::default()
            .path(context.rootfs)
            .readonly(spec.security.read_only_root)
            .build()?,
    ));
    oci.set_hostname(None);
    oci.set_mounts(Some(mounts::build(context)?));
    oci.set_process(Some(process(context, &capabilities)?));
    oci.set_linux(Some(linux(context, &capabilities)?));
    oci.set_annotations(None);
    Ok(oci)
}

fn process(context: &Context<'_>, capabilities: &BTreeSet<&str>) -> Result<Process, OciSpecError> {
    let (spec, identity) = (context.spec, context.identity);
    let set: Capabilities = capabilities
        .iter()
        .filter_map(|name| name.parse::<Capability>().ok())
        .collect();
    // The kernel itself takes them from a user other than root at exec: none is ambient.
    let mut kept = LinuxCapabilitiesBuilder::default()
        .bounding(set.clone())
        .effective(set.clone())
        .permitted(set)
        .build()?;
    kept.set_inheritable(None);
    kept.set_ambient(None);
    let (soft, hard) = context.machine.open_files;
    let files = PosixRlimitBuilder::default()
        .typ(PosixRlimitType::RlimitNofile)
        .soft(soft.max(hard.min(1_048_576)))
        .hard(hard)
        .build()?;
    let user = UserBuilder::default()
        .uid(identity.uid)
        .gid(identity.gid)
        .additional_gids(identity.additional.clone())
        .build()?;
    let mut process = ProcessBuilder::default()
        .terminal(spec.tty)
        .user(user)
        .args(spec.args.clone())
        .env(environment(context))
        .cwd(spec.cwd.clone().unwrap_or_else(|| PathBuf::from("/")))
        .capabilities(kept)
        .rlimits(vec![files])
        .build()?;
    // libcontainer tests for presence, not for the value.
    process.set_no_new_privileges(spec.security.no_new_privileges.then_some(true));
    process.set_oom_score_adj(context.oom_score_adj);
    Ok(process)
}

fn environment(context: &Context<'_>) -> Vec<String> {
    let spec = context.spec;
    let has = |name: &str| spec.env.iter().any(|(key, _)| key == name);
    let mut env = Vec::new();
    if !has("PATH") {
        env.push(PATH.to_owned());
    }
    if !has("HOSTNAME") && !context.sandbox.spec.hostname.is_empty() {
        env.push(format!("HOSTNAME={}", context.sandbox.spec.hostname));
    }
    if spec.tty && !has("TERM") {
        env.push("TERM=xterm".to_owned());
    }
    if !has("HOME") {
        env.push(format!(
            "HOME={}",
            context.identity.home.as_deref().unwrap_or("/")
        ));
    }
    // Names that exec could not read back would break the whole environment.
    env.extend(
        spec.env
            .iter()
            .filter(|(key, _)| !key.is_empty() && !key.contains('='))
            .map(|(k, v)| format!("{k}={v}")),
    );
    env
}

fn linux(context: &Context<'_>, capabilities: &BTreeSet<&str>) -> Result<Linux, OciSpecError> {
    let spec = context.spec;
    let security = &spec.security;
    let devices: Vec<LinuxDevice> = if security.privileged {
        context
            .machine
            .devices
            .iter()
            .map(|node| device(node, &node.path))
            .collect::<Result<_, _>>()?
    } else {
        Vec::new()
    };
    let extra = context.devices.iter().zip(&spec.devices);
    let extra = extra
        .map(|(node, wanted)| device(node, &wanted.target))
        .collect::<Result<Vec<_>, _>>()?;
    let devices: Vec<LinuxDevice> = devices.into_iter().chain(extra).collect();

    let mut linux = Linux::default();
    linux.set_namespaces(Some(namespaces(context)?));
    linux.set_devices(Some(devices).filter(|devices| !devices.is_empty()));
    linux.set_cgroups_path(Some(PathBuf::from(context.cgroup)));
    linux.set_resources(Some(resources(context)?));
    let fenced = !security.privileged && !security.unmasked_proc;
    let owned = |list: &[&str]| list.iter().map(|path| path.to_string()).collect::<Vec<_>>();
    linux.set_masked_paths(fenced.then(|| owned(MASKED)));
    let mut read_only = if fenced { owned(READ_ONLY) } else { Vec::new() };
    read_only.extend(mounts::read_only_after(context));
    linux.set_readonly_paths(Some(read_only));
    let bidirectional = spec
        .mounts
        .iter()
        .any(|mount| mount.propagation == Propagation::Bidirectional);
    linux.set_rootfs_propagation(bidirectional.then(|| "shared".to_owned()));
    linux.set_seccomp(match &security.seccomp {
        _ if security.privileged => None,
        Seccomp::Unconfined => None,
        Seccomp::RuntimeDefault => Some(seccomp::runtime_default(capabilities)?),
        Seccomp::Localhost(_) => context.profile.clone(),
    });
    Ok(linux)
}

fn namespaces(context: &Context<'_>) -> Result<Vec<LinuxNamespace>, OciSpecError> {
    let sandbox = context.sandbox;
    let new = |typ| LinuxNamespaceBuilder::default().typ(typ).build();
    let join = |typ, path: &Path| LinuxNamespaceBuilder::default().typ(typ).path(path).build();
    let mut list = vec![
        new(LinuxNamespaceType::Mount)?,
        new(LinuxNamespaceType::Cgroup)?,
    ];
    for (typ, path) in [
        (LinuxNamespaceType::Network, &sandbox.netns),
        (LinuxNamespaceType::Ipc, &sandbox.ipc),
        (LinuxNamespaceType::Uts, &sandbox.uts),
    ] {
        if let Some(path) = path {
            list.push(join(typ, path)?);
        }
    }
    match (&context.spec.pid, &context.target_pid, &sandbox.pid) {
        (PidMode::Container(_), Some(target), _) => {
            list.push(join(LinuxNamespaceType::Pid, target)?)
        }
        _ if sandbox.spec.host_pid => {}
        (_, _, Some(shared)) => list.push(join(LinuxNamespaceType::Pid, shared)?),
        _ => list.push(new(LinuxNamespaceType::Pid)?),
    }
    Ok(list)
}

/// Whether the kernel ends everything in the container together with its first process.
pub fn owns_pid_namespace(spec: &ContainerSpec, sandbox: &Sandbox) -> bool {
    spec.pid == PidMode::Sandbox && !sandbox.spec.host_pid && sandbox.pid.is_none()
}

fn device(node: &DeviceNode, target: &Path) -> Result<LinuxDevice, OciSpecError> {
    LinuxDeviceBuilder::default()
        .path(target)
        .typ(if node.block {
            LinuxDeviceType::B
        } else {
            LinuxDeviceType::C
        })
        .major(node.major)
        .minor(node.minor)
        .file_mode(node.mode)
        .uid(node.uid)
        .gid(node.gid)
        .build()
}

fn resources(context: &Context<'_>) -> Result<LinuxResources, OciSpecError> {
    let mut resources = limits(&context.spec.resources)?;
    let mut rules: Vec<LinuxDeviceCgroup> = vec![
        LinuxDeviceCgroupBuilder::default()
            .allow(context.spec.security.privileged)
            .typ(LinuxDeviceType::A)
            .access("rwm".to_owned())
            .build()?,
    ];
    for (node, wanted) in context.devices.iter().zip(&context.spec.devices) {
        rules.push(
            LinuxDeviceCgroupBuilder::default()
                .allow(true)
                .typ(if node.block {
                    LinuxDeviceType::B
                } else {
                    LinuxDeviceType::C
                })
                .major(node.major)
                .minor(node.minor)
                .access(if wanted.permissions.is_empty() {
                    "rwm".to_owned()
                } else {
                    wanted.permissions.clone()
                })
                .build()?,
        );
    }
    resources.set_devices(Some(rules));
    Ok(resources)
}

/// Also used to change a running container.
pub fn limits(wanted: &Resources) -> Result<LinuxResources, OciSpecError> {
    let mut cpu = LinuxCpuBuilder::default().build()?;
    cpu.set_shares(wanted.cpu_shares.map(|shares| shares.clamp(2, 262_144)));
    if let Some(quota) = wanted.cpu_quota.filter(|quota| *quota > 0) {
        cpu.set_quota(Some(quota.max(1000)));
        cpu.set_period(Some(wanted.cpu_period.unwrap_or(100_000)));
    }
    cpu.set_cpus(wanted.cpuset.clone());
    let mut builder = LinuxResourcesBuilder::default().cpu(cpu);
    if let Some(limit) = wanted.memory_limit.filter(|limit| *limit > 0) {
        builder = builder.memory(LinuxMemoryBuilder::default().limit(limit).build()?);
    }
    if let Some(pids) = wanted.pids.filter(|pids| *pids > 0) {
        builder = builder.pids(LinuxPidsBuilder::default().limit(pids).build()?);
    }
    if !wanted.hugepages.is_empty() {
        let pages = wanted
            .hugepages
            .iter()
            .map(|(size, bytes)| {
                LinuxHugepageLimitBuilder::default()
                    .page_size(size.clone())
                    .limit(*bytes as i64)
                    .build()
            })
            .collect::<Result<Vec<_>, _>>()?;
        builder = builder.hugepage_limits(pages);
    }
    builder.build()
}
