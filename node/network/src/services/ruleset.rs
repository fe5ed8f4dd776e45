//! The wanted state of our one nftables table, as data.

use std::collections::BTreeMap;

/// A set of client addresses remembered for session affinity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// How long an address is remembered, in seconds.
    pub timeout: u32,
}

/// Chains, maps and sets of the table `ip caravel`, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuleSet {
    /// Regular chains: their rules in order.
    pub chains: BTreeMap<String, Vec<String>>,
    /// Elements of the verdict map `services`: `proto . address . port` -> verdict.
    pub services: BTreeMap<String, String>,
    /// Elements of the verdict map `nodeports`: `proto . port` -> verdict.
    pub nodeports: BTreeMap<String, String>,
    /// Elements of the verdict map `refused`: destinations that have no endpoint.
    pub refused: BTreeMap<String, String>,
    /// Elements of the verdict map `refusedports`: node ports that have no endpoint.
    pub refusedports: BTreeMap<String, String>,
    /// Sets for session affinity.
    pub sets: BTreeMap<String, Set>,
    /// The fixed part (declarations and base chains); differs only between configurations.
    pub base: String,
}

impl RuleSet {
    /// The verdict maps with their names, in a fixed order.
    pub(crate) fn maps(&self) -> [(&'static str, &BTreeMap<String, String>); 4] {
        [
            ("services", &self.services),
            ("nodeports", &self.nodeports),
            ("refused", &self.refused),
            ("refusedports", &self.refusedports),
        ]
    }
}

/// The table's frame: maps, base chains and the chains they use.
///
/// `cluster` is the range of all pods. Traffic that leaves it, that comes to a Service from outside it, or
/// that a pod sends to itself by way of a Service, is masqueraded (mark 0x4000), as upstream does.
pub(crate) fn base(cluster: &ipnet::Ipv4Net) -> String {
    format!(
        "\
add map ip caravel services {{ type inet_proto . ipv4_addr . inet_service : verdict; }}
add map ip caravel nodeports {{ type inet_proto . inet_service : verdict; }}
add map ip caravel refused {{ type inet_proto . ipv4_addr . inet_service : verdict; }}
add map ip caravel refusedports {{ type inet_proto . inet_service : verdict; }}
add chain ip caravel to-masquerade
add rule ip caravel to-masquerade meta mark set meta mark or 0x4000
add chain ip caravel no-endpoint
add rule ip caravel no-endpoint reject
add chain ip caravel dispatch
add rule ip caravel dispatch meta l4proto . ip daddr . th dport vmap @services
add rule ip caravel dispatch ip daddr != 127.0.0.0/8 fib daddr type local meta l4proto . th dport vmap @nodeports
add chain ip caravel prerouting {{ type nat hook prerouting priority dstnat; policy accept; }}
add rule ip caravel prerouting jump dispatch
add chain ip caravel output {{ type nat hook output priority -110; policy accept; }}
add rule ip caravel output jump dispatch
add chain ip caravel postrouting {{ type nat hook postrouting priority srcnat; policy accept; }}
add rule ip caravel postrouting meta mark & 0x4000 == 0x4000 masquerade fully-random
add rule ip caravel postrouting ip saddr {cluster} ip daddr != {cluster} ip daddr != 224.0.0.0/4 fib saddr type != local masquerade fully-random
add chain ip caravel refuse
add rule ip caravel refuse meta l4proto . ip daddr . th dport vmap @refused
add rule ip caravel refuse fib daddr type local meta l4proto . th dport vmap @refusedports
add chain ip caravel forward {{ type filter hook forward priority filter - 10; policy accept; }}
add rule ip caravel forward ct state new jump refuse
add chain ip caravel input {{ type filter hook input priority filter - 10; policy accept; }}
add rule ip caravel input ct state new jump refuse
add chain ip caravel localout {{ type filter hook output priority filter - 10; policy accept; }}
add rule ip caravel localout ct state new jump refuse
"
    )
}
