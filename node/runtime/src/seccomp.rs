//! `RuntimeDefault`: what Docker's and containerd's default profile refuses, written as a list of
//! refusals (theirs is a list of permissions): calls that act on the whole machine, on other
//! containers, or have a history of escapes, each permitted again by the capability that governs it.
//! New calls of newer kernels are therefore allowed here and refused there.

use std::collections::BTreeSet;

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompBuilder, LinuxSeccompOperator, LinuxSyscall, LinuxSyscallBuilder,
};

/// (capability that permits them, calls); "" = never.
const REFUSED: &[(&str, &[&str])] = &[
    (
        "",
        &[
            "add_key",
            "request_key",
            "keyctl",
            "kexec_file_load",
            "kexec_load",
            "userfaultfd",
            "nfsservctl",
            "io_uring_setup",
            "io_uring_enter",
            "io_uring_register",
            "uselib",
            "ustat",
            "sysfs",
        ],
    ),
    (
        "SYS_ADMIN",
        &[
            "bpf",
            "fsopen",
            "fsconfig",
            "fsmount",
            "fspick",
            "mount",
            "mount_setattr",
            "move_mount",
            "open_tree",
            "lookup_dcookie",
            "perf_event_open",
            "quotactl",
            "quotactl_fd",
            "pivot_root",
            "setns",
            "umount",
            "umount2",
            "unshare",
            "swapon",
            "swapoff",
            "fanotify_init",
        ],
    ),
    ("SYS_BOOT", &["reboot"]),
    (
        "SYS_MODULE",
        &["init_module", "finit_module", "delete_module"],
    ),
    ("SYS_PACCT", &["acct"]),
    ("SYS_RAWIO", &["iopl", "ioperm"]),
    (
        "SYS_TIME",
        &[
            "settimeofday",
            "clock_settime",
            "clock_adjtime",
            "clock_settime64",
            "clock_adjtime64",
        ],
    ),
    (
        "SYS_NICE",
        &[
            "mbind",
            "set_mempolicy",
            "get_mempolicy",
            "move_pages",
            "migrate_pages",
        ],
    ),
    ("DAC_READ_SEARCH", &["open_by_handle_at"]),
    ("SYS_TTY_CONFIG", &["vhangup"]),
    ("SYS_PTRACE", &["kcmp"]),
];

/// CLONE_NEWNS | NEWCGROUP | NEWUTS | NEWIPC | NEWUSER | NEWPID | NEWNET
const NEW_NAMESPACES: u64 = 0x7e02_0000;

pub fn runtime_default(capabilities: &BTreeSet<&str>) -> Result<LinuxSeccomp, OciSpecError> {
    let mut calls: Vec<LinuxSyscall> = Vec::new();
    for (capability, names) in REFUSED {
        if !capabilities.contains(capability) {
            let names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
            calls.push(refuse(names, libc::EPERM, None)?);
        }
    }
    if !capabilities.contains("SYS_ADMIN") {
        for bit in (0..64)
            .map(|bit| 1u64 << bit)
            .filter(|bit| NEW_NAMESPACES & bit != 0)
        {
            let new_namespace = LinuxSeccompArgBuilder::default()
                .index(0usize)
                .value(bit)
                .value_two(bit)
                .op(LinuxSeccompOperator::ScmpCmpMaskedEq)
                .build()?;
            calls.push(refuse(
                vec!["clone".into()],
                libc::EPERM,
                Some(new_namespace),
            )?);
        }
        // Its flags lie in memory, out of the filter's sight: libc falls back to clone.
        calls.push(refuse(vec!["clone3".into()], libc::ENOSYS, None)?);
    }
    LinuxSeccompBuilder::default()
        .default_action(LinuxSeccompAction::ScmpActAllow)
        .architectures(architectures())
        .syscalls(calls)
        .build()
}

fn refuse(
    names: Vec<String>,
    errno: i32,
    arg: Option<LinuxSeccompArg>,
) -> Result<LinuxSyscall, OciSpecError> {
    let builder = LinuxSyscallBuilder::default()
        .names(names)
        .action(LinuxSeccompAction::ScmpActErrno)
        .errno_ret(errno as u32);
    match arg {
        Some(arg) => builder.args(vec![arg]).build(),
        None => builder.build(),
    }
}

fn architectures() -> Vec<Arch> {
    if cfg!(target_arch = "aarch64") {
        vec![Arch::ScmpArchAarch64, Arch::ScmpArchArm]
    } else {
        vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32]
    }
}
