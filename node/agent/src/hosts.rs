//! A pod's `/etc/hosts`, `/etc/resolv.conf` and host name, as the kubelet writes them. Pure.
//!
//! Upstream: pkg/kubelet/kubelet_pods.go (managedHostsFileContent) and pkg/kubelet/network/dns.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Pod, PodSpec};

const LONGEST_NAME: usize = 63;
const MAX_SERVERS: usize = 3;
const MAX_SEARCH: usize = 32;

/// What the machine and the cluster contribute.
#[derive(Clone, Debug)]
pub(crate) struct Surroundings<'a> {
    pub cluster_domain: &'a str,
    pub cluster_dns: IpAddr,
    /// The machine's own files.
    pub host_resolv: &'a str,
    pub host_hosts: &'a str,
    pub host_name: &'a str,
}

pub(crate) fn hostname(pod: &Pod, around: &Surroundings<'_>) -> String {
    let spec = pod.spec.as_ref();
    if spec.and_then(|s| s.host_network) == Some(true) {
        return around.host_name.to_owned();
    }
    let name = spec
        .and_then(|s| s.hostname.clone())
        .filter(|h| !h.is_empty())
        .or_else(|| pod.metadata.name.clone())
        .unwrap_or_default();
    let name = name
        .get(..LONGEST_NAME)
        .unwrap_or(&name)
        .trim_end_matches(['-', '.'])
        .to_owned();
    match domain(pod, around) {
        Some(domain) if spec.and_then(|s| s.set_hostname_as_fqdn) == Some(true) => {
            format!("{name}.{domain}")
        }
        _ => name,
    }
}

fn domain(pod: &Pod, around: &Surroundings<'_>) -> Option<String> {
    let subdomain = pod
        .spec
        .as_ref()?
        .subdomain
        .as_deref()
        .filter(|s| !s.is_empty())?;
    Some(format!(
        "{subdomain}.{}.svc.{}",
        pod.metadata.namespace.as_deref()?,
        around.cluster_domain
    ))
}

pub(crate) fn hosts(pod: &Pod, ip: Option<IpAddr>, around: &Surroundings<'_>) -> String {
    let spec = pod.spec.as_ref();
    let mut text = if spec.and_then(|s| s.host_network) == Some(true) {
        format!(
            "# Kubernetes-managed hosts file (host network).\n{}",
            around.host_hosts
        )
    } else {
        let mut text = String::from(
            "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
        );
        if let Some(ip) = ip {
            let full = hostname(pod, around);
            let name = full.split('.').next().unwrap_or(&full);
            match domain(pod, around) {
                Some(domain) => text.push_str(&format!("{ip}\t{name}.{domain}\t{name}\n")),
                None => text.push_str(&format!("{ip}\t{full}\n")),
            }
        }
        text
    };
    let aliases: Vec<_> = spec
        .into_iter()
        .flat_map(|s| s.host_aliases.iter().flatten())
        .collect();
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            text.push_str(&format!(
                "{}\t{}\n",
                alias.ip,
                alias
                    .hostnames
                    .iter()
                    .flatten()
                    .cloned()
                    .collect::<Vec<_>>()
                    .join("\t")
            ));
        }
    }
    text
}

pub(crate) fn resolv_conf(pod: &Pod, around: &Surroundings<'_>) -> String {
    let none = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&none);
    let host = Resolver::parse(around.host_resolv);
    let cluster = match spec.dns_policy.as_deref() {
        Some("None") => Resolver::default(),
        Some("Default") => host,
        Some("ClusterFirstWithHostNet") => host.in_cluster(pod, around),
        _ if spec.host_network == Some(true) => host,
        _ => host.in_cluster(pod, around),
    };
    cluster.with(spec).to_string()
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Resolver {
    servers: Vec<String>,
    search: Vec<String>,
    options: Vec<String>,
}

