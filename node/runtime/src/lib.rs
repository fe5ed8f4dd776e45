//! Runs containers: pod sandboxes, one shim process per container, exec, logs, statistics.
//!
//! The daemon speaks to the [`Runtime`] trait only. The real one, [`Shims`], never touches
//! libcontainer itself: it re-executes this same binary as `caravel shim` and
//! `caravel exec-helper`, whose entry points are [`shim::main`] and [`exec_helper::main`] and which the
//! program must dispatch before it starts any thread. Containers therefore outlive the daemon, and a
//! restarted daemon finds them by scanning the state directory.
//!
//! What it must never do: know what a Pod is. Everything arrives as plain values.

pub mod runtime;
pub mod spec;
pub mod state;

pub use runtime::{ExecOutput, Runtime, RuntimeError, Session, Size};
pub use shims::{Shims, ShimsConfig};
pub use spec::{
    ContainerSpec, Device, ExecSpec, LogSpec, Mount, PidMode, Propagation, Qos, Resources,
    SandboxSpec, Seccomp, Security, UserSpec,
};
pub use state::{Container, ContainerExit, ContainerState, Exit, Sandbox, Started, Stats};

mod capabilities;
pub mod cgroup;
mod diagnosis;
pub mod exec_helper;
mod executor;
pub mod fake;
mod fds;
mod inside;
pub mod logs;
mod machine;
mod oci;
mod paths;
mod process;
mod protocol;
mod sandbox;
mod seccomp;
pub mod shim;
mod shims;
mod user;
