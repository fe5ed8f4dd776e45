//! Makes a container out of its stored specification: mounts the root, resolves the user, writes the
//! OCI bundle and calls libcontainer. Runs in the single-threaded shim only.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use nix::fcntl::OFlag;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::pipe2;

use crate::diagnosis::Diagnosis;
use crate::executor::Payload;
use crate::fds;
use crate::inside;
use crate::machine::{DeviceNode, Machine};
use crate::oci::{self, Context};
use crate::paths::{self, LIBCONTAINER_ID, ROOTFS};
use crate::spec::{ContainerSpec, PidMode, Seccomp};
use crate::state::{Process, Sandbox, Started};
use crate::user;

/// The container's streams as the shim holds them.
pub struct Streams {
    pub stdin: Option<OwnedFd>,
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
    /// Master of the container's terminal; then the three above are absent.
    pub terminal: Option<OwnedFd>,
}

pub struct Launched {
    pub process: Process,
    pub streams: Streams,
}

/// Every error is a sentence for the pod's status.
pub fn launch(
    dir: &Path,
    layer: &Path,
    spec: &ContainerSpec,
    sandbox: &Sandbox,
    group: &str,
) -> Result<Launched, String> {
    let rootfs = dir.join(ROOTFS);
    mount_root(dir, layer, spec, &rootfs)
        .map_err(|error| format!("failed to mount rootfs: {error}"))?;
    let oci = specification(spec, sandbox, group, dir, &rootfs)?;
    oci.save(dir.join("config.json"))
        .map_err(|error| format!("failed to write the bundle: {error}"))?;

    let console_path = dir.join("console.sock");
    let mut streams = Streams {
        stdin: None,
        stdout: None,
        stderr: None,
        terminal: None,
    };
    let diagnosis =
        Diagnosis::collect(dir.join("libcontainer.log")).map_err(|error| error.to_string())?;
    let mut builder = ContainerBuilder::new(LIBCONTAINER_ID.to_owned(), SyscallType::default())
        .with_executor(Payload)
        .with_root_path(dir)
        .map_err(|error| diagnosis.explain(&error))?;
    let mut console = None;
    if spec.tty {
        let listener = UnixListener::bind(&console_path)
            .map_err(|error| format!("console socket: {error}"))?;
        console = Some(listener);
        builder = builder.with_console_socket(Some(console_path.clone()));
    } else {
        let pipe = || pipe2(OFlag::O_CLOEXEC).map_err(|errno| format!("pipe: {errno}"));
        let (stdout, stdout_end) = pipe()?;
        let (stderr, stderr_end) = pipe()?;
        builder = builder.with_stdout(stdout_end).with_stderr(stderr_end);
        (streams.stdout, streams.stderr) = (Some(stdout), Some(stderr));
        if spec.stdin {
            let (stdin_end, stdin) = pipe()?;
            builder = builder.with_stdin(stdin_end);
            streams.stdin = Some(stdin);
        } else {
            builder = builder.with_stdin(
                File::open("/dev/null").map_err(|error| format!("/dev/null: {error}"))?,
            );
        }
    }
    let before = own_oom_score();
    let built = builder
        .as_init(dir)
        .with_systemd(false)
        .with_detach(true)
        .build();
    // libcontainer sets the container's score on this process, to be inherited.
    set_own_oom_score(before);
    let mut container = built.map_err(|error| diagnosis.explain(&error))?;
    if let Some(listener) = console {
        streams.terminal =
            Some(fds::receive_one(&listener).map_err(|error| format!("console: {error}"))?);
        let _ = std::fs::remove_file(&console_path);
    }
    let pid = container
        .pid()
        .ok_or("the container's process is unknown")?
        .as_raw();
    // Before start: it cannot have been reaped yet.
    let process = Process::of(pid).ok_or("the container's process ended before it was started")?;
    container
        .start()
        .map_err(|error| diagnosis.explain(&error))?;
    Ok(Launched { process, streams })
}

pub fn started(process: Process) -> Started {
    Started {
        pid: process.pid,
        start_time: process.start_time,
        started_at: jiff::Timestamp::now(),
    }
}

