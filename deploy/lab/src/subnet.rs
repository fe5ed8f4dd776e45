//! A /24 that nothing on this machine uses: no address, no route, no cluster network, no other lab.

use ipnet::Ipv4Net;
use std::net::Ipv4Addr;

/// Where a cluster's pods and Services live inside the labs; a lab's hosts must not share them.
const CLUSTER: [&str; 2] = ["10.42.0.0/16", "10.43.0.0/16"];

/// The first free /24 of 10.200.0.0/13, beginning at a place that `seed` chooses so that labs seldom ask for the same.
pub fn choose(taken: &[Ipv4Net], seed: u32) -> Option<Ipv4Net> {
    let cluster: Vec<Ipv4Net> = CLUSTER.iter().filter_map(|c| c.parse().ok()).collect();
    (0..2048u32)
        .map(|i| (seed.wrapping_add(i)) % 2048)
        .find_map(|n| {
            let base = Ipv4Addr::new(10, 200 + (n / 256) as u8, (n % 256) as u8, 0);
            let net = Ipv4Net::new(base, 24).ok()?;
            let free = taken
                .iter()
                .chain(&cluster)
                .all(|t| !t.contains(&net) && !net.contains(t));
            free.then_some(net)
        })
}

/// The networks in `ip -json route show table all` and `ip -json address`. A default route takes nothing.
pub fn taken(routes: &serde_json::Value, addresses: &serde_json::Value) -> Vec<Ipv4Net> {
    let parse = |text: &str| {
        text.parse::<Ipv4Net>().ok().or_else(|| {
            text.parse::<Ipv4Addr>()
                .ok()
                .and_then(|a| Ipv4Net::new(a, 32).ok())
        })
    };
    let routes = routes
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|r| r["dst"].as_str())
        .filter_map(parse);
    let addresses = addresses
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|link| link["addr_info"].as_array().into_iter().flatten())
        .filter_map(|a| {
            let prefix = u8::try_from(a["prefixlen"].as_u64()?).ok()?;
            Ipv4Net::new(a["local"].as_str()?.parse().ok()?, prefix).ok()
        });
    routes
        .chain(addresses)
        .filter(|net| net.prefix_len() > 0)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn avoids_what_is_taken() {
        let net = |t: &str| t.parse::<Ipv4Net>().unwrap();
        assert_eq!(choose(&[], 5), Some(net("10.200.5.0/24")));
        assert_eq!(
            choose(&[net("10.200.5.77/32"), net("10.200.6.0/24")], 5),
            Some(net("10.200.7.0/24"))
        );
        assert_eq!(
            choose(&[net("10.200.0.0/14")], 0),
            Some(net("10.204.0.0/24"))
        );
        assert_eq!(choose(&[net("10.0.0.0/8")], 0), None);
        let routes = serde_json::json!([{"dst": "default"}, {"dst": "10.1.0.0/16"}, {"dst": "broadcast"}, {"dst": "10.2.3.4"}]);
        let addresses = serde_json::json!([{"addr_info": [{"local": "192.0.2.2", "prefixlen": 24}, {"local": "fd00::2", "prefixlen": 64}]}]);
        assert_eq!(
            taken(&routes, &addresses),
            [net("10.1.0.0/16"), net("10.2.3.4/32"), net("192.0.2.2/24")]
        );
    }
}