impl Resolver {
    fn parse(text: &str) -> Self {
        let mut resolver = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => resolver.servers.extend(words.next().map(str::to_owned)),
                Some("search" | "domain") => {
                    resolver.search = words
                        .filter(|w| *w != ".")
                        .map(|w| w.trim_end_matches('.').to_owned())
                        .collect()
                }
                Some("options") => resolver.options = words.map(str::to_owned).collect(),
                _ => {}
            }
        }
        resolver
    }

    fn in_cluster(self, pod: &Pod, around: &Surroundings<'_>) -> Self {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let domain = around.cluster_domain;
        let mut search = vec![
            format!("{namespace}.svc.{domain}"),
            format!("svc.{domain}"),
            domain.to_owned(),
        ];
        search.extend(self.search);
        Self {
            servers: vec![around.cluster_dns.to_string()],
            search,
            options: vec!["ndots:5".into()],
        }
    }

    fn with(mut self, spec: &PodSpec) -> Self {
        if let Some(config) = &spec.dns_config {
            self.servers
                .extend(config.nameservers.iter().flatten().cloned());
            self.search.extend(
                config
                    .searches
                    .iter()
                    .flatten()
                    .map(|s| s.trim_end_matches('.').to_owned()),
            );
            for option in config.options.iter().flatten() {
                let Some(name) = &option.name else { continue };
                self.options.retain(|o| o.split(':').next() != Some(name));
                self.options.push(
                    option
                        .value
                        .as_ref()
                        .map_or_else(|| name.clone(), |value| format!("{name}:{value}")),
                );
            }
        }
        let mut seen = std::collections::BTreeSet::new();
        self.servers.retain(|s| seen.insert(s.clone()));
        self.servers.truncate(MAX_SERVERS);
        seen.clear();
        self.search.retain(|s| seen.insert(s.clone()));
        self.search.truncate(MAX_SEARCH);
        self
    }
}

impl std::fmt::Display for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !self.search.is_empty() {
            writeln!(f, "search {}", self.search.join(" "))?;
        }
        for server in &self.servers {
            writeln!(f, "nameserver {server}")?;
        }
        if !self.options.is_empty() {
            writeln!(f, "options {}", self.options.join(" "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(spec: &str) -> Pod {
        let mut value = serde_json::json!({"metadata": {"name": "p", "namespace": "n"}});
        value["spec"] = serde_json::from_str(spec).unwrap();
        serde_json::from_value(value).unwrap()
    }

    const AROUND: Surroundings<'static> = Surroundings {
        cluster_domain: "cluster.local",
        cluster_dns: IpAddr::V4(std::net::Ipv4Addr::new(10, 43, 0, 10)),
        host_resolv: "# x\nsearch lan.\nnameserver 9.9.9.9\noptions edns0\n",
        host_hosts: "127.0.0.1 localhost\n",
        host_name: "machine",
    };

    #[test]
    fn resolvers() {
        for (spec, want) in [
            (
                r#"{"containers":[]}"#,
                "search n.svc.cluster.local svc.cluster.local cluster.local lan\nnameserver 10.43.0.10\noptions ndots:5\n",
            ),
            (
                r#"{"containers":[],"dnsPolicy":"Default"}"#,
                "search lan\nnameserver 9.9.9.9\noptions edns0\n",
            ),
            (
                r#"{"containers":[],"hostNetwork":true,"dnsPolicy":"ClusterFirst"}"#,
                "search lan\nnameserver 9.9.9.9\noptions edns0\n",
            ),
            (
                r#"{"containers":[],"dnsPolicy":"None","dnsConfig":{"nameservers":["1.1.1.1"],"searches":["a.b"],"options":[{"name":"ndots","value":"2"},{"name":"rotate"}]}}"#,
                "search a.b\nnameserver 1.1.1.1\noptions ndots:2 rotate\n",
            ),
        ] {
            assert_eq!(resolv_conf(&pod(spec), &AROUND), want, "{spec}");
        }
    }

    #[test]
    fn names_and_hosts() {
        let plain = pod(
            r#"{"containers":[],"hostAliases":[{"ip":"10.1.2.3","hostnames":["foo.remote","bar.remote"]}]}"#,
        );
        let text = hosts(&plain, "10.42.0.7".parse().ok(), &AROUND);
        assert!(
            text.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n"),
            "{text}"
        );
        assert!(text.ends_with("10.42.0.7\tp\n\n# Entries added by HostAliases.\n10.1.2.3\tfoo.remote\tbar.remote\n"), "{text}");
        let named = pod(r#"{"containers":[],"hostname":"h","subdomain":"s"}"#);
        assert!(
            hosts(&named, "10.42.0.7".parse().ok(), &AROUND)
                .contains("10.42.0.7\th.s.n.svc.cluster.local\th\n")
        );
        assert_eq!(hostname(&named, &AROUND), "h");
        let host = pod(r#"{"containers":[],"hostNetwork":true}"#);
        assert_eq!(hostname(&host, &AROUND), "machine");
        assert!(hosts(&host, None, &AROUND).contains("(host network).\n127.0.0.1 localhost\n"));
    }
}
