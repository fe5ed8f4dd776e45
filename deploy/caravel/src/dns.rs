//! `caravel dns`: the node's DNS server, a process of its own that outlives the node daemon.

use crate::cli::DnsArgs;
use anyhow::Context as _;
use caravel_client::{Kubeconfig, connect};
use caravel_dns::DnsConfig;

pub async fn run(args: DnsArgs) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(&args.kubeconfig)
        .with_context(|| format!("read {}", args.kubeconfig.display()))?;
    let config = Kubeconfig::parse(&text)?.config();
    // Not asked whether it answers: the server may be away just now, and the watch tries again.
    let client = connect::client(&config, &config.servers[0])?;
    let dns = DnsConfig {
        listen: args.listen,
        domain: args.domain,
        upstreams: args.upstream,
        client,
    };
    Ok(caravel_dns::run(dns, crate::tasks::terminated()).await?)
}
