//! Routes to the other nodes' pods, for nodes that share a segment.
//!
//! `plan` is pure: what is there and what should be -> what to add and remove. Only routes marked
//! with our protocol number are ours; everything else on the machine is left alone.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// Number that marks our routes in the kernel's table (`ip route show proto 67`).
pub const PROTOCOL: u8 = 67;

/// Where the pods of another node are reached.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PeerNode {
    /// The node's pod range.
    pub cidr: Ipv4Net,
    /// The node's own address.
    pub via: Ipv4Addr,
}

/// Changes that lead from the routes present to the routes wanted.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct RoutePlan {
    /// To add, or to replace where the gateway differs.
    pub put: Vec<PeerNode>,
    /// To remove.
    pub remove: Vec<Ipv4Net>,
}

/// What to change so that `present` becomes `wanted`.
pub fn plan(present: &BTreeMap<Ipv4Net, Ipv4Addr>, wanted: &[PeerNode]) -> RoutePlan {
    let wanted: BTreeMap<_, _> = wanted.iter().map(|p| (p.cidr, p.via)).collect();
    RoutePlan {
        put: wanted
            .iter()
            .filter(|(cidr, via)| present.get(*cidr) != Some(*via))
            .map(|(cidr, via)| PeerNode {
                cidr: *cidr,
                via: *via,
            })
            .collect(),
        remove: present
            .keys()
            .filter(|cidr| !wanted.contains_key(*cidr))
            .copied()
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adds_replaces_and_removes() {
        let net = |s: &str| s.parse::<Ipv4Net>().unwrap();
        let ip = |s: &str| s.parse::<Ipv4Addr>().unwrap();
        let present = BTreeMap::from([
            (net("10.42.1.0/24"), ip("172.30.0.11")),
            (net("10.42.2.0/24"), ip("172.30.0.12")),
            (net("10.42.3.0/24"), ip("172.30.0.13")),
        ]);
        let wanted = [
            PeerNode {
                cidr: net("10.42.1.0/24"),
                via: ip("172.30.0.11"),
            },
            PeerNode {
                cidr: net("10.42.2.0/24"),
                via: ip("172.30.0.99"),
            },
            PeerNode {
                cidr: net("10.42.4.0/24"),
                via: ip("172.30.0.14"),
            },
        ];
        let plan = plan(&present, &wanted);
        assert_eq!(plan.put, wanted[1..]);
        assert_eq!(plan.remove, [net("10.42.3.0/24")]);
    }
}