fn specification(
    spec: &ContainerSpec,
    sandbox: &Sandbox,
    group: &str,
    dir: &Path,
    rootfs: &Path,
) -> Result<oci_spec::runtime::Spec, String> {
    let read =
        |path| inside::read(rootfs, path).map_err(|error| format!("{path} of the image: {error}"));
    let identity = user::resolve(&spec.user, &read("/etc/passwd")?, &read("/etc/group")?)
        .map_err(|error| error.to_string())?;
    let machine = Machine::observe(spec.security.privileged).map_err(|error| error.to_string())?;
    let devices = spec
        .devices
        .iter()
        .map(|device| match DeviceNode::read(&device.source) {
            Ok(Some(node)) => Ok(node),
            Ok(None) => Err(format!("{} is not a device", device.source.display())),
            Err(error) => Err(format!("device {}: {error}", device.source.display())),
        })
        .collect::<Result<Vec<_>, _>>()?;
    let profile = match &spec.security.seccomp {
        Seccomp::Localhost(path) => Some(
            std::fs::read(path)
                .map_err(io::Error::other)
                .and_then(|bytes| serde_json::from_slice(&bytes).map_err(io::Error::other))
                .map_err(|error| format!("seccomp profile {}: {error}", path.display()))?,
        ),
        _ => None,
    };
    let target_pid = match &spec.pid {
        PidMode::Sandbox => None,
        PidMode::Container(id) => {
            let path = dir.with_file_name(id).join(paths::STARTED);
            let target: Option<Started> =
                paths::read_json(&path).map_err(|error| error.to_string())?;
            let target = target.ok_or_else(|| format!("target container {id} is not running"))?;
            Some(PathBuf::from(format!("/proc/{}/ns/pid", target.pid)))
        }
    };
    if let Some(cwd) = &spec.cwd {
        make_working_directory(spec, rootfs, cwd).map_err(|error| {
            format!(
                "failed to create working directory {}: {error}",
                cwd.display()
            )
        })?;
    }
    oci::build(&Context {
        spec,
        sandbox,
        machine: &machine,
        identity: &identity,
        rootfs,
        cgroup: group,
        devices: &devices,
        target_pid,
        oom_score_adj: spec.oom_score_adj.and_then(attainable_oom_score),
        profile,
    })
    .map_err(|error| error.to_string())
}

/// The working directory may lie in a volume: then it is made there, unless that is read-only.
fn make_working_directory(spec: &ContainerSpec, rootfs: &Path, cwd: &Path) -> io::Result<()> {
    let volume = spec
        .mounts
        .iter()
        .filter(|mount| cwd.starts_with(&mount.target))
        .max_by_key(|mount| mount.target.components().count());
    match volume {
        None => inside::make_directory(rootfs, cwd),
        Some(mount) if mount.read_only || !mount.source.is_dir() => Ok(()),
        Some(mount) => match cwd.strip_prefix(&mount.target) {
            Ok(rest) => inside::make_directory(&mount.source, rest),
            Err(_) => Ok(()),
        },
    }
}

/// The layers' paths are long and many, and mount data is one page: short links stand for them.
fn mount_root(dir: &Path, layer: &Path, spec: &ContainerSpec, rootfs: &Path) -> io::Result<()> {
    if spec.lower.is_empty() {
        return Err(io::Error::other("the image has no layers"));
    }
    let links = dir.join("l");
    for directory in [&links, rootfs, &layer.join("upper"), &layer.join("work")] {
        std::fs::create_dir_all(directory)?;
    }
    let link = |name: &str, target: &Path| std::os::unix::fs::symlink(target, links.join(name));
    let mut names = Vec::new();
    for (index, lower) in spec.lower.iter().enumerate() {
        let name = index.to_string();
        link(&name, lower)?;
        names.push(name);
    }
    link("u", &layer.join("upper"))?;
    link("w", &layer.join("work"))?;
    std::env::set_current_dir(&links)?;
    let data = format!("lowerdir={},upperdir=u,workdir=w", names.join(":"));
    // A writable layer never outlives a crash of the machine: its writes need no sync.
    let result = overlay(rootfs, &format!("{data},volatile")).or_else(|_| overlay(rootfs, &data));
    std::env::set_current_dir("/")?;
    result
}

fn overlay(target: &Path, data: &str) -> io::Result<()> {
    mount(
        Some("overlay"),
        target,
        Some("overlay"),
        MsFlags::empty(),
        Some(data),
    )?;
    Ok(())
}

pub fn unmount_root(dir: &Path) {
    let _ = umount2(&dir.join(ROOTFS), MntFlags::MNT_DETACH);
}

const OOM_SCORE: &str = "/proc/self/oom_score_adj";

fn own_oom_score() -> i32 {
    std::fs::read_to_string(OOM_SCORE)
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0)
}

fn set_own_oom_score(score: i32) -> bool {
    std::fs::write(OOM_SCORE, score.to_string()).is_ok()
}

/// Lowering it needs a privilege that this process may lack; then the container keeps what the
/// process has.
fn attainable_oom_score(wanted: i32) -> Option<i32> {
    let before = own_oom_score();
    let attainable = set_own_oom_score(wanted.clamp(-1000, 1000));
    set_own_oom_score(before);
    attainable.then_some(wanted)
}
