//! A pod's network counters, read through the /proc of one of its processes. Pure but for the one read.

/// Of the pod's interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct NetworkUse {
    pub receive_bytes: u64,
    pub receive_packets: u64,
    pub receive_errors: u64,
    pub transmit_bytes: u64,
    pub transmit_packets: u64,
    pub transmit_errors: u64,
}

pub(super) const INTERFACE: &str = "eth0";

/// None when the process has ended or its pod has no interface of its own.
pub(super) fn of_process(pid: i32) -> Option<NetworkUse> {
    parse(
        &std::fs::read_to_string(format!("/proc/{pid}/net/dev")).ok()?,
        INTERFACE,
    )
}

fn parse(dev: &str, interface: &str) -> Option<NetworkUse> {
    let line = dev
        .lines()
        .find_map(|line| line.trim_start().strip_prefix(interface)?.strip_prefix(':'))?;
    let fields: Vec<u64> = line
        .split_whitespace()
        .map(|field| field.parse().unwrap_or(0))
        .collect();
    let field = |index: usize| fields.get(index).copied();
    Some(NetworkUse {
        receive_bytes: field(0)?,
        receive_packets: field(1)?,
        receive_errors: field(2)?,
        transmit_bytes: field(8)?,
        transmit_packets: field(9)?,
        transmit_errors: field(10)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_interface() {
        let dev = "Inter-|   Receive\n face |bytes\n    lo:  9 1 0 0 0 0 0 0 9 1 0 0 0 0 0 0\n  eth0: 11 2 3 0 0 0 0 0 44 5 6 0 0 0 0 0\n";
        let want = NetworkUse {
            receive_bytes: 11,
            receive_packets: 2,
            receive_errors: 3,
            transmit_bytes: 44,
            transmit_packets: 5,
            transmit_errors: 6,
        };
        assert_eq!(parse(dev, "eth0"), Some(want));
        assert_eq!(parse(dev, "eth1"), None);
    }
}
