//! Which capabilities a container gets: the set that Docker and containerd give by default, plus
//! added, minus dropped, never more than this machine's bounding set.
//! Upstream: containerd `pkg/cri` container_create, `oci.WithCapabilities` order: drop ALL, add, drop.

use std::collections::BTreeSet;

const DEFAULT: &[&str] = &[
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// In the kernel's order: the position is the capability's number.
pub const ALL: &[&str] = &[
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Names without `CAP_`, from the `CapBnd` line of a `/proc/<pid>/status`.
pub fn bounding(status: &str) -> BTreeSet<&'static str> {
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("CapBnd:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    (0..)
        .zip(ALL)
        .filter(|(bit, _)| mask & (1u64 << bit) != 0)
        .map(|(_, name)| *name)
        .collect()
}

fn canonical(name: &str) -> String {
    let name = name.to_ascii_uppercase();
    name.strip_prefix("CAP_").map(str::to_owned).unwrap_or(name)
}

pub struct Request<'a> {
    pub privileged: bool,
    pub add: &'a [String],
    pub drop: &'a [String],
    /// Device nodes cannot be fenced by a device cgroup here: do not hand out MKNOD by default.
    pub no_device_cgroup: bool,
}

pub fn choose(request: &Request<'_>, bounding: &BTreeSet<&'static str>) -> BTreeSet<&'static str> {
    if request.privileged {
        return bounding.clone();
    }
    let add: BTreeSet<String> = request.add.iter().map(|name| canonical(name)).collect();
    let drop: BTreeSet<String> = request.drop.iter().map(|name| canonical(name)).collect();
    let chosen = |name: &str| {
        if drop.contains(name) {
            return false;
        }
        if add.contains("ALL") || add.contains(name) {
            return true;
        }
        !drop.contains("ALL")
            && DEFAULT.contains(&name)
            && !(request.no_device_cgroup && name == "MKNOD")
    };
    ALL.iter()
        .copied()
        .filter(|name| chosen(name) && bounding.contains(name))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases() {
        let all: BTreeSet<&str> = ALL.iter().copied().collect();
        let s = |list: &[&str]| list.iter().map(|x| x.to_string()).collect::<Vec<_>>();
        for (privileged, add, drop, has, has_not) in [
            (
                false,
                s(&[]),
                s(&[]),
                vec!["CHOWN", "NET_RAW"],
                vec!["SYS_ADMIN"],
            ),
            (
                false,
                s(&["cap_sys_admin"]),
                s(&[]),
                vec!["SYS_ADMIN", "CHOWN"],
                vec!["BPF"],
            ),
            (
                false,
                s(&["NET_BIND_SERVICE"]),
                s(&["ALL"]),
                vec!["NET_BIND_SERVICE"],
                vec!["CHOWN"],
            ),
            (
                false,
                s(&["ALL"]),
                s(&["SYS_TIME"]),
                vec!["SYS_ADMIN"],
                vec!["SYS_TIME"],
            ),
            (true, s(&[]), s(&["ALL"]), vec!["SYS_ADMIN"], vec![]),
        ] {
            let got = choose(
                &Request {
                    privileged,
                    add: &add,
                    drop: &drop,
                    no_device_cgroup: false,
                },
                &all,
            );
            assert!(
                has.iter().all(|name| got.contains(name)),
                "{add:?} {drop:?}: {got:?}"
            );
            assert!(
                has_not.iter().all(|name| !got.contains(name)),
                "{add:?} {drop:?}: {got:?}"
            );
        }
    }

    #[test]
    fn bounding_set_limits() {
        let here = bounding("CapBnd:\t0000000000000001\n");
        assert_eq!(here.iter().copied().collect::<Vec<_>>(), ["CHOWN"]);
        let got = choose(
            &Request {
                privileged: true,
                add: &[],
                drop: &[],
                no_device_cgroup: false,
            },
            &here,
        );
        assert_eq!(got, here);
    }
}
